"""Where the oracle's cases of ``upsample_merge`` do not go: mixed formats, far reaches, half vectors, long lists."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pyramid_kernels import BackendError, _native
from pyramid_kernels.functional import upsample_merge
from tests.kernels import DEVICE

BACKENDS = ("triton",) if isinstance(_native.module(DEVICE), str) else ("triton", "cuda")
FORMATS = (torch.contiguous_format, torch.channels_last)
Shape = tuple[int, ...]
needs_cuda_backend = pytest.mark.skipif("cuda" not in BACKENDS, reason="no CUDA kernels here")


def drawn(shapes: Sequence[Shape], dtype: torch.dtype = torch.float32, first: int = 0) -> list[torch.Tensor]:
    """Maps whose memory formats take turns."""
    generator = torch.Generator().manual_seed(len(shapes))
    maps = (torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes)
    return [m.contiguous(memory_format=FORMATS[(i + first) % 2]).requires_grad_() for i, m in enumerate(maps)]


def assert_agrees(maps: list[torch.Tensor], backend: str, **options: Any) -> None:
    """Result, gradients and their strides are the reference's."""
    limits: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-2} if maps[0].dtype == torch.float16 else {}
    ours, theirs = (upsample_merge(maps, backend=b, **options) for b in (backend, "reference"))
    torch.testing.assert_close(ours, theirs, **limits)
    dy = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(ours)
    leaves = [*maps, *(t for t in options.values() if isinstance(t, torch.Tensor))]
    pairs = zip(*(torch.autograd.grad(y, leaves, dy) for y in (ours, theirs)), strict=True)
    for leaf, (a, b) in zip(leaves, pairs, strict=True):
        torch.testing.assert_close(a, b, **limits)
        if leaf.dim() == 4 and min(leaf.shape) > 1:
            assert a.stride() == leaf.stride()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_maps_of_both_memory_formats(backend: str, first: int, merge: str) -> None:
    maps = drawn([(2, 8, 6, 8), (2, 8, 3, 4), (2, 8, 6, 8), (2, 8, 2, 2)], first=first)
    assert_agrees(maps, backend, merge=merge, activation="relu")


@needs_cuda_backend
@pytest.mark.parametrize("layout", FORMATS)
def test_pixels_that_reach_far_on_cuda(layout: torch.memory_format) -> None:
    """Along both axes, along either one, and hardly at all: each kind is shared by other threads of a block."""
    shapes = [(1, 17, 40, 48), (1, 9, 1, 1), (1, 5, 1, 48), (1, 9, 39, 2), (1, 3, 14, 17)]
    maps = [m.detach().contiguous(memory_format=layout).requires_grad_() for m in drawn(shapes, torch.float64)]
    assert_agrees(maps, "cuda", align_corners=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_in_the_dtype_of_the_maps(backend: str) -> None:
    maps = drawn([(1, 3, 4, 6), (1, 3, 2, 3)], torch.float16)
    generator = torch.Generator().manual_seed(0)
    scale, shift = (torch.randn(3, generator=generator).to(DEVICE, torch.float16).requires_grad_() for _ in range(2))
    assert_agrees(maps, backend, merge="sum", scale=scale, shift=shift)


@needs_cuda_backend
def test_long_lists_on_cuda() -> None:
    """A concat takes several launches; a sum is rounded once, and is refused where one launch cannot hold it."""
    maps = drawn([(1, 2, 1 + i % 5, 3) for i in range(17)])
    assert_agrees(maps, "cuda", size=(5, 7))
    assert_agrees(maps[:16], "cuda", size=(5, 7), merge="sum")
    with pytest.raises(BackendError, match="sums of at most 16 maps, got 17"):
        upsample_merge(maps, (5, 7), merge="sum", backend="cuda")
    whole = upsample_merge(maps, (5, 7), merge="sum")
    torch.testing.assert_close(whole, upsample_merge(maps, (5, 7), merge="sum", backend="reference"))
