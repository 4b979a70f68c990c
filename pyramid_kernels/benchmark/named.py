"""Models by name: ``torchvision:deeplabv3_resnet50``, ``smp:PSPNet/resnet18``, ``module:function``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from ..console import UsageError
from .modules import define_detection_schemas

#: Of images, where no library says it.
SIDE = 512


def build(text: str) -> nn.Module:
    """The model that ``text`` names, with random weights; nothing is downloaded.

    Args:
        text: a library and its own name of the model, for transformers a class with the settings of its config's
            defaults; or a module and a function of it, or a class, that makes one without arguments.

    Raises:
        UsageError: there is no such library, name or function, or what it makes is no module.
    """
    library, colon, name = text.partition(":")
    if not colon or not name:
        raise UsageError(f"{text!r} must be LIBRARY:NAME or MODULE:FUNCTION, as torchvision:deeplabv3_resnet50")
    define_detection_schemas()
    try:
        model = LIBRARIES[library](name) if library in LIBRARIES else _of_module(library, name)
    except Exception as error:  # whatever a library, or a user's own function, throws
        raise UsageError(f"{text}: {one_line(error)}") from None
    if not isinstance(model, nn.Module):
        raise UsageError(f"{text} makes a {type(model).__name__}, not a torch.nn.Module")
    return model


def one_line(error: Exception) -> str:
    """The first line of what an exception says; KeyError quotes it otherwise."""
    said = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    return said.partition("\n")[0] or type(error).__name__


def image(text: str, model: nn.Module) -> tuple[int, int, int]:
    """Channels, rows and columns of the images that the library says ``model``, made of ``text``, is for."""
    config, timm = getattr(model, "config", None), getattr(model, "pretrained_cfg", None) or {}
    if "input_size" in timm:
        channels, rows, cols = timm["input_size"]
        return channels, rows, cols
    size = getattr(config, "image_size", None) or _size_of_torchvision(text) or SIDE
    rows, cols = size if isinstance(size, list | tuple) else (size, size)
    return getattr(config, "num_channels", None) or 3, rows, cols


def _size_of_torchvision(text: str) -> int | tuple[int, int] | None:
    """What its weights' transforms scale to; there is a weight for each of its models, and none is loaded."""
    library, _, name = text.partition(":")
    if library != "torchvision":
        return None
    from torchvision.models import get_model_weights

    settings = getattr(next(iter(get_model_weights(name))).transforms, "keywords", {})
    return settings.get("crop_size") or settings.get("resize_size")


def _of_torchvision(name: str) -> Any:
    from torchvision.models import get_model, get_model_builder

    known = inspect.signature(get_model_builder(name)).parameters
    return get_model(name, **{key: None for key in ("weights", "weights_backbone") if key in known})


def _of_smp(name: str) -> Any:
    """``PSPNet``, or with an encoder, ``PSPNet/resnet18``."""
    import segmentation_models_pytorch as smp

    architecture, _, encoder = name.partition("/")
    return smp.create_model(architecture, encoder or "resnet34", encoder_weights=None)


def _of_timm(name: str) -> Any:
    import timm

    return timm.create_model(name, pretrained=False)


def _of_transformers(name: str) -> Any:
    import transformers

    kind = getattr(transformers, name)
    return kind(kind.config_class())


def _of_module(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)()


LIBRARIES: dict[str, Callable[[str], Any]] = {
    "torchvision": _of_torchvision,
    "smp": _of_smp,
    "timm": _of_timm,
    "transformers": _of_transformers,
}
