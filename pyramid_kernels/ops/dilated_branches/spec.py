"""Cases, launches and costs of ``dilated_branches``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._shared.affine import Affine, normalise
from .._shared.spec import Arg, Case, Cost, arg
from .chain import weight_splits
from .reference import convolve

#: A gradient is not multiplied by the padding that a tap reads.
PADDED = ("d weights",)


def branches(c: int, outputs: tuple[int, ...], kernels: tuple[int, ...]) -> list[Arg]:
    return [arg(o, c, k, k, kind="weight") for o, k in zip(outputs, kernels, strict=True)]


def norms(outputs: tuple[int, ...], eps: float = 1.0) -> list[tuple[Any, ...]]:
    """An eval-mode BatchNorm per branch; with variance 3, eps = 1 makes exact data exact."""
    return [
        (
            arg(o, kind="vector"),
            arg(o, kind="shift"),
            arg(o, kind="shift", grad=False),
            arg(o, kind="positive", grad=False),
            eps,
        )
        for o in outputs
    ]  # fmt: skip


def vectors(outputs: tuple[int, ...], kind: str) -> list[Arg]:
    return [arg(o, kind=kind) for o in outputs]


def case(
    name: str, shape: tuple[int, ...], outputs: tuple[int, ...], kernels: tuple[int, ...], dilations: tuple[int, ...],
    exact: bool = True, **rest: Any,
) -> Case:  # fmt: skip
    weights = branches(shape[1], outputs, kernels)
    return Case(name, {"x": arg(*shape), "weights": weights, "dilations": dilations, **rest}, exact)


CASES = [
    case("aspp-norm-9x11", (2, 20, 9, 11), (6, 5, 7), (1, 3, 3), (1, 2, 12), norm=norms((6, 5, 7)), activation="relu"),
    case("plain-13x17", (1, 18, 13, 17), (6, 6), (3, 3), (2, 6)),
    case("scale-shift", (1, 7, 8, 6), (5, 4), (3, 1), (3, 1), scale=vectors((5, 4), "vector"),
         shift=vectors((5, 4), "shift"), activation="relu"),
    case("bias-relu", (1, 20, 5, 7), (9,), (3,), (1,), shift=vectors((9,), "shift"), activation="relu"),
    case("sum-bias", (1, 16, 13, 9), (6, 6, 6), (3, 3, 3), (1, 3, 5), shift=vectors((6, 6, 6), "shift"), merge="sum"),
    case("sum-affine-relu", (2, 5, 7, 6), (4, 4), (3, 1), (2, 1), scale=vectors((4, 4), "vector"),
         shift=vectors((4, 4), "shift"), activation="relu", merge="sum"),
    case("only-centre-taps", (1, 9, 4, 5), (8, 3), (3, 3), (9, 24)),
    case("one-pixel", (3, 8, 1, 1), (4, 5), (1, 3), (1, 6), norm=norms((4, 5)), activation="relu"),
    case("wide-output", (1, 6, 6, 5), (140,), (3,), (2,), activation="relu"),
    case("deep-input", (1, 150, 5, 4), (6,), (3,), (1,), shift=vectors((6,), "shift")),
    case("many-images", (11, 8, 3, 2), (4,), (3,), (1,), norm=norms((4,))),
    case("image-bias-1x1", (3, 12, 5, 7), (10,), (1,), (1,), norm=norms((10,)), activation="relu",
         image_bias=arg(3, 10, 1, kind="cells")),
    case("image-bias-3x3", (2, 12, 4, 3), (7,), (3,), (1,), activation="relu", image_bias=arg(2, 7, 9, kind="cells")),
    case("boxes-9x20", (2, 136, 9, 20), (40, 24), (3, 3), (1, 15), exact=False, norm=norms((40, 24)),
         activation="relu"),
    case("boxes-wide", (1, 72, 12, 7), (200,), (3,), (3,), shift=vectors((200,), "shift")),
    case("boxes-split", (1, 16, 17, 32), (8,), (3,), (2,)),
    case("nine-branches", (1, 5, 4, 4), (2,) * 9, (3,) * 9, tuple(range(1, 10))),
]  # fmt: skip


def _aspp(name: str, n: int, c: int, size: tuple[int, int], o: int, rates: tuple[int, ...]) -> Case:
    outputs = (o,) * (len(rates) + 1)
    kernels, dilations = (1, *(3 for _ in rates)), (1, *rates)
    return case(name, (n, c, *size), outputs, kernels, dilations, norm=norms(outputs, 1e-5), activation="relu")


BENCH = [
    _aspp("32x32-n8", 8, 2048, (32, 32), 256, (6, 12, 18)),
    _aspp("32x32-n16", 16, 2048, (32, 32), 256, (6, 12, 18)),
    _aspp("32x32-n1", 1, 2048, (32, 32), 256, (6, 12, 18)),
    _aspp("64x64-n8-os8", 8, 2048, (64, 64), 256, (12, 24, 36)),
    _aspp("64x128-n1", 1, 2048, (64, 128), 256, (12, 24, 36)),
    _aspp("65x129-n2", 2, 2048, (65, 129), 256, (12, 24, 36)),
    _aspp("65x65-n4", 4, 2048, (65, 65), 256, (12, 24, 36)),
    _aspp("33x33-mobilenet", 8, 960, (33, 33), 256, (12, 24, 36)),
    _aspp("64x128-mmseg", 1, 2048, (64, 128), 512, (12, 24, 36)),
]


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    """Training-time launches: forward, then everything the case's gradients need."""
    args = case.args
    chunks = -(-len(args["weights"]) // 8)
    affine = any(args.get(name) for name in ("scale", "shift", "norm"))
    dz = affine or args.get("activation") == "relu"
    backward = {"dilated_branches_bwd_dx_kernel": chunks, "dilated_branches_bwd_dw_kernel": chunks}
    if dz:
        backward["dilated_branches_bwd_dz_kernel"] = chunks
    if affine:
        backward["dilated_branches_bwd_sums_kernel"] = chunks
    if weight_splits(args["x"].shape, [(a.shape[0], a.shape[2]) for a in args["weights"]]) > 1:
        backward["dilated_branches_bwd_dw_sum_kernel"] = chunks
    if "image_bias" in args:
        backward["dilated_branches_bwd_dimage_kernel"] = 1
    return {"dilated_branches_fwd_kernel": chunks}, backward


def calls(case: Case, channels_last: bool) -> tuple[dict[str, int], dict[str, int]]:
    """What joins the chunks of more than eight branches: their outputs, and their gradients of x."""
    chunked = len(case.args["weights"]) > 8
    return ({"cat": 1}, {"add": 1}) if chunked else ({}, {})


def cost(case: Case, itemsize: int) -> Cost:
    n, c, h, w = case.args["x"].shape
    total = useful = weight_bytes = outputs = 0
    for weight, d in zip(case.args["weights"], case.args["dilations"], strict=True):
        o, _, k, _ = weight.shape
        per_tap = 2 * n * o * c
        total += per_tap * k * k * h * w
        useful += per_tap * live(h, k, d) * live(w, k, d)
        weight_bytes += o * c * k * k * itemsize
        outputs += o
    return Cost(total, useful, n * h * w * (c + outputs) * itemsize + weight_bytes)


def live(length: int, kernel: int, dilation: int) -> int:
    """Pairs of pixel and tap along one axis whose tap lies inside the map."""
    return length if kernel == 1 else length + 2 * max(0, length - dilation)


def margin(tensors: dict[str, Any]) -> Tensor:
    """Distance from zero of the pre-activation nearest to it, per output, in float64."""
    values = []
    parameters = tensors.get("norm") or [
        (*pair, None, None, 0.0)
        for pair in zip(*(tensors.get(k) or [None] * len(tensors["weights"]) for k in ("scale", "shift")), strict=True)
    ]
    for weight, d, entry in zip(tensors["weights"], tensors["dilations"], parameters, strict=True):
        z = convolve(tensors["x"], weight, d, tensors.get("image_bias"))
        affine: Affine = entry[:4]
        values.append(normalise(z, affine, entry[4]).abs())
    return torch.stack(values).amin(0) if tensors.get("merge") == "sum" else torch.cat(values, 1)
