"""A model's run as a graph: which module of it holds a pyramid."""

from __future__ import annotations

import contextlib
import copy
import inspect
import linecache
import operator
import random
import sys
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx import Graph, GraphModule, Node
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ..nn.base import Fused
from ..nn.runs import preserved
from ..nn.snapshot import GLOBAL_HOOKS, HOOKS
from .view import LIBRARY

#: Python's operators, which a tensor sees as methods of its own.
_OPERATORS = {
    f"__{prefix}{name}__": getattr(operator, f"i{name}" if prefix == "i" else name)
    for name in ("add", "sub", "mul", "truediv")
    for prefix in ("", "r", "i")
} | {"__getitem__": operator.getitem, "__setitem__": operator.setitem}


def recorded(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GraphModule:
    """The graph of a call of ``model``, of PyTorch's functions as its forward names them.

    The model runs once, without gradients, and all that the run changes is put back: on real tensors, since a forward
    may keep what it computes where nobody finds it. Every node holds the modules it ran in, and the user's line.
    """
    if any(GLOBAL_HOOKS):
        raise RuntimeError("hooks are set on all modules")
    paths = {id(module): path for path, module in model.named_modules()}
    known = {path for path, module in model.named_modules() if isinstance(module, Fused)}
    given = tree_map(_own, (args, kwargs))
    with unset_fake_temporarily():
        recorder = Recorder(FakeTensorMode(), paths, known)
    with preserved(model), _undisturbed(model):
        with recorder:
            result = model._call_impl(*given[0], **given[1])
        return recorder.graph_module(result)


def _own(leaf: Any) -> Any:
    """A copy of an argument, which the run may write to."""
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    try:
        return copy.deepcopy(leaf)
    except Exception:  # not everything can be copied, and what cannot is seldom written to
        return leaf


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Hooks do not run, and attributes of modules and the other random states are put back."""
    kept = [(vars(module), dict(vars(module))) for module in model.modules()]
    numpy: Any = sys.modules.get("numpy")
    states = random.getstate(), numpy and numpy.random.get_state()
    for attributes, _ in kept:
        attributes |= {name: OrderedDict() for name in HOOKS}
    try:
        yield
    finally:
        random.setstate(states[0])
        if numpy is not None:
            numpy.random.set_state(states[1])
        for attributes, before in kept:
            before.pop("fuse_snapshots", None)  # which may have been made while there were no hooks to see
            attributes.clear()
            attributes.update(before)


class Recorder(TorchFunctionMode):
    """Notes every function of PyTorch that is called with tensors, outside of modules that are fused already."""

    def __init__(self, mode: FakeTensorMode, paths: dict[int, str], known: set[str]) -> None:
        super().__init__()
        self.mode, self.paths, self.known = mode, paths, known
        self.graph = Graph()
        self.nodes: dict[int, Node] = {}
        self.parts: dict[int, tuple[Node, int]] = {}  # of a result of several, until something reads them
        self.alive: dict[int, Any] = {}  # weak: an id means nothing once its tensor is gone

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        leaves = [t for t in tree_flatten(result)[0] if isinstance(t, Tensor)]
        if leaves and getattr(function, "__name__", "") not in ("__get__", "__set__"):
            self._note(function, args, kwargs, result)
        return result

    def _note(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        stack, trace = self._frames()
        if self.known.intersection(stack):
            return
        flat, form = tree_flatten((args, kwargs))
        args, kwargs = tree_unflatten([self._node(a) if isinstance(a, Tensor) else a for a in flat], form)
        name = getattr(function, "__name__", "")
        if name in _OPERATORS:
            swapped = name.startswith("__r")
            node = self.graph.call_function(_OPERATORS[name], tuple(args[::-1] if swapped else args), kwargs)
        elif inspect.ismethoddescriptor(function) or getattr(torch.Tensor, name, None) is function:
            node = self.graph.call_method(name, tuple(args), kwargs)
        else:
            node = self.graph.call_function(function, tuple(args), kwargs)
        autocast = tuple(
            (device, torch.get_autocast_dtype(device), True, None)
            for device in ("cpu", "cuda")
            if torch.is_autocast_enabled(device)
        )
        region = autocast, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        node.meta = {
            "example_value": tree_map(self._fake, result),
            "stack_trace": trace,
            "modules": stack,
            "region": region,
        }
        if isinstance(result, Tensor):
            self._keep(result, node)
        else:
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._keep(part)
                    self.parts[id(part)] = node, i

    def _keep(self, t: Tensor, node: Node | None = None) -> None:
        """``t`` is what ``node`` gives, for as long as ``t`` lives."""

        def forget(_: Any, key: int = id(t)) -> None:
            for table in (self.nodes, self.parts, self.alive):
                table.pop(key, None)

        self.alive[id(t)] = weakref.ref(t, forget)
        self.parts.pop(id(t), None)
        if node is not None:
            self.nodes[id(t)] = node

    def _fake(self, t: Any) -> Any:
        return self.mode.from_tensor(t.detach(), static_shapes=True) if isinstance(t, Tensor) else t

    def _node(self, t: Tensor) -> Node:
        """The node that made ``t``, or an input of the graph."""
        if id(t) in self.parts:
            several, i = self.parts.pop(id(t))
            self.nodes[id(t)] = item = self.graph.call_function(operator.getitem, (several, i))
            item.meta = {**several.meta, "example_value": several.meta["example_value"][i]}
        if id(t) not in self.nodes:
            with self.graph.inserting_before():
                node = self.graph.placeholder(f"given_{len(self.graph.nodes)}")
            node.meta = {"example_value": self._fake(t)}
            self._keep(t, node)
        return self.nodes[id(t)]

    def _frames(self) -> tuple[tuple[str, ...], str]:
        """The paths of the modules that are running, the outermost first, and the user's line as a traceback."""
        frame: Any = sys._getframe(3)
        stack: list[str] = []
        trace = ""
        while frame is not None:
            path = self.paths.get(id(frame.f_locals.get("self")))
            if path is not None and path not in stack:
                stack.append(path)
            file = frame.f_code.co_filename
            if not trace and not file.startswith(LIBRARY):
                line = linecache.getline(file, frame.f_lineno).strip()
                trace = f'  File "{file}", line {frame.f_lineno}, in {frame.f_code.co_name}\n    {line}'
            # The frames of who calls the model are none of ours; reading their names would keep what they hold.
            frame = None if path == "" else frame.f_back
        return tuple(reversed(stack)), trace

    def graph_module(self, result: Any) -> GraphModule:
        """The graph, if ``result`` is what the call gave."""
        self.graph.output([self._node(t) for t in tree_flatten(result)[0] if isinstance(t, Tensor)])
        return GraphModule(nn.Module(), self.graph)
