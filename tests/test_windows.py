"""Pooling windows: the one formula against PyTorch's own pooling, for every size to 70."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pyramid_kernels.functional import pyramid_grids, pyramid_pool
from pyramid_kernels.ops._shared.windows import Axis, axis_windows

SIZES = range(1, 71)
BINS = (1, 2, 3, 4, 5, 6, 8, 13, 70)


def averages(axis: Axis) -> torch.Tensor:
    """(size, count): column i is what an average over window i weighs each position by."""
    weights = torch.zeros(axis.size, axis.count, dtype=torch.float64)
    for i in range(axis.count):
        weights[axis.start(i) : axis.end(i), i] = 1 / axis.length(i)
    return weights


@pytest.mark.parametrize("bins", BINS)
def test_adaptive_windows_are_those_of_pytorch(bins: int) -> None:
    for size in SIZES:
        identity = torch.eye(size, dtype=torch.float64)[:, None]
        expected = F.adaptive_avg_pool1d(identity, bins)[:, 0]
        assert torch.equal(averages(axis_windows(bins, size, "adaptive")), expected), size


@pytest.mark.parametrize("bins", BINS)
def test_fixed_windows_are_those_of_pytorch(bins: int) -> None:
    for size in SIZES:
        if size < bins:
            with pytest.raises(ValueError, match=f"bin {bins} on a map of size {size}"):
                axis_windows(bins, size, "fixed")
            continue
        identity = torch.eye(size, dtype=torch.float64)[:, None]
        expected = F.avg_pool1d(identity, size // bins)[:, 0]
        assert torch.equal(averages(axis_windows(bins, size, "fixed")), expected), size


@pytest.mark.parametrize("bins", BINS)
def test_ceil_windows_are_those_of_pytorch(bins: int) -> None:
    refused = 0
    for size in SIZES:
        step = -(-size // bins)
        padding = (step * bins - size + 1) // 2
        if padding > step // 2:
            refused += 1
            with pytest.raises(ValueError, match=f"bin {bins} on a map of size {size}"):
                axis_windows(bins, size, "ceil")
            continue
        identity = torch.eye(size, dtype=torch.float64)[:, None]
        expected = F.avg_pool1d(identity, step, step, padding, count_include_pad=True)[:, 0]
        assert torch.equal(averages(axis_windows(bins, size, "ceil")), expected), size
    assert refused < len(SIZES)


def test_ceil_refuses_the_sizes_that_spp_net_cannot_pool() -> None:
    refused = []
    for size in SIZES:
        try:
            axis_windows(4, size, "ceil")
        except ValueError:
            refused.append(size)
    assert refused == [1, 2, 3, 5, 9]


def test_grids_match_the_pooled_cells() -> None:
    x = torch.zeros(1, 1, 12, 16)
    assert pyramid_grids((2, 4, 6, 8), (12, 16), "fixed") == [(2, 2), (4, 4), (6, 8), (12, 8)]
    assert pyramid_grids((1, (2, 3)), (7, 5)) == [(1, 1), (2, 3)]
    for windows in ("adaptive", "fixed", "ceil"):
        cells = sum(rows * cols for rows, cols in pyramid_grids((1, 2, 4), (12, 16), windows))
        assert pyramid_pool(x, (1, 2, 4), windows=windows).shape == (1, 1, cells)
