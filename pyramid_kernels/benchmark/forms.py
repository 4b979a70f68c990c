"""The forms of a model that ``compare`` times: copies of it unfused and fused, and the unfused one compiled."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..backends import Backend
from ..console import progress
from ..fuse import FuseError, fuse_, unfuse_
from ..fuse.check import as_arguments, difference
from ..nn.base import Fused
from ..nn.runs import preserved
from ..proving.trial import copied
from . import timing
from .compare import WHOLE, Comparison, Row
from .rows import device_name
from .subjects import can_compile

#: Of the whole model and of each module: at most so many rounds of all forms, in about so many seconds.
ROUNDS, SECONDS = 100, 10.0


def measured(model: nn.Module, x: Any, training: bool, compiled: bool, backend: Backend) -> Comparison:
    """What ``compare`` returns."""
    place = _device(model, x)
    gpus = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(gpus), torch.cuda.device(place) if gpus else nullcontext():
        return _Forms(model, x, training, place.type, backend).comparison(compiled)


def _device(model: nn.Module, x: Any) -> torch.device:
    found = {t.device for t in (*model.parameters(), *model.buffers(), *_tensors(x))} or {torch.device("cpu")}
    device = found.pop()
    if found or device.type not in ("cpu", "cuda"):
        got = ", ".join(sorted(map(str, {device, *found})))
        raise ValueError(f"model and x must be on the CPU or on one CUDA device, got {got}")
    return device


def _tensors(value: Any) -> Iterator[Tensor]:
    """Those of a result or of arguments, also in dataclasses, which PyTorch takes for leaves."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif is_dataclass(leaf):
            yield from _tensors([getattr(leaf, field.name) for field in fields(leaf)])


class _Inputs:
    """What a module is called with in one run of the model: positional and keyword arguments of every call."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.written = False  # whether the module writes to them

    def run(self, module: Callable[..., Any]) -> list[Tensor]:
        """The tensors of the results. Lists are new each time, and so is what the module writes to."""
        give = (lambda t: t.clone() if isinstance(t, Tensor) else t) if self.written else (lambda leaf: leaf)
        return [t for call in self.calls for t in _tensors(_apply(module, *tree_map(give, call)))]

    def record(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A pre-hook of ``module``."""
        self.versions = [t._version for t in _tensors((args, kwargs))]
        self.calls.append(copied((args, kwargs)))

    def check(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """A hook of ``module``."""
        self.written |= self.versions != [t._version for t in _tensors((args, kwargs))]


def _apply(module: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return module(*args, **kwargs)


class _Forms:
    """The two copies of a model, and what each fused module is called with."""

    def __init__(self, model: nn.Module, x: Any, training: bool, device: str, backend: Backend) -> None:
        self.x, self.training, self.device = x, training, device
        self.fused = self._copy(model)
        self.report = fuse_(self.fused, backend=backend, example_input=x)
        self.plain = unfused(self._copy(model))
        self.details = {entry.path: entry.detail for entry in self.report.fused}
        self.remarks: list[str] = []

    def _copy(self, model: nn.Module) -> nn.Module:
        twin = copy.deepcopy(model)
        twin.zero_grad(set_to_none=True)
        return twin if twin.training == self.training else twin.train(self.training)

    def comparison(self, compiled: bool) -> Comparison:
        if compiled and not can_compile(self.device):
            compiled = False
            self.remarks.append("torch.compile is left out: there is no C++ compiler here.")
        recorded = self._record()
        rows = [self._row(*item, compiled) for item in progress(list(recorded.items()), "compare", _named)]
        floats = (t for t in (*self.plain.parameters(), *_tensors(self.x)) if t.is_floating_point())
        dtype = str(next(floats, torch.empty(0)).dtype).removeprefix("torch.")
        return Comparison(
            model=type(self.plain).__name__,
            input=_described(self.x),
            dtype=dtype,
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            mode="forward and backward in training" if self.training else "forward in evaluation",
            rows=rows,
            remarks=self.remarks,
            report=str(self.report),
        )

    def _record(self) -> dict[str, _Inputs]:
        """What the model and each fused module that it calls are called with."""
        found = {path: _Inputs() for path in ("", *self.details)}
        hooks = []
        for path, inputs in found.items():
            module = self.plain.get_submodule(path)
            hooks.append(module.register_forward_pre_hook(inputs.record, with_kwargs=True))
            hooks.append(module.register_forward_hook(inputs.check, with_kwargs=True))
        with preserved(self.plain), torch.set_grad_enabled(self.training):
            result = _apply(self.plain, *as_arguments(self.x))
        for hook in hooks:
            hook.remove()
        if self.training and not any(t.requires_grad for t in _tensors(result)):
            raise ValueError("training=True needs a result with a gradient, and none of the model's has one")
        return {path: inputs for path, inputs in found.items() if inputs.calls}

    def _row(self, path: str, inputs: _Inputs, compiled: bool) -> Row:
        plain = self.plain.get_submodule(path)
        calls = {"unfused": self._call(plain, inputs)}
        if self.details:
            fused = self.fused.get_submodule(path)
            reason = difference(self._outcome(plain, inputs), self._outcome(fused, inputs))
            if reason:
                raise FuseError(f"{path or 'the model'} gives another result when it is fused: {reason}")
            calls["fused"] = self._call(fused, inputs)
        if compiled and (call := self._compiled(path, plain, inputs)):
            calls["compiled"] = call
        samples = self._samples(calls)
        ms = {form: 1e3 * timing.Stats.of(seconds).median for form, seconds in samples.items()}
        ratio = {form: timing.paired_ratio(samples["unfused"], seconds) for form, seconds in samples.items()}
        mb = {form: timing.peak_memory(call, self.device) / 1e6 for form, call in calls.items()}
        return Row(
            path=path,
            cls=type(plain).__name__,
            runs=self.details.get(path, ""),
            unfused_ms=ms["unfused"],
            fused_ms=ms.get("fused"),
            compiled_ms=ms.get("compiled"),
            fused_ratio=ratio.get("fused"),
            compiled_ratio=ratio.get("compiled"),
            unfused_mb=mb["unfused"],
            fused_mb=mb.get("fused"),
            compiled_mb=mb.get("compiled"),
        )

    def _outcome(self, module: nn.Module, inputs: _Inputs) -> list[Tensor]:
        with preserved(module), torch.set_grad_enabled(self.training):
            return [t.detach() for t in inputs.run(module)]

    def _call(self, module: nn.Module, inputs: _Inputs) -> Callable[[], None]:
        if not self.training:

            def infer() -> None:
                with torch.no_grad():
                    inputs.run(module)

            return infer

        leaves = [t for t in (*module.parameters(), *_tensors(inputs.calls)) if t.requires_grad]
        gradients: list[Tensor] = []

        def train() -> None:
            results = [t for t in inputs.run(module) if t.requires_grad]
            if not gradients:
                gradients.extend(map(torch.randn_like, results))
            if results:  # else the module is frozen, and all before it
                torch.autograd.grad(results, leaves, gradients, allow_unused=True)

        return train

    def _compiled(self, path: str, module: nn.Module, inputs: _Inputs) -> Callable[[], None] | None:
        """The call of the unfused form under ``torch.compile``, compiled; None, and a remark, where that fails."""
        import torch._dynamo

        # Dynamo leaves a class as it is after eight of its modules.
        limits: Any = {"recompile_limit": 1024, "accumulated_recompile_limit": 1024}
        call = self._call(torch.compile(module, dynamic=False), inputs)  # type: ignore[arg-type]
        try:
            with torch._dynamo.config.patch(limits):
                call()
        except Exception as error:  # whatever a compiler throws is this row's result
            text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            self.remarks.append(f"torch.compile failed on {path or 'the whole model'}: {text}")
            return None
        return call

    def _samples(self, calls: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
        """Seconds of every round, with the allocator as the user has it; on a GPU those whose median is larger."""
        kinds = [timing.interleaved(calls, self.device, ROUNDS, SECONDS)]
        if self.device != "cpu":
            walled = {form: _finished(call) for form, call in calls.items()}
            kinds.append(timing.interleaved(walled, "cpu", ROUNDS, SECONDS))
        rounds = min(len(kind["unfused"]) for kind in kinds)
        return {form: max((kind[form][:rounds] for kind in kinds), key=statistics.median) for form in calls}


def unfused(model: nn.Module) -> nn.Module:
    """``model``, in place, with the classes that ``fuse_`` or ``pyramid_kernels.nn`` fused as they are in PyTorch."""
    unfuse_(model)
    for module in model.modules():
        if isinstance(module, Fused):
            for name in Fused.added:
                vars(module).pop(name, None)
            module.__class__ = module.original  # type: ignore[assignment]
    return model


def _finished(call: Callable[[], None]) -> Callable[[], None]:
    def finished() -> None:
        call()
        torch.cuda.synchronize()

    return finished


def _named(item: tuple[str, _Inputs]) -> str:
    return item[0] or WHOLE


def _described(x: Any) -> str:
    """Shapes, and the layout where it is not the usual one."""
    found = []
    for t in _tensors(x):
        last = t.dim() == 4 and not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)
        found.append("x".join(map(str, t.shape)) + " channels_last" * last)
    return ", ".join(found)
