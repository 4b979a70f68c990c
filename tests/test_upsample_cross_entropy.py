"""Where the oracle's cases of the loss and the label map do not go: bad labels, odd values, ties, memory, gradients."""

import math
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_kernels.backends import select
from pyramid_kernels.functional import upsample_argmax, upsample_cross_entropy
from pyramid_kernels.nn.base import problems_of
from tests.agreement import assert_ties_alone
from tests.kernels import DEVICE, backends
from tests.modes import Seen
from tests.processes import python

BACKENDS = backends("upsample_cross_entropy")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def labelled(*shape: int, classes: int, seed: int = 1) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def eager(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """Logits of the target's size are taken as they are, as CUDA's interpolate does; the CPU's multiplies by zeros."""
    if logits.shape[2:] != target.shape[1:]:
        logits = F.interpolate(logits, target.shape[1:], mode="bilinear")
    return F.cross_entropy(logits, target.long(), **options)


@pytest.mark.skipif(DEVICE != "cpu", reason="on a GPU the kernel asserts, which ends the process's CUDA context")
@pytest.mark.parametrize("backend", ("reference", *BACKENDS))
@pytest.mark.parametrize("value,dtype", [(7, torch.uint8), (-1, torch.int64), (300, torch.int16), (-100, torch.int32)])
def test_labels_out_of_range_are_named_with_their_place(backend: str, value: int, dtype: torch.dtype) -> None:
    target = labelled(2, 6, 8, classes=5).to(dtype)
    target[1, 4, 3] = value
    with pytest.raises(IndexError, match=rf"got {value} at \(n, y, x\) = \(1, 4, 3\)"):
        upsample_cross_entropy(drawn(2, 5, 3, 4), target, ignore_index=255, backend=backend)


ASSERTED = """
import sys, torch
from pyramid_kernels.functional import upsample_cross_entropy
target = torch.full((1, 8, 8), 7, device="cuda")
upsample_cross_entropy(torch.zeros(1, 5, 4, 4, device="cuda"), target, backend=sys.argv[1])
torch.cuda.synchronize()
"""


@pytest.mark.skipif(DEVICE == "cpu", reason="the assertion on a GPU")
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_labels_out_of_range_end_the_kernel_by_name(backend: str) -> None:
    done = python("-c", ASSERTED, backend)
    assert done.returncode and "upsample_cross_entropy" in done.stderr and "assert" in done.stderr


@every_backend
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_pixels_ignored(backend: str, smoothing: float, reduction: str) -> None:
    """NaN for a mean of nothing, as PyTorch gives; the gradient is zero either way."""
    logits, target = drawn(2, 3, 2, 2).requires_grad_(), torch.full((2, 4, 5), 255, dtype=torch.uint8, device=DEVICE)
    options: dict[str, Any] = {"ignore_index": 255, "label_smoothing": smoothing, "reduction": reduction}
    ours = upsample_cross_entropy(logits, target, backend=backend, **options)
    torch.testing.assert_close(ours, eager(logits, target, **options), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.autograd.grad(ours.sum(), logits)[0], torch.zeros_like(logits))


@every_backend
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [(10, 14), (5, 7)])
def test_odd_values_go_where_pytorch_lets_them(
    backend: str, value: float, smoothing: float, size: tuple[int, int]
) -> None:
    """Loss by pixel and gradient, at ratio 2 (no weight is zero inside) and at equal sizes."""
    logits, target = drawn(1, 4, 5, 7), labelled(1, *size, classes=4)
    logits[0, 2, 2, 3] = value
    logits[0, :, 4, 6] = float("-inf")
    logits.requires_grad_()
    options: dict[str, Any] = {"reduction": "none", "label_smoothing": smoothing}
    ours, theirs = upsample_cross_entropy(logits, target, backend=backend, **options), eager(logits, target, **options)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    finite = theirs.detach().isfinite()
    grads = (torch.autograd.grad(torch.where(finite, y, 0).sum(), logits)[0] for y in (ours, theirs))
    torch.testing.assert_close(*grads, equal_nan=True)


@every_backend
def test_targets_of_every_type_and_stride(backend: str) -> None:
    logits, target = drawn(2, 5, 3, 4), labelled(2, 6, 8, classes=5)
    expected = eager(logits, target)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
        given = target.to(dtype)
        for t in (given, given.transpose(1, 2).contiguous().transpose(1, 2)):
            torch.testing.assert_close(upsample_cross_entropy(logits, t, backend=backend), expected)


@every_backend
def test_expanded_and_scaled_incoming_gradients(backend: str) -> None:
    """A scalar's gradient scales the whole; a map's, expanded by ``sum``, is read as it comes."""
    logits, target = drawn(2, 5, 3, 4).requires_grad_(), labelled(2, 6, 8, classes=5)
    for reduction in ("mean", "sum", "none"):
        ours = upsample_cross_entropy(logits, target, reduction=reduction, backend=backend)
        theirs = eager(logits, target, reduction=reduction)
        grads = (torch.autograd.grad(3 * y.sum(), logits)[0] for y in (ours, theirs))
        torch.testing.assert_close(*grads)


@every_backend
def test_half_precision_weights(backend: str) -> None:
    logits, target = drawn(1, 5, 3, 4).half(), labelled(1, 6, 8, classes=5)
    weight = drawn(5, seed=2).abs().half()
    ours = upsample_cross_entropy(logits, target, weight=weight, backend=backend)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, eager(logits.float(), target, weight=weight.float()))


@every_backend
def test_first_of_equal_classes_and_first_nan(backend: str) -> None:
    """Ties of three classes, everywhere; a NaN wins, and the first of two."""
    logits = drawn(1, 6, 3, 5)
    logits[:, [1, 3, 4]] = logits.amax(1, keepdim=True) + 1
    logits[0, 4, 1, 2] = logits[0, 2, 1, 2] = float("nan")
    expected = F.interpolate(logits, (7, 9), mode="bilinear").argmax(1)
    assert set(expected.unique().tolist()) == {1, 2}
    assert torch.equal(upsample_argmax(logits, (7, 9), backend=backend), expected.to(torch.uint8))


@pytest.mark.parametrize("scale", [2, 4, 8, 3.7])
def test_label_maps_differ_in_ties_alone(scale: float) -> None:
    """On the CPU, of a million pixels at most 1e-5, each a tie within one rounding of the larger value."""
    logits = drawn(1, 19, 128, 64)
    full = F.interpolate(logits, (int(128 * scale), int(64 * scale)), mode="bilinear")
    labels = upsample_argmax(logits, full.shape[2:], backend="composed")
    assert_ties_alone(labels, full, torch.finfo(torch.float32).eps * full.amax(1).abs())


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "composed"])
def test_two_thousand_classes(backend: str) -> None:
    logits, target = drawn(1, 2048, 2, 3).requires_grad_(), labelled(1, 4, 5, classes=2048)
    losses = [f(logits, target, **o) for f, o in ((upsample_cross_entropy, {"backend": backend}), (eager, {}))]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in losses))
    full = F.interpolate(logits.detach(), (4, 5), mode="bilinear")
    assert torch.equal(upsample_argmax(logits, (4, 5), dtype=torch.int16, backend=backend).long(), full.argmax(1))


@pytest.mark.parametrize("layout", FORMATS.values())
def test_upsampled_logits_never_exist(layout: torch.memory_format) -> None:
    logits, target = drawn(2, 19, 64, 64).cpu().contiguous(memory_format=layout), labelled(2, 512, 512, classes=19)
    with Seen(inside=True) as seen:
        upsample_cross_entropy(logits.requires_grad_(), target.cpu(), backend="composed").backward()
        upsample_argmax(logits, (512, 512), backend="composed")
    assert 10 * max(math.prod(shape) for shape, dtype in seen.tensors if dtype.is_floating_point) < 2 * 19 * 512**2


# VmHWM and not getrusage: the latter's peak is inherited from the process that started this one.
MEASURED = """
import re, sys
from pathlib import Path
import torch
from pyramid_kernels.functional import upsample_cross_entropy
logits, target = torch.randn(1, 19, 64, 128).requires_grad_(), torch.randint(19, (1, 512, 1024))
def step(logits, target):
    upsample_cross_entropy(logits, target, backend=sys.argv[1]).backward()
def resident(which):
    return int(re.search(which + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
step(logits[:, :, :8, :8], target[:, :64, :64])
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = resident("VmRSS")
step(logits, target)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_composed_takes_a_tenth_of_the_memory() -> None:
    def measured(backend: str) -> int:
        # What is freed goes back at once: what glibc keeps differs by megabytes from one process to the next.
        done = python("-c", MEASURED, backend, OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_="65536")
        return int(done.stdout)

    assert 0 < 10 * measured("composed") <= measured("reference")


@pytest.mark.parametrize("reduction,expected", [("mean", 1), ("sum", 1), ("none", 2)])
def test_a_reduced_loss_takes_its_exponentials_once(reduction: str, expected: int) -> None:
    """The gradient is made along with the loss; of losses by pixel, in the backward."""
    logits, target = drawn(1, 5, 3, 4).cpu().requires_grad_(), labelled(1, 6, 8, classes=5).cpu()
    with Seen(inside=True) as forward:
        losses = upsample_cross_entropy(logits, target, reduction=reduction, backend="composed")
    with Seen(inside=True) as backward:
        losses.sum().backward(retain_graph=True)
    counts = [sum("log_softmax" in name for name in mode.names) for mode in (forward, backward)]
    assert (counts[0], sum(counts)) == (1, expected)
    once = logits.grad.clone()
    losses.sum().backward()
    torch.testing.assert_close(logits.grad, 2 * once)


@pytest.mark.parametrize("classes,layout,differentiated,reduction,expected", [
    (21, "contiguous", True, "mean", "composed"),
    (21, "channels_last", True, "sum", "composed"),
    (8, "contiguous", True, "mean", "composed"),
    (2, "contiguous", True, "mean", "reference"),
    (4, "channels_last", True, "mean", "composed"),
    (3, "channels_last", True, "mean", "reference"),
    (21, "contiguous", False, "mean", "composed"),
    (21, "contiguous", True, "none", "composed"),
    (15, "contiguous", False, "mean", "reference"),
    (21, "channels_last", False, "mean", "composed"),
    (21, "channels_last", True, "none", "composed"),
    (8, "channels_last", False, "mean", "reference"),
    (150, "contiguous", False, "mean", "composed"),
])  # fmt: skip
def test_auto_takes_the_bands_where_they_measured_faster(
    classes: int, layout: str, differentiated: bool, reduction: str, expected: str
) -> None:
    """On a CPU; ``bench`` and docs/upsample_cross_entropy.md hold the measurements."""
    logits = torch.empty(1, classes, 64, 64).contiguous(memory_format=FORMATS[layout])
    target = torch.empty(1, 512, 512, dtype=torch.uint8)
    (entry,) = problems_of(upsample_cross_entropy, logits.requires_grad_(differentiated), target, reduction=reduction)
    assert select(*entry, "auto") == expected


@pytest.mark.parametrize(
    "classes,layout,expected",
    [(150, "contiguous", "composed"), (2, "channels_last", "composed"), (21, "channels_last", "reference")],
)
def test_auto_takes_the_label_map_in_bands_where_it_measured_faster(classes: int, layout: str, expected: str) -> None:
    logits = torch.empty(1, classes, 64, 64).contiguous(memory_format=FORMATS[layout])
    (entry,) = problems_of(upsample_argmax, logits, (512, 512))
    assert select(*entry, "auto") == expected
