"""The drop-in modules against their plain PyTorch form, which is also their original forward."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyramid_kernels.nn import ASPP, PPM, PSPHead, ReferenceASPP, ReferencePPM
from pyramid_kernels.nn.base import Fused
from tests.agreement import assert_agrees, fair_
from tests.kernels import DEVICE
from tests.third_party import SemsegPSPNet

X = torch.randn(8, 6, 7, 5, generator=torch.Generator().manual_seed(0))

MODULES: dict[str, Callable[..., Fused]] = {
    "aspp": lambda **kw: ASPP(6, (2, 3), 16, **kw),
    "aspp-one-rate": lambda **kw: ASPP(6, (9,), 16, **kw),
    "aspp-separable": lambda **kw: ASPP(6, (1, 2), 16, separable=True, **kw),
    "aspp-project3": lambda **kw: ASPP(6, (2, 3), 16, project_kernel=3, **kw),
    "ppm": lambda **kw: PPM(6, 12, (1, 2, 3), **kw),
    "ppm-half-pixel": lambda **kw: PPM(6, 12, (2, (1, 4), 9), align_corners=False, **kw),
}


@pytest.fixture(params=list(MODULES))
def make(request: pytest.FixtureRequest) -> Callable[..., Fused]:
    return MODULES[request.param]


def freeze_norms(module: nn.Module, every: int = 1) -> nn.Module:
    """Every ``every``-th norm in eval mode inside a training module."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms[::every]:
        norm.eval()
    return module


MODES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "train": lambda m: m.train(),
    "eval": lambda m: m.eval(),
    "frozen": lambda m: freeze_norms(m.train()),
    "some-frozen": lambda m: freeze_norms(m.train(), 2),
}


def assert_like_reference(module: Fused, x: Tensor = X) -> None:
    unfused = module.to_reference()
    grad = torch.ones(1, requires_grad=True)
    assert module.why_original(x * grad) is None
    assert_agrees(module, unfused, x)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("mode", list(MODES))
def test_agrees(make: Callable[..., Fused], mode: str, channels_last: bool) -> None:
    x = X.contiguous(memory_format=torch.channels_last) if channels_last else X
    module = fair_(make(backend="reference"), x)
    assert_like_reference(MODES[mode](module), x)
    assert module(x).stride() == torch.empty_like(module(x), memory_format=torch.preserve_format).stride()
    assert module(x).is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "name",
    ["aspp", "ppm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("aspp-separable", "aspp-project3"))],
)
def test_agrees_on_kernels(name: str, mode: str) -> None:
    x = X[:, :, :5, :4].contiguous().to(DEVICE)
    assert_like_reference(MODES[mode](fair_(MODULES[name](backend="triton").to(DEVICE), x)), x)


@pytest.mark.parametrize(
    "settings",
    [{"momentum": None}, {"track_running_stats": False}, {"affine": False}, {"eps": 1e-3, "momentum": 0.997}],
    ids=["cumulative", "untracked", "plain", "eps"],
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_norm_settings(make: Callable[..., Fused], settings: dict, mode: str) -> None:
    module = fair_(make(backend="reference"), X)
    for parent in list(module.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                other = nn.BatchNorm2d(norm.num_features, **settings)
                other.load_state_dict(norm.state_dict(), strict=False)
                setattr(parent, name, other)
    if "affine" in settings:
        # Nothing keeps these pre-activations from zero, so gradients cannot be compared in fp32; float64 can.
        module, x = module.double(), X.double()
        module.train(mode == "train")
        torch.testing.assert_close(module(x), module.to_reference().train(mode == "train")(x))
    else:
        assert_like_reference(MODES[mode](module))


def test_cumulative_statistics_follow_the_count() -> None:
    module = ASPP(6, (2,), 5, dropout=0.0, backend="reference")
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    unfused = module.to_reference()
    for i in range(3):
        module(X + i), unfused(X + i)
    for (name, a), b in zip(module.named_buffers(), unfused.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
        assert not name.endswith("num_batches_tracked") or a == 3


def test_identity_in_place_of_norms() -> None:
    module = ASPP(6, (2, 3), 5, dropout=0.0, backend="reference").double()
    for i in range(3):
        module.convs[i][1] = nn.Identity()
        module.convs[i][0].bias = nn.Parameter(torch.randn(5, dtype=torch.float64))
    for mode in (True, False):
        module.train(mode)
        assert module.why_original(X.double()) is None
        torch.testing.assert_close(module(X.double()), module.to_reference()(X.double()))


@pytest.mark.parametrize("kind", [ASPP, PPM])
def test_one_value_per_channel_is_refused_as_in_pytorch(kind: type) -> None:
    module = (ASPP(6, (2,), 5) if kind is ASPP else PPM(6, 5)).train()
    module.kernel_backend = "reference"
    message = r"Expected more than 1 value per channel when training, got input size torch.Size\(\[1, 5, 1, 1\]\)"
    for forward in (module.fused_forward, module.to_reference()):
        with pytest.raises(ValueError, match=message):
            forward(X[:1])
    module.eval()(X[:1])


def test_sync_batch_norm_children_are_found_and_behave(make: Callable[..., Fused]) -> None:
    module = fair_(make(backend="reference"), X)
    count = sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in module.modules()) == count
    assert_like_reference(module.train())


def test_distributed_sync_batch_norm_takes_the_original_forward(make, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.SyncBatchNorm.convert_sync_batchnorm(make(backend="reference"))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    why = module.train().why_original(X)
    assert why is None if module.calls_norms else "other ranks" in why
    assert module.eval().why_original(X) is None


def compiles(module: Fused, sizes: list[tuple[int, int]]) -> None:
    """One graph, and one more for every other size."""
    again = copy.deepcopy(module)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for h, w in sizes:
        x = torch.randn(2, 6, h, w, generator=torch.Generator().manual_seed(h)).to(next(module.parameters()))
        torch.testing.assert_close(compiled(x), again(x), rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", ["aspp", "aspp-separable", "ppm"])
def test_compiles_whole_and_dynamically(name: str, mode: str) -> None:
    compiles(MODES[mode](fair_(MODULES[name](backend="reference"), X)), [(7, 5), (6, 9), (8, 7)])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_compiles_around_kernels(mode: str) -> None:
    module = fair_(MODULES["aspp"](backend="triton").to(DEVICE), X.to(DEVICE))
    compiles(MODES[mode](module), [(4, 5), (5, 3)])


def test_half_precision_autocast_and_other_inputs(make: Callable[..., Fused]) -> None:
    module = fair_(make(backend="reference"), X).eval()
    unfused = module.to_reference()
    with torch.autocast("cpu", torch.bfloat16):
        a, b = module(X), unfused(X)
    assert (a.float() - b.float()).abs().max() <= 0.05 * b.float().abs().max()
    for x, why in ((X[0], "batch"), (X.to(torch.int32), "int32"), (X.double(), "float64"), (X[:, :, :0], "batch")):
        assert why in module.why_original(x)
    with pytest.raises(RuntimeError) as ours, torch.no_grad():
        module(X.double())
    with pytest.raises(RuntimeError) as theirs:
        unfused(X.double())
    assert str(ours.value) == str(theirs.value)
    assert module.bfloat16()(X.bfloat16()).dtype == torch.bfloat16


def test_copies_pickles_and_state(make: Callable[..., Fused]) -> None:
    module = fair_(make(backend="reference"), X).eval()
    expected = module(X)
    unfused = module.to_reference()
    assert type(unfused) in (ReferenceASPP, ReferencePPM) and not hasattr(unfused, "kernel_backend")
    fresh = make()
    fresh.load_state_dict(unfused.state_dict())
    unfused.load_state_dict(fresh.state_dict())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh.eval()):
        other.kernel_backend = "reference"
        assert torch.equal(other(X), expected)


def test_from_reference_copies_everything(make: Callable[..., Fused]) -> None:
    reference = freeze_norms(fair_(make(), X), 2).to_reference()
    corners = {"align_corners": False} if getattr(reference, "align_corners", True) is False else {}
    module = type(make()).from_reference(reference, backend="reference", **corners)
    assert [m.training for m in module.modules()] == [m.training for m in reference.modules()]
    assert module.state_dict().keys() == reference.state_dict().keys()
    shared = {p.data_ptr() for p in module.parameters()} & {p.data_ptr() for p in reference.parameters()}
    assert not shared
    assert_agrees(module, reference, X)


def test_from_reference_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="module must be an ASPP .* got a Linear"):
        ASPP.from_reference(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="module must be a PPM .* got a Linear"):
        PPM.from_reference(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="module must have ppm and cls"):
        PSPHead.from_reference(nn.Linear(1, 1))


def test_psp_head_has_semsegs_keys_and_results() -> None:
    torch.manual_seed(0)
    semseg = fair_(SemsegPSPNet(6 * 4, 3), x := torch.randn(8, 24, 7, 5))
    head = PSPHead(24, 3, hidden_dim=16, dropout=0.0, backend="reference")
    head.load_state_dict(semseg.state_dict())
    assert_agrees(head.train(), copy.deepcopy(semseg), x)
    again = PSPHead.from_reference(semseg.eval(), backend="reference")
    assert torch.equal(again(x), PSPHead.from_reference(again.to_reference(), backend="reference")(x))
    assert_agrees(again, semseg, x)


def test_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="project_kernel must be 1 or 3, got 5"):
        ASPP(4, (2,), 4, project_kernel=5)
    with pytest.raises(ValueError, match="backend must be one of"):
        PPM(4, 4, backend="tritn")
    with pytest.raises(ValueError, match="bins must not be empty"):
        PSPHead(4, 4, ())


def test_children_with_hooks_take_the_original_forward(make: Callable[..., Fused]) -> None:
    module = make(backend="reference").eval()
    conv = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    assert module.why_original(X) is None
    for register in (conv.register_forward_hook, conv.register_forward_pre_hook):
        seen: list[int] = []
        handle = register(lambda *_, seen=seen: seen.append(1))
        module(X)
        assert seen and "hooks" in module.why_original(X)
        handle.remove()
    handle = conv.register_full_backward_hook(lambda *_: None)
    assert "hooks" in module.why_original(X)
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert "hooks" in module.why_original(X)
    handle.remove()
    assert module.why_original(X) is None


def test_own_hooks_stay(make: Callable[..., Fused]) -> None:
    module, seen = make().eval(), []
    module.register_forward_hook(lambda m, inputs, output: seen.append(output.shape))
    module(X)
    assert len(seen) == 1


def test_on_a_cpu_a_ppm_is_fused_for_channels_last_inference() -> None:
    module, contiguous = PPM(64, 3, (1, 2)).eval(), torch.randn(1, 64, 128, 128)
    last = contiguous.contiguous(memory_format=torch.channels_last)
    assert "CPU" in module.why_original(last)
    with torch.no_grad():
        assert "CPU" in module.why_original(contiguous)
        assert "CPU" in module.why_original(last[..., :64])
        assert module.why_original(last) is None
        torch.testing.assert_close(module(last), module.to_reference()(last), rtol=1e-4, atol=1e-4)
