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
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import ledger

KERNELS = ("cuda", "triton")
BACKENDS = ("auto", *KERNELS, "composed", "reference")

_DEFAULT = os.environ.get("PYRAMID_KERNELS_BACKEND", "auto")
_STRICT = os.environ.get("PYRAMID_KERNELS_STRICT", "0") == "1"
_log = logging.getLogger("pyramid_kernels")
if os.environ.get("PYRAMID_KERNELS_LOG", "0") == "1":
    _log.addHandler(logging.StreamHandler())
    _log.setLevel(logging.DEBUG)


class BackendError(RuntimeError):
    """An explicitly named backend cannot run the problem; the message holds the reason."""


class Problem(NamedTuple):
    """What a decision may depend on: hashable facts about one call, no tensors and no sizes."""

    device: str
    arch: int  # compute capability times ten, 0 on a CPU
    dtype: torch.dtype
    channels_last: bool
    options: tuple[Any, ...] = ()


class Decision(NamedTuple):
    backend: str
    because: tuple[str, ...]


@dataclass(frozen=True)
class Op:
    """One operator: its name (the folder under ``ops``), its cost class, its PyTorch forms, its measured order."""

    name: str
    bound: str  # "memory" or "gemm"
    reference: ModuleType
    composed: ModuleType | None = None
    order: tuple[str, ...] = KERNELS

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


def describe(x: Tensor, channels_last: bool, *options: Any) -> Problem:
    """The ``Problem`` of a call whose main tensor is ``x``; "meta" where nothing can run, only shapes be worked out."""
    arch = capability(x.device) if x.is_cuda else 0
    # Without a GPU a CUDA tensor is a fake one.
    device = "meta" if x.is_cuda and arch == 0 else x.device.type
    return Problem(device, arch, x.dtype, channels_last, options)


@functools.lru_cache
def capability(device: torch.device) -> int:
    """Compute capability times ten of a CUDA device; 0 where there is no GPU."""
    if not torch.cuda.is_available():
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def automatic(backend: str) -> bool:
    """Whether neither the call nor PYRAMID_KERNELS_BACKEND names a backend."""
    return backend == "auto" and _DEFAULT == "auto"


def select(op: Op, problem: Problem, sizes: tuple[int, ...], backend: str) -> str:
    """The backend that runs this call: "reference", "composed", "triton" or "cuda"."""
    if torch.onnx.is_in_onnx_export():
        return "reference"
    if automatic(backend) and problem.device == "cpu":
        return "reference" if why_not_composed(op, problem, sizes) else "composed"
    return _resolved(op.name, _DEFAULT if backend == "auto" else backend, *problem)


def _resolved(name: str, backend: str, *problem: Any) -> str:
    """``resolve`` on plain values: the tracer evaluates it and keeps the answer as a constant."""
    from .ops import find_op

    return resolve(find_op(name), Problem(*problem), backend).backend


# What torch.compiler.assume_constant_result does; calling it would import Dynamo, and Triton with it, for everyone.
_resolved._dynamo_marked_constant = True  # type: ignore[attr-defined]


def why_not_composed(op: Op, problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """Why the composed form is not taken by itself on a CPU; None where it measured faster there."""
    if op.composed is None:
        return "there is no composed form"
    return op.composed.supports(problem) or op.composed.pays(problem, sizes)


def cannot(op: Op, problem: Problem, backend: str) -> str | None:
    """Why ``backend`` cannot run ``problem``; None if it can. On meta a kernel's fake runs, which any machine can."""
    if backend == "reference" or (backend in KERNELS and problem.device == "meta"):
        return None
    module = op.module(backend)
    return module if isinstance(module, str) else module.supports(problem)


@functools.lru_cache(maxsize=4096)
def resolve(op: Op, problem: Problem, backend: str) -> Decision:
    """The backend for ``problem``, and every reason on the way; BackendError for an explicit one that cannot run.

    For ``"auto"`` this is the decision on a GPU; a CPU's is ``why_not_composed``.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    if backend != "auto":
        reason = cannot(op, problem, backend)
        if reason:
            raise BackendError(f"{op.name}: backend={backend!r} cannot run: {reason}")
        return Decision(backend, ("named explicitly",))
    decision = _automatic(op, problem)
    _log.debug("%s %s -> %s (%s)", op.name, problem, decision.backend, "; ".join(decision.because))
    if decision.backend == "reference" and problem.device != "meta":
        _announce(op.name, decision)
    return decision


def _automatic(op: Op, problem: Problem) -> Decision:
    if problem.device == "meta":
        return Decision("reference", ("reference: shapes alone are asked for, nothing runs on meta",))
    because: list[str] = []
    for name in op.order:
        reason = cannot(op, problem, name) or ledger.why_not(op.name, op.bound, name, problem.arch)
        if reason is None:
            return Decision(name, (*because, f"{name}: first in the measured order that can run and is verified"))
        because.append(f"{name}: {reason}")
    return Decision("reference", (*because, "reference: the unfused chain"))


@functools.lru_cache
def _announce(name: str, decision: Decision) -> None:
    """Say once per op and reason what ``auto`` fell back to, and how to change that."""
    message = (
        f"pyramid_kernels: {name} runs the unfused chain on this device ({'; '.join(decision.because)}). "
        "`python -m pyramid_kernels verify` checks the kernels on this GPU and switches the memory-bound ones on, "
        "`python -m pyramid_kernels tune` measures the others, and backend='triton' forces one call."
    )
    if _STRICT:
        raise BackendError(message)
    warnings.warn(message, stacklevel=2)


def explained_by(problems: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Attach to a public function what ``explain`` asks: its (op, problem, sizes) list for the same arguments."""

    def attach(fn: Callable[..., Any]) -> Callable[..., Any]:
        fn.problems = problems  # type: ignore[attr-defined]
        return fn

    return attach


def explain(fn: Callable[..., Any], *args: Any, backend: str = "auto", **kwargs: Any) -> str:
    """Print and return, for the call ``fn(*args, **kwargs)``, the backend of each op in it and every reason.

    ``fn`` is a function of ``pyramid_kernels.functional``. Nothing is launched.
    """
    if not hasattr(fn, "problems"):
        raise TypeError(f"fn must be a function of pyramid_kernels.functional, got {fn!r}")
    entries: list[tuple[Op, Problem, tuple[int, ...]]] = fn.problems(*args, **kwargs)
    lines = [_explanation(op, problem, sizes, backend) for op, problem, sizes in entries]
    for op, problem, sizes in entries:
        chosen = select(op, problem, sizes, backend)
        if op.name == fn.__name__ and chosen in KERNELS and hasattr(op.kernels(chosen), "plan"):
            lines.append(f"  {op.kernels(chosen).plan(*args, **kwargs)}")
    text = "\n".join(lines)
    print(text)
    return text


def _explanation(op: Op, problem: Problem, sizes: tuple[int, ...], backend: str) -> str:
    chosen = select(op, problem, sizes, backend)
    dtype = str(problem.dtype).removeprefix("torch.")
    layout = "channels_last" if problem.channels_last else "contiguous"
    lines = [f"{op.name}: {chosen}  ({problem.device}, {dtype}, {layout}, sizes {tuple(sizes)})"]
    if problem.device == "cpu" and backend == "auto":
        lines.append(f"  composed: {why_not_composed(op, problem, sizes) or 'measured faster than the unfused chain'}")
        lines += [f"  {name}: {cannot(op, problem, name) or 'not taken by itself on a CPU'}" for name in op.order]
    else:
        lines += [f"  {reason}" for reason in resolve(op, problem, backend).because]
    return "\n".join(lines)
