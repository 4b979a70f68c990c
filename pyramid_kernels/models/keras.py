"""Weights of Keras's HDF5 files, in the layouts of PyTorch's modules."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    with _opened(path) as file:
        found = _layers(file)
        for prefix, modules in numbered.items():
            layers = layers | dict(zip(_numbered(found, prefix, len(modules)), modules, strict=True))
        if unknown := sorted(found.keys() - layers.keys()):
            raise ValueError(f"it must have no weights but the network's, got those of layers {unknown} as well")
        places = [place for name, layer in layers.items() for place in _places(name, layer, found)]
        for place in places:
            _check(*place)
        values = [_value(*place) for place in places]
    with torch.no_grad():
        for (_, target, _, _), value in zip(places, values, strict=True):
            target.copy_(value)
    return module


@contextmanager
def _opened(path: Any) -> Iterator[Any]:
    """The HDF5 file at ``path``, or in the ``.keras`` archive there; whatever is wrong inside is said with ``path``."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise ImportError(f"{path}: reading Keras files needs h5py; pip install 'pyramid_kernels[keras]'") from None
    if not isinstance(path, str | PathLike):
        raise TypeError(f"path must be a str or os.PathLike, got {type(path).__name__}")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path must be a file that Keras saved, got {str(path)!r}, which is not a file")
    with open(path, "rb") as raw:
        try:
            with h5py.File(_unpacked(raw), "r") as file:
                yield file
        except Exception as error:  # damaged files make h5py and zipfile raise nearly everything, and name no file
            detail = " ".join(str(error).split())
            raise ValueError(f"{str(path)!r} must hold the network's weights as Keras saves them: {detail}") from error


def _unpacked(raw: Any) -> Any:
    """``raw``, or the weights in it where it is an archive."""
    archived = raw.read(4) == b"PK\3\4"
    return io.BytesIO(zipfile.ZipFile(raw).read("model.weights.h5")) if archived else raw


def _layers(file: Any) -> dict[str, dict[str, Any]]:
    """Every layer that has weights: its arrays, unread, by their own names without ":0".

    A whole model keeps its layers in "model_weights", older files of weights alone at the root. Those of Keras 3 number
    arrays in groups "vars", in the order of ``_expected``, and keep the optimizer's beside the layers.
    """
    old = "layers" not in set(file) and "_layer_checkpoint_dependencies" not in set(file)
    root = "model_weights" if "model_weights" in set(file) else ""
    layers: dict[str, dict[str, Any]] = {}
    for group, where, array in _arrays(file, root, () if old else ("/optimizer",)):
        layer = where.removeprefix(f"/{root}").strip("/").partition("/")[0] if old else group.attrs.get("name")
        if not isinstance(layer, str):
            raise ValueError(
                f"it must name its layers, got {where!r} without a name, as older versions of Keras write weights; "
                "save the whole model there with model.save('model.h5')"
            )
        weights, name = layers.setdefault(layer, {}), where.rpartition("/")[2].partition(":")[0]
        if name in weights:
            raise ValueError(f"layer {layer!r} must have one {name}, got another in {where!r}")
        weights[name] = array
    return layers


def _arrays(file: Any, root: str, skipped: Sequence[str]) -> Iterator[tuple[Any, str, Any]]:
    """(group, path, array) of every array under ``root``.

    Keras's files are trees. No link is followed, to another file or back up the tree, so this ends and reads this file
    alone.
    """
    import h5py

    seen, waiting = {file["/"]}, [("", file, [root] if root else list(file))]
    while waiting:
        above, group, names = waiting.pop()
        for where, name in ((f"{above}/{name}", name) for name in names):
            if where in skipped:
                continue
            item = group[name] if type(group.get(name, getlink=True)) is h5py.HardLink else None
            if item is None or item in seen:
                raise ValueError(f"{where!r} must be a group or an array of its own, got a link to another")
            seen.add(item)
            if isinstance(item, h5py.Group):
                waiting.append((where, item, list(item)))
            elif isinstance(item, h5py.Dataset):
                yield group, where, item


def _numbered(found: dict[str, Any], prefix: str, count: int) -> list[str]:
    """The layers that are ``prefix`` or ``prefix`` and a number, in order; each counts on through a process."""
    matches = [m for m in map(re.compile(rf"{prefix}(?:_(\d+))?").fullmatch, found) if m]
    names = [m[0] for m in sorted(matches, key=lambda m: int(m[1] or 0))]
    if len(names) != count:
        raise ValueError(f"it must have {count} layers named {prefix}, {prefix}_1 and so on, got {names}")
    return names


def _places(name: str, layer: nn.Module, found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Tensor, Any, Any]]:
    """(what it is called, tensor, its array in the file, that one's dimensions) of everything that ``layer`` holds."""
    if name not in found:
        raise ValueError(f"it must have a layer {name!r}, got {sorted(found)}")
    left = dict(found[name])
    for i, (target, names, order) in enumerate(_expected(layer)):
        key = next((key for key in (*names, str(i)) if key in left), None)
        if key is None:
            raise ValueError(f"layer {name!r} must have {' or '.join(names)}, got {sorted(found[name])}")
        yield f"{names[0]} of layer {name!r}", target, left.pop(key), order
    if left:
        raise ValueError(f"layer {name!r} must have no weights but the network's, got {sorted(left)} as well")


def _check(what: str, target: Tensor, array: Any, order: tuple[int, ...]) -> None:
    """``array`` has the shape of ``target`` and a floating dtype, and lies in the file that it was found in."""
    if array.is_virtual or array.external:  # ahead of its shape, for which HDF5 may open the other files
        raise ValueError(f"{what} must lie in the file itself, got an array that lies in others")
    shape = tuple(target.shape[order.index(i)] for i in range(len(order)))
    if array.shape != shape:
        raise ValueError(f"{what} must be {shape}, got {array.shape}")
    if not _is_bfloat16(array) and (array.dtype.kind != "f" or array.dtype.itemsize > 8):
        raise ValueError(f"{what} must be float16, bfloat16, float32 or float64, got {array.dtype}")


def _is_bfloat16(array: Any) -> bool:
    """Whether Keras has stored bfloat16: two opaque bytes in HDF5, told by an attribute."""
    return bool(array.dtype == "V2" and array.attrs.get("dtype") == "bfloat16")


def _value(what: str, target: Tensor, array: Any, order: tuple[int, ...]) -> Tensor:
    """What ``array`` holds, in the dtype and layout of ``target``."""
    if _is_bfloat16(array):
        value = torch.from_numpy(array[()].view("i2")).view(torch.bfloat16)
    else:
        value = torch.from_numpy(array[()].astype(array.dtype.newbyteorder("=")))
    value = value.to(target.dtype).permute(order)
    if not value.isfinite().all():
        raise ValueError(f"{what} must be finite in {target.dtype}, got NaN or infinity")
    return value


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
