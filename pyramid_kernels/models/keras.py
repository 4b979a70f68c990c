"""Weights of Keras's HDF5 files, in the layouts of PyTorch's modules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

#: Where a dimension of PyTorch's weight stands in Keras's: (kh, kw, I, O), and (kh, kw, C, 1) of a depthwise kernel.
DENSE, DEPTHWISE = (3, 2, 0, 1), (2, 3, 0, 1)


def load_(
    module: M, path: str | PathLike[str], layers: dict[str, nn.Module], numbered: dict[str, Sequence[nn.Module]]
) -> M:
    """Copy into every module of ``layers`` the weights of the Keras layer that it is found under.

    ``numbered``: modules whose layers Keras has named itself, "name", "name_1" and so on, in this order.
    """
    with _h5py().File(path, "r") as file:
        groups = file["model_weights"] if "model_weights" in file else file
        found = {name: _weights(group) for name, group in groups.items() if hasattr(group, "keys")}
    for prefix, modules in numbered.items():
        layers = layers | dict(zip(_numbered(found, prefix, len(modules), path), modules, strict=True))
    pairs = [pair for name, layer in layers.items() for pair in _pairs(name, layer, found, path)]
    with torch.no_grad():
        for target, value in pairs:
            target.copy_(value)
    return module


def _h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError:
        raise ImportError("reading Keras files needs h5py; pip install 'pyramid_kernels[keras]'") from None
    return h5py


def _weights(group: Any) -> dict[str, Tensor]:
    """Every array under ``group``, however deep, by its own name without ":0"."""
    found: dict[str, Tensor] = {}
    for name, item in group.items():
        found |= _weights(item) if hasattr(item, "keys") else {name.partition(":")[0]: torch.from_numpy(item[()])}
    return found


def _numbered(found: dict[str, Any], prefix: str, count: int, path: Any) -> list[str]:
    """The layers that are ``prefix`` or ``prefix`` and a number, in order; each counts on through a process."""
    matches = [m for m in map(re.compile(rf"{prefix}(?:_(\d+))?").fullmatch, found) if m]
    names = [m[0] for m in sorted(matches, key=lambda m: int(m[1] or 0))]
    if len(names) != count:
        raise ValueError(f"{path} must have {count} layers named {prefix}, {prefix}_1 and so on, got {names}")
    return names


def _pairs(name: str, layer: nn.Module, found: dict[str, dict[str, Tensor]], path: Any) -> Iterator[tuple[Tensor, Any]]:
    """Each tensor of ``layer`` and its value in the file."""
    if name not in found:
        raise ValueError(f"{path} must have a layer {name!r}, got {sorted(found)}")
    for target, names, order in _expected(layer):
        shape = tuple(target.shape[order.index(i)] for i in range(len(order)))
        key = next((key for key in names if key in found[name]), None)
        if key is None:
            raise ValueError(f"layer {name!r} of {path} must have {' or '.join(names)}, got {sorted(found[name])}")
        value = found[name][key]
        if tuple(value.shape) != shape:
            raise ValueError(f"{key} of layer {name!r} of {path} must be {shape}, got {tuple(value.shape)}")
        yield target, value.permute(order)


def _expected(layer: Any) -> Iterator[tuple[Tensor, tuple[str, ...], tuple[int, ...]]]:
    """(tensor, its names in Keras, its dimensions in Keras's order) of everything that ``layer`` holds."""
    if isinstance(layer, nn.Sequential):
        depthwise: Any = layer[0]
        layer = layer[1]
        yield depthwise.weight, ("depthwise_kernel",), DEPTHWISE
        yield layer.weight, ("pointwise_kernel",), DENSE
    elif isinstance(layer, nn.BatchNorm2d):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        values = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
        yield from ((value, (name,), (0,)) for value, name in zip(values, names, strict=True) if value is not None)
        return
    elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
        yield layer.weight, ("depthwise_kernel", "kernel"), DEPTHWISE
    else:
        yield layer.weight, ("kernel",), DENSE
    if layer.bias is not None:
        yield layer.bias, ("bias",), (0,)
