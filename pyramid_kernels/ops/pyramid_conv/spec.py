"""Cases, launches and costs of ``pyramid_conv``."""

from __future__ import annotations

from math import prod
from typing import Any

from .._shared.spec import Case, Cost, arg
from .layout import LEVELS, inside, split

Shape = tuple[int, ...]

PADDED = ("d weight",)
INFINITE = "fewer"


def _case(
    name: str, o: int, k: int, *shapes: Shape, exact: bool = False, affine: bool = False, bias: bool = False,
    **options: Any,
) -> Case:  # fmt: skip
    """``affine`` adds scale, shift and ReLU, with pre-activations far from zero."""
    c = sum(shape[1] for shape in shapes)
    args: dict[str, Any] = {"maps": [arg(*shape) for shape in shapes], "weight": arg(o, c, k, k, kind="weight")}
    if bias:
        args["bias"] = arg(o, kind="shift")
    if affine:
        args |= {"scale": arg(o, kind="vector"), "shift": arg(o, kind="gate"), "activation": "relu"}
    return Case(name, args | options, exact)


CASES = [
    _case("psp-7x9", 6, 3, (1, 8, 7, 9), (1, 5, 1, 1), (1, 5, 2, 2), (1, 5, 3, 3), affine=True),
    _case("scale-2-bias", 3, 3, (2, 12, 6, 8), (2, 10, 3, 4), bias=True),
    _case("scale-3-corners", 4, 3, (1, 9, 9, 12), (1, 7, 3, 4), align_corners=True, bias=True, activation="relu"),
    _case("scale-4-and-8-nearest", 4, 3, (1, 8, 8, 8), (1, 8, 2, 2), (1, 8, 1, 1), mode="nearest", exact=True),
    _case("primes-7x11", 3, 3, (1, 9, 3, 5), (1, 12, 7, 11), size=(7, 11), shift=arg(3, kind="shift")),
    _case("segformer-1x1", 7, 1, (1, 4, 12, 16), (1, 6, 6, 8), (1, 8, 3, 4), (1, 9, 2, 2), affine=True, bias=True),
    _case("hrnet-1x1-corners", 8, 1, (2, 6, 8, 10), (2, 8, 4, 5), (2, 9, 2, 3), align_corners=True),
    _case("larger-than-size", 4, 3, (1, 5, 13, 9), (1, 7, 4, 3), (1, 16, 3, 2), size=(6, 5), bias=True),
    _case("no-map-at-size", 4, 3, (1, 14, 3, 4), (1, 12, 2, 3), size=(7, 8), scale=arg(4, kind="vector")),
    _case("one-pixel", 3, 3, (2, 4, 1, 1), (2, 5, 1, 1), bias=True),
    _case("from-one-pixel", 3, 3, (1, 9, 1, 1), (1, 8, 1, 1), size=(5, 4), mode="nearest", exact=True),
    _case("two-whole-nearest-1x1", 5, 1, (1, 3, 6, 5), (1, 4, 6, 5), (1, 16, 3, 5), mode="nearest", exact=True),
    _case("product-inside-48", 20, 1, (1, 48, 9, 18), (1, 24, 5, 9), mode="nearest", bias=True, exact=True),
    _case("wide-140", 2, 3, (1, 9, 2, 140), (1, 12, 1, 3)),
    _case("nine-levels", 2, 1, (1, 3, 6, 8), *[(1, 4, 1 + i % 4, 6 - i % 3) for i in range(9)]),
]


def _upernet(n: int, c: int, h: int, w: int) -> list[Shape]:
    return [(n, c, h >> i, w >> i) for i in range(4)]


_PSP = [(512, b, b) for b in (1, 2, 3, 6)]

BENCH = [
    _case("psp-60x60", 512, 3, (8, 2048, 60, 60), *[(8, *level) for level in _PSP], align_corners=True, affine=True),
    _case("upernet-128x128", 512, 3, *_upernet(8, 512, 128, 128), affine=True),
    _case("deeplabv3plus-129x129", 256, 3, (8, 48, 129, 129), (8, 256, 33, 33), align_corners=True, affine=True),
    _case("hrnetv2-128x256", 720, 1, *[(8, 48 << i, 128 >> i, 256 >> i) for i in range(4)], affine=True, bias=True),
    _case(
        "segformer-b0-128x128", 256, 1,
        *[(8, c, 128 >> i, 128 >> i) for i, c in enumerate((32, 64, 160, 256))], affine=True,
    ),
    _case(
        "segformer-b5-128x128", 768, 1,
        *[(8, c, 128 >> i, 128 >> i) for i, c in enumerate((64, 128, 320, 512))], affine=True,
    ),
]  # fmt: skip


def _size(case: Case) -> tuple[int, int]:
    return case.args.get("size") or case.args["maps"][0].shape[2:]


def _split(case: Case) -> tuple[list[int], list[int]]:
    return split([m.shape for m in case.args["maps"]], case.args["weight"].shape, _size(case))


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    """One merge forward, one gather per eight levels backward; resizing where maps are not mixed, dz, the sums."""
    args = case.args
    whole, mixed = _split(case)
    forward = {"pyramid_conv_merge_kernel": 1}
    backward: dict[str, int] = {}
    dz = int("scale" in args or args.get("activation") is not None)
    joined = len(whole) > 1 or any(args["maps"][i].shape[2:] != _size(case) for i in whole)
    chunks = -(-len(whole) // 8) if joined else 0
    if chunks:
        forward["upsample_merge_fwd_kernel"] = chunks
        backward["upsample_merge_fwd_kernel"] = chunks
    if dz + chunks:
        backward["upsample_merge_bwd_dmaps_kernel"] = dz + chunks
    if mixed:
        backward["pyramid_conv_bwd_dlevels_kernel"] = -(-len(mixed) // LEVELS)
    if any(name in args for name in ("bias", "scale", "shift")):
        backward |= {"upsample_merge_bwd_affine_kernel": 1, "upsample_merge_sums_kernel": 1}
    return forward, backward


#: ATen calls whose number is the library's choice: a convolution's result is copied where it has another layout.
COPIES = ("copy_",)


def calls(case: Case, channels_last: bool) -> tuple[dict[str, int], dict[str, int]]:
    """One product per mixed level and one for the rest, unless the merge computes that; weights of maps that are
    convolved together are joined."""
    whole, mixed = _split(case)
    products, maps = len(mixed) + bool(whole), case.args["maps"]
    own = inside([m.shape for m in maps], case.args["weight"].shape, _size(case)) is not None
    cat = {"cat": 1} if 1 < len(whole) < len(maps) else {}
    scaled = {"mul": 1} if "bias" in case.args and "scale" in case.args else {}
    return {"conv2d": products - own} | cat, {"convolution_backward": products} | cat | scaled


def cost(case: Case, itemsize: int) -> Cost:
    """``total`` is the unfused convolution; ``useful`` convolves every map at its own resolution and resamples."""
    maps, (h, w) = case.args["maps"], _size(case)
    n, (o, c, k, _) = maps[0].shape[0], case.args["weight"].shape
    _, mixed = _split(case)
    corners = 4 if case.args.get("mode", "bilinear") == "bilinear" else 1
    total = 2 * n * o * c * k * k * h * w
    saved = sum(
        2 * n * o * k * k * (maps[i].shape[1] * (h * w - prod(maps[i].shape[2:])) - corners * h * w) for i in mixed
    )
    moved = n * o * h * w + o * c * k * k + sum(prod(m.shape) for m in maps)
    return Cost(total, total - saved, moved * itemsize)
