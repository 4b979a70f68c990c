"""The one formula for window edges, exhaustively against PyTorch's pooling along one axis."""

import pytest
import torch
import torch.nn.functional as F

from pyramid_kernels.ops._shared.windows import WINDOWS, Axis, axis_windows, grids

SIZES = range(1, 71)


def pooled(axis: Axis, row: torch.Tensor) -> tuple[list[float], list[float]]:
    """Sums and maxima over the windows of ``axis``."""
    windows = [row[axis.start(i) : axis.end(i)] for i in range(axis.count)]
    return [w.sum().item() / axis.length(i) for i, w in enumerate(windows)], [w.max().item() for w in windows]


def torch_pooled(row: torch.Tensor, bins: int, windows: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """PyTorch's averages and maxima; None where the windowing does not exist."""
    size, x = len(row), row[None]
    if windows == "adaptive":
        return F.adaptive_avg_pool1d(x, bins)[0], F.adaptive_max_pool1d(x, bins)[0]
    kernel = size // bins if windows == "fixed" else -(-size // bins)
    padding = 0 if windows == "fixed" else (kernel * bins - size + 1) // 2
    if kernel == 0 or padding > kernel // 2:
        return None
    average = F.avg_pool1d(x, kernel, kernel, padding, count_include_pad=True)[0]
    return average, F.max_pool1d(x, kernel, kernel, padding)[0]


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("size", SIZES)
def test_windows_are_those_of_pytorch(size: int, windows: str) -> None:
    row = torch.randperm(size, generator=torch.Generator().manual_seed(size)).double() - size // 2
    for bins in (*range(1, 13), size, size + 3):
        expected = torch_pooled(row, bins, windows)
        if expected is None:
            with pytest.raises(ValueError, match=f"bin {bins} on a map of size {size}"):
                axis_windows(bins, size, windows)
            continue
        averages, maxima = pooled(axis_windows(bins, size, windows), row)
        torch.testing.assert_close(torch.tensor(averages, dtype=torch.float64), expected[0], rtol=1e-14, atol=1e-14)
        assert maxima == expected[1].tolist()


@pytest.mark.parametrize("windows", WINDOWS)
def test_grids_count_the_cells_of_both_axes(windows: str) -> None:
    assert grids([(2, 3)], (12, 13), windows) == [
        (axis_windows(2, 12, windows).count, axis_windows(3, 13, windows).count)
    ]
