"""``fuse_`` and ``unfuse_``: what is fused, what is declined and why, and that everything else stays as it was."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import pyramid_kernels as pk
from pyramid_kernels.backends import BackendError
from pyramid_kernels.fuse import ASPPForward, PPMForward
from pyramid_kernels.nn import ASPP, PPM, SPP, ReferenceASPP, ReferencePPM
from tests import third_party as user
from tests.foreign import smp, why_skipped
from tests.kernels import DEVICE, QUICKEST
from tests.processes import python

deeplabv3 = pytest.importorskip("torchvision.models.segmentation.deeplabv3", reason="needs torchvision")

X = torch.randn(8, 8, 7, 5, generator=torch.Generator().manual_seed(0))


pytestmark = pytest.mark.usefixtures("own_adapters")


@pytest.fixture
def aspp() -> Any:
    return deeplabv3.ASPP(8, (2, 3), 6)


def test_kernels_run_through_a_fused_model(aspp: Any) -> None:
    x = X[:2].to(DEVICE)
    unfused = aspp.eval().to(DEVICE)
    ours = copy.deepcopy(unfused)
    report = pk.fuse_(ours, backend=QUICKEST)
    assert QUICKEST in report.fused[0].detail
    with pk.testing.count_launches() as launches, torch.no_grad():
        y = ours(x)
    assert launches.total() > 0
    torch.testing.assert_close(y, unfused(x), rtol=1e-3, atol=1e-3)


def test_onnx_export_takes_the_original_forward(aspp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter goes by torch.export, which is compiling; the one before it traces."""
    pk.fuse_(aspp.eval(), backend="reference")
    assert aspp.why_original(X) is None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert aspp.why_original(X) is None
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    assert "export" in aspp.why_original(X)


def test_tracing_takes_the_original_forward(aspp: Any) -> None:
    unfused = copy.deepcopy(aspp).eval()
    pk.fuse_(aspp.eval())
    traced = torch.jit.trace(aspp, X)
    assert not any("pyramid_kernels" in node.kind() for node in traced.inlined_graph.nodes())
    torch.testing.assert_close(traced(X), unfused(X), rtol=1e-4, atol=1e-4)


def test_export_takes_the_argument_by_its_name(aspp: Any) -> None:
    pk.fuse_(aspp.eval())
    exported = torch.export.export(aspp, (), {"x": X}, dynamic_shapes={"x": {0: torch.export.Dim("n", min=2)}})
    torch.testing.assert_close(exported.module()(x=X[:3]), aspp(X[:3]), rtol=1e-4, atol=1e-4)


# What is declined.


class KeepsForward(deeplabv3.ASPP):
    """A subclass with the same forward."""


def test_fuses_a_subclass_that_keeps_forward() -> None:
    model = KeepsForward(8, (2,), 6).eval()
    expected = model(X)
    assert pk.fuse_(model).fused and isinstance(model, KeepsForward)
    again = pickle.loads(pickle.dumps(model))
    assert isinstance(again, ASPPForward) and torch.equal(again(X), model(X))
    torch.testing.assert_close(again(X), expected, rtol=1e-4, atol=1e-4)
    pk.unfuse_(again)
    assert type(again) is KeepsForward


def test_smp_norms_other_than_batch_norm_are_declined() -> None:
    module = smp("pspnet.decoder", "PSPModule")
    assert "InstanceNorm2d" in why_skipped(module(8, (1, 2), use_norm="instancenorm"))
    assert pk.fuse_(module(8, (1, 2), use_norm=False)).fused


# Registered classes.


def test_a_registered_class_with_hooks_is_not_run() -> None:
    model = user.SemsegPPM(8, 2, (1, 2))
    pk.register_adapter(user.SemsegPPM, PPMForward)
    model.features[0][1].register_forward_hook(lambda *_: pytest.fail("a hook ran"))
    assert "hooks" in why_skipped(model)


def test_register_adapter_names_what_is_wrong() -> None:
    with pytest.raises(TypeError, match="cls must be a subclass"):
        pk.register_adapter(nn.ReLU(), PPMForward)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="adapter must be a fused forward"):
        pk.register_adapter(nn.ReLU, nn.ReLU)  # type: ignore[type-abstract,arg-type]


# Arguments of fuse_.


def test_report_only_filter_and_strict() -> None:
    model = nn.ModuleDict({"a": ReferenceASPP(8, (2,), 6), "b": ReferencePPM(8, 2), "c": nn.ReLU()}).eval()
    assert "model's first call" in str(pk.fuse_(model, only="c"))
    with pytest.raises(pk.FuseError, match="nothing was fused"):
        pk.fuse_(model, only="c", strict=True)
    with pytest.raises(ValueError, match="only must name modules of the model, got 'convs'"):
        pk.fuse_(model, only="convs")
    report = pk.fuse_(model, filter_fn=lambda m, path: path != "a")
    assert [e.path for e in report.fused] == ["b"] and type(model["a"]) is ReferenceASPP
    report = pk.fuse_(model, only=["a", "b"])
    text = str(report)
    assert "a" in text and "dilated_branches: " in text and "already fused" in text and len(text.splitlines()) == 4


def test_nn_modules_are_already_fused() -> None:
    model = nn.Sequential(ASPP(8, (2,), 6), PPM(6, 2))
    report = pk.fuse_(model)
    assert len(report.fused) == 2 and pk.unfuse_(model) == []


def test_fused_context_undoes_only_its_own(aspp: Any) -> None:
    model = nn.Sequential(aspp, ReferencePPM(6, 2))
    pk.fuse_(model, only="0")
    with pytest.raises(KeyError), pk.fused(model) as report:
        assert len(report.fused) == 2 and type(model[1]) is PPM
        raise KeyError
    assert type(model[1]) is ReferencePPM and isinstance(model[0], ASPPForward)


@pytest.mark.parametrize("prove", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["checked", "proved"])
@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x,), lambda x: {"x": x}], ids=["tensor", "tuple", "dict"])
def test_example_input_checks_and_restores(aspp: Any, form: Any, prove: bool) -> None:
    aspp.train()
    state, random = copy.deepcopy(aspp.state_dict()), torch.get_rng_state()
    assert pk.fuse_(aspp, example_input=form(X), prove=prove).entries[0].status in ("fused", *["left"] * prove)
    assert aspp.training and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(state.values(), aspp.state_dict().values(), strict=True))
    assert all(p.grad is None for p in aspp.parameters())


def test_example_input_mismatch_undoes_the_swap(aspp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    strides = [p.stride() for p in aspp.parameters()]
    real = ASPPForward.fused_forward
    monkeypatch.setattr(ASPPForward, "fused_forward", lambda self, x: real(self, x) * (1 + (len(x) == 8) / 10))
    with pytest.raises(pk.FuseError, match="another result on example_input"):
        pk.fuse_(aspp.eval(), example_input=X, prove=False)
    assert type(aspp) is deeplabv3.ASPP and strides == [p.stride() for p in aspp.parameters()]


def test_a_backend_that_cannot_run_undoes_the_swap(aspp: Any) -> None:
    with pytest.raises(BackendError, match="no float64 kernel"):
        pk.fuse_(aspp.double(), backend="triton")
    assert type(aspp) is deeplabv3.ASPP
    with pytest.raises(ValueError, match="backend must be one of"):
        pk.fuse_(aspp, backend="trition")


def test_an_example_is_run_on_values(aspp: Any) -> None:
    for model, x in ((aspp, X.to("meta")), (copy.deepcopy(aspp).to("meta"), X)):
        with pytest.raises(ValueError, match="is on meta; leave it out, or load values first"):
            pk.fuse_(model, example_input={"input": x})
        assert type(model) is deeplabv3.ASPP


def test_refuses_what_is_no_model_or_already_wrapped(aspp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got list"):
        pk.fuse_([aspp])  # type: ignore[arg-type]

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = aspp

    monkeypatch.setattr("pyramid_kernels.fuse.swap.DistributedDataParallel", Wrapper)
    with pytest.raises(ValueError, match="call fuse_ before wrapping"):
        pk.fuse_(Wrapper())


def test_weights_in_a_shared_buffer_keep_their_strides(aspp: Any) -> None:
    weight = aspp.convs[1][0].weight
    flat = torch.zeros(weight.numel() + 1)
    weight.data = flat[1:].view_as(weight).copy_(weight.data)
    pk.fuse_(aspp)
    assert weight.is_contiguous() and weight.data_ptr() == flat[1:].data_ptr()


def test_meta_modules_are_checked_by_a_copy_that_is_not_large(aspp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = sum(t.numel() for t in (*aspp.parameters(), *aspp.buffers()))
    for largest, said in ((values, False), (values - 1, True)):
        monkeypatch.setattr("pyramid_kernels.fuse.check.LARGEST_ON_META", largest)
        model = copy.deepcopy(aspp).to("meta")
        (entry,) = pk.fuse_(model).fused
        assert (f"unchecked: {values} values on meta" in entry.detail) == said
        assert all(t.is_meta for t in model.parameters())


def test_a_check_copies_what_deepcopy_alone_refuses_or_drags_along() -> None:
    """Weights that spectral_norm left behind, and a hook that holds the rest of a program."""

    class Program:
        def __deepcopy__(self, memo: Any) -> Any:
            pytest.fail("the owner of a hook was copied")

        def seen(self, *_: Any) -> None: ...

    model: Any = SPP(4, 4, (3, 5))
    nn.utils.spectral_norm(model.cv1.conv)
    plain = model.to_reference()
    plain(torch.randn(2, 4, 8, 8))
    plain.register_forward_hook(Program().seen)
    assert plain.cv1.conv.weight.grad_fn is not None and pk.fuse_(plain).fused


def test_libraries_are_never_imported_by_us() -> None:
    code = (
        "import sys, torch, pyramid_kernels as pk; pk.fuse_(torch.nn.ReLU());"
        "assert not {'torchvision', 'segmentation_models_pytorch', 'timm'} & set(sys.modules)"
    )
    assert python("-c", code).returncode == 0
