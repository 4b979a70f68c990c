"""One view of a graph's nodes: every spelling of an operation has one name and one set of arguments.

Dynamo writes PyTorch's functions and methods, ``torch.export`` ATen's operators; patterns see neither. Values are the
fake tensors that both leave in ``meta``.
"""

from __future__ import annotations

import ast
import operator
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import guard_scalar, statically_known_true

aten = torch.ops.aten

#: ``x.data``, in versions of PyTorch that have a function for it.
_DATA = [f for f in (getattr(torch._C._autograd, "_get_data_attr", None),) if f is not None]

#: Name of an operation, its parameters with their defaults, its spellings (a string is a method).
_SPELLINGS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("conv", "input weight bias=None stride=1 padding=0 dilation=1 groups=1",
     (torch.conv2d, aten.conv2d.default, aten.conv2d.padding)),
    ("linear", "input weight bias=None", (F.linear, torch._C._nn.linear, aten.linear.default)),
    ("batch_norm", "input mean var weight=None bias=None training=False momentum=0.1 eps=1e-5", (F.batch_norm,)),
    ("batch_norm", "input weight bias mean var training momentum eps cudnn", (aten.batch_norm.default,)),
    ("relu", "input inplace=False", (F.relu, torch.relu, "relu", aten.relu.default)),
    ("relu_", "input", (F.relu_, torch.relu_, "relu_", aten.relu_.default)),
    ("silu", "input inplace=False", (F.silu, aten.silu.default)),
    ("silu_", "input", (aten.silu_.default,)),
    ("sigmoid", "input", (torch.sigmoid, F.sigmoid, "sigmoid", aten.sigmoid.default)),
    ("sigmoid_", "input", (torch.sigmoid_, "sigmoid_", aten.sigmoid_.default)),
    ("hardsigmoid", "input inplace=False", (F.hardsigmoid, aten.hardsigmoid.default, aten.hardsigmoid_.default)),
    ("hardtanh", "input min=-1 max=1 inplace=False", (F.hardtanh, aten.hardtanh.default)),
    ("hardtanh", "input inplace=False min=0 max=6", (F.relu6, torch._C._nn.relu6, aten.relu6.default)),
    ("hardtanh_", "input min=-1 max=1", (aten.hardtanh_.default,)),
    ("hardtanh_", "input min=0 max=6", (aten.relu6_.default,)),
    ("clamp", "input min=None max=None", (torch.clamp, "clamp", aten.clamp.default)),
    ("clamp_", "input min=None max=None", (torch.clamp_, "clamp_", aten.clamp_.default)),
    ("div", "input other", (operator.truediv, torch.div, "div", aten.div.Tensor)),
    ("div_", "input other", (operator.itruediv, "div_", aten.div_.Tensor)),
    ("add", "input other alpha=1", (operator.add, torch.add, "add", aten.add.Tensor)),
    ("add_", "input other alpha=1", (operator.iadd, "add_", aten.add_.Tensor)),
    ("sub", "input other alpha=1", (operator.sub, torch.sub, torch.subtract, "sub", aten.sub.Tensor)),
    ("stack", "tensors dim=0", (torch.stack, aten.stack.default)),
    ("sum", "input dim=None keepdim=False dtype=None", (torch.sum, "sum", aten.sum.dim_IntList)),
    ("mul", "input other", (operator.mul, torch.mul, torch.multiply, "mul", aten.mul.Tensor)),
    ("mul_", "input other", (operator.imul, "mul_", aten.mul_.Tensor)),
    ("einsum", "equation operands", (torch.einsum, aten.einsum.default)),
    ("pad", "input pad mode='constant' value=None", (F.pad, torch._C._nn.pad, aten.pad.default)),
    ("pad", "input pad value=0", (aten.constant_pad_nd.default,)),
    ("cat", "tensors dim=0", (torch.cat, torch.concat, torch.concatenate, aten.cat.default)),
    ("interpolate",
     "input size=None scale_factor=None mode='nearest' align_corners=None recompute_scale_factor=None antialias=False",
     (F.interpolate, F.upsample)),
    ("bilinear", "input size align_corners scale_factor", (aten.upsample_bilinear2d.vec,)),
    ("nearest", "input size scale_factor", (aten.upsample_nearest2d.vec,)),
    ("adaptive_pool", "input output_size", (F.adaptive_avg_pool2d, aten.adaptive_avg_pool2d.default)),
    ("adaptive_max_pool", "input output_size return_indices=False",
     (F.adaptive_max_pool2d, aten.adaptive_max_pool2d.default)),
    ("mean", "input dim=None keepdim=False dtype=None", (torch.mean, "mean", aten.mean.dim)),
    ("avg_pool", "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True divisor_override=None",
     (F.avg_pool2d, torch._C._nn.avg_pool2d, aten.avg_pool2d.default)),
    ("max_pool", "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False",
     (F.max_pool2d, torch.max_pool2d, aten.max_pool2d.default)),
    ("cross_entropy",
     "input target weight=None size_average=None ignore_index=-100 reduce=None reduction='mean' label_smoothing=0.0",
     (F.cross_entropy,)),
    ("cross_entropy", "input target weight=None reduction=1 ignore_index=-100 label_smoothing=0.0",
     (aten.cross_entropy_loss.default,)),
    ("nll_loss",
     "input target weight=None size_average=None ignore_index=-100 reduce=None reduction='mean'",
     (F.nll_loss,)),
    ("nll_loss", "input target weight=None reduction=1 ignore_index=-100", (aten.nll_loss_nd.default,)),
    ("softmax", "input dim=None", (F.softmax, torch.softmax, "softmax", aten.softmax.int)),
    ("log_softmax", "input dim=None", (F.log_softmax, torch.log_softmax, "log_softmax", aten.log_softmax.int)),
    ("argmax", "input dim=None keepdim=False", (torch.argmax, "argmax", aten.argmax.default)),
    ("max", "input dim=None keepdim=False", (torch.max, "max", aten.max.dim)),
    ("getitem", "input index", (operator.getitem,)),
    ("slice", "input dim=0 start=None end=None step=1", (aten.slice.Tensor,)),
    ("setitem", "input index value", (operator.setitem,)),
    ("cast", "input", ("to", "type", "float", "double", "half", "bfloat16", "contiguous", "type_as",
     aten.to.dtype, aten.type_as.default, aten.contiguous.default, aten.alias.default)),
    ("detach", "input", ("detach", torch.detach, aten.detach.default, *_DATA)),
    ("flatten", "input start_dim=0 end_dim=-1", (torch.flatten, "flatten", aten.flatten.using_ints)),
    ("transpose", "input dim0 dim1", (torch.transpose, "transpose", torch.swapaxes, aten.transpose.int)),
    ("movedim", "input source destination", (torch.movedim, torch.moveaxis, "movedim", "moveaxis")),
    ("permute", "input dims", (torch.permute, "permute", aten.permute.default)),
    ("reshape", "input shape", (torch.reshape, "reshape", "view", aten.reshape.default, aten.view.default)),
    ("squeeze", "input dim=None", (torch.squeeze, "squeeze", aten.squeeze.dim, aten.squeeze.default)),
    ("unsqueeze", "input dim", (torch.unsqueeze, "unsqueeze", aten.unsqueeze.default)),
    ("expand", "input shape", ("expand", "expand_as", aten.expand.default, aten.expand_as.default)),
    ("repeat", "input repeats", ("repeat", aten.repeat.default)),
]  # fmt: skip

#: Names that other spellings give a parameter.
_RENAMED = {"x": "input", "self": "input", "dims": "dim", "axis": "dim", "running_mean": "mean", "running_var": "var",
            "min_val": "min", "max_val": "max", "output_size": "size", "scale_factors": "scale_factor"}  # fmt: skip


def _parameters(text: str) -> dict[str, Any]:
    """Names of parameters and their defaults; ``...`` where there is none."""
    pairs = (word.partition("=") for word in text.split())
    return {name: ast.literal_eval(default) if default else ... for name, _, default in pairs}


_TABLE = {target: (name, _parameters(text)) for name, text, targets in _SPELLINGS for target in targets}


class Call:
    """A node as a call: ``name``, and every argument as an attribute."""

    def __init__(self, node: Node, name: str, arguments: dict[str, Any]) -> None:
        self.node, self.name, self.arguments = node, name, arguments

    def __getattr__(self, key: str) -> Any:
        try:
            return self.arguments[key]
        except KeyError:
            raise AttributeError(f"{self.name} has no argument {key}") from None


def call(node: Any, *names: str) -> Call | None:
    """``node`` as a call, if the table knows it (by one of ``names``, where some are given)."""
    if not isinstance(node, Node) or node.op not in ("call_function", "call_method"):
        return None
    known = _TABLE.get(node.target)
    if known is None or (names and known[0] not in names):
        return None
    name, parameters = known
    arguments = dict(parameters)
    if name in ("permute", "reshape", "expand", "repeat", "einsum") and len(node.args) > 2:  # x.permute(0, 2, 1)
        given: dict[str, Any] = dict(zip(parameters, (node.args[0], node.args[1:]), strict=True))
    else:
        given = dict(zip(parameters, node.args, strict=False))
    for key, value in node.kwargs.items():
        given[key if key in parameters else _RENAMED.get(key, key)] = value
    arguments.update(given)
    return Call(node, name, arguments)


def is_call(node: Any, *names: str) -> bool:
    return call(node, *names) is not None


def value(node: Any) -> Any:
    """What a node stands for in the example: a fake tensor, a symbolic number or a tuple of these."""
    if not isinstance(node, Node):
        return node
    return node.meta.get("example_value", node.meta.get("val"))


def is_tensor(node: Any) -> bool:
    return isinstance(node, Node) and isinstance(value(node), Tensor)


def is_map(node: Any) -> bool:
    """Whether ``node`` is a floating-point (N, C, H, W)."""
    return is_tensor(node) and value(node).dim() == 4 and value(node).is_floating_point()


def shape(node: Any) -> torch.Size:
    return value(node).shape


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are equal by their symbols, not by this example's numbers; no guard is added."""
    return len(a) == len(b) and all(statically_known_true(p == q) for p, q in zip(a, b, strict=True))


def number(given: Any) -> Any:
    """A constant, also where Dynamo made it an input (a norm's eps): its value is then guarded on."""
    found = value(given)
    return guard_scalar(found) if isinstance(found, torch.SymFloat | torch.SymInt | torch.SymBool) else found


def pair(given: Any) -> tuple[Any, Any]:
    """An int, or one or two of them in a list, as (rows, columns)."""
    values = tuple(given) if isinstance(given, list | tuple) else (given,)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def only_reader(node: Node) -> Node | None:
    """The one node that reads ``node``; None if there are more or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None


#: Frames of these files are not the user's.
LIBRARY = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep)


def origin(node: Node) -> tuple[str, str]:
    """Where the user's own code made ``node``: "file:line" and the line's text; empty where the graph does not say."""
    lines = (node.meta.get("stack_trace") or "").strip().splitlines()
    for line, text in zip(lines[-2::-1], lines[::-1], strict=False):
        head, _, rest = line.strip().partition('", line ')
        file = head.removeprefix('File "')
        if rest and not file.startswith(LIBRARY):
            return f"{file}:{rest.partition(',')[0]}", text.strip()
    return "", ""


def modules(node: Node) -> tuple[str, ...]:
    """The paths of the modules that ``node`` runs in, the outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return tuple(node.meta.get("modules", ())) or tuple(path for path, _ in stack.values())


def in_module_of(node: Node, kind: type) -> bool:
    """Whether ``node`` runs in a module of this class."""
    stack = node.meta.get("nn_module_stack") or {}
    return any(isinstance(cls, type) and issubclass(cls, kind) for _, cls in stack.values())


def smallest_module(nodes: Sequence[Node]) -> str:
    """The path of the innermost module that all of ``nodes`` run in."""
    common = ""
    for paths in zip(*map(modules, nodes), strict=False):
        if len(set(paths)) > 1:
            break
        common = paths[0]
    return common
