"""Structure and attributes that must hold before a module is fused: same keys and shapes can be another function."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .base import Unit, why_not_unit
from .kinds import class_name, why_not_kind


def why_not_sequence(path: str, module: nn.Module, *kinds: type[nn.Module]) -> str | None:
    """Why ``module`` is not a Sequential of exactly these classes; ``nn.Module`` and ``nn.Sequential`` allow any."""
    if not isinstance(module, nn.Sequential):
        return f"{path} is a {type(module).__name__}, not a Sequential"
    if len(module) != len(kinds) or not all(map(is_kind, module, kinds)):
        expected = ", ".join(kind.__name__ for kind in kinds)
        return f"{path} holds [{', '.join(map(class_name, module))}], not [{expected}]"
    return None


def why_not_children_of(path: str, block: nn.Module | None, kinds: dict[str, type[nn.Module]]) -> str | None:
    """Why ``block`` does not hold exactly these children, of these classes; ``nn.Module`` allows any."""
    children = {} if block is None else block._modules
    if list(children) != list(kinds):
        return f"{path} holds {list(children)}, not {list(kinds)}"
    for name, kind in kinds.items():
        reason = None if kind is nn.Module else why_not_kind(children[name], kind)
        if reason:
            return f"{path}.{name} {reason}"
    return None


def check_layout(module: nn.Module, layout: str, reason: str | None) -> None:
    """Raise where there is a ``reason`` why ``module`` is not of this ``layout``."""
    if reason:
        raise ValueError(f"module must be {layout}, got a {type(module).__name__}: {reason}")


def is_kind(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``module`` computes what ``kind`` does; ``nn.Module`` and ``nn.Sequential`` allow any of theirs."""
    if kind is nn.Sequential:
        return isinstance(module, kind) and type(module).forward is kind.forward
    return kind is nn.Module or why_not_kind(module, kind) is None


def why_not_conv(path: str, conv: nn.Conv2d, kernels: Sequence[int] = (1,)) -> str | None:
    """Why ``conv`` is not a dense same-padded square convolution of one of these sizes."""
    k, d = conv.kernel_size[0], conv.dilation[0]
    if conv.groups != 1:
        return f"{path} has groups={conv.groups}"
    return why_not_same_padded(path, conv, kernels, k // 2 * d)


def why_not_same_padded(path: str, conv: nn.Conv2d, kernels: Sequence[int], padding: int) -> str | None:
    k, d = conv.kernel_size[0], conv.dilation[0]
    if tuple(conv.kernel_size) != (k, k) or k not in kernels:
        return f"{path} has kernel_size={conv.kernel_size}, not {' or '.join(map(str, kernels))}"
    if tuple(conv.dilation) != (d, d):
        return f"{path} has dilation={conv.dilation}, not the same for rows and columns"
    if tuple(conv.stride) != (1, 1):
        return f"{path} has stride={conv.stride}, not 1"
    if conv.padding not in ((padding, padding), "same"):
        return f"{path} has padding={conv.padding}, not {padding} as its dilation asks"
    if conv.padding_mode != "zeros":
        return f"{path} has padding_mode={conv.padding_mode!r}, not 'zeros'"
    return None


def why_not_branch(path: str, unit: Unit) -> str | None:
    """Why ``unit`` is neither a dense 1x1 or 3x3 nor a depthwise 3x3 followed by a 1x1."""
    depthwise = unit.depthwise
    if depthwise is None:
        return why_not_conv(path, unit.conv, (1, 3))
    if not depthwise.groups == depthwise.in_channels == depthwise.out_channels:
        return f"{path}.0 is not depthwise"
    padding = depthwise.kernel_size[0] // 2 * depthwise.dilation[0]
    return why_not_same_padded(f"{path}.0", depthwise, (3,), padding) or why_not_conv(f"{path}.1", unit.conv)


def why_not_units(units: Sequence[Unit]) -> str | None:
    """The first weight or norm of ``units`` that the ops cannot stand for."""
    return next(filter(None, map(why_not_unit, units)), None)


def why_not_rest(module: nn.Module, units: Sequence[Unit], others: Sequence[nn.Module]) -> str | None:
    """Why ``module`` holds more than ``units`` and ``others``: the rest must be ReLUs, global means and containers."""
    known = {part for unit in units for part in (unit.conv, unit.norm, unit.depthwise)} | set(others)
    for path, child in module.named_modules():
        plain = is_kind(child, nn.ReLU) or bool(child._modules)
        mean = is_kind(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1))
        if not (plain or mean or child in known):
            return f"{path} is a {class_name(child)}, which the forward does not compute"
    return None
