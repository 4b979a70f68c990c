"""Which backend runs: pure decisions about a ``Problem``, and their explanation.

A ``Problem`` holds no sizes: whether a kernel body can run, is verified and is on depends on device, dtype, layout and
options alone. So ``resolve`` can run in the front end of traced code without one recompile per shape. The one decision
that does look at sizes, composed or reference on a CPU, uses inequalities only, which tracing generalises.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .proving import results
from .verification import ledger

Backend = Literal["auto", "cuda", "triton", "composed", "reference"]
KERNELS: tuple[Backend, ...] = ("cuda", "triton")
BACKENDS: tuple[Backend, ...] = ("auto", *KERNELS, "composed", "reference")
Function = TypeVar("Function", bound=Callable[..., Any])
#: What is said where the composed form is taken by itself.
PAYS = "fewer operations or less memory than the unfused chain at these sizes"
MEASURED = "the fastest on this machine, for this problem or one near it"
#: Multiply-adds over the unfused chain's at which the composed form is taken on a GPU that nothing was measured on.
FEWER = 2 / 3

#: Whether the choice is for a graph that Inductor compiles, whose code a composed form must beat, not eager's; None
#: where no graph is being rewritten.
for_inductor: ContextVar[bool | None] = ContextVar("for_inductor", default=None)

#: Settings with a value they cannot have: an import raises nothing, the first use does.
_WRONG: list[str] = []


def setting(name: str, choices: tuple[str, ...]) -> str:
    """The environment variable ``name``; the first of ``choices`` where it is not set."""
    value = os.environ.get(name) or choices[0]
    if value not in choices:
        _WRONG.append(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


_DEFAULT: Any = setting("PYRAMID_KERNELS_BACKEND", BACKENDS)
_STRICT = setting("PYRAMID_KERNELS_STRICT", ("0", "1")) == "1"
_LOGGED = setting("PYRAMID_KERNELS_LOG", ("0", "1")) == "1"
_log = logging.getLogger("pyramid_kernels")
if _LOGGED:
    _log.addHandler(logging.StreamHandler())
    _log.setLevel(logging.DEBUG)


def check_settings() -> None:
    """ValueError that names an environment variable with a value it cannot have."""
    if _WRONG:
        raise ValueError("; ".join(_WRONG))


class BackendError(RuntimeError):
    """An explicitly named backend cannot run the problem; the message holds the reason."""


class Problem(NamedTuple):
    """What a decision may depend on: hashable facts about one call, no tensors and no sizes."""

    device: str
    arch: int  # compute capability times ten, 0 on a CPU
    dtype: torch.dtype
    channels_last: bool
    options: tuple[Any, ...] = ()
    gpu: str = ""  # its name: what was measured on one says nothing about another of the same architecture


class Decision(NamedTuple):
    backend: Backend
    because: tuple[str, ...]


#: Every op that has been imported, by name.
OPS: dict[str, Op] = {}


@dataclass(frozen=True)
class Op:
    """One operator: its name (the folder under ``ops``), its cost class, its PyTorch forms, its measured order."""

    name: str
    bound: str  # "memory" or "gemm"
    reference: ModuleType
    composed: ModuleType | None = None
    order: tuple[Backend, ...] = KERNELS

    def __post_init__(self) -> None:
        OPS[self.name] = self

    @functools.lru_cache  # noqa: B019  (ops live as long as the process)
    def module(self, backend: str) -> ModuleType | str:
        """``ops/<op>/<backend>.py``, or the reason why it cannot be imported."""
        if backend in ("reference", "composed"):
            return getattr(self, backend) or f"{self.name} has no composed form"
        path = f"{__package__}.ops.{self.name}.{backend}"
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name == path:
                return f"{self.name} has no {backend} backend in this build"
            return f"{error.name} is not installed; install it with: pip install {error.name}"

    def python(self, backend: str) -> Callable[..., Any]:
        """The differentiable PyTorch function of "reference" or "composed"."""
        return getattr(self.reference if backend == "reference" else self.composed, self.name)

    def kernels(self, backend: str) -> ModuleType:
        """The module of a kernel backend that ``select`` has chosen."""
        module = self.module(backend)
        if isinstance(module, str):
            raise BackendError(f"{self.name}: backend={backend!r} cannot run: {module}")
        return module


#: What ``explain`` asks about calls of ops: each one's op, problem and sizes.
Calls = list[tuple[Op, Problem, tuple[int, ...]]]


def describe(x: Tensor, channels_last: bool, *options: Any) -> Problem:
    """The ``Problem`` of a call whose main tensor is ``x``; "meta" where nothing can run, only shapes be worked out."""
    arch = capability(x.device) if x.is_cuda else 0
    gpu = gpu_name(x.device) if arch else ""
    # Without a GPU a CUDA tensor is a fake one.
    device = "meta" if x.is_cuda and arch == 0 else x.device.type
    return Problem(device, arch, x.dtype, channels_last, options, gpu)


@functools.lru_cache
def capability(device: torch.device) -> int:
    """Compute capability times ten of a CUDA device; 0 where there is no GPU."""
    if not torch.cuda.is_available():
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def gpu_name(device: torch.device) -> str:
    """The name of a CUDA device, which the tracer keeps as a constant."""
    return _gpu_name(device)


_gpu_name = functools.lru_cache(torch.cuda.get_device_name)


def automatic(backend: str) -> bool:
    """Whether neither the call nor PYRAMID_KERNELS_BACKEND names a backend."""
    return backend == "auto" and _DEFAULT == "auto"


#: Lists that ``noted`` has set out.
_notes: list[list[tuple[str, Backend]]] = []


@contextmanager
def noted() -> Iterator[list[tuple[str, Backend]]]:
    """Every (op, backend) that is chosen inside the block."""
    choices: list[tuple[str, Backend]] = []
    _notes.append(choices)
    try:
        yield choices
    finally:
        _notes[:] = [other for other in _notes if other is not choices]


def select(op: Op, problem: Problem, sizes: tuple[int, ...], backend: Backend) -> Backend:
    """The backend that runs this call: "reference", "composed", "triton" or "cuda"."""
    chosen = _selected(op, problem, sizes, backend)
    if not torch.compiler.is_dynamo_compiling():
        for choices in _notes:
            choices.append((op.name, chosen))
    return chosen


def _selected(op: Op, problem: Problem, sizes: tuple[int, ...], backend: Backend) -> Backend:
    if _WRONG:
        check_settings()
    if torch.onnx.is_in_onnx_export():
        return "composed" if _share(op, sizes) < 1 else "reference"
    if not torch.compiler.is_compiling() and (what := transform()):
        if backend in KERNELS:
            raise not_by_kernels(op.name, what)
        return "reference"
    if automatic(backend) and (known := measured(op, problem, sizes)):
        if _LOGGED:
            _log_on_cpu(op.name, known, MEASURED, *problem)
        return known
    if automatic(backend) and problem.device == "cpu":
        reason = why_not_composed(op, problem, sizes)
        chosen: Backend = "reference" if reason else "composed"
        if _LOGGED:
            _log_on_cpu(op.name, chosen, f"composed: {reason or PAYS}", *problem)
        return chosen
    chosen = _resolved(op.name, _DEFAULT if backend == "auto" else backend, *problem)
    fewer = chosen == "reference" and automatic(backend) and not torch.compiler.is_compiling()
    if fewer and problem.device == "cuda" and _share(op, sizes) <= FEWER and not cannot(op, problem, "composed"):
        return "composed"
    return chosen


def for_compiler() -> bool:
    """Whether the choice is for code that is traced, or for a graph that Inductor compiles."""
    if torch.compiler.is_dynamo_compiling():
        return True
    inductor = for_inductor.get()
    return torch.compiler.is_compiling() if inductor is None else inductor


def measured(op: Op, problem: Problem, sizes: tuple[int, ...]) -> Backend | None:
    """The backend that was fastest on this machine for this problem, or one near it.

    None in code that is traced, which holds for other sizes, and for graphs that Inductor compiles into other code.
    """
    if problem.device not in ("cpu", "cuda") or for_compiler():
        return None
    where = results.place(problem.device)
    if not results.entries(where):
        return None
    try:
        found = cast(Backend | None, results.choice(where, op.name, problem, sizes, torch.is_grad_enabled()))
    except TypeError:  # sizes that are symbols cannot be looked up
        return None
    here = ("composed", "reference", *(KERNELS if problem.device == "cuda" else ()))
    return found if found in here and cannot(op, problem, found) is None else None


def _share(op: Op, sizes: tuple[int, ...]) -> float:
    """The composed form's multiply-adds over the unfused chain's; 1 where it has no fewer."""
    share = getattr(op.composed, "share", None)
    return 1.0 if share is None else float(share(sizes))


def transform() -> str | None:
    """What of ``torch.func`` is at work, at any level, that kernels do not take: "vmap", under which a tensor may stand
    for many and not be read, or "forward-mode AD"."""
    # The peek is the cheap question, which nearly every call ends with.
    stack = torch._C._functorch.peek_interpreter_stack() and torch._C._functorch.get_interpreter_stack()
    if stack and any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack):
        return "vmap"
    return "forward-mode AD" if forward_ad._current_level >= 0 else None


def not_by_kernels(name: str, what: str) -> NotImplementedError:
    return NotImplementedError(f"{name}: {what} is not implemented by the kernels; use backend='reference'")


def _resolved(name: str, backend: Backend, *problem: Any) -> Backend:
    """``resolve`` on plain values: the tracer evaluates it and keeps the answer as a constant."""
    return resolve(OPS[name], Problem(*problem), backend).backend


def _log_on_cpu(name: str, chosen: Backend, because: str, *problem: Any) -> Backend:
    """Log a decision that ``resolve`` does not take; the tracer evaluates it, too."""
    return _logged(name, Problem(*problem), Decision(chosen, (because,))).backend


@functools.cache
def _logged(name: str, problem: Problem, decision: Decision) -> Decision:
    _log.debug("%s %s -> %s (%s)", name, problem, decision.backend, "; ".join(decision.because))
    return decision


# What torch.compiler.assume_constant_result does; calling it would import Dynamo, and Triton with it, for everyone.
for _function in (gpu_name, _resolved, _log_on_cpu):
    setattr(_function, "_dynamo_marked_constant", True)  # noqa: B010


def why_not_composed(op: Op, problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """Why the composed form is not taken by itself on a CPU; None where its ``pays`` says that it should be."""
    if op.composed is None:
        return "there is no composed form"
    return cannot(op, problem, "composed") or op.composed.pays(problem, sizes)


def cannot(op: Op, problem: Problem, backend: str) -> str | None:
    """Why ``op`` has nothing of its own for ``problem`` in ``backend``; None if it has.

    On meta a kernel's fake runs, which any machine can. A composed form that takes every problem has no ``supports``.
    """
    if backend == "reference" or (backend in KERNELS and problem.device == "meta"):
        return None
    module = op.module(backend)
    if isinstance(module, str):
        return module
    supports = getattr(module, "supports", None)
    return supports(problem) if supports else None


@functools.lru_cache(maxsize=4096)
def resolve(op: Op, problem: Problem, backend: Backend) -> Decision:
    """The backend for ``problem``, and every reason on the way; BackendError for an explicit one that cannot run.

    For ``"auto"`` this is the decision on a GPU; a CPU's is ``why_not_composed``. ``"composed"`` asks for the algebra
    where there is some: an op without runs its reference. What a composed form refuses stays an error.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    if backend != "auto":
        reason = cannot(op, problem, backend)
        if reason and backend == "composed" and op.composed is None:
            return Decision("reference", (f"composed: {reason}", "reference: runs in its place"))
        if reason:
            others = "backend='reference'" if cannot(op, problem, "composed") else "backend='composed' or 'reference'"
            raise BackendError(f"{op.name}: backend={backend!r} cannot run: {reason}; use {others}")
        return Decision(backend, ("named explicitly",))
    decision = _automatic(op, problem)
    _logged(op.name, problem, decision)
    if decision.backend == "reference" and problem.device != "meta":
        _announce(op.name, decision)
    return decision


ledger.forget.append(resolve.cache_clear)


def why_not_taken(op: Op, problem: Problem, name: str) -> str | None:
    """Why ``auto`` does not take the kernel backend ``name`` on a GPU; None if it may."""
    _, arch, dtype, channels_last, _, gpu = problem
    return cannot(op, problem, name) or ledger.why_not(op.name, op.bound, name, arch, dtype, channels_last, gpu)


def _automatic(op: Op, problem: Problem) -> Decision:
    if problem.device == "meta":
        return Decision("reference", ("reference: shapes alone are asked for, nothing runs on meta",))
    because: list[str] = []
    for name in op.order:
        reason = why_not_taken(op, problem, name)
        if reason is None:
            return Decision(name, (*because, f"{name}: first in the measured order that can run and is verified"))
        because.append(f"{name}: {reason}")
    return Decision("reference", (*because, "reference: the unfused chain"))


@functools.lru_cache
def _announce(name: str, decision: Decision) -> None:
    """Say once per op and reason what ``auto`` fell back to; the reasons hold what changes that."""
    message = f"pyramid_kernels: {name} runs the unfused chain on this device ({'; '.join(decision.because)})"
    if _STRICT:
        raise BackendError(message)
    warnings.warn(message, stacklevel=2)


def explain(fn: Callable[..., Any], *args: Any, backend: Backend = "auto", **kwargs: Any) -> str:
    """Print and return, for the call ``fn(*args, **kwargs)``, the backend of each op in it and every reason.

    ``fn`` is a function of ``pyramid_kernels.functional``. Nothing is launched.
    """
    if isinstance(fn, nn.Module):
        raise TypeError(
            f"fn must be a function of pyramid_kernels.functional, got the module {type(fn).__name__}; "
            "print(pk.fuse_(model)) says what runs in a model's modules"
        )
    problems: Any = getattr(fn, "problems", None)
    if problems is None:
        name = getattr(fn, "__name__", type(fn).__name__)
        raise TypeError(f"fn must be a function of pyramid_kernels.functional, got {name}")
    entries: list[tuple[Op, Problem, tuple[int, ...]]] = problems(*args, **kwargs)
    lines = [_explanation(op, problem, sizes, backend) for op, problem, sizes in entries]
    for op, problem, sizes in entries:
        chosen = select(op, problem, sizes, backend)
        if op.name == fn.__name__ and chosen in KERNELS and hasattr(op.kernels(chosen), "plan"):
            lines.append(f"  {op.kernels(chosen).plan(*args, **kwargs)}")
    text = "\n".join(lines)
    print(text)
    return text


def _explanation(op: Op, problem: Problem, sizes: tuple[int, ...], backend: Backend) -> str:
    chosen = select(op, problem, sizes, backend)
    dtype = str(problem.dtype).removeprefix("torch.")
    layout = "channels_last" if problem.channels_last else "contiguous"
    lines = [f"{op.name}: {chosen}  ({problem.device}, {dtype}, {layout}, sizes {tuple(sizes)})"]
    if automatic(backend) and measured(op, problem, sizes):
        lines.append(f"  {MEASURED}")
    elif problem.device == "cpu" and automatic(backend):
        lines.append(f"  composed: {why_not_composed(op, problem, sizes) or PAYS}")
        lines += [f"  {name}: {cannot(op, problem, name) or 'not taken by itself on a CPU'}" for name in op.order]
    else:
        asked = _DEFAULT if backend == "auto" else backend
        lines += [f"  {reason}" for reason in resolve(op, problem, asked).because]
    return "\n".join(lines)
