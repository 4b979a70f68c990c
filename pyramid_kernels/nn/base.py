"""What every fused module shares: a fused forward in front of the class's own, and when the own one runs instead."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from ..backends import BACKENDS, Backend, Calls, Op, automatic, select, transform
from ..ops._shared.checks import FLOATS, check_choice
from ..ops._shared.constants import Constants
from .kinds import NOT_YET, class_name, why_not_kind
from .norm import synchronises
from .norm import why_not as why_not_norm
from .snapshot import GLOBAL_HOOKS, HOOKS, Snapshot, Snapshots, descendants

if TYPE_CHECKING:
    _Base = nn.Module
else:
    _Base = object  # a mixin: the class it stands in front of brings nn.Module


EXPORTED = "exported graphs hold PyTorch's own operators, and no op has a form with fewer of them"


class Unit(NamedTuple):
    """A convolution (after a bare depthwise one, if separable), its norm, and a ReLU."""

    conv: nn.Conv2d
    norm: nn.Module
    depthwise: nn.Conv2d | None = None
    #: Whether the op adds the convolution's bias in front of a norm.
    biased: bool = False


class Fused(_Base):
    """Mixin whose ``forward`` runs the ops, or the forward of the class behind it where they cannot stand for it.

    A subclass defines ``units``, ``why_not``, ``fused_forward`` and ``problems``. Everything that a later change of the
    module can alter (modes, norms, hooks, weights) is read anew on every call.
    """

    #: The class whose forward is replaced: the last base, where none is set.
    original: ClassVar[type[nn.Module]]
    #: The backend that this instance asks of every op.
    kernel_backend: Backend = "auto"
    #: What an instance has beside the attributes of its original class.
    added: ClassVar[tuple[str, ...]] = ("kernel_backend", "fuse_snapshots", "frozen_constants")
    #: What a frozen instance keeps between calls.
    frozen_constants: Constants | None = None
    #: Whether its own forward runs where ``auto`` is the unfused chain of every op: the same work, less around it.
    own_chain: ClassVar[bool] = False
    #: Whether a norm that takes statistics of the batch is called itself, and not computed by an op.
    calls_norms: ClassVar[bool] = False
    #: Whether ``forward`` takes the maps of a list as so many arguments; ``x`` is that list everywhere else.
    spreads_maps: ClassVar[bool] = False
    #: Children that the fused forward calls as they are: their hooks run, and their own forward, if they have one.
    called: ClassVar[tuple[str, ...]] = ()
    #: Methods that the own forward calls and the fused one does not: a class that overrides one is another function.
    helpers: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not hasattr(cls, "original") and issubclass(cls.__bases__[-1], nn.Module):
            cls.original = cls.__bases__[-1]
        if "original" in vars(cls):  # TorchScript takes an attribute's type from the class's annotations, or a base's
            cls.__annotations__ = next(filter(None, map(inspect.get_annotations, cls.original.__mro__)))

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        """Every convolution that the ops compute."""
        raise NotImplementedError

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        """Why ``module`` does not have the structure and attributes that ``fused_forward`` assumes; None if it has."""
        raise NotImplementedError

    @classmethod
    def looks_like(cls, module: nn.Module) -> bool:
        """Whether a ``module`` of unknown class is so much of this structure that a user should hear of it."""
        return cls.why_not(module) is None

    @classmethod
    def like(cls, module: nn.Module) -> Tensor:
        """A tensor whose dtype and device ``module`` takes."""
        return next(module.parameters()).detach()

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        """What ``forward`` takes, if ``new(channels, stride)`` makes the map of one image at an output stride."""
        unit = cls.units(module)[0]
        return new((unit.depthwise or unit.conv).in_channels, 4)

    def fused_forward(self, x: Any) -> Any:
        raise NotImplementedError

    def problems(self, x: Any) -> Calls:
        """The (op, problem, sizes) of every op that ``fused_forward`` calls on ``x`` in the present mode."""
        raise NotImplementedError

    if not TYPE_CHECKING:  # as nn.Module declares it: the classes behind have other names for x

        def forward(self, x: Any = None, *more: Any, **named: Any) -> Any:
            return self._answer(() if x is None else (x, *more), named)

    def _answer(self, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The fused forward on what the own one would be given, by position or by the names of its arguments."""
        constants = self.frozen_constants
        if constants is not None and self.training:
            name = self.original.__name__
            raise RuntimeError(f"{name} is frozen for inference; call unfreeze_(model) to train it, or model.eval()")
        x = self.input_of(args, named)
        if self.why_original(x) is not None:
            return super().forward(*args, **named)
        if constants is None or (torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())):
            return self.fused_forward(x)
        with constants:
            return self.fused_forward(x)

    def input_of(self, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The map or maps of a call; None where it gives the own forward more than those."""
        given = self._by_position(args, named) if named else args
        return list(given) if self.spreads_maps else given[0] if len(given) == 1 else None

    def _by_position(self, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in the order of the own forward; none where it takes some that the fused one does not know."""
        bound = inspect.signature(self.original.forward).bind(self, *args, **named)
        return () if bound.kwargs else bound.args[1:]

    def __prepare_scriptable__(self) -> Self:
        """What torch.jit.script compiles: this module, which has the forward of its original until the next call."""
        own, compiled = vars(self), self._compiled_call_impl

        def call(*args: Any, **named: Any) -> Any:
            del own["forward"]
            self._compiled_call_impl = compiled
            return self(*args, **named)

        own["forward"] = MethodType(self.original.forward, self)
        self._compiled_call_impl = call
        return self

    def why_original(self, x: Any) -> str | None:
        """Why this call takes the original forward; None if it runs the ops."""
        if torch.jit.is_tracing():
            return EXPORTED
        if torch.compiler.is_compiling():
            reason = self.why_not_structure() or self.why_not_ranks() or self.why_not_call(x)
            return EXPORTED if torch.onnx.is_in_onnx_export() and not (reason or self.is_smaller(x)) else reason
        if what := transform():
            return f"{what} goes through PyTorch's own operators"
        snapshot = self._snapshot()
        reason = snapshot.reason or (self.why_not_ranks() if snapshot.synchronises else None)
        return reason or snapshot.answer(x, self.why_not_call)

    def is_smaller(self, x: Any) -> bool:
        """Whether some op has a form of fewer multiply-adds, which is then what an exported graph holds."""
        return any(select(*call, self.backend_of(call[0])) == "composed" for call in self.problems(x))

    def _snapshot(self) -> Snapshot:
        """What ``why_not_structure`` answers, asked again only where something of the module has changed."""
        kept = vars(self).get("fuse_snapshots") or vars(self).setdefault("fuse_snapshots", Snapshots())
        snapshot = kept.get(self.training)
        if snapshot is None or not snapshot.holds(self):
            like = next(self.parameters(), None)
            snapshot = kept[self.training] = Snapshot(self, self.called, self.why_not_structure(), like)
        return snapshot

    def why_not_structure(self) -> str | None:
        """Why the module is, by now, not what ``fused_forward`` assumes: whatever ``fuse_`` verified is asked again."""
        if has_hooks(self, self.called):
            return "a child has hooks, which only its own call runs"
        helper = next((name for name in self.helpers if name in vars(self)), None)
        if helper:
            return f"this instance has its own {helper}"
        reason = why_not_children(self, self.called) or self.why_not(self)
        return reason or next(filter(None, map(why_not_unit, self.units(self))), None)

    # Evaluated while tracing and kept as a constant: the check walks over the module in ways that do not trace.
    why_not_structure._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def why_not_ranks(self) -> str | None:
        """Why a norm is left to itself: it takes statistics from other ranks."""
        if self.calls_norms or not any(synchronises(unit.norm) for unit in self.units(self)):
            return None
        return "SyncBatchNorm takes statistics from other ranks"

    def why_not_call(self, x: Any) -> str | None:
        """Why a call on ``x`` is left to the original forward: from what ``snapshot.properties`` holds of x alone."""
        reason = self.why_not_input(x)
        return reason or (why_not_chain(self.problems(x), self.kernel_backend) if self.own_chain else None)

    def why_not_input(self, x: Any) -> str | None:
        """Why the ops do not take ``x``; the original forward then answers, with its own error if there is one."""
        return why_not_map(x, self.units(self)[0].conv)

    def decisions(self, x: Any) -> list[str]:
        """ "op: backend" of every op on ``x``, or why the original forward runs."""
        reason = self.why_original(x)
        if reason:
            return [f"original forward: {reason}"]
        chosen = [(op, select(op, problem, sizes, self.backend_of(op))) for op, problem, sizes in self.problems(x)]
        return [f"{op.name}: {backend}" for op, backend in dict.fromkeys(chosen)]

    def backend_of(self, op: Op) -> Backend:
        """The backend that this instance asks of ``op``."""
        return self.kernel_backend

    @classmethod
    def from_reference(cls, module: nn.Module, *, backend: Backend = "auto") -> Self:
        """A copy of ``module``, an instance of the class that ``to_reference`` gives."""
        if type(module) is not cls.original:
            raise ValueError(f"module must be a {cls.original.__name__}, got a {type(module).__name__}")
        reason = cls.why_not(module)
        if reason:
            raise ValueError(f"module must be as {cls.original.__name__} makes it: {reason}")
        fused: Any = copy.deepcopy(module)
        fused.__class__ = cls
        fused.kernel_backend = check_backend(backend)
        return fused

    def to_reference(self) -> nn.Module:
        """A copy as the original class: plain PyTorch, same parameters' values and ``state_dict`` keys."""
        module: Any = copy.deepcopy(self)
        module.__class__ = self.original
        for name in self.added:
            vars(module).pop(name, None)
        return module


def why_not_chain(calls: Calls, backend: Backend) -> str | None:
    """Why ops called like this are better left to the module's own forward."""
    if automatic(backend) and all(select(*call, backend) == "reference" for call in calls):
        return "the unfused chain is what auto takes here at these sizes"
    return None


def problems_of(fn: Any, *args: Any, **kwargs: Any) -> Calls:
    """What ``explain`` would ask the public function ``fn`` about this call."""
    return fn.problems(*args, **kwargs)


def check_backend(backend: str) -> Backend:
    check_choice("backend", backend, BACKENDS)
    return cast(Backend, backend)


def has_hooks(module: nn.Module, called: Sequence[str] = ()) -> bool:
    """Whether any child but the ``called`` ones has hooks, or hooks are set on all modules."""
    return any(GLOBAL_HOOKS) or any(map(hooked, descendants(module, called)))


def hooked(m: nn.Module) -> bool:
    """Whether a call of ``m`` itself runs hooks."""
    return any(getattr(m, name) for name in HOOKS)


def is_plain(t: Any) -> bool:
    """Whether ``t`` is a tensor of PyTorch's own, with values or without, and no subclass that computes otherwise."""
    return type(t) in (Tensor, nn.Parameter, FakeTensor)


def why_not_children(module: nn.Module, called: Sequence[str] = ()) -> str | None:
    """Why no child but the ``called`` ones may be bypassed: parameters not plainly its own, or its own ``forward``.

    ``module`` itself is called: what wraps its forward, or gathers its parameters before it, has done so by then.
    """
    for path, child in module.named_modules():
        if path.split(".")[0] in called:
            continue
        name = path or "the module"
        if path and "forward" in vars(child):
            return f"{name} has its own forward"
        if path and any(cls.__name__ in ("FSDPModule", "FullyShardedDataParallel") for cls in type(child).__mro__):
            return f"{name} is sharded by FSDP"
        if is_parametrized(child):
            return f"{name} is parametrized"
        if isinstance(child, LazyModuleMixin):
            return f"{name} is a {class_name(child)}, {NOT_YET}"
        for key, parameter in child.named_parameters(recurse=False):
            if not is_plain(parameter):
                return f"{name} holds its {key} as a {type(parameter).__name__}"
    return None


def why_not_map(x: Any, conv: nn.Conv2d | None = None) -> str | None:
    """Why the ops do not take ``x``, beside the weight of ``conv`` if one is meant."""
    if not is_plain(x):
        return f"the input is a {type(x).__name__}"
    if x.dim() != 4 or x.numel() == 0:
        return "the input is not a batch of maps"
    if x.dtype not in FLOATS:
        return f"the input is {x.dtype}"
    if conv is not None and x.dtype != conv.weight.dtype and not torch.is_autocast_enabled(x.device.type):
        return f"the input is {x.dtype} and the weights are {conv.weight.dtype}"
    return None


def why_not_unit(unit: Unit) -> str | None:
    """Why the ops cannot stand for this convolution and norm as they are now."""
    for conv in filter(None, (unit.depthwise, unit.conv)):
        reason = why_not_kind(conv, nn.Conv2d)
        if reason:
            return f"a convolution {reason}"
        if not is_plain(conv.weight):
            return f"a weight is a {type(conv.weight).__name__}"
    if unit.conv.bias is not None and not unit.biased and not isinstance(unit.norm, nn.Identity):
        return "a convolution has a bias in front of its norm"
    reason = why_not_norm(unit.norm)
    return f"a norm {reason}" if reason else None
