"""Which swaps are kept: those that are faster on the user's own call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..graph import inplace
from ..nn.base import Fused
from ..nn.runs import preserved
from ..nn.snapshot import properties
from ..proving import results
from ..proving.prover import MARGIN, Prover, backward, noted, speedups, verdict_of
from ..proving.trial import Call, Modes
from . import check

#: About how many seconds the whole model is timed.
SECONDS = 2.0


@dataclass
class Given:
    """What a module is called with, the modes around it, and the calls of ops that it then makes."""

    args: tuple[Any, ...]
    named: dict[str, Any]
    modes: Modes
    calls: list[Call]


class Kept(NamedTuple):
    """The unfused forward's time over that of a swapped module, the ops that it ran, each with its backend, and the
    largest error over its limit of these."""

    ratio: float
    error: float
    ran: str

    @property
    def wins(self) -> bool:
        return self.ratio >= MARGIN and bool(self.ran)


def settle(model: nn.Module, example_input: Any, prover: Prover) -> Any:
    """What the model gives on ``example_input`` as it was before it was fused; what its fused modules would call there
    is tried and timed."""
    given: dict[nn.Module, Given] = {}
    with _own_forwards(model, given):
        outputs = _run(model, example_input)
    prover.settle([call for module, one in given.items() for call in _calls(module, one, prover)])
    return outputs


def _run(model: nn.Module, example_input: Any) -> Any:
    args, named = check.as_arguments(example_input)
    with preserved(model), torch.set_grad_enabled(model.training):
        return tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, model(*args, **named))


def _calls(module: Any, given: Given, prover: Prover) -> list[Call]:
    """The calls of ops that ``module`` makes where ``auto`` leaves none of them out, if one of them is not known."""
    backend, module.kernel_backend = module.kernel_backend, "reference"
    try:
        with preserved(module), given.modes.on():
            x = module.input_of(given.args, given.named)
            if module.why_original(x) is not None or all(map(prover.knows, module.problems(x))):
                return []
            with noted() as calls:
                module.forward(*_again(module, given.args), **_again(module, given.named))
            return calls
    finally:
        module.kernel_backend = backend


def timed(model: nn.Module, example_input: Any) -> tuple[Any, dict[nn.Module, Kept]]:
    """What the model gives on ``example_input``, and how much faster its swapped modules are on what they get there."""
    given: dict[nn.Module, Given] = {}
    answer, run = Fused._answer, inplace.Compiled.__call__

    def answered(module: Fused, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        with _noted(module, args, named, given):
            return answer(module, args, named)

    def compiled(one: inplace.Compiled, *args: Any, **named: Any) -> Any:
        with _noted(one.module, args, named, given):
            return run(one, *args, **named)

    with _set(Fused, "_answer", answered), _set(inplace.Compiled, "__call__", compiled):
        outputs = _run(model, example_input)
    return outputs, {module: _timed(module, one) for module, one in given.items()}


@contextmanager
def _own_forwards(model: nn.Module, given: dict[nn.Module, Given] | None = None) -> Iterator[None]:
    """Every module of ``model`` runs the forward that it had before it was fused; what it gets goes to ``given``."""

    def own(module: Fused, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given is not None:
            given.setdefault(module, _copied(args, named))
        return module.original.forward(module, *args, **named)

    with ExitStack() as stack:
        stack.enter_context(_set(Fused, "_answer", own))
        for module in filter(inplace.is_compiled, model.modules()):
            stack.enter_context(_set(module, "_compiled_call_impl", None))
        yield


@contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _noted(module: nn.Module, args: Any, named: Any, given: dict[nn.Module, Given]) -> Iterator[None]:
    """The first call of ``module`` goes to ``given``, with the calls of ops that are made inside the block."""
    if module in given:
        yield
        return
    given[module] = _copied(args, named)
    with noted() as calls:
        yield
    given[module].calls.extend(calls)


def _copied(args: tuple[Any, ...], named: dict[str, Any]) -> Given:
    args, named = tree_map(lambda t: _copy(t) if isinstance(t, Tensor) else t, (args, named))
    return Given(args, named, Modes.now(), [])


def _copy(t: Tensor) -> Tensor:
    return t.detach().clone().requires_grad_(t.requires_grad)


def _timed(module: nn.Module, given: Given) -> Kept:
    verdicts = [verdict_of(call) for call in given.calls]
    ran = dict.fromkeys(f"{call.op}: {b}" for call, (b, _) in zip(given.calls, verdicts, strict=True))
    key = _key(module, (given.args, given.named), list(ran))

    def ratio() -> float:
        leaves = [p for p in module.parameters() if p.requires_grad]

        def step(form: Callable[..., Any]) -> Callable[[], None]:
            def run() -> None:
                outputs = form(*_again(module, given.args), **_again(module, given.named))
                if module.training:
                    backward(outputs, leaves)

            return run

        with preserved(module), given.modes.on():
            return speedups({name: step(form) for name, form in _forms(module).items()}, _device(module))["fused"]

    error = max((v.error for _, v in verdicts), default=0.0)
    return Kept(_once(module, "module", key, ratio), error, ", ".join(ran))


def _forms(module: nn.Module) -> dict[str, Callable[..., Any]]:
    if isinstance(module, Fused):
        own = module.original.forward
        return {"unfused": lambda *args, **named: own(module, *args, **named), "fused": module.forward}
    return {"unfused": module._call_impl, "fused": module}


def _again(module: nn.Module, given: Any) -> Any:
    """Arguments for one more call: containers of its own, and in training tensors that may be written to."""
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) and module.training else t, given)


def speedup(model: nn.Module, example_input: Any, fused: list[str]) -> float:
    """The unfused model's time over the fused one's, on ``example_input``; ``fused`` says what makes the difference."""
    leaves = [p for p in model.parameters() if p.requires_grad]

    def step() -> None:
        args, named = check.as_arguments(example_input)
        outputs = model(*args, **named)
        if model.training:
            backward(outputs, leaves)

    def unfused() -> None:
        with _own_forwards(model):
            step()

    def ratio() -> float:
        with preserved(model), torch.set_grad_enabled(model.training):
            return speedups({"unfused": unfused, "fused": step}, _device(model), SECONDS)["fused"]

    return _once(model, "model", _key(model, example_input, fused), ratio)


def _once(module: nn.Module, kind: str, key: str, ratio: Callable[[], float]) -> float:
    """A ratio that is measured once on this machine."""
    where = results.place(_device(module))
    known = results.get(where, kind, key)
    if known is None:
        results.put(where, kind, key, known := {"ratio": round(ratio(), 3)})
    return float(known["ratio"])


def _device(module: nn.Module) -> str:
    return next((p.device.type for p in module.parameters()), "cpu")


def _key(module: nn.Module, given: Any, ran: list[str]) -> str:
    """Of the times of ``module`` on arguments of these shapes, with what makes it faster."""
    shape = hashlib.sha256(f"{module!r} {properties(given)}".encode()).hexdigest()[:16]
    return json.dumps([f"{type(module).__module__}.{type(module).__qualname__}", shape, module.training, ran])
