"""BiSeNet's modules against their plain form, in float64: the same output, gradients and statistics in every mode."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.nn import AttentionRefinementModule, FeatureFusionModule
from pyramid_kernels.nn.base import Fused
from tests.agreement import count_fused
from tests.kernels import DEVICE
from tests.test_nn import freeze_norms

Size = tuple[int, int, int]
#: A module and the (C, H, W) of its maps.
MODULES: dict[str, tuple[Callable[..., Any], list[Size]]] = {
    "arm": (lambda **kw: AttentionRefinementModule(6, 8, **kw), [(6, 7, 5)]),
    "arm-bias-without-norm": (lambda **kw: AttentionRefinementModule(6, 5, norm=None, bias=True, **kw), [(6, 4, 3)]),
    "arm-of-x": (lambda **kw: AttentionRefinementModule(6, norm="unused", bias=True, **kw), [(6, 7, 5)]),
    "ffm": (lambda **kw: FeatureFusionModule(9, 8, **kw), [(5, 6, 7), (4, 6, 7)]),
    "ffm-hidden": (lambda **kw: FeatureFusionModule((5, 4), 8, hidden=2, **kw), [(5, 6, 7), (4, 6, 7)]),
    "ffm-3x3-bias": (
        lambda **kw: FeatureFusionModule((5, 4, 3), 6, kernel_size=3, hidden=6, bias=True, norm=True, **kw),
        [(5, 8, 6), (4, 4, 3), (3, 2, 2)],
    ),
}  # fmt: skip


@pytest.fixture(params=list(MODULES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, backend: str = "composed", dtype: torch.dtype = torch.float64) -> tuple[Any, list[Tensor]]:
    """A module whose norms have random affines and statistics, and its maps."""
    make, shapes = MODULES[name]
    generator = torch.Generator().manual_seed(0)
    module = make(backend=backend).to(DEVICE, dtype)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for t in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                t.copy_(0.5 + torch.rand(t.shape, generator=generator))
    return module, [torch.randn(3, *shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def step(module: nn.Module, maps: list[Tensor]) -> dict[str, Tensor]:
    """Output, every gradient, and the buffers after it."""
    maps = [m.detach().clone().requires_grad_() for m in maps]
    module.zero_grad(set_to_none=True)
    y = module(*maps)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y))
    found = {"y": y.detach()} | {f"d map {i}": m.grad for i, m in enumerate(maps)}
    found |= {f"d {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | {name: b.clone().double() for name, b in module.named_buffers()}


def assert_same(module: Any, maps: list[Tensor], tolerance: float = 1e-9) -> None:
    unfused = module.to_reference()
    assert type(unfused) is module.original and not isinstance(unfused, Fused)
    got, expected = step(module, maps), step(unfused, maps)
    assert got.keys() == expected.keys()
    for name, t in expected.items():
        torch.testing.assert_close(got[name], t, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", ["train", "eval", "some-frozen"])
@pytest.mark.parametrize("backend", ["reference", "composed"])
def test_equals_its_reference(
    name: str, mode: str, backend: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, maps = build(name, backend)
    freeze_norms(module.train(), 2) if mode == "some-frozen" else module.train(mode == "train")
    runs = count_fused(type(module), monkeypatch)
    assert_same(module, [m.contiguous(memory_format=layout) for m in maps])
    # The second of an ARM's norms is its gate's, which takes statistics of the batch unless it is frozen.
    assert len(runs) == (mode == "eval" or name != "arm")


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_compiles_whole(name: str, mode: str) -> None:
    module, maps = build(name, "reference")
    module.train(mode == "train")
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*maps), module(*maps))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_equals_its_reference_on_kernels(name: str, mode: str) -> None:
    """In training a gate's norm takes statistics of the batch, and the gate runs in PyTorch."""
    module, maps = build(name, "triton", torch.float32)
    module.train(mode == "train")
    normed = mode == "train" and name in ("arm", "ffm", "ffm-3x3-bias")
    with pk.testing.count_launches() as launches:
        assert_same(module, maps, 1e-4)
    kernels = {kernel.partition("_fwd")[0] for kernel, _ in launches if "_fwd" in kernel}
    assert ("channel_gate" in kernels) == (not normed)
    # Maps that differ in size are what pyramid_conv joins; these are so small that it only upsamples them.
    assert ("upsample_merge" in kernels) == (name == "ffm-3x3-bias")


def test_arm_with_statistics_of_the_batch_runs_its_own_forward() -> None:
    module, maps = build("arm")
    assert module.eval().why_original(maps[0]) is None
    assert "statistics of the batch" in module.train().why_original(maps[0])
    module.bn_atten.eval()
    assert module.why_original(maps[0]) is None


def test_an_unused_norm_is_loaded_saved_and_never_called() -> None:
    module, maps = build("arm-of-x")
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
    ffm, maps = build("ffm-hidden")
    assert ffm.why_original([maps[1], maps[0]]) == "the maps have 4, 5 channels"
    assert ffm.why_original(maps[:1]) == "the input is not a list of 2 maps"
    with pytest.raises(RuntimeError, match="channels"):
        ffm(maps[0])
    two, maps = build("ffm")
    assert two.why_original([torch.cat(maps, 1)[:, :3], torch.cat(maps, 1)[:, 3:]]) is None  # any split of nine


def test_copies_pickles_and_state(name: str) -> None:
    module, maps = build(name, "reference")
    expected, unfused = module.eval()(*maps), module.to_reference()
    fresh = MODULES[name][0](backend="reference").to(DEVICE, torch.float64).eval()
    fresh.load_state_dict(unfused.state_dict())
    again = type(module).from_reference(unfused, backend="reference")
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh, again):
        torch.testing.assert_close(other(*maps), expected, rtol=0, atol=0)


def test_fuse_finds_the_plain_forms(name: str) -> None:
    module, maps = build(name, "reference")
    model = nn.ModuleDict({"gate": module.to_reference()})
    report = pk.fuse_(model, backend="reference")
    assert report.fused and type(model["gate"]) is type(module), report
    assert_same(model["gate"], maps)
    assert pk.unfuse_(model) == ["gate"]


def test_auto_on_a_cpu_takes_what_is_faster() -> None:
    """The plain forward where every op would be the unfused chain; a gate with a residual is one pass fewer."""
    arm, maps = build("arm", "auto")
    ffm, several = build("ffm-3x3-bias", "auto")
    unfused = "the unfused chain is what auto takes here at these sizes"
    assert arm.eval().why_original(maps[0]) == unfused == ffm.train().why_original(several)
    assert "channel_gate: composed" in ffm.eval().decisions(several)
    assert_same(ffm, several)


@pytest.mark.parametrize("module", ["arm", "ffm-hidden"])
def test_hooks_of_children_run(module: str) -> None:
    own, maps = build(module)
    called = []
    next(own.children()).register_forward_hook(lambda *_: called.append(True))
    own.eval()(*maps)
    assert called == [True]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="norm must be one of 'used', 'unused', None, got 'batch'"):
        AttentionRefinementModule(4, norm="batch")
    with pytest.raises(ValueError, match="kernel_size must be one of 1, 3, got 5"):
        FeatureFusionModule(4, 4, kernel_size=5)
    with pytest.raises(ValueError, match="backend must be one of"):
        FeatureFusionModule(4, 4, backend="fast")
