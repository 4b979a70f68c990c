"""Cases that once failed, each with what went wrong."""

import torch
import torch.nn.functional as F

from pyramid_kernels import _native
from pyramid_kernels import functional as PF
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared.precision import ieee_convolutions
from pyramid_kernels.verification import ledger
from tests.kernels import DEVICE


def test_weight_gradient_of_transposed_taps() -> None:
    """Taps without one common stride: their gradient was written past the end of its storage."""
    x = torch.randn(1, 4, 5, 6, device=DEVICE)
    weight = torch.randn(3, 4, 3, 3, device=DEVICE).transpose(2, 3).requires_grad_()
    results = []
    for backend in ("reference", "triton"):
        y = PF.dilated_branches(x, [weight], dilations=(2,), backend=backend)
        results.append(torch.autograd.grad(y.square().sum(), weight)[0])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


def test_gradients_of_a_sum_share_no_memory() -> None:
    """Two maps taken as they are got the same view of dy as their .grad, and so did the caller."""
    a, b = (torch.randn(1, 2, 3, 4, device=DEVICE, requires_grad=True) for _ in range(2))
    y = PF.upsample_merge([a, b], merge="sum", backend="triton")
    gradient = torch.ones_like(y)
    y.backward(gradient)
    assert a.grad is not None and b.grad is not None
    a.grad.zero_()
    assert b.grad.eq(1).all() and gradient.eq(1).all()


def test_one_column_in_channels_last() -> None:
    """The stride of a dimension of size 1 was taken for a layout."""
    x = torch.randn(2, 5, 6, 1, device=DEVICE).contiguous(memory_format=torch.channels_last).requires_grad_()
    small = torch.randn(2, 5, 3, 1, device=DEVICE).contiguous(memory_format=torch.channels_last).requires_grad_()
    full = torch.randn(2, 5, 6, device=DEVICE).transpose(1, 2).contiguous().transpose(1, 2)
    results = []
    for backend in ("reference", "triton"):
        y = PF.upsample_merge([x, small], (6, 1), merge="sum", activation="relu", backend=backend)
        results.append((y, *torch.autograd.grad((y.squeeze(3) * full).sum(), (x, small))))
    torch.testing.assert_close(results[1], results[0])


def test_global_pooling_of_a_tall_map_sorts_few_edges() -> None:
    """One bin on a tall, thin batch was cut into so many bands that sorting their edges spilled."""
    x = torch.randn(1, 3, 520, 2, device=DEVICE)
    y = PF.pyramid_pool(x, (1,), backend="triton")
    torch.testing.assert_close(y, F.adaptive_avg_pool2d(x, 1).flatten(2), rtol=1e-5, atol=1e-6)


def test_a_failure_on_this_machine_outweighs_a_shipped_pass(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Any pass on record used to switch a kernel on."""
    question = ("pyramid_pool", "memory", "triton", 90)
    entry = {"op": "pyramid_pool", "backend": "triton", "arch": 90, "dtype": "float32", "layout": "contiguous"}
    monkeypatch.setattr(ledger, "SHIPPED", tmp_path / "gpu_ledger.json")
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(tmp_path))
    ledger.record("verified", entry | {"result": "passed"})
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(tmp_path / "own"))
    ledger.read.cache_clear()
    assert ledger.why_not(*question) is None
    ledger.record("verified", entry | {"result": "failed"})
    assert str(ledger.why_not(*question)).startswith("verification failed on compute capability 9.0")
    ledger.read.cache_clear()


def test_strided_vectors() -> None:
    """Biases, scales, shifts and norms that are columns of a matrix were read as if dense."""
    x = torch.randn(2, 4, 5, 6, device=DEVICE)
    weight = torch.randn(3, 4, 1, 1, device=DEVICE)
    a, b, c = torch.randn(3, 3, device=DEVICE).unbind(1)
    calls = {
        "upsample_merge": lambda backend: PF.upsample_merge([x[:, :3]], (7, 8), scale=a, shift=b, backend=backend),
        "dilated_branches": lambda backend: PF.dilated_branches(
            x, [weight], dilations=(1,), scale=[a], shift=[b], backend=backend
        ),
        "dilated_branches_train": lambda backend: PF.dilated_branches_train(
            x, [weight], dilations=(1,), gamma=[a], beta=[b], eps=[1e-5], backend=backend
        )[0],
        "pyramid_conv": lambda backend: PF.pyramid_conv([x], weight, c, scale=a, shift=b, backend=backend),
    }
    backends = ("triton", *(["cuda"] if _native.simulated() or DEVICE == "cuda" else []))
    for op, call in calls.items():
        for backend in (b for b in backends if not isinstance(all_ops()[op].module(b), str)):
            with ieee_convolutions():
                torch.testing.assert_close(call(backend), call("reference"), rtol=1e-4, atol=1e-4)
