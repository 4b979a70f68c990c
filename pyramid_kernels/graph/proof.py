"""Before a match is replaced: which ops its call would run, and whether it computes what the nodes compute.

Both ways run on random data: in float64, outputs, running statistics and gradients, where nothing but the order of sums
may differ; and in the dtype and memory format at hand, for what comes out and how it lies in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx import Node
from torch.fx.node import map_arg

from .. import backends
from ..backends import Backend, automatic
from ..nn.runs import BUDGET
from ..ops._shared import launch
from ..ops._shared.layout import format_of, is_channels_last
from ..ops._shared.shortcuts import calls
from ..ops.channel_gate.reference import hardsigmoid
from ..proving.prover import active, noted
from ..proving.trial import Call
from .functions import Size
from .match import Match
from .order import Order, Region
from .view import call, is_call, value

#: Largest difference in float64, over the largest value or 1: sums in another order, and nothing else.
EXACT = 1e-8
#: Elements of the largest map that a proof runs on, and the least that an extent is cut to.
LARGEST, SMALLEST = 1 << 16, 8

#: Parameters of calls by the role of what is given for them; all else is a map.
_ROLES = {
    "conv": {"weight": "weight", "bias": "vector"},
    "linear": {"weight": "weight", "bias": "vector"},
    "batch_norm": {"mean": "statistic", "var": "variance", "weight": "vector", "bias": "vector"},
    "cross_entropy": {"target": "labels", "weight": "variance"},
    "nll_loss": {"target": "labels", "weight": "variance"},
}


class Proved(NamedTuple):
    """What is known of a match that may be replaced."""

    ran: list[tuple[str, Backend]]  # by op
    restrided: list[bool]  # whether an output lies otherwise in memory than the old one
    channels_last: list[bool]  # how the old one lies


def prove(match: Match, order: Order, backend: Backend) -> Proved | str:
    """Why ``match`` must be left: an op refuses it, it does not pay here, or it computes something else."""
    region = order.region[match.outputs[0]]
    nodes = sorted(match.nodes, key=order.position.__getitem__)
    with _apart():
        ran = _decided(match, region, backend)
        if isinstance(ran, str):
            return ran
        for factor in _factors(match):
            try:
                found = _compared(match, nodes, region, backend, factor)
            except Exception:
                if factor > 1:
                    continue  # a size that the graph holds as a number does not shrink
                raise
            return found if isinstance(found, str) else found._replace(ran=ran)
    raise AssertionError("a factor of 1 returns or raises")


def _decided(match: Match, region: Region, backend: Backend) -> list[tuple[str, Backend]] | str:
    """What the call would run at the sizes at hand: the backend of each op."""
    if automatic(backend) and (prover := active.get()) is not None:
        prover.settle(_calls(match, region, prover.training))
    with FakeTensorMode(), _modes(region), torch.no_grad(), backends.noted() as choices:
        data = Data(match, 1, lambda t, role: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device))
        try:
            match.function(*data.given(match.args), backend)
        except (backends.BackendError, TypeError, ValueError) as error:
            return str(error).partition("\n")[0]
    if automatic(backend) and all(chosen == "reference" for _, chosen in choices):
        return "the unfused chain is what auto takes here at these sizes"
    return list(dict.fromkeys(choices))


def _calls(match: Match, region: Region, training: bool) -> list[Call]:
    """The calls of ops that ``match`` would be, on random data of the sizes at hand."""
    generator = torch.Generator().manual_seed(0)

    def make(like: Any, role: str) -> Tensor:
        t = _random(like, role, generator, like.dtype)
        return t.requires_grad_(training and t.is_floating_point() and role not in ("statistic", "variance"))

    data = Data(match, 1, make)
    with _modes(region), torch.set_grad_enabled(training and region.grad is not False), noted() as calls:
        match.function(*data.given(match.args), "reference")
    return calls


def _factors(match: Match) -> Iterator[int]:
    """What to divide extents by, at last by 1."""
    largest = max(value(node).numel() for node in (*match.nodes, *match.inputs) if isinstance(value(node), Tensor))
    factor = 1
    while factor < 8 and _hint(largest) > LARGEST * factor * factor:
        factor *= 2
    yield from dict.fromkeys((factor, 1))


def _compared(match: Match, nodes: list[Node], region: Region, backend: Backend, factor: int) -> Proved | str:
    exact: Backend = "reference" if backend in backends.KERNELS else backend
    generator = torch.Generator().manual_seed(0)
    wide = Data(match, factor, lambda t, role: _random(t, role, generator, torch.float64))
    # The ways of one match run in the same modes; float64 passes through autocast as it is.
    with _modes(region._replace(autocast=(), inference=())), _without_autocast():
        old, new = wide.run(lambda d: d.old(nodes)), wide.run(lambda d: d.new(exact))
    reason = _difference(old, new, lambda t: EXACT * max(1.0, t.abs().max().item()))
    if reason:
        return reason
    narrow = Data(match, factor, lambda t, role: _random(t, role, generator, t.dtype))
    with _modes(region), torch.no_grad():
        old, new = narrow.run(lambda d: d.old(nodes)), narrow.run(lambda d: d.new(backend))
    reason = _difference(old, new, lambda t: BUDGET[t.dtype] * t.abs().max().item())
    if reason:
        return reason
    pairs = list(zip(old, new, strict=True))[: len(match.outputs)]
    if any(a.dim() != 4 and a.stride() != b.stride() for a, b in pairs):
        return "its result lies otherwise in memory"
    restrided = [a.stride() != b.stride() for a, b in pairs]
    return Proved([], restrided, [a.dim() == 4 and is_channels_last(a) for a, _ in pairs])


def _difference(old: list[Tensor], new: list[Tensor], limit: Callable[[Tensor], float]) -> str | None:
    for a, b in zip(old, new, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"it gives {b.dtype} {tuple(b.shape)} in place of {a.dtype} {tuple(a.shape)}"
        error = (a - b).abs().max().item() if a.numel() else 0
        if not error <= (limit(a) if a.is_floating_point() else 0):
            return f"it gives another result: a difference of {error:.2g}"
    return None


class Data:
    """Values for whatever a match reads, at sizes that are the example's or cut by a factor.

    ``make(like, role)`` gives a tensor like one on meta, whose ``device`` is that of the graph's.
    """

    def __init__(self, match: Match, factor: int, make: Callable[[Any, str], Tensor]) -> None:
        self.match, self.factor = match, factor
        self.roles = _roles(match)
        self.values: dict[Node, Any] = {}
        for node in match.inputs:
            found, role = value(node), self.roles.get(node, "map")
            self.values[node] = make(self._like(found, role), role) if isinstance(found, Tensor) else self._cut(found)

    def _like(self, t: Tensor, role: str) -> _Like:
        sizes, strides = [_hint(s) for s in t.shape], [_hint(s) for s in t.stride()]
        if self.factor > 1 and (role == "labels" or (role == "map" and t.dim() == 4)):
            last = t.dim() == 4 and is_channels_last(torch.empty_strided(sizes, strides, device="meta"))
            spatial = t.dim() - 2
            sizes = [min(sizes[0], 2), *sizes[1:spatial], *self._cut(sizes[spatial:])]
            layout = format_of(last)
            strides = list(torch.empty(sizes, device="meta", memory_format=layout).stride())
        return _Like(sizes, strides, t.dtype, t.device)

    def _cut(self, given: Any) -> Any:
        """An extent, or some, at the size of this data."""
        if isinstance(given, list | tuple):
            return tuple(map(self._cut, given))
        if isinstance(given, Node):
            return self.values[given]
        extent = _hint(given)
        if not isinstance(extent, int) or extent <= SMALLEST or self.factor == 1:
            return extent
        cut = max(extent // self.factor, SMALLEST)
        return cut + (extent - cut) % 2  # odd stays odd

    def given(self, args: Any) -> Any:
        """The arguments of the call, with values in the place of nodes."""
        if isinstance(args, Size):
            return args._replace(given=self._cut(args.given))
        if isinstance(args, tuple) and hasattr(args, "_fields"):
            return type(args)(*map(self.given, args))
        if isinstance(args, list | tuple):
            return type(args)(map(self.given, args))
        return self.values[args] if isinstance(args, Node) else args

    def old(self, nodes: list[Node]) -> list[Tensor]:
        """The outputs of the matched nodes themselves."""
        env = dict(self.values)
        for node in nodes:
            args, kwargs = node.args, dict(node.kwargs)
            if is_call(node, "cast"):  # matched where it changes nothing; this data may be of another type
                env[node] = env[args[0]]  # type: ignore[index]
                continue
            if is_call(node, "interpolate", "bilinear", "nearest"):
                args = (*args[:1], *map(self._cut, args[1:2]), *args[2:])
                kwargs |= {key: self._cut(kwargs[key]) for key in kwargs.keys() & {"size", "output_size"}}
            args, kwargs = map_arg((args, kwargs), env.__getitem__)
            target: Any = node.target
            if is_call(node, "hardsigmoid"):  # PyTorch's own gradient is of float32 precision
                target = lambda z, *_, **__: hardsigmoid(z)  # noqa: E731
            env[node] = (
                getattr(args[0], target)(*args[1:], **kwargs) if node.op == "call_method" else target(*args, **kwargs)
            )
        return [env[node] for node in self.match.outputs]

    def new(self, backend: Backend) -> list[Tensor]:
        """The outputs of the call in their place."""
        result = self.match.function(*self.given(self.match.args), backend)
        if self.match.concat:
            return list(result.split([value(output).shape[1] for output in self.match.outputs], 1))
        return list(result) if isinstance(result, tuple) else [result]

    def run(self, way: Callable[[Data], list[Tensor]]) -> list[Tensor]:
        """Outputs of one way, the running statistics after it, and the gradients of all else that it read."""
        kept, leaves = self.values, []
        self.values = dict(kept)
        for node, t in kept.items():
            if isinstance(t, Tensor):
                leaf = _copy(t)
                if t.is_floating_point() and torch.is_grad_enabled() and self.roles.get(node) != "statistic":
                    leaves.append(leaf.requires_grad_(self.roles.get(node) != "variance"))
                self.values[node] = _copy(leaf) if leaf.requires_grad else leaf  # which may be written in place
        try:
            outputs = way(self)
            after = [t for node, t in self.values.items() if self.roles.get(node) in ("statistic", "variance")]
        finally:
            self.values = kept
        found = [t.detach() for t in (*outputs, *after)]
        if not any(t.requires_grad for t in outputs):
            return found
        total = sum(
            (t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=t.device).view(t.shape)).sum() for t in outputs
        )
        leaves = [leaf for leaf in leaves if leaf.requires_grad]
        return [*found, *torch.autograd.grad(total, leaves, materialize_grads=True)]  # type: ignore[arg-type]


def _copy(t: Tensor) -> Tensor:
    """``t`` as it lies in memory, which ``clone`` does not keep where an extent is 1."""
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device).copy_(t)


class _Like(NamedTuple):
    """A tensor without values."""

    shape: Any
    strides: Any
    dtype: torch.dtype
    device: torch.device

    def stride(self) -> Any:
        return self.strides


def _roles(match: Match) -> dict[Node, str]:
    roles = {}
    for node in match.nodes:
        found = call(node)
        for parameter, role in _ROLES.get(found.name if found else "", {}).items():
            if isinstance(given := getattr(found, parameter), Node):
                roles[given] = role
    return roles


def _random(like: _Like, role: str, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    t = torch.empty_strided(like.shape, like.strides, dtype=dtype if like.dtype.is_floating_point else like.dtype)
    if role == "labels" or not t.is_floating_point():
        t.random_(0, 2, generator=generator)
    elif role == "variance":
        t.uniform_(0.5, 1.5, generator=generator)
    else:
        fan_in = max(1, t[0].numel()) if role == "weight" else 1
        t.copy_(torch.randn(t.shape, generator=generator) * fan_in**-0.5)  # a quarter of the time of ``normal_``
    return t.to(like.device)


def _hint(size: Any) -> Any:
    """The example's number in the place of a symbol."""
    if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
        return size.node.hint
    return size


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Nothing that watches the model sees a proof: no fake mode, no hooks on saved tensors, no counters."""
    lists: tuple[list[Any], ...] = (calls, launch.counters)
    kept = [counters[:] for counters in lists]
    for counters in lists:
        counters.clear()
    try:
        as_is = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
        with unset_fake_temporarily(), torch.inference_mode(False), as_is:
            yield
    finally:
        for counters, before in zip(lists, kept, strict=True):
            counters[:] = before


@contextlib.contextmanager
def _modes(region: Region) -> Iterator[None]:
    """The modes that nodes of ``region`` run in, beside the ambient ones."""
    with contextlib.ExitStack() as stack:
        for args in region.autocast:
            stack.enter_context(torch.autocast(args[0], dtype=args[1], enabled=args[2], cache_enabled=args[3]))
        stack.enter_context(torch.set_grad_enabled(region.grad is not False))
        yield


@contextlib.contextmanager
def _without_autocast() -> Iterator[None]:
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
