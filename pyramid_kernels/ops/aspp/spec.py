"""Cases, launches and costs of ``aspp``."""

from __future__ import annotations

from collections import Counter
from types import ModuleType
from typing import Any

from .._shared.spec import Case, Cost, arg
from ..dilated_branches import spec as branches_spec
from ..pyramid_pool import spec as pool_spec
from ..pyramid_project import spec as project_spec

PADDED = (*branches_spec.PADDED, "d project_weight")
INFINITE = "fewer"


def _norm(o: int, eps: float) -> tuple[Any, ...]:
    """A BatchNorm whose output stays far from zero, half of the channels on each side: every inner mask is certain."""
    return (
        arg(o, kind="vector"),
        arg(o, kind="gate"),
        arg(o, kind="shift", grad=False),
        arg(o, kind="positive", grad=False),
        eps,
    )


def case(
    name: str, shape: tuple[int, ...], o: int, rates: tuple[int, ...], pool: int, project: int, eps: float = 1.0,
    **rest: Any,
) -> Case:  # fmt: skip
    outputs = (o,) * (len(rates) + 1)
    kernels, dilations = (1, *(3 for _ in rates)), (1, *rates)
    args: dict[str, Any] = {
        "x": arg(*shape),
        "weights": branches_spec.branches(shape[1], outputs, kernels),
        "project_weight": arg(o, sum(outputs) + pool, project, project, kind="weight"),
        "dilations": dilations,
        "norms": [_norm(o, eps) for _ in outputs],
        "project_norm": _norm(o, eps),
    }
    if pool:
        args |= {"pool_weight": arg(pool, shape[1], 1, 1, kind="weight"), "pool_norm": _norm(pool, eps)}
    return Case(name, args | rest, exact=False)


CASES = [
    case("torchvision-9x11", (2, 20, 9, 11), 8, (2, 4, 12), 8, 1),
    case("mmseg-pool-first-3x3", (2, 10, 6, 5), 6, (2, 3), 4, 3, pool_first=True),
    case("no-pool", (1, 12, 7, 5), 6, (2,), 0, 1),
    case("one-pixel", (2, 8, 1, 1), 5, (6,), 5, 1),
]

BENCH = [
    case("32x32-n8", (8, 2048, 32, 32), 256, (6, 12, 18), 256, 1, 1e-5),
    case("32x32-n1", (1, 2048, 32, 32), 256, (6, 12, 18), 256, 1, 1e-5),
    case("65x65-n4", (4, 2048, 65, 65), 256, (12, 24, 36), 256, 1, 1e-5),
    case("33x33-mobilenet", (8, 960, 33, 33), 256, (12, 24, 36), 256, 1, 1e-5),
    case("64x128-mmseg", (1, 2048, 64, 128), 512, (12, 24, 36), 512, 3, 1e-5, pool_first=True),
]


def _parts(case: Case) -> list[tuple[ModuleType, Case]]:
    """The calls of other ops that the composition makes: (their spec, the case)."""
    args = case.args
    n, c, h, w = args["x"].shape
    width = sum(weight.shape[0] for weight in args["weights"])
    o, _, k, _ = args["project_weight"].shape
    branches = {"x": args["x"], "weights": args["weights"], "dilations": args["dilations"], "norm": args["norms"]}
    project = {"x": arg(n, width, h, w), "weights": [arg(o, width, k, k, kind="weight")], "dilations": (1,),
               "norm": [args["project_norm"]]}  # fmt: skip
    parts = [(branches_spec, branches)]
    if "pool_weight" in args:
        p = args["pool_weight"].shape[0]
        project["image_bias"] = arg(n, o, k * k, kind="cells")
        cell = {"grids": [(1, 1)]}
        level = {"pooled": arg(n, c, 1, kind="cells"), "weights": [args["pool_weight"]], "norm": [args["pool_norm"]]}
        columns = {"pooled": arg(n, p, 1, kind="cells"), "weights": [arg(o * k * k, p, kind="weight")]}
        parts += [
            (pool_spec, {"x": args["x"], "bins": (1,)}),
            (project_spec, cell | level | {"activation": "relu"}),
            (project_spec, cell | columns),
        ]
    parts.append((branches_spec, project))
    return [(spec, Case("part", a | ({"activation": "relu"} if spec is branches_spec else {}))) for spec, a in parts]


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    forward, backward = Counter[str](), Counter[str]()
    for spec, part in _parts(case):
        f, b = spec.launches(part, channels_last, backend)
        forward += Counter(f)
        backward += Counter(b)
    return dict(forward), dict(backward)


def cost(case: Case, itemsize: int) -> Cost:
    costs = [spec.cost(part, itemsize) for spec, part in _parts(case)]
    return Cost(*(sum(values) for values in zip(*costs, strict=True)))


def calls(case: Case, channels_last: bool) -> tuple[dict[str, int], dict[str, int]]:
    """The projection's weight is split between branches and image level: a slice that starts late is repacked, the
    gradients of both parts are joined, and so are the two of x."""
    if "pool_weight" not in case.args:
        return {}, {}
    return {"clone": 1} if case.args.get("pool_first") else {}, {"cat": 1, "add": 1}
