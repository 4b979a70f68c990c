"""What ``fuse_`` promises of every class of a library or repository that it takes, asked of each once."""

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import pyramid_kernels as pk
from tests.agreement import count_fused
from tests.foreign import FOREIGN, build, inputs
from tests.modules import assert_same, freeze_norms, step

pytestmark = pytest.mark.usefixtures("own_adapters")

MODES: dict[str, Callable[[Any], Any]] = {"train": nn.Module.train, "eval": nn.Module.eval, "frozen": freeze_norms}
#: In training the norm of their gate takes statistics of the batch, and their own forward runs.
OWN_STATISTICS = ("coincheung-arm", "mmseg-arm")

every = pytest.mark.parametrize("name", FOREIGN)


def outputs(module: Any, *arguments: Any) -> list[Tensor]:
    y = module(*tree_map(lambda t: t, arguments))  # HRNet's modules write into the list that they are given
    return [y] if isinstance(y, Tensor) else list(y)


def step_of(module: Any, arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    """Every output, gradient and buffer of one step."""
    leaves, spec = tree_flatten(arguments)
    return step(module, leaves, lambda m, maps: outputs(m, *tree_unflatten(maps, spec)))


def assert_equal(module: Any, arguments: tuple[Any, ...], expected: list[Tensor], exact: bool = True) -> None:
    tolerance = 0.0 if exact else 1e-9
    for y, theirs in zip(outputs(module, *arguments), expected, strict=True):
        torch.testing.assert_close(y, theirs, rtol=tolerance, atol=tolerance)


def no_dropout(module: Any) -> Any:
    for layer in module.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.p = 0.0
    return module


@pytest.mark.parametrize("backend", [pytest.param("reference", marks=pytest.mark.slow), "composed"])
@pytest.mark.parametrize("mode", MODES)
@every
def test_agrees(name: str, mode: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unfused = MODES[mode](no_dropout(build(name)))
    ours = copy.deepcopy(unfused)
    arguments = inputs(ours)
    assert [e.path for e in pk.fuse_(ours, backend=backend, only="").fused] == [""]
    runs = count_fused(type(ours), monkeypatch)
    assert_same(step_of(ours, arguments), step_of(unfused, arguments), 1e-8)
    assert len(runs) == (mode != "train" or name not in OWN_STATISTICS)


@every
def test_swaps_the_class_and_nothing_else(name: str) -> None:
    module = build(name).eval()
    module.f, module.type = -1, "a user's own attributes"
    cls, attributes, arguments = type(module), set(vars(module)), inputs(module)
    expected, state, flags = outputs(module, *arguments), module.state_dict(), [m.training for m in module.modules()]
    kept = [(p, p.clone(), p.stride()) for p in module.parameters()]
    random = torch.get_rng_state()
    report = pk.fuse_(module, backend="reference", only="", strict=True, example_input=arguments)
    assert torch.equal(random, torch.get_rng_state())
    assert [e.path for e in report.fused] == [""] and "already" not in report.fused[0].detail
    assert isinstance(module, cls) and isinstance(module, FOREIGN[name].kind) and type(module).original is cls
    assert_equal(module, arguments, expected, exact=False)
    again = pk.fuse_(module, backend="composed", only="")
    assert "already fused" in again.fused[0].detail and module.kernel_backend == "composed"
    assert flags == [m.training for m in module.modules()] and (module.f, module.type[:6]) == (-1, "a user")
    assert list(module.state_dict()) == list(state) and all(
        map(torch.equal, module.state_dict().values(), state.values())
    )
    for (p, value, stride), now in zip(kept, module.parameters(), strict=True):
        assert p is now and torch.equal(p, value) and p.stride() == stride
    assert pk.unfuse_(module) == [""] and pk.unfuse_(module) == []
    assert type(module) is cls and set(vars(module)) == attributes
    assert_equal(module, arguments, expected)


@every
def test_copies_pickles_and_checkpoints(name: str) -> None:
    module = build(name).eval()
    plain, arguments = copy.deepcopy(module), inputs(module)
    pk.fuse_(module, backend="reference", only="")
    expected = outputs(module, *arguments)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert type(other) is type(module)
        assert_equal(other, arguments, expected)
        assert pk.unfuse_(other) == [""] and type(other) is type(plain)
    plain.load_state_dict(module.state_dict())
    module.load_state_dict(plain.state_dict())
    assert_equal(module, arguments, expected)


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@every
def test_sync_batch_norm_converted_before_or_after(name: str, before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among several processes its norms take their statistics as ever, or its own forward runs."""
    unfused = no_dropout(build(name)).train()
    ours = copy.deepcopy(unfused)
    if before:
        ours = nn.SyncBatchNorm.convert_sync_batchnorm(ours)
    assert pk.fuse_(ours, backend="reference", only="").fused
    ours = nn.SyncBatchNorm.convert_sync_batchnorm(ours)
    arguments = inputs(unfused)
    x = list(arguments) if ours.spreads_maps else arguments[0]
    assert ours.why_original(x) is None or name in OWN_STATISTICS
    assert_same(step_of(ours, arguments), step_of(unfused, arguments), 1e-8)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    normed = any(isinstance(unit.norm, nn.SyncBatchNorm) for unit in ours.units(ours))
    assert (ours.why_original(x) is None) == (ours.calls_norms or not normed) or name in OWN_STATISTICS
    assert ours.eval().why_original(x) is None


@every
def test_a_training_step_draws_the_same_dropout_and_ends_at_the_same_weights(name: str) -> None:
    unfused = build(name).train()
    ours = copy.deepcopy(unfused)
    assert pk.fuse_(ours, backend="composed", only="").fused
    states = []
    for module in (ours, unfused):
        torch.manual_seed(3)
        held = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            held.zero_grad()
            sum(y.square().mean() for y in outputs(module, *inputs(unfused))).backward()
            held.step()
        states.append(module.state_dict())
    assert_same(*states, 1e-6)


@every
def test_arguments_by_their_names_run_the_ops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(name).eval()
    arguments = inputs(module)
    names = list(inspect.signature(module.forward).parameters)[: len(arguments)]
    expected = outputs(module, *arguments)
    pk.fuse_(module, backend="reference", only="")
    runs = count_fused(type(module), monkeypatch)
    assert_equal(lambda *given: module(**dict(zip(names, given, strict=True))), arguments, expected, exact=False)
    assert_equal(lambda *given: module(*given[:-1], **{names[-1]: given[-1]}), arguments, expected, exact=False)
    assert len(runs) == 2
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(type(module).original.forward).parameters.values()):
        with pytest.raises(TypeError, match="other"):
            module(*arguments, other=arguments[-1])


@every
def test_runs_on_meta_and_in_half_precision(name: str) -> None:
    """Fused on meta it gives the shapes; in bfloat16, the results up to its rounding."""
    module, plain = build(name).to("meta"), build(name, torch.bfloat16).eval()
    arguments = inputs(plain)
    expected = outputs(plain, *arguments)
    assert pk.fuse_(module.eval(), only="").fused
    got = outputs(module, *tree_map(lambda t: t.to("meta", torch.float64), arguments))
    assert [y.shape for y in got] == [y.shape for y in expected]
    assert pk.fuse_(plain, backend="reference", only="").fused
    for y, theirs in zip(outputs(plain, *arguments), expected, strict=True):
        assert y.dtype == theirs.dtype and (y - theirs).abs().max() <= 0.05 * theirs.abs().max()
