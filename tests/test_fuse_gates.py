"""``fuse_`` on gates of repositories and libraries: what single ones do beside the contract of every adapter."""

import pytest
import torch

import pyramid_kernels as pk
from tests.agreement import count_fused
from tests.foreign import build, inputs, mm_gate, why_skipped
from tests.libraries import library

pytestmark = pytest.mark.usefixtures("under_their_own_names")


@pytest.mark.parametrize("named", [("fsp", "fcp"), ("fcp",)])
def test_arguments_by_name_compile(named: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = build("coincheung-ffm").eval()
    maps = inputs(gate)
    expected = gate(*maps)
    by_name = {name: m for name, m in zip(("fsp", "fcp"), maps, strict=True) if name in named}
    by_position = maps[: 2 - len(named)]
    pk.fuse_(gate, backend="reference")
    runs = count_fused(type(gate), monkeypatch)
    torch._dynamo.reset()
    compiled = torch.compile(gate, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*by_position, **by_name), expected)
    assert len(runs) == 1


def test_an_unused_norm_stays_unused() -> None:
    """The norm of ooooverflow's gate is in the state and is never called."""
    gate = build("ooooverflow-arm")
    maps = inputs(gate)
    gate.bn.weight.data.fill_(float("nan"))
    pk.fuse_(gate, backend="reference")
    assert gate(*maps).isfinite().all() and "bn.running_mean" in gate.state_dict()


def test_maps_of_several_sizes_fail_as_they_do_unfused() -> None:
    gate = build("coincheung-ffm")
    fine, coarse = inputs(gate)
    pk.fuse_(gate, backend="reference")
    assert gate.why_original([fine, coarse[:, :, :3]]) == "the maps differ in size"
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        gate(fine, coarse[:, :, :3])


def test_a_relu_before_the_sigmoid_is_left_alone() -> None:
    assert (
        why_skipped(mm_gate("bisenetv1", "FeatureFusionModule", 9, 8))
        == "left alone: a ReLU stands before the sigmoid of its gate"
    )


def test_gates_of_libraries_are_left_alone() -> None:
    lraspp = library("torchvision.models.segmentation.lraspp")
    smp = library("segmentation_models_pytorch")
    assert "weighs another map" in why_skipped(lraspp.LRASPPHead(4, 6, 3, 8))
    assert "gates of channels and of pixels" in why_skipped(smp.base.modules.SCSEModule(16))
    pan = smp.decoders.pan.decoder.GAUBlock(4, 4)
    assert "weighs another map" in why_skipped(pan)
