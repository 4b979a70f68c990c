"""What a fused graph does beside giving the same values: sizes, modes, hooks, layouts, copies, reports, exports."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import pyramid_kernels as pk
from pyramid_kernels.graph import backend
from pyramid_kernels.graph.inplace import FirstCall
from pyramid_kernels.graph.report import GraphReport
from tests import layouts
from tests.layouts import LAYOUTS, build, up
from tests.modules import assert_same
from tests.test_graph import compiled, expected_ops, forgotten, outcome

__all__ = ["forgotten"]

every = pytest.mark.parametrize("name", LAYOUTS)
#: One layout of each shape of subgraph; the others are slow.
FEW = ("numbered", "stages", "token-head", "exchange", "cascade", "gated-sum", "loss")
few = pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in LAYOUTS])

SIZES = ((12, 20), (16, 28), (8, 24))


def resized(inputs: tuple[Any, ...], size: tuple[int, int]) -> tuple[Any, ...]:
    """Inputs with the same ratios of sizes, the largest map of ``size``."""

    largest = max(t.shape[-2] for t in tree_leaves(inputs))

    def to(t: Tensor) -> Tensor:
        rows, columns = (2 * s // (largest // t.shape[-2]) for s in size)
        if t.dim() == 3:
            return F.interpolate(t[:, None].double(), (rows, columns))[:, 0].long()
        return F.interpolate(t, (rows, columns), mode="bilinear")

    return tree_map(to, inputs)


class Graphs:
    """A backend that counts the graphs it is given."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: Any, inputs: Any) -> Any:
        self.count += 1
        return module.forward


@pytest.mark.parametrize("dynamic", [pytest.param(None, marks=pytest.mark.slow), True])
@few
def test_no_more_graphs_than_without(name: str, dynamic: bool | None) -> None:
    module, inputs = build(name)
    module.train(name != "checkpointed")  # where PyTorch's own backend "eager" raises in training
    given = [resized(inputs, size) for size in SIZES]
    plain = Graphs()
    unfused = torch.compile(copy.deepcopy(module), backend=plain, dynamic=dynamic)
    for x in given:
        unfused(*x)
    torch._dynamo.reset()
    counted = Graphs()

    def counting(graph: Any, example: Any) -> Any:
        counted(graph, example)
        return backend.pyramid_kernels(graph, example, options={"inner": "eager", "backend": "composed"})

    ours, expected = torch.compile(module, backend=counting, dynamic=dynamic), copy.deepcopy(module)
    for x in given:
        with pk.testing.count_ops() as ops:
            got = outcome(module, x, ours)
        assert_same(got, outcome(expected, x))
        # That nothing is padded or cropped is known of sizes that are numbers.
        assert ops == expected_ops(name, module) or name == "fitted"
    assert counted.count <= plain.count


@few
def test_in_channels_last(name: str) -> None:
    module, inputs = build(name)
    module.train(name != "checkpointed").to(memory_format=torch.channels_last)
    inputs = tree_map(lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t, inputs)
    unfused, ours = copy.deepcopy(module), compiled(module)
    assert_same(outcome(module, inputs, ours), outcome(unfused, inputs))
    got, expected = ours(*inputs), unfused(*inputs)
    if name in ("image-first", "checkpointed"):
        return  # a concat that begins with one pixel: PyTorch's fakes are channels_last there, its tensors are not
    for a, b in zip(*(y if isinstance(y, list) else [y] for y in (got, expected)), strict=True):
        assert a.stride() == b.stride()


@pytest.mark.parametrize("name", FEW)
def test_under_autocast(name: str) -> None:
    module, inputs = build(name, torch.float32)
    module.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        expected = module(*inputs)
        ours = compiled(module)(*inputs)
    assert ours.dtype == expected.dtype and ours.stride() == expected.stride()
    exact = copy.deepcopy(module).double()(*tree_map(lambda t: t.double() if t.is_floating_point() else t, inputs))
    assert pk.testing.error_ratio(ours, expected, exact) <= 2


def test_casts_to_the_type_at_hand() -> None:
    class Cast(layouts.Fitted):
        def forward(self, x: Tensor, low: Tensor) -> Tensor:
            return self.first(torch.cat([low, self.up(x).float().to(low.dtype)], 1))

    module, inputs = Cast().eval(), build("fitted", torch.float32)[1]
    ours = compiled(module)
    torch.testing.assert_close(ours(*inputs), module(*inputs), rtol=1e-4, atol=1e-5)
    assert [line.op for line in ours.report.fused] == ["pyramid_conv"], ours.report


def fused(name: str, **settings: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """A module fused through its graph, its inputs, and the module as it was."""
    module, inputs = build(name)
    module.eval()
    unfused = copy.deepcopy(module)
    pk.fuse_(module, backend="composed", example_input=inputs, **settings)
    return module, inputs, unfused


def test_a_hook_added_later_on_a_child_runs() -> None:
    module, inputs, unfused = fused("stages")
    module(*inputs)
    for model in (module, unfused):
        model.stages[1][3].register_forward_hook(lambda m, args, y: y * 2)
    torch.testing.assert_close(module(*inputs), unfused(*inputs), rtol=1e-9, atol=1e-9)


def test_what_changes_later_is_followed() -> None:
    module, inputs, unfused = fused("stages")
    module(*inputs)
    for model in (module, unfused):
        model.stages[0][3] = nn.GELU()
        model.stages[2][2].train()
        torch.nn.utils.parametrizations.weight_norm(model.bottleneck[0])
    assert_same(outcome(module, inputs), outcome(unfused, inputs))
    for model in (module, unfused):
        model.float()
    inputs = tuple(x.float() for x in inputs)
    torch.testing.assert_close(module(*inputs), unfused(*inputs), rtol=1e-4, atol=1e-4)


def test_copies_and_pickles_are_the_plain_module() -> None:
    module, inputs, unfused = fused("numbered")
    keys = list(module.state_dict())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with pk.testing.count_ops() as ops:
            y = twin(*inputs)
        torch.testing.assert_close(y, unfused(*inputs), rtol=0, atol=0)
        assert not ops and list(twin.state_dict()) == keys


def test_other_tracers_see_the_plain_module() -> None:
    module, inputs, unfused = fused("gated-sum")
    traced = torch.jit.trace(module, inputs)
    torch.testing.assert_close(traced(*inputs), unfused(*inputs), rtol=0, atol=0)
    exported = torch.export.export(module, inputs)
    assert "sigmoid" in str(exported.graph)
    torch.testing.assert_close(torch.compile(module, backend="eager")(*inputs), unfused(*inputs), rtol=0, atol=0)
    mapped = torch.func.vmap(module)(inputs[0][None])
    torch.testing.assert_close(mapped[0], unfused(*inputs), rtol=1e-9, atol=1e-9)


def test_hooks_see_no_fakes() -> None:
    module, inputs = build("stages")
    seen: list[Tensor] = []
    module.bottleneck.register_forward_hook(lambda m, args, y: seen.append(y))
    pk.fuse_(module.eval(), backend="composed")
    y = module(*inputs)
    assert len(seen) == 1 and seen[0] is y


def test_scoped_and_undone() -> None:
    module, inputs = build("numbered")
    module.eval()
    with pk.fused(module, backend="composed") as report:
        assert report.waiting
        module(*inputs)
        assert [entry.path for entry in report.fused] == [""] and module._compiled_call_impl is not None
    assert module._compiled_call_impl is None and "_compiled_call_impl" not in str(module.state_dict())


def test_the_smallest_module_around_each_pyramid_is_compiled() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.gate, self.head = nn.Conv2d(3, 6, 3, padding=1), layouts.GatedSum(6), layouts.Cascade(6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.head(self.gate(self.stem(x)))
            return up(y, x) * 2

    model, x = Model().eval(), torch.randn(2, 3, 12, 20)
    expected = model(x)
    report = pk.fuse_(model, backend="composed", example_input=x, only=["gate", "head"])
    assert [entry.path for entry in report.fused] == ["gate", "head"]
    torch.testing.assert_close(model(x), expected)
    assert pk.unfuse_(model) == ["gate", "head"]
    report = pk.fuse_(model, backend="composed", example_input=x, filter_fn=lambda m, path: path == "gate")
    assert [entry.path for entry in report.fused] == ["gate"]
    pk.unfuse_(model)
    assert not pk.fuse_(model, backend="composed", example_input=x, only=()).entries


def test_fusing_again_takes_the_other_backend_and_report() -> None:
    module, inputs = build("stages")
    first = pk.fuse_(module.eval(), backend="reference")
    second = pk.fuse_(module, backend="composed")
    module(*inputs)
    assert first.waiting and not first.fused and "pyramid_conv: composed" in second.fused[0].detail
    third = pk.fuse_(module, backend="reference", example_input=inputs)
    assert "pyramid_conv: reference" in third.fused[0].detail and pk.unfuse_(module) == [""]


def test_a_model_whose_call_is_watched_is_left() -> None:
    module, inputs = build("gated-sum")
    report = pk.fuse_(module, backend="composed")
    seen: list[Any] = []
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    try:
        module(*inputs)
    finally:
        handle.remove()
    assert "hooks are set on all modules" in report.skipped[0].detail and len(seen) == 3


def test_values_may_be_asked_for() -> None:
    class Asking(layouts.GatedSum):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * x.sum().item()

    module, inputs = Asking(6).double(), build("gated-sum")[1]
    expected = module(*inputs)
    report = pk.fuse_(module, backend="composed")
    torch.testing.assert_close(module(*inputs), expected, rtol=1e-9, atol=1e-9)
    assert "channel_gate: composed" in report.fused[0].detail


def test_auto_leaves_what_does_not_pay() -> None:
    module, inputs = build("numbered", torch.float32)
    ours = pk.compile(module.eval(), options={"inner": "eager"})
    with pk.testing.count_ops() as ops:
        ours(*inputs)
    assert not ops and {"auto takes" in line.detail for line in ours.report.left} == {True}


def test_auto_takes_what_pays_in_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 1x1 on small maps: in eager its launches cost more than they save, in Inductor's code there are none."""

    class Mixed(nn.Conv2d):
        def forward(self, x: Tensor, low: Tensor) -> Tensor:
            return super().forward(torch.cat([x, F.interpolate(low, x.shape[2:], mode="bilinear")], 1))

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda module, *_, **__: module.forward)
    module, inputs = Mixed(24, 8, 1), (torch.randn(1, 8, 16, 16), torch.randn(1, 16, 4, 4))
    for inner, found in (("eager", {}), ("inductor", {"pyramid_conv": 1})):
        torch._dynamo.reset()
        ours = pk.compile(module, options={"inner": inner})
        with pk.testing.count_ops() as ops:
            torch.testing.assert_close(ours(*inputs), module(*inputs), rtol=1e-4, atol=1e-5)
        assert ops == found


def test_the_report() -> None:
    module, inputs = build("numbered")
    ours = compiled(module.eval())
    assert "nothing compiled yet" in str(ours.report)
    ours(*inputs)
    text = str(ours.report)
    lines = inspect_lines("F.relu(getattr")
    assert f"layouts.py:{lines}  y = [F.relu(getattr(self" in text and "rates [1, 2, 3]" in text
    assert "looked for dilated branches" in str(GraphReport({"empty": []}))


def inspect_lines(text: str) -> int:
    source = open(layouts.__file__).read().splitlines()
    return next(i for i, line in enumerate(source, 1) if text in line)


def test_a_graph_break_inside_a_pyramid_is_reported() -> None:
    class Broken(layouts.Stages):
        def forward(self, x: Tensor) -> Tensor:
            levels = [up(stage(x), x) for stage in self.stages]
            torch._dynamo.graph_break()
            return self.bottleneck(torch.cat([*levels, x], 1))

    module, (_, inputs) = Broken().double().eval(), build("stages")
    ours = compiled(module)
    torch.testing.assert_close(ours(*inputs), module(*inputs), rtol=1e-9, atol=1e-9)
    assert [line for line in ours.report.left if line.op == "graph break" and "graph_break()" in line.code]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"iner": "eager"}, "no 'iner'; did you mean 'inner'"),
        ({"max_autotun": True}, "did you mean 'max_autotune'"),
        ({"inner": "nothing"}, "inner must be one of 'inductor', 'eager', 'aot_eager', got 'nothing'"),
        ({"backend": "cud"}, "backend must be one of"),
        ({"inner": "eager", "max_autotune": True}, "max_autotune: options of Inductor, and inner is 'eager'"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], message: str) -> None:
    module, inputs = build("gated-sum")
    with pytest.raises(ValueError, match=message):
        pk.compile(module, options=options)
    with pytest.raises(ValueError, match=message):
        torch.compile(module, backend="pyramid_kernels", options=options)(*inputs)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        pk.compile(lambda x: x)  # type: ignore[arg-type]


def test_the_backend_is_found_without_an_import() -> None:
    program = """
import sys, torch
assert "pyramid_kernels" in torch._dynamo.list_backends() and "pyramid_kernels" not in sys.modules
model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))
torch.compile(model, backend="pyramid_kernels", options={"inner": "eager"})(torch.ones(1, 3, 4, 4))
assert "pyramid_kernels.graph" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@few
def test_exported_graphs(name: str) -> None:
    if name == "checkpointed":
        name = "image-first"  # torch.export has no checkpoints
    module, inputs = build(name)
    module.eval()
    expected = module(*copy.deepcopy(inputs))  # HRNet's modules write into the list that they are given
    exported = torch.export.export(module, copy.deepcopy(inputs)).module()
    report = pk.fuse_graph(exported, backend="composed")
    with pk.testing.count_ops() as ops:
        got = exported(*copy.deepcopy(inputs))
    assert ops == LAYOUTS[name].ops, report
    again = torch.export.export(exported, copy.deepcopy(inputs)).module()(*inputs)
    for y in (got, again):
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)


def test_maxima_of_several_grids() -> None:
    """Max levels have kernels and a reference, and no composed form that would pay."""

    class Levels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([nn.functional.adaptive_max_pool2d(x, b).flatten(1) for b in (1, (2, 3), 4)], 1)

    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    exported = torch.export.export(Levels(), (x,)).module()
    pk.fuse_graph(exported, backend="reference")
    for ours in (compiled(Levels(), "reference"), exported):
        with pk.testing.count_ops() as ops:
            got = outcome(Levels(), (x,), ours)
        assert ops == {"pyramid_pool": 1}
        assert_same(got, outcome(Levels(), (x,)))


def test_graphs_of_another_level() -> None:
    module, inputs = build("stages")
    exported = torch.export.export(module.eval(), inputs)
    with pytest.raises(ValueError, match="before run_decompositions; got aten"):
        pk.fuse_graph(exported.run_decompositions().module())
    with pytest.raises(TypeError, match="module must be the GraphModule"):
        pk.fuse_graph(exported)
    with pytest.raises(ValueError, match="before run_decompositions; got conv2d"):
        pk.fuse_graph(functional())


def functional() -> torch.fx.GraphModule:
    """A graph of PyTorch's own functions."""

    class Model(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return torch.conv2d(x, w)

    return torch.fx.symbolic_trace(Model())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
@every
def test_through_inductor(name: str, mode: str) -> None:
    if (name, mode) == ("checkpointed", "train"):
        mode = "eval"  # a norm's statistics are updated once, in eager twice
    module, inputs = build(name, torch.float64)
    module.train(mode == "train")
    unfused = copy.deepcopy(module)
    ours = torch.compile(module, backend="pyramid_kernels", options={"backend": "composed"})
    assert_same(outcome(module, inputs, ours), outcome(unfused, inputs), 1e-7)


def test_of_two_threads_one_looks() -> None:
    """The other waits, and runs what was found."""
    model, looked = nn.ReLU(), list[threading.Thread]()

    def look(*_: Any) -> None:
        looked.append(threading.current_thread())
        if len(looked) == 1:
            other.start()
            other.join(0.2)  # it is at the lock, or has looked as well

    first = FirstCall(model, look, lambda: None)
    model._compiled_call_impl = first
    other = threading.Thread(target=lambda: first(torch.zeros(1)))
    model(torch.zeros(1))
    other.join()
    assert looked == [threading.current_thread()] and model._compiled_call_impl is None
