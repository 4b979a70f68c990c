"""Cases, launches and costs of ``separable_pyramid``."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .._shared.checks import pairs
from .._shared.spec import Case, Cost, arg
from .._shared.windows import grids
from ..pyramid_pool import spec as pool_spec

SPEED = (2, 4, 6, 8)

PADDED = ("d depthwise",)
INFINITE = "nan"


def _case(
    name: str, shape: tuple[int, ...], bins: tuple[Any, ...], outputs: tuple[int, ...], *, bias: bool = True,
    exact: bool = False, **options: Any,
) -> Case:  # fmt: skip
    c = shape[1]
    args: dict[str, Any] = {
        "x": arg(*shape),
        "bins": bins,
        "depthwise": [arg(c, 1, 3, 3, kind="weight") for _ in outputs],
        "pointwise": [arg(o, c, 1, 1, kind="weight") for o in outputs],
    }
    if bias:
        args["bias"] = [arg(o, kind="shift") for o in outputs]
    return Case(name, args | options, exact)


CASES = [
    _case("dspp-4x6", (2, 20, 4, 6), (1, 2), (5, 5)),
    _case("mdspp-5x4-remainder", (1, 18, 5, 4), (2, (3, 1)), (4, 3), bias=False, include_input=False),
    _case("adaptive-3x5", (2, 2, 3, 5), (1, 2), (3, 4), windows="adaptive"),
    _case("ceil-4x3", (1, 7, 4, 3), ((2, 1), 1), (4, 3), windows="ceil", include_input=False),
    _case("one-row-of-cells", (2, 9, 2, 4), ((1, 4),), (6,)),
    _case("one-pixel", (2, 2, 1, 1), (1, 1), (3, 1)),
    _case("channels-40-to-70", (1, 40, 4, 3), (2, 1), (70, 1), bias=False),
    _case("eight-levels", (1, 2, 2, 3), (1, 1, (1, 2), 1, 1, 1, 1, 1), (1, 2, 3, 2, 1, 2, 1, 3)),
    _case("grid-of-the-map", (2, 6, 3, 2), ((3, 2),), (5,), include_input=False, exact=True),
]  # fmt: skip

BENCH = [
    _case("dspp-n1", (1, 512, 12, 16), SPEED, (128,) * 4),
    _case("dspp-n16", (16, 512, 12, 16), SPEED, (128,) * 4),
    _case("mdspp-12x16", (1, 64, 12, 16), SPEED, (16,) * 4, bias=False, include_input=False),
    _case("mdspp-24x32", (1, 32, 24, 32), SPEED, (8,) * 4, bias=False, include_input=False),
]


def _pool(case: Case) -> Case:
    """The call of ``pyramid_pool`` inside."""
    return Case("pool", {"x": case.args["x"], "bins": case.args["bins"], "windows": _windows(case)})


def _windows(case: Case) -> str:
    return case.args.get("windows", "fixed")


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    """Pooling, depthwise, pointwise, merge; and back, with a gradient of each weight and of the bias on the way."""
    levels = len(case.args["pointwise"])
    pool, unpool = pool_spec.launches(_pool(case), channels_last, backend)
    forward = Counter(pool) + Counter(
        {
            "separable_pyramid_depthwise_kernel": 1,
            "pyramid_project_fwd_kernel": 1,
            "upsample_merge_fwd_kernel": -(-(levels + case.args.get("include_input", True)) // 8),
        }
    )
    backward = Counter(unpool) + Counter(
        {
            "upsample_merge_bwd_dmaps_kernel": 1,
            "pyramid_project_bwd_dweights_kernel": 1,
            "pyramid_project_bwd_dpooled_kernel": 1,
            "separable_pyramid_bwd_ddepthwise_kernel": 1,
            "separable_pyramid_depthwise_kernel": 1,
        }
    )
    if "bias" in case.args:
        backward["pyramid_project_bwd_dz_kernel"] = 1
    return dict(forward), dict(backward)


def calls(case: Case, channels_last: bool) -> tuple[dict[str, int], dict[str, int]]:
    """x's two gradients, where it is in the concat as well, are added."""
    return {}, {"add_": 1} if case.args.get("include_input", True) else {}


def cost(case: Case, itemsize: int) -> Cost:
    n, c, h, w = case.args["x"].shape
    levels = grids(pairs("bins", case.args["bins"]), (h, w), _windows(case))
    outputs = [p.shape[0] for p in case.args["pointwise"]]
    pool = n * c * h * w * len(levels)
    mixed = sum(2 * n * rows * cols * c * (9 + o) for (rows, cols), o in zip(levels, outputs, strict=True))
    work = pool + mixed + 8 * n * sum(outputs) * h * w
    written = sum(outputs) + (c if case.args.get("include_input", True) else 0)
    weights = sum(c * (9 + o) for o in outputs)
    return Cost(work, work, (n * h * w * (c + written) + weights) * itemsize)
