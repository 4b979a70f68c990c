"""Memory that is shared, written or kept: around a match, and by how a model's graph is read; and errors on the way."""

from __future__ import annotations

import copy
import functools
import gc
import random
import warnings
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.graph import inplace
from tests.layouts import block, build, up
from tests.test_graph import compiled, forgotten

__all__ = ["forgotten"]


def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, dtype=torch.float64, generator=generator)
    return draw(2, 6, 12, 20), draw(2, 6, 6, 10)


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: Tensor, low: Tensor) -> Any:
        return self.conv(torch.cat([x, up(low, x)], 1))


def agree(module: nn.Module, *inputs: Any) -> Any:
    """The fused module's first two results, compared with those of the module as it was; both keep their state."""
    unfused = copy.deepcopy(module)
    report = pk.fuse_(module, backend="composed")
    for _ in range(2):
        torch.testing.assert_close(module(*inputs), unfused(*copy.deepcopy(inputs)), rtol=1e-9, atol=1e-9)
    for (name, got), expected in zip(module.named_buffers(), unfused.buffers(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9, msg=name)
    return report


def test_a_sum_in_place_that_reads_its_own_view() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, low: Tensor) -> Tensor:
            y = x * 1
            view = y[:, :, :6, :10]
            y += up(low, y)
            y += up(view, y)
            return y

    agree(Sum(), *maps())


def test_an_exported_buffer_is_written() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sum", torch.zeros(2, 6, 12, 20, dtype=torch.float64))

        def forward(self, x: Tensor, low: Tensor) -> Tensor:
            self.sum.add_(up(low, x))
            return self.sum * 1

    graph = torch.export.export(Sum(), maps()).module()
    report = pk.fuse_graph(graph, backend="composed")
    graph(*maps())
    assert "input of the graph" in report.left[0].detail and graph.get_buffer("sum").abs().max() > 0


def test_results_of_one_image_are_tensors_of_their_own() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(6, 4, 3, padding=d, dilation=d) for d in (1, 2))

        def forward(self, x: Tensor) -> list[Tensor]:
            return [conv(x) for conv in self.convs]

    module, x = Branches().double(), maps()[0][:1]
    first, second = compiled(module)(x)
    z = (second * second).sum()
    first.add_(1)
    z.backward()
    assert first._base is None and second._base is None


@pytest.mark.parametrize("act", [nn.LeakyReLU(0.1, inplace=True), nn.Hardswish(inplace=True)])
def test_levels_of_one_image_activated_in_place(act: nn.Module) -> None:
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stages = (nn.Sequential(nn.AdaptiveAvgPool2d(b), *block(6, 3, act=act)) for b in (1, 2, 3))
            self.stages = nn.ModuleList(stages)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x] + [up(stage(x), x) for stage in self.stages], 1)

    agree(Levels().double().eval(), maps()[0][:1])


def test_what_a_forward_keeps_elsewhere() -> None:
    @functools.lru_cache
    def ramp(h: int, w: int) -> Tensor:
        return torch.linspace(0, 1, h * w, dtype=torch.float64).view(1, 1, h, w)

    class Kept(Joined):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.count = nn.BatchNorm2d(4), 0
            self.apart = lambda y: self.norm(y)

        def forward(self, x: Tensor, low: Tensor, cache: Any) -> Tensor:
            self.count += 1
            y = self.apart(super().forward(x, low)) + ramp(*x.shape[2:])
            cache.seen.append(y)
            return y * random.random()

    class Cache:
        def __init__(self) -> None:
            self.seen: list[Tensor] = []

    module, cache = Kept().double(), Cache()
    seen: list[Tensor] = []
    module.norm.register_forward_hook(lambda m, args, y: seen.append(y))
    pk.fuse_(module, backend="composed")
    random.seed(0)
    y = module(*maps(), cache)
    random.seed(0)
    assert type(ramp(12, 20)) is Tensor and len(cache.seen) == len(seen) == module.count == 1
    assert int(module.norm.num_batches_tracked) == 1
    torch.testing.assert_close(y, cache.seen[0] * random.random(), rtol=0, atol=0)


def test_an_overridden_call_runs_once() -> None:
    class Over(Joined):
        def __call__(self, x: Tensor, low: Tensor) -> Any:
            return super().__call__(x * 2, low) * 2

    agree(Over().double().eval(), *maps())


@pytest.mark.parametrize("read", [False, True], ids=["before-the-first-call", "fused"])
def test_a_copy_of_the_attributes_runs_its_own_weights(read: bool) -> None:
    module = Joined().double()
    pk.fuse_(module, backend="composed", **{"example_input": maps()} if read else {})
    replica: Any = module._replicate_for_data_parallel()
    replica.conv = nn.Conv2d(12, 4, 3, padding=1).double()
    other = Joined().double()
    other.load_state_dict({f"conv.{k}": v for k, v in replica.conv.state_dict().items()})
    torch.testing.assert_close(replica(*maps()), other(*maps()), rtol=1e-9, atol=1e-9)


class Siblings(nn.Module):
    """Branches of one map, which become one call, whose slices meet again in another way than side by side."""

    def __init__(self, meet: Any) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(6, 5, 3, padding=rate, dilation=rate) for rate in (1, 2))
        self.meet = meet

    def forward(self, x: Tensor) -> Any:
        return self.meet(self.a(x), self.b(x))


MEETINGS = {
    "over-images": lambda a, b: torch.cat([a, b]),
    "over-rows": lambda a, b: torch.cat([a, b], 2),
    "over-columns": lambda a, b: torch.cat([a, b], -1),
    "by-keyword": lambda a, b: torch.cat(tensors=[a, b], dim=1),
    "resized-and-summed": lambda a, b: F.interpolate(a, (24, 40)) + F.interpolate(b, (24, 40)),
    "resized-and-averaged": lambda a, b: torch.stack([F.interpolate(t, (24, 40)) for t in (a, b)]).mean(0),
    "resized-and-weighed": lambda a, b: 0.3 * F.interpolate(a, (24, 40)) + F.interpolate(b, (24, 40)),
}


@pytest.mark.parametrize("name", MEETINGS)
def test_slices_that_meet_otherwise_stay_slices(name: str) -> None:
    report = agree(Siblings(MEETINGS[name]).double(), maps()[0])
    assert "dilated_branches" in str(report)


def test_a_weight_of_integers_is_no_obstacle_to_a_proof() -> None:
    class Weighed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.tensor(3))

        def forward(self, x: Tensor, low: Tensor) -> Any:
            return x + self.weight * up(low, x)

    report = agree(Weighed().double(), *maps())
    assert "checking it failed" not in str(report) and "upsample_merge" in str(report)


def test_a_checkpoint_that_writes_to_buffers_runs_unfused() -> None:
    """Dynamo's own backend "eager" fails in its backward."""

    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            convs = (nn.Conv2d(6, 5, 3, padding=rate, dilation=rate) for rate in (1, 2))
            self.branches = nn.ModuleList(nn.Sequential(conv, nn.BatchNorm2d(5), nn.ReLU()) for conv in convs)

        def forward(self, x: Tensor) -> Any:
            body = lambda x: torch.cat([branch(x) for branch in self.branches], 1)  # noqa: E731
            return torch.utils.checkpoint.checkpoint(body, x, use_reentrant=False)

    module = Recomputed().double()
    unfused = copy.deepcopy(module)
    report = pk.fuse_(module, backend="composed")
    for m in (module, unfused):
        m(maps()[0]).sum().backward()
    for (name, got), expected in zip(module.named_buffers(), unfused.buffers(), strict=True):
        torch.testing.assert_close(got, expected, msg=name)
    for (name, p), q in zip(module.named_parameters(), unfused.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9, msg=name)
    assert "runs unfused from now on" in str(report)


def test_the_first_batch_is_not_kept() -> None:
    module = Joined().double()
    pk.fuse_(module, backend="composed")
    x, low = maps()
    alive = weakref.ref(x)
    module(x, low)
    del x
    gc.collect()
    assert alive() is None


def test_an_example_is_not_written_to() -> None:
    class Writing(Joined):
        def forward(self, x: Tensor, low: Tensor) -> Any:
            return super().forward(x.add_(1), low)

    module, (x, low) = Writing().double(), maps()
    pk.fuse_(module, backend="composed", example_input=(x, low))
    torch.testing.assert_close(x, maps()[0], rtol=0, atol=0)


def test_models_of_one_class_share_graphs() -> None:
    torch._dynamo.utils.counters.clear()
    for _ in range(12):
        module, inputs = build("gated-sum")
        pk.fuse_(module, backend="composed")
        with pk.testing.count_ops() as ops:
            module(*inputs)
        assert ops == {"channel_gate": 1}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_a_child_that_its_owner_compiled_stays_so() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Joined()

        def forward(self, x: Tensor, low: Tensor) -> Any:
            return F.relu(self.inner(x, low))

    module = Outer().double()
    module.inner.compile(backend="eager")
    theirs = module.inner._compiled_call_impl
    pk.fuse_(module, backend="composed", example_input=maps())
    pk.unfuse_(module)
    assert module.inner._compiled_call_impl is theirs


class Fallible(Joined):
    """Goes on after an error."""

    def forward(self, x: Tensor, low: Tensor) -> Any:
        try:
            return self.conv(torch.cat([x, low], 1))
        except RuntimeError:
            return super().forward(x, low)


def test_a_forward_that_goes_on_after_an_error_runs_unfused_where_there_is_one() -> None:
    module, (x, low) = Fallible().double(), maps()
    expected = module(x, low)
    report = pk.fuse_(module, backend="reference")
    for _ in range(2):
        torch.testing.assert_close(module(x, low), expected, rtol=0, atol=0)
    assert "goes on after an error" in str(report)
    assert not inplace.is_compiled(module)


def test_an_error_of_the_model_at_a_later_call_is_its_own() -> None:
    module, (x, low) = Joined().double(), maps()
    pk.fuse_(module, backend="reference")
    expected = module(x, low)
    with pytest.raises(RuntimeError, match="must match except") as caught:
        module(x, low[:1])
    assert type(caught.value) is RuntimeError and inplace.is_compiled(module)
    torch.testing.assert_close(module(x, low), expected, rtol=0, atol=0)


def test_a_first_call_that_fails_is_not_the_one_that_is_read() -> None:
    module, (x, low) = Joined().double(), maps()
    report = pk.fuse_(module, backend="reference")
    with pytest.raises(RuntimeError, match="channels"):
        module(x[:, :5], low)
    assert report.waiting and "could not be read" in report.skipped[0].detail
    with pk.testing.count_ops() as ops:
        module(x, low)
    assert ops == {"pyramid_conv": 1} and not report.waiting and not report.skipped


def test_a_try_around_a_pyramid_is_no_obstacle() -> None:
    class Guarded(Joined):
        def forward(self, x: Tensor, low: Tensor) -> Any:
            try:
                import no_such_package  # noqa: F401
            except ImportError:
                pass
            try:
                return super().forward(x, low)
            except RuntimeError:
                return x

    ours = compiled(Guarded().double(), "reference")
    ours(*maps())
    assert ours.report.fused or any(line.op == "graph break" for line in ours.report.left)


def test_a_model_whose_graph_alone_cannot_be_read_is_read_once() -> None:
    class Bounded(Joined):
        def forward(self, x: Tensor, low: Tensor) -> Any:
            (g,) = torch.autograd.grad(super().forward(x, low).sum(), x)  # none where a graph is read
            return g

    module, (x, low) = Bounded().double(), maps()
    report = pk.fuse_(module, backend="reference")
    for _ in range(2):
        module(x.requires_grad_(), low)
    assert not report.waiting and "could not be read" in report.skipped[0].detail


def test_a_forward_that_dynamo_gives_up_is_said() -> None:
    class Quiet(Joined):
        def forward(self, x: Tensor, low: Tensor) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self.conv(torch.cat([x, up(low, x)], 1))

    module = Quiet().double()
    ours = compiled(module, "reference")
    torch.testing.assert_close(ours(*maps()), module(*maps()), rtol=0, atol=0)
    report = pk.fuse_(module, backend="reference")
    module(*maps())
    for lines in (ours.report.left, report.compiled.left):
        assert ["gives up a forward in Quiet" in line.detail for line in lines] == [True]
