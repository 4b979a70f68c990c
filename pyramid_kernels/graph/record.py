"""A model's run as a graph, without running it: which module of it holds a pyramid."""

from __future__ import annotations

import copy
import inspect
import linecache
import operator
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx import Graph, GraphModule, Node
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ..nn.base import Fused
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

    A copy of the model runs on fake tensors: nothing is computed, and nothing of the model changes. Every node holds
    the modules it ran in, and the line of the user's code.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with unset_fake_temporarily():
        tensors = (*model.parameters(), *model.buffers())
        twin = copy.deepcopy(model, {id(t): mode.from_tensor(t) for t in tensors})
    if any(GLOBAL_HOOKS):
        raise RuntimeError("hooks are set on all modules")
    for module in twin.modules():
        for name in HOOKS:  # they are the user's, and are to see no fakes
            getattr(module, name).clear()
    with unset_fake_temporarily(), mode, torch.random.fork_rng(devices=[]):
        given = tree_map(lambda t: mode.from_tensor(t) if isinstance(t, Tensor) else t, (args, kwargs))
        paths = {id(module): path for path, module in twin.named_modules()}
        known = {path for path, module in twin.named_modules() if isinstance(module, Fused)}
        with Recorder(mode, paths, known) as recorder:
            result = twin._call_impl(*given[0], **given[1])
    return recorder.graph_module(result)


class Recorder(TorchFunctionMode):
    """Notes every function of PyTorch that is called with tensors, outside of modules that are fused already."""

    def __init__(self, mode: FakeTensorMode, paths: dict[int, str], known: set[str]) -> None:
        super().__init__()
        self.mode, self.paths, self.known = mode, paths, known
        self.graph = Graph()
        self.nodes: dict[int, Node] = {}
        self.parts: dict[int, tuple[Node, int, Tensor]] = {}  # of a result of several, by what reads them first
        self.alive: list[Any] = []  # an id means nothing once its tensor is gone

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
        node.meta = {"example_value": result, "stack_trace": trace, "modules": stack, "region": region}
        if isinstance(result, Tensor):
            self.nodes[id(result)] = node
        else:
            self.parts |= {id(part): (node, i, part) for i, part in enumerate(result) if isinstance(part, Tensor)}
        self.alive.append(result)

    def _node(self, t: Tensor) -> Node:
        """The node that made ``t``, or an input of the graph."""
        if id(t) in self.parts:
            node, i, _ = self.parts.pop(id(t))
            self.nodes[id(t)] = item = self.graph.call_function(operator.getitem, (node, i))
            item.meta = {**node.meta, "example_value": t}
        if id(t) not in self.nodes:
            with self.graph.inserting_before():
                node = self.graph.placeholder(f"given_{len(self.nodes)}")
            node.meta = {"example_value": self.mode.from_tensor(t) if type(t) in (Tensor, nn.Parameter) else t}
            self.nodes[id(t)] = node
            self.alive.append(t)
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
            frame = frame.f_back
        return tuple(reversed(stack)), trace

    def graph_module(self, result: Any) -> GraphModule:
        """The graph, if ``result`` is what the call gave."""
        self.graph.output([self._node(t) for t in tree_flatten(result)[0] if isinstance(t, Tensor)])
        return GraphModule(nn.Module(), self.graph)
