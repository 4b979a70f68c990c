"""Cases, launches and costs of ``upsample_merge``."""

from __future__ import annotations

from math import prod
from typing import Any

from .._shared.spec import Case, Cost, arg

INFINITE = "nan"


def _case(name: str, *shapes: tuple[int, ...], exact: bool = True, affine: bool = False, **options: Any) -> Case:
    """``affine`` adds scale, shift and ReLU, with pre-activations far from zero."""
    c = shapes[0][1] if options.get("merge") == "sum" else sum(shape[1] for shape in shapes)
    if affine:
        options |= {"scale": arg(c, kind="vector"), "shift": arg(c, kind="gate"), "activation": "relu"}
    return Case(name, {"maps": [arg(*shape) for shape in shapes], **options}, exact)


CASES = [
    _case("ppm-12x18", (2, 6, 12, 18), (2, 3, 1, 1), (2, 3, 2, 2), (2, 3, 3, 3), (2, 3, 6, 6), exact=False),
    _case("ppm-corners-13x17", (1, 8, 13, 17), (1, 4, 1, 1), (1, 4, 6, 6), align_corners=True, exact=False),
    _case("concat-33x47-relu", (1, 3, 13, 17), (1, 2, 4, 5), (1, 2, 1, 1), size=(33, 47), affine=True, exact=False),
    _case("concat-nearest-13x17", (1, 3, 7, 5), (1, 2, 3, 11), size=(13, 17), mode="nearest"),
    _case("smaller-than-maps", (1, 3, 13, 17), (1, 5, 33, 9), size=(6, 5), exact=False),
    _case(
        "smaller-corners-scale", (2, 3, 9, 11), (2, 4, 7, 3), size=(5, 4), align_corners=True,
        scale=arg(7, kind="vector"), exact=False,
    ),
    _case("hrnet-row-nearest", (1, 6, 12, 16), (1, 6, 6, 8), (1, 6, 3, 4), mode="nearest", merge="sum"),
    _case("hrnet-row-relu", (2, 5, 8, 12), (2, 5, 4, 6), (2, 5, 2, 3), merge="sum", affine=True),
    _case("fpn-add", (1, 7, 13, 17), (1, 7, 7, 9), merge="sum", exact=False),
    _case(
        "sum-corners-shift", (1, 4, 5, 7), (1, 4, 9, 13), size=(9, 13), merge="sum", align_corners=True,
        shift=arg(4, kind="shift"), exact=False,
    ),
    _case("one-pixel", (2, 3, 4, 4), (2, 3, 1, 1), size=(1, 1)),
    _case("sum-of-nine", *[(1, 3, 1 + i, 6 - i % 5) for i in range(9)], size=(5, 7), merge="sum", exact=False),
    _case("nine-maps", *[(1, 1 + i % 3, 1 + i, 8 - i % 4) for i in range(9)], size=(8, 8), exact=False),
    _case("taken-only", (2, 3, 5, 7), (2, 4, 5, 7), affine=True),
]  # fmt: skip

_LEVELS = [(512, b, b) for b in (1, 2, 3, 6)]

BENCH = [
    _case("ppm-60x60", (8, 2048, 60, 60), *[(8, *level) for level in _LEVELS], align_corners=True),
    _case("ppm-64x128", (2, 2048, 64, 128), *[(2, *level) for level in _LEVELS]),
    _case("hrnet-w48-row", *[(8, 48, 128 >> i, 256 >> i) for i in range(4)], merge="sum", activation="relu"),
    _case(
        "hrnet-w32-pose-row", *[(32, 32, 64 >> i, 48 >> i) for i in range(4)], merge="sum", mode="nearest",
        activation="relu",
    ),
    _case("hrnet-w48-head", *[(8, 48 << i, 128 >> i, 256 >> i) for i in range(4)]),
    _case("fpn-add-128x128", (8, 512, 128, 128), (8, 512, 64, 64), merge="sum"),
]  # fmt: skip


def _size(case: Case) -> tuple[int, int]:
    return case.args.get("size") or case.args["maps"][0].shape[2:]


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    """One forward launch and one for all maps' gradients per eight maps (a sum is one forward); two for the affine's.

    A map taken as it is needs no kernel for its gradient where neither scale nor ReLU stands behind it.
    """
    maps, args, size = case.args["maps"], case.args, _size(case)
    plain = "scale" not in args and args.get("activation") is None
    gathered = [m for m in maps if not (plain and m.shape[2:] == size)]
    chunks = 1 if args.get("merge") == "sum" else -(-len(maps) // 8)
    backward = {"upsample_merge_bwd_dmaps_kernel": -(-len(gathered) // 8)} if gathered else {}
    if "scale" in args or "shift" in args:
        backward["upsample_merge_bwd_affine_kernel"] = chunks if "scale" in args else 1
        backward["upsample_merge_sums_kernel"] = 1
    return {"upsample_merge_fwd_kernel": chunks}, backward


def cost(case: Case, itemsize: int) -> Cost:
    maps, size = case.args["maps"], _size(case)
    n, channels = maps[0].shape[0], [m.shape[1] for m in maps]
    outputs = n * (channels[0] if case.args.get("merge") == "sum" else sum(channels)) * prod(size)
    blended = sum(m.shape[1] for m in maps if m.shape[2:] != size) * n * prod(size)
    work = 2 * blended * (4 if case.args.get("mode", "bilinear") == "bilinear" else 1)
    return Cost(work, work, (outputs + sum(prod(m.shape) for m in maps)) * itemsize)
