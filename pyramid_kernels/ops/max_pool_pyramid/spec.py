"""Cases, launches and costs of ``max_pool_pyramid``."""

from __future__ import annotations

from typing import Any

from .._shared.spec import Case, Cost, arg


def _case(name: str, shape: tuple[int, ...], kernel_sizes: tuple[int, ...], kind: str = "map", **options: Any) -> Case:
    return Case(name, {"x": arg(*shape, kind=kind), "kernel_sizes": kernel_sizes, **options})


CASES = [
    _case("spp-7x5", (1, 3, 7, 5), (5, 9)),
    _case("sppf-13x11", (1, 5, 13, 11), (5, 5, 5), cascade=True),
    _case("descending-13x17", (2, 3, 13, 17), (3, 7), order="descending"),
    _case("cascade-descending", (2, 3, 9, 6), (3, 3), cascade=True, order="descending"),
    _case("distinct", (1, 6, 11, 13), (3, 5), kind="distinct"),
    _case("wider-than-the-map", (1, 9, 4, 3), (13,)),
    _case("cascade-wider-than-the-map", (1, 4, 3, 5), (7, 7), cascade=True),
    _case("one-pixel", (2, 4, 1, 1), (3, 5)),
    _case("one-column", (1, 3, 14, 1), (5,)),
    _case("many-channels", (1, 150, 6, 5), (1, 3)),
    _case("tiles-70x3", (1, 2, 70, 3), (3, 5)),
    _case("cascade-tiles-3x67", (1, 2, 3, 67), (3, 3), cascade=True),
]

SPP: tuple[int, ...] = (5, 9, 13)
BENCH = [
    _case("yolo-1x512-20x20", (1, 512, 20, 20), SPP),
    _case("yolo-16x512-20x20", (16, 512, 20, 20), SPP),
    _case("yolo-8x256-40x40", (8, 256, 40, 40), SPP),
    _case("yolov4-1x512-19x19", (1, 512, 19, 19), SPP, order="descending"),
    _case("sppf-1x512-20x20", (1, 512, 20, 20), (5, 5, 5), cascade=True),
    _case("sppf-16x512-20x20", (16, 512, 20, 20), (5, 5, 5), cascade=True),
    _case("sppf-8x256-40x40", (8, 256, 40, 40), (5, 5, 5), cascade=True),
]


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    # Programs of Triton do not wait for one another: a cascade takes a launch per pool.
    count = len(case.args["kernel_sizes"]) if backend == "triton" and case.args.get("cascade") else 1
    return {"max_pool_pyramid_fwd_kernel": count}, {"max_pool_pyramid_bwd_dx_kernel": count}


def cost(case: Case, itemsize: int) -> Cost:
    n, c, h, w = case.args["x"].shape
    sizes, elements = case.args["kernel_sizes"], n * c * h * w
    work = 2 * elements * sum(sizes)  # a pass along rows and one along columns
    return Cost(work, work, elements * (2 + len(sizes)) * itemsize)
