"""Cases, launches and costs of ``upsample_cross_entropy``."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from .._shared.spec import Case, Cost, arg, labels

INFINITE = "nan"


def _case(
    name: str, shape: tuple[int, ...], size: tuple[int, int], dtype: torch.dtype = torch.int64, *,
    ignored: int | None = None, weighted: bool = False, **options: Any,
) -> Case:  # fmt: skip
    """``ignored``: the ``ignore_index`` that a quarter of the pixels have."""
    c = shape[1]
    target = labels(shape[0], *size, classes=c, dtype=dtype, ignored=ignored)
    if weighted:
        options["weight"] = arg(c, kind="positive", grad=False)
    if ignored is not None:
        options["ignore_index"] = ignored
    return Case(name, {"logits": arg(*shape), "target": target, **options}, exact=False)


CASES = [
    _case("scale-2-none", (2, 5, 3, 4), (6, 8), reduction="none"),
    _case("scale-8", (1, 19, 2, 3), (16, 24)),
    _case("scale-4-uint8-ignored", (2, 7, 2, 3), (8, 12), torch.uint8, ignored=255, reduction="sum"),
    _case("corners-weighted", (1, 21, 3, 4), (17, 25), torch.int32, align_corners=True, weighted=True, ignored=-100),
    _case("smooth", (1, 6, 3, 5), (11, 13), torch.int16, label_smoothing=0.1, ignored=-1),
    _case(
        "smooth-weighted-none", (2, 4, 4, 3), (9, 10), label_smoothing=0.25, weighted=True, ignored=255,
        reduction="none",
    ),
    _case("primes-5x7-to-13x17", (1, 3, 5, 7), (13, 17)),
    _case("smaller", (1, 5, 9, 13), (4, 5), weighted=True),
    _case("smaller-corners", (2, 3, 5, 7), (3, 2), align_corners=True, reduction="sum"),
    _case("rows-only", (2, 4, 3, 13), (7, 13)),
    _case("equal-sizes", (2, 7, 3, 4), (3, 4), ignored=0),
    _case("one-pixel", (2, 3, 1, 1), (5, 7), weighted=True, label_smoothing=0.5),
    _case("one-pixel-far", (1, 2, 1, 2), (3, 300), align_corners=True),
    _case("one-class", (1, 1, 3, 4), (6, 5), reduction="none"),
    _case("many-classes", (1, 300, 1, 2), (3, 4), label_smoothing=0.1),
]  # fmt: skip

BENCH = [
    *[_case(f"cityscapes-from-1-{s}", (1, 19, 1024 // s, 2048 // s), (1024, 2048), ignored=255) for s in (8, 4, 16)],
    _case("ade20k-512x512", (16, 150, 128, 128), (512, 512), ignored=255),
    _case("voc-513x513", (16, 21, 129, 129), (513, 513), torch.uint8, align_corners=True, ignored=255),
]

#: What the check of labels calls on a CPU, where it reads them ahead of the kernels.
COPIES = ("aminmax", "item", "_local_scalar_dense", "_to_copy", "eq", "masked_fill")


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    forward = {"upsample_cross_entropy_fwd_kernel": 1}
    if case.args.get("reduction") != "none":
        forward["upsample_cross_entropy_sums_kernel"] = 1
    return forward, {"upsample_cross_entropy_bwd_dlogits_kernel": 1}


def cost(case: Case, itemsize: int) -> Cost:
    n, c, h, w = case.args["logits"].shape
    pixels = n * prod(case.args["target"].shape[1:])
    work = 10 * pixels * c  # four corners, a maximum and a sum per class
    return Cost(work, work, n * c * h * w * itemsize + pixels * case.args["target"].dtype.itemsize)
