"""Cases, launches and costs of ``upsample_argmax``."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from .._shared.spec import Case, Cost, arg

INFINITE = "nan"


def _case(name: str, shape: tuple[int, ...], size: tuple[int, int], exact: bool = False, **options: Any) -> Case:
    return Case(name, {"logits": arg(*shape, grad=False), "size": size, **options}, exact)


CASES = [
    _case("scale-2-ties", (2, 5, 6, 8), (12, 16), exact=True),
    _case("scale-4-corners", (1, 19, 5, 9), (17, 33), exact=True, align_corners=True),
    _case("scale-8", (1, 19, 4, 5), (32, 40), exact=True),
    _case("primes-13x17-to-33x47", (1, 3, 13, 17), (33, 47)),
    _case("odd-corners", (1, 21, 9, 7), (65, 49), align_corners=True, dtype=torch.int64),
    _case("smaller", (1, 6, 33, 47), (13, 17), dtype=torch.int32),
    _case("rows-only", (2, 4, 5, 13), (11, 13)),
    _case("equal-sizes", (2, 7, 6, 5), (6, 5), exact=True),
    _case("one-pixel", (2, 3, 1, 1), (5, 7), exact=True),
    _case("to-one-pixel", (1, 3, 4, 6), (1, 1), align_corners=True, exact=True),
    _case("one-class", (1, 1, 3, 4), (6, 5)),
    _case("many-classes", (1, 300, 2, 3), (5, 6), dtype=torch.int16),
    _case("tall", (1, 2, 3, 2), (7, 150)),
]

BENCH = [
    *[_case(f"cityscapes-from-1-{s}", (1, 19, 1024 // s, 2048 // s), (1024, 2048)) for s in (8, 4, 16)],
    _case("ade20k-512x512", (16, 150, 128, 128), (512, 512)),
    _case("voc-513x513", (16, 21, 129, 129), (513, 513), align_corners=True),
]


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    return {"upsample_argmax_fwd_kernel": 1}, {}


def cost(case: Case, itemsize: int) -> Cost:
    (n, c, h, w), size = case.args["logits"].shape, case.args["size"]
    work = 8 * n * c * prod(size)  # four corners of each class
    label = case.args.get("dtype", torch.uint8).itemsize
    return Cost(work, work, n * c * h * w * itemsize + n * prod(size) * label)
