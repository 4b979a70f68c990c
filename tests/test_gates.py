"""What BiSeNet's gates do beside the contract of every module."""

import copy

import pytest
import torch

from pyramid_kernels.nn import AttentionRefinementModule, FeatureFusionModule
from tests.modules import assert_same, build, maps_of, step


def test_arm_with_statistics_of_the_batch_runs_its_own_forward() -> None:
    module, maps = build("arm"), maps_of("arm")
    assert module.eval().why_original(maps[0]) is None
    assert "statistics of the batch" in module.train().why_original(maps[0])
    module.bn_atten.eval()
    assert module.why_original(maps[0]) is None


def test_an_unused_norm_is_loaded_saved_and_never_called() -> None:
    module, maps = build("arm-of-x"), maps_of("arm-of-x")
    assert set(module.state_dict()) == {
        "conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var",
        "bn.num_batches_tracked",
    }  # fmt: skip
    before = copy.deepcopy(module.bn.state_dict())
    module.train()(maps[0])
    assert all(torch.equal(t, before[key]) for key, t in module.bn.state_dict().items())
    module.bn.weight.data.fill_(float("nan"))
    assert module(maps[0]).isfinite().all()


def test_keys() -> None:
    """Those of CoinCheung's BiSeNet, of both its fusion modules."""
    arm, ffm, older = AttentionRefinementModule(4, 3), FeatureFusionModule(4, 3), FeatureFusionModule(4, 8, hidden=2)
    weights = [[key for key in m.state_dict() if key.endswith("weight")] for m in (arm, ffm, older)]
    block = ["convblk.conv.weight", "convblk.bn.weight"]
    assert weights[0] == ["conv.conv.weight", "conv.bn.weight", "conv_atten.weight", "bn_atten.weight"]
    assert weights[1:] == [[*block, "conv.weight", "bn.weight"], [*block, "conv1.weight", "conv2.weight"]]


def test_maps_that_do_not_fit_take_the_plain_forward() -> None:
    ffm, maps = build("ffm-hidden"), maps_of("ffm-hidden")
    assert ffm.why_original([maps[1], maps[0]]) == "the maps have 4, 5 channels"
    assert ffm.why_original(maps[:1]) == "the input is not a list of 2 maps"
    with pytest.raises(RuntimeError, match="channels"):
        ffm(maps[0])
    two, maps = build("ffm"), maps_of("ffm")
    assert two.why_original([torch.cat(maps, 1)[:, :3], torch.cat(maps, 1)[:, 3:]]) is None  # any split of nine


def test_auto_on_a_cpu_takes_what_is_faster() -> None:
    """The plain forward where every op would be the unfused chain; a gate with a residual is one pass fewer."""
    arm, maps = build("arm", backend="auto"), maps_of("arm")
    ffm, several = build("ffm-3x3-bias", backend="auto"), maps_of("ffm-3x3-bias")
    unfused = "the unfused chain is what auto takes here at these sizes"
    assert arm.eval().why_original(maps[0]) == unfused == ffm.train().why_original(several)
    assert "channel_gate: composed" in ffm.eval().decisions(several)
    assert_same(step(ffm, several), step(ffm.to_reference(), several))
