"""Which swaps are kept: those that are faster on the user's own call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..backends import OPS
from ..graph import inplace
from ..nn.base import Fused
from ..nn.runs import preserved
from ..nn.snapshot import properties
from ..proving import results
from ..proving.prover import MARGIN, Prover, noted, speedups, verdict_of
from ..proving.trial import Call, Modes, backward, copied, tensors
from ..verification import ledger
from . import check

#: About how many seconds the whole model is timed.
SECONDS = 2.0
#: Why a module is left that could be fused.
SLOWER = "unfused is as fast or faster here"


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
    why: str = SLOWER  # it is left, if it is

    @property
    def wins(self) -> bool:
        return self.ratio >= MARGIN and bool(self.ran)


def settle(model: nn.Module, example_input: Any, prover: Prover, considered: set[nn.Module]) -> Any:
    """What the model gives on ``example_input`` as it was before it was fused; what the ``considered`` of its modules
    would call there is tried and timed."""
    given: dict[nn.Module, Given] = {}
    compiled = [m for m in model.modules() if inplace.is_compiled(m)]
    with _own_forwards(compiled, lambda module, args, named: _note(given, considered, module, args, named)):
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
                module.forward(*_again(given.args), **_again(given.named))
            return calls
    finally:
        module.kernel_backend = backend


def timed(model: nn.Module, example_input: Any, considered: set[nn.Module]) -> tuple[Any, dict[nn.Module, Kept]]:
    """What the model gives on ``example_input``, and how much faster the swapped ones of the ``considered`` modules are
    on what they get there."""
    given: dict[nn.Module, Given] = {}
    answer, run = Fused._answer, inplace.Compiled.__call__

    def answered(module: Fused, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return answer(module, args, named)
        with _noted(_note(given, considered, module, args, named)):
            return answer(module, args, named)

    def compiled(one: inplace.Compiled, *args: Any, **named: Any) -> Any:
        with _noted(_note(given, considered, one.module, args, named)):
            return run(one, *args, **named)

    with _set(Fused, "_answer", answered), _set(inplace.Compiled, "__call__", compiled):
        outputs = _run(model, example_input)
    return outputs, {module: _timed(module, one) for module, one in given.items()}


@contextmanager
def _own_forwards(compiled: Iterable[nn.Module], note: Callable[..., Any] | None = None) -> Iterator[None]:
    """Fused modules, and those that are ``compiled`` in place, run the forward that they had before, after ``note`` of
    what they get."""

    def own(module: Fused, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if note is not None and not torch.compiler.is_dynamo_compiling():
            note(module, args, named)
        return module.original.forward(module, *args, **named)

    with ExitStack() as stack:
        stack.enter_context(_set(Fused, "_answer", own))
        for module in compiled:
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


def _note(
    given: dict[nn.Module, Given], considered: set[nn.Module], module: nn.Module, args: Any, named: Any
) -> Given | None:
    """The first call of a ``considered`` module, copied into ``given``; None of any other."""
    if module in given or module not in considered:
        return None
    given[module] = Given(copied(args), copied(named), Modes.now(), [])
    return given[module]


@contextmanager
def _noted(one: Given | None) -> Iterator[None]:
    """The calls of ops inside the block are those of ``one``."""
    if one is None:
        yield
        return
    with noted() as calls:
        yield
    one.calls.extend(calls)


def _timed(module: nn.Module, given: Given) -> Kept:
    if not given.calls:
        with given.modes.on():
            why = module.why_original(module.input_of(given.args, given.named)) if isinstance(module, Fused) else None
        return Kept(1.0, 0.0, "", why or SLOWER)
    verdicts = [verdict_of(call) for call in given.calls]
    ran = dict.fromkeys(f"{call.op}: {b}" for call, (b, _) in zip(given.calls, verdicts, strict=True))
    with given.modes.on():
        key = _key(module, (given.args, given.named), list(ran))
    place = _device(module, (given.args, given.named))

    def ratio() -> float:
        parameters = [p for p in module.parameters() if p.requires_grad]
        inputs = [t for t in tensors((given.args, given.named)) if t.requires_grad]

        def step(form: Callable[..., Any]) -> Callable[[], None]:
            def run() -> None:
                outputs = form(*_again(given.args), **_again(given.named))
                if module.training:
                    backward(outputs, [*parameters, *inputs])

            return run

        with preserved(module), given.modes.on():
            return speedups({name: step(form) for name, form in _forms(module).items()}, place)["fused"]

    error = max((v.error for _, v in verdicts), default=0.0)
    return Kept(_once(place, "module", key, ratio), error, ", ".join(ran))


def _forms(module: nn.Module) -> dict[str, Callable[..., Any]]:
    if isinstance(module, Fused):
        own = module.original.forward
        return {"unfused": lambda *args, **named: own(module, *args, **named), "fused": module.forward}
    return {"unfused": module._call_impl, "fused": module}


def _again(given: Any) -> Any:
    """Arguments for one more call, which may write to them."""
    return tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, given)


def speedup(model: nn.Module, example_input: Any, fused: list[str]) -> float:
    """The unfused model's time over the fused one's, on ``example_input``; ``fused`` says what makes the difference."""
    leaves = [p for p in model.parameters() if p.requires_grad]
    device = _device(model, example_input)
    compiled = [m for m in model.modules() if inplace.is_compiled(m)]

    def step() -> None:
        args, named = check.as_arguments(example_input)
        outputs = model(*args, **named)
        if model.training:
            backward(outputs, leaves)

    def unfused() -> None:
        with _own_forwards(compiled):
            step()

    def ratio() -> float:
        with preserved(model), torch.set_grad_enabled(model.training):
            return speedups({"unfused": unfused, "fused": step}, device, SECONDS)["fused"]

    return _once(device, "model", _key(model, example_input, fused), ratio)


def _once(device: str, kind: str, key: str, ratio: Callable[[], float]) -> float:
    """A ratio that is measured once on this machine."""
    where = results.place(device)
    known = results.get(where, kind, key)
    if known is None:
        results.put(where, kind, key, known := {"ratio": round(ratio(), 3)})
    return float(known["ratio"])


def _device(module: nn.Module, given: Any = ()) -> str:
    return next((t.device.type for t in (*module.parameters(), *tensors(given))), "cpu")


def _key(module: nn.Module, given: Any, ran: list[str]) -> str:
    """Of the times of ``module`` on arguments of these shapes, with what makes it faster."""
    parts = [repr(module), properties(given), Modes.now(), list(map(_code, dict.fromkeys(map(type, module.modules()))))]
    for m in module.modules():
        parts += [(k, v) for k, v in vars(m).items() if isinstance(v, bool | int | float | str | tuple)]
    parts += [(p.shape, p.stride(), p.dtype, p.requires_grad) for p in module.parameters()]
    parts += [ledger.source(word.partition(":")[0], "cuda") for word in ran if word.partition(":")[0] in OPS]
    shape = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return json.dumps([f"{type(module).__module__}.{type(module).__qualname__}", shape, module.training, ran])


def _code(cls: type[nn.Module]) -> str:
    """What the forward of ``cls`` is made of."""
    code = getattr(getattr(cls, "original", cls).forward, "__code__", None)
    return hashlib.sha256(code.co_code + repr(code.co_names).encode()).hexdigest() if code else ""
