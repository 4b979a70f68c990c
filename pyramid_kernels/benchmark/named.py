"""Models by name: ``torchvision:deeplabv3_resnet50``, ``smp:PSPNet/resnet18``, ``module:function``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from ..console import UsageError
from .modules import define_detection_schemas


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
    except (ImportError, AttributeError, KeyError, ValueError, RuntimeError) as error:
        raise UsageError(f"{text}: {str(error).strip() or type(error).__name__}") from None
    if not isinstance(model, nn.Module):
        raise UsageError(f"{text} makes a {type(model).__name__}, not a torch.nn.Module")
    return model


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
