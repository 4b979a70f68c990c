"""Batches too large for 32-bit offsets: every op's last image is what it is in a batch of two.

On a GPU the largest tensor is past 2^31 elements. A CPU runs the same test on a few images, which shows that results do
not depend on how many images come first.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pyramid_kernels.ops._shared.spec import Case, arguments_of, map_args, materialise
from pyramid_kernels.verification import oracle
from tests.kernels import DEVICE, backends, specified_ops
from tests.test_contract import BATCHED, cheapest

DTYPE = torch.float16
PAIRS = [(op, backend) for op in specified_ops() for backend in backends(op)]


def pair_of_images(op: str, backend: str) -> Case:
    """On a GPU the first published shape, elsewhere the cheapest case; losses by pixel, so that images show."""
    case = oracle.spec(op).BENCH[0] if DEVICE == "cuda" else cheapest(op, backend)[0]
    args = {name: map_args(lambda a: replace(a, shape=(2, *a.shape[1:])) if a.kind in BATCHED else a, value)
            for name, value in case.args.items()}  # fmt: skip
    return replace(case, args=args | ({"reduction": "none"} if op == "upsample_cross_entropy" else {}))


def images(case: Case, arguments: dict[str, Any]) -> list[torch.Tensor]:
    """Every argument that has a batch."""
    tensors = (t for _, t in oracle.leaves(arguments))
    return [t for t, a in zip(tensors, arguments_of(case), strict=True) if a.kind in BATCHED]


def run(op: str, case: Case, arguments: dict[str, Any], backend: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The last image of the result and of all maps' gradients, the result being its own incoming gradient."""
    y = oracle.call(op, arguments, backend)[0]
    maps = [t for t in images(case, arguments) if t.requires_grad]
    last = y[-1].clone()
    return last, [g[-1].clone() for g in (torch.autograd.grad(y, maps, y.detach()) if maps else ())]


@pytest.mark.parametrize("op,backend", PAIRS, ids=["-".join(pair) for pair in PAIRS])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_last_image_of_a_large_batch(op: str, backend: str, channels_last: bool) -> None:
    case = pair_of_images(op, backend)
    if reason := oracle.cannot_check(op, case, backend, DTYPE, channels_last, DEVICE):
        pytest.skip(reason)
    pair = materialise(case, DTYPE, DEVICE, channels_last)
    y = oracle.call(op, pair, backend)[0]
    largest = max(t.numel() for t in (y, *(t for _, t in oracle.leaves(pair)))) // 2
    repeats = -(-(2**31 + 1) // (2 * largest)) if DEVICE == "cuda" else 3
    batched = {id(t) for t in images(case, pair)}

    def repeated(t: torch.Tensor) -> torch.Tensor:
        if id(t) not in batched:
            return t
        many = torch.cat([t.detach()] * repeats)
        if channels_last and t.dim() == 4:
            many = many.contiguous(memory_format=torch.channels_last)
        return many.requires_grad_(t.requires_grad)

    many = run(op, case, oracle.replaced(pair, repeated), backend)
    torch.testing.assert_close(many, run(op, case, pair, backend))
