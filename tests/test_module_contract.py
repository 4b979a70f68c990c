"""What every module promises, asked of each once: the results and gradients of its plain form, its state, its hooks.

What only one module or family does has a file of its own; dtypes, training tools and processes have theirs as well.
"""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.backends import select
from pyramid_kernels.nn.base import Fused
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared.precision import ieee_convolutions
from tests.agreement import Fed, assert_agrees, count_fused, fair_
from tests.kernels import DEVICE, QUICKEST
from tests.modules import (
    LEARNED,
    MODES,
    MODULES,
    assert_same,
    build,
    freeze_norms,
    given,
    maps_of,
    noise,
    replaced,
    results,
    step,
)

DROPOUTS = (nn.Dropout, nn.Dropout2d)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
NORMED = [name for name, case in MODULES.items() if any(isinstance(m, nn.BatchNorm2d) for m in case.make().modules())]
#: One module of every family of ops, and the cheapest: what takes seconds is asked of the others by `make test-all`.
COMPILED = ("aspp-separable", "largefov", "spp-net", "sppf", "dspp", "hrfuse", "segformer", "arm-of-x")
FP32 = (*COMPILED, "aspp", "aspp-project3", "ppm", "ppm-half-pixel", "psp", "uper", "hrnetv2", "decoder", "ffm")


def tiers(quick: tuple[str, ...], names: Any = MODULES, *more: str) -> list[Any]:
    """``names`` of modules, each with ``more``; all but the ``quick`` ones are marked slow."""
    return [pytest.param(name, *more, marks=[] if name in quick else [pytest.mark.slow]) for name in names]


#: In fp32 an ASPP's and a PPM's statistics of few values are all rounding: they have a test of their own.
TRAINED = [name for name in MODULES if not name.startswith(("aspp-", "ppm")) and name != "aspp"]
every = pytest.mark.parametrize("name", MODULES)
learned = pytest.mark.parametrize("name", LEARNED)


#: Every form on one layout or the other, and in the slow tier on both.
FORMS = [
    pytest.param(name, backend, layout, marks=[] if quick else [pytest.mark.slow])
    for name in MODULES
    for backend in (("reference", "composed") if name in LEARNED else ("reference",))
    for layout, quick in (
        ("contiguous", backend == "reference"),
        ("channels_last", backend == "composed" or name not in LEARNED),
    )
]


@pytest.mark.parametrize(("name", "backend", "layout"), FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_agrees(name: str, mode: str, backend: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, where nothing but an error tells the two apart."""
    module = MODES[mode](build(name, backend=backend).to(DEVICE))
    maps = [m.to(DEVICE, memory_format=LAYOUTS[layout]) for m in maps_of(name)]
    unfused = module.to_reference()
    assert type(unfused) is module.original and not any(isinstance(m, Fused) for m in unfused.modules())
    runs = count_fused(type(module), monkeypatch)
    got = step(module, maps)
    assert_same(got, step(unfused, maps))
    # The second of an ARM's norms is its gate's, which takes statistics of the batch unless it is frozen.
    assert len(runs) == (mode in ("eval", "frozen") or name != "arm")
    # SegFormer's linear layers leave channels last; its dropout draws a mask in that order.
    expected = torch.channels_last if name.startswith("segformer") else LAYOUTS[layout]
    assert all(y.is_contiguous(memory_format=expected) for y in results(module, maps) if y.dim() == 4)


@pytest.mark.parametrize(("name", "mode"), [*tiers(FP32, MODULES, "train"), *tiers(("aspp", "ppm"), MODULES, "eval")])
def test_agrees_in_float32(name: str, mode: str) -> None:
    """Behind a convolution for every map, within the oracle's limit."""
    model = Fed(build(name, torch.float32), MODULES[name].shapes)
    model = fair_(model, x := model.images(), "module").train(mode == "train")
    unfused = copy.deepcopy(model)
    unfused.module = model.module.to_reference()
    # The gradient of an uneven SegFormer's norm is a small sum, whose error differs much between draws.
    assert_agrees(model, unfused, x, draws=64 if name == "segformer-odd" else 16)


@pytest.mark.parametrize(
    ("name", "mode"), [*((name, "eval") for name in MODULES), *((name, "train") for name in TRAINED)]
)
def test_agrees_on_kernels(name: str, mode: str) -> None:
    module = MODES[mode](build(name, torch.float32, backend=QUICKEST).to(DEVICE))
    maps = [m.to(DEVICE) for m in maps_of(name, torch.float32, images=1 if mode == "eval" else 3)]
    unfused = module.to_reference()
    with pk.testing.count_launches() as launches, ieee_convolutions():
        got = step(module, maps)
    forward = [kernel for kernel, _ in launches if "_bwd" not in kernel]
    launched = {op for op in all_ops() if any(kernel.startswith(f"{op}_") for kernel in forward)}
    if mode == "eval":
        assert launched == set(MODULES[name].kernels.split())
    else:  # a gate whose norm takes statistics of the batch runs in PyTorch
        assert ("channel_gate" in launched) == (name in ("arm-bias-without-norm", "arm-of-x", "ffm-hidden"))
    for key, t in step(unfused, maps).items():
        assert (got[key] - t).abs().max() <= 1e-3 * t.abs().max() + 1e-4, key


@pytest.mark.parametrize("name", ["aspp", "ppm"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_statistics_of_the_batch_agree_on_kernels(name: str, mode: str) -> None:
    x = torch.randn(8, 6, 5, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    module = fair_(build(name, torch.float32, backend=QUICKEST).to(DEVICE), x).train(mode == "train")
    with ieee_convolutions():
        assert_agrees(module, module.to_reference(), x)


NORMS: dict[str, Callable[[nn.BatchNorm2d], nn.Module]] = {
    "eps": lambda old: nn.BatchNorm2d(old.num_features, eps=1e-3, momentum=0.997),
    "cumulative": lambda old: nn.BatchNorm2d(old.num_features, momentum=None),
    "untracked": lambda old: nn.BatchNorm2d(old.num_features, track_running_stats=False),
    "plain": lambda old: nn.BatchNorm2d(old.num_features, affine=False),
    "sync": nn.SyncBatchNorm.convert_sync_batchnorm,
    "identity": lambda old: nn.Identity(),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NORMED)
def test_every_kind_of_batch_norm(name: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, maps = replaced(build(name), nn.BatchNorm2d, NORMS[norm]).double(), maps_of(name)
    if norm == "identity":
        for unit in module.units(module):
            if unit.conv.bias is None and isinstance(unit.norm, nn.Identity):
                unit.conv.bias = nn.Parameter(torch.randn(unit.conv.out_channels, dtype=torch.float64))
    runs = count_fused(type(module), monkeypatch)
    for train in (True, False):
        unfused = module.train(train).to_reference()
        for _ in range(2):  # a cumulative average goes by the count of batches
            assert_same(step(module, maps), step(unfused, maps))
    assert runs or (name, norm) == ("arm", "untracked")  # whose gate takes statistics of the batch in every mode


@pytest.mark.parametrize("name", NORMED)
def test_norms_of_several_processes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an op computes the norm, the plain forward runs; other norms take their statistics themselves."""
    module = nn.SyncBatchNorm.convert_sync_batchnorm(build(name))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    why = module.train().why_original(given(maps_of(name)))
    if name == "arm":
        assert "statistics of the batch" in why
    else:
        assert why is None if module.calls_norms else "other ranks" in why
    assert module.eval().why_original(given(maps_of(name))) is None


@every
def test_copies_pickles_and_state(name: str) -> None:
    module, maps = build(name), maps_of(name)
    unfused = freeze_norms(module, 2).to_reference()
    corners = {"align_corners": False} if name == "ppm-half-pixel" else {}
    again = type(module).from_reference(unfused, backend="reference", **corners)
    assert [m.training for m in again.modules()] == [m.training for m in unfused.modules()]
    assert not {p.data_ptr() for p in again.parameters()} & {p.data_ptr() for p in unfused.parameters()}
    fresh = MODULES[name].make(backend="reference").double().eval()
    fresh.load_state_dict(unfused.state_dict())
    unfused.load_state_dict(fresh.state_dict())
    assert list(unfused.state_dict()) == list(module.state_dict())
    expected = results(module.eval(), maps)
    for other in (again.eval(), fresh, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(other) is type(module)
        for y, ours in zip(results(other, maps), expected, strict=True):
            assert torch.equal(y, ours)


@every
def test_fuse_finds_the_plain_form(name: str) -> None:
    module = build(name)
    model = nn.ModuleDict({"a": module.to_reference()})
    report = pk.fuse_(model, backend="reference", only="a")
    assert [e.path for e in report.fused] == ["a"] and type(model["a"]) is type(module), report
    assert_same(step(model["a"], maps_of(name)), step(module.to_reference(), maps_of(name)))
    assert pk.unfuse_(model) == ["a"] and type(model["a"]) is module.original


@every
def test_hooks_run_as_often_as_in_the_plain_form(name: str) -> None:
    module, maps = build(name).eval(), maps_of(name)
    assert module.why_original(given(maps)) is None
    counts: list[list[str]] = []
    for form in (module, module.to_reference()):
        seen: list[str] = []
        for path, child in form.named_modules():
            for register in (child.register_forward_hook, child.register_forward_pre_hook):
                handle = register(lambda *_, seen=seen, path=path: seen.append(path))
                results(form, maps)
                handle.remove()
        counts.append(seen)
    assert counts[0] == counts[1] and "" in counts[0]
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert "hooks" in module.why_original(given(maps))
    handle.remove()
    for unit in module.units(module):
        if not any(unit.conv is m for path in module.called for m in module.get_submodule(path).modules()):
            handle = unit.conv.register_full_backward_hook(lambda *_: None)
            assert "hooks" in module.why_original(given(maps))
            handle.remove()
    assert module.why_original(given(maps)) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("images", [1, 2])
@learned
def test_dropout_draws_the_mask_of_the_plain_form(name: str, images: int, layout: str) -> None:
    ours = freeze_norms(build(name, torch.float32, dropout=None))  # of one image there are no statistics
    maps = [m.contiguous(memory_format=LAYOUTS[layout]) for m in maps_of(name, torch.float32, images)]
    masks = []
    for module in (ours, ours.to_reference()):
        seen: list[Tensor] = []
        for layer in (m for m in module.modules() if isinstance(m, DROPOUTS)):
            # Not a hook, with which the original forward would run.
            layer.__class__ = type("Seen", (type(layer),), {"forward": seen_by(seen, type(layer))})
        torch.manual_seed(1)
        results(module, maps)
        masks.append(seen)
    assert bool(masks[0]) == any(isinstance(m, DROPOUTS) for m in ours.modules())
    for mask, expected in zip(*masks, strict=True):
        assert torch.equal(mask, expected)


def seen_by(seen: list[Tensor], kind: Any) -> Callable[..., Tensor]:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        seen.append(kind.forward(self, torch.ones_like(x)))
        return seen[-1] * x

    return forward


def wrong_maps(maps: list[Tensor]) -> list[tuple[Any, str]]:
    """Inputs that no op takes, and what the reason names."""
    *rest, last = maps
    found = [(last[0], "batch"), (last.to(torch.int32), "int32"), (last.float(), "float32"), (last[:, :, :0], "batch")]
    if not rest:
        return found
    return [([*rest, bad], why) for bad, why in found] + [
        (last, "not a list"), ([*rest, last[:1]], "differ in batch"), ([*rest, last[:, :-1]], "channels"),
    ]  # fmt: skip


@learned
def test_inputs_that_it_does_not_take(name: str) -> None:
    """The plain forward answers, with its own error if there is one."""
    module, unfused = build(name).eval(), build(name).eval().to_reference()
    for bad, why in wrong_maps(maps_of(name)):
        # An SPP's own layer comes first, and answers; so do an exchange's, each for its map.
        if not name.startswith("spp") and (name[:6], why) != ("hrfuse", "channels"):
            assert why in module.why_original(bad)
        answers: list[Any] = []
        for form in (unfused, module):
            try:
                answers.append(results(form, bad if isinstance(bad, list) else [bad]))
            except Exception as error:
                answers.append(error)
        if isinstance(answers[0], list):
            assert all(map(torch.equal, answers[1], answers[0]))
        else:  # the pyramid inside a head may run its own ops and name the argument
            assert type(answers[1]) in (type(answers[0]), ValueError)


@learned
def test_autocast(name: str) -> None:
    module = build(name, torch.float32).eval()
    maps = maps_of(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = results(module, maps), results(module.to_reference(), maps)
    for a, b in zip(ours, theirs, strict=True):
        # The ops of these two cast; the plain chain ends in a product that promotes.
        assert a.dtype == b.dtype or name in ("dspp", "arm-of-x")
        assert (a.float() - b.float()).abs().max() <= 0.05 * b.float().abs().max()


@pytest.mark.parametrize("name", [name for name, case in MODULES.items() if case.make().own_chain])
def test_the_plain_forward_runs_where_auto_is_the_unfused_chain(name: str) -> None:
    module, maps = build(name, torch.float32, backend="auto").eval(), maps_of(name, torch.float32)
    chosen = {select(*call, "auto") for call in module.problems(given(maps))}
    why = module.why_original(given(maps)) or ""
    assert ("unfused chain" in why) == (chosen == {"reference"})


def compiled_agrees(module: Any, backend: str, calls: list[list[Tensor]]) -> None:
    """One graph, and one more for every other size."""
    again = copy.deepcopy(module)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for maps in calls:
        maps = [m.to(DEVICE) for m in maps]
        for a, b in zip(results(compiled, maps), results(again, maps), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("name", tiers(COMPILED))
def test_compiles_whole(name: str) -> None:
    compiled_agrees(build(name, torch.float32).to(DEVICE).eval(), "eager", [maps_of(name, torch.float32, 2)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    [*itertools.product(MODULES, ("auto", "reference")), *itertools.product(LEARNED, ("composed",))],
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_compiles_whole_through_aot_autograd(name: str, mode: str, backend: str) -> None:
    module = MODES[mode](build(name, torch.float32, backend=backend).to(DEVICE))
    compiled_agrees(module, "aot_eager", [maps_of(name, torch.float32, images) for images in (8, 3, 5)])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", ["aspp", "aspp-separable", "ppm"])
def test_compiles_whole_for_maps_of_any_size(name: str, mode: str) -> None:
    maps = [noise([(6, *size)], torch.float32, 8) for size in ((7, 5), (6, 9), (8, 7))]
    compiled_agrees(MODES[mode](build(name, torch.float32).to(DEVICE)), "aot_eager", maps)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_compiles_around_kernels(mode: str) -> None:
    module = MODES[mode](build("aspp", torch.float32, backend=QUICKEST).to(DEVICE))
    compiled_agrees(module, "aot_eager", [noise([(6, *size)], torch.float32, 4) for size in ((4, 5), (5, 3))])


@every
def test_a_bad_backend_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="backend must be one of .*got 'tritn'"):
        MODULES[name].make(backend="tritn")
