"""Cases, launches and costs of ``pyramid_pool``."""

from __future__ import annotations

import torch

from .._shared.checks import pairs
from .._shared.spec import Case, Cost, arg
from .._shared.windows import grids
from .settings import Settings

CASES = [
    Case("psp-12x18", {"x": arg(1, 5, 12, 18), "bins": (1, 2, 3, 6)}, exact=False),
    Case("psp-16x16-overlapping", {"x": arg(1, 3, 16, 16), "bins": (2, 3)}, exact=False),
    Case("global-33x47-split", {"x": arg(2, 3, 33, 47), "bins": (1,)}, exact=False),
    Case("one-plane-131x67-split", {"x": arg(1, 1, 131, 67), "bins": (1,)}, exact=False),
    Case("pairs-13x17", {"x": arg(1, 70, 13, 17), "bins": ((1, 2), (3, 1))}, exact=False),
    Case("more-bins-than-pixels", {"x": arg(1, 4, 5, 2), "bins": (4, 1)}, exact=False),
    Case("one-pixel", {"x": arg(2, 4, 1, 1), "bins": (1, 2)}),
    Case("power-of-two-areas", {"x": arg(1, 6, 16, 8), "bins": (1, 4)}),
    Case("max-spp", {"x": arg(1, 5, 13, 15, kind="distinct"), "bins": (3, 2, 1), "mode": "max"}),
    Case("max-more-bins", {"x": arg(1, 4, 3, 5, kind="distinct"), "bins": (4, 1), "mode": "max"}),
    Case("fixed-speed", {"x": arg(2, 6, 8, 16), "bins": (2, 4), "windows": "fixed"}),
    Case("fixed-remainder", {"x": arg(1, 6, 11, 10), "bins": (2, 4), "windows": "fixed"}, exact=False),
    Case("ceil-spp", {"x": arg(1, 5, 13, 14), "bins": (4, 2), "windows": "ceil"}, exact=False),
    Case("ceil-max", {"x": arg(1, 5, 13, 14, kind="distinct"), "bins": (4, 1), "windows": "ceil", "mode": "max"}),
]

BENCH = [
    Case("psp-60x60", {"x": arg(8, 2048, 60, 60), "bins": (1, 2, 3, 6)}),
    Case("psp-64x128", {"x": arg(2, 2048, 64, 128), "bins": (1, 2, 3, 6)}),
    Case("global-33x33", {"x": arg(8, 2048, 33, 33), "bins": (1,)}),
    Case("spp-13x13", {"x": arg(16, 256, 13, 13), "bins": (4, 2, 1), "mode": "max"}),
]


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    forward = {"pyramid_pool_fwd_kernel": 1}
    if backend == "triton" or _is_split(case, channels_last):
        forward["pyramid_pool_merge_kernel"] = 1
    return forward, {"pyramid_pool_bwd_dx_kernel": 1}


def _is_split(case: Case, channels_last: bool) -> bool:
    """Whether the CUDA kernels cut this map across blocks, which leaves parts for a second launch."""
    from .cuda import parts

    layout = torch.channels_last if channels_last else torch.contiguous_format
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.empty(case.args["x"].shape, device=device, memory_format=layout)
    bins = [v for pair in pairs("bins", case.args["bins"]) for v in pair]
    return parts(x, Settings(bins, case.args.get("mode", "avg"), case.args.get("windows", "adaptive"))) > 0


def cost(case: Case, itemsize: int) -> Cost:
    n, c, h, w = case.args["x"].shape
    bins = pairs("bins", case.args["bins"])
    cells = sum(r * q for r, q in grids(bins, (h, w), case.args.get("windows", "adaptive")))
    work = n * c * h * w
    return Cost(work * len(bins), work, (work + n * c * cells) * itemsize)
