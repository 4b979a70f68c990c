"""``predict``: the label map of an image, without logits of its size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..backends import Backend
from ..nn.base import check_backend
from ..ops._shared.checks import check_map, check_size
from .logits import logits_of
from .sliding import Window, sliding_labels


def predict(
    model: nn.Module,
    image: Tensor,
    *,
    size: tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """The class of every pixel of ``image``: the model's last upsampling and the argmax are one step.

    Equivalent to ``model.eval()(image)["out"].argmax(1)`` without gradients, wherever a library keeps its logits; those
    of transformers are upsampled as its post-processing does.

    With ``crop``, windows of that size are moved over the image by ``stride``, the last ones back inside it, and a
    pixel takes the mean of the upsampled logits of all windows that it lies in.

    Args:
        model: a segmentation model of torchvision, segmentation_models_pytorch or transformers, or any that returns
            logits of the image's size. Its mode is put back.
        image: (N, C, H, W) or (C, H, W), normalised and padded as the model expects.
        size: (H, W) of the label map, to which logits are upsampled in one step; None is the image's. Not with crop.
        crop: the window, an int or (H, W); of the image's size where that is smaller. None is the whole image.
        stride: from window to window, an int or (H, W), at most ``crop``; None is two thirds of it.
        backend: asked of ``upsample_argmax``.

    Returns:
        (N, H, W) or (H, W): uint8, or int16 where the model has more than 256 classes.

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: the windows are those of mmsegmentation's ``slide_inference``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    batch = image[None] if isinstance(image, Tensor) and image.dim() == 3 else image
    check_map("image", batch)
    check_backend(backend)
    window = _window(crop, stride, size)
    shape = (batch.shape[2], batch.shape[3]) if size is None else check_size(size)
    with _evaluating(model):
        if window is None:
            logits, reason = logits_of(model, batch)
            labels = logits.labels(shape, backend)
        else:
            labels, reason = sliding_labels(model, batch, window, backend)
    if reason:
        warnings.warn(f"predict builds logits of full size: {reason}", stacklevel=2)
    return labels if image.dim() == 4 else labels[0]


def _window(crop: Any, stride: Any, size: Any) -> Window | None:
    if crop is None:
        if stride is not None:
            raise ValueError(f"stride needs crop, got stride={stride} alone; give the size of a window")
        return None
    if size is not None:
        raise ValueError("size must be None with crop: logits of windows are averaged at the image's size")
    crop = _pair("crop", crop)
    steps = _pair("stride", tuple(max(1, 2 * v // 3) for v in crop) if stride is None else stride)
    if steps[0] > crop[0] or steps[1] > crop[1]:
        raise ValueError(f"stride must be at most crop, or pixels lie in no window, got {steps} and {crop}")
    return Window(crop, steps)


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in pair):
        raise ValueError(f"{name} must be a positive int or (H, W) of them, got {value!r}")
    return pair


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients and in eval mode; every module's own mode is put back."""
    training = [m for m in model.modules() if m.training]
    try:
        with torch.no_grad():
            for module in training:  # not eval(), which a module may have made more than a change of mode
                module.training = False
            yield
    finally:
        for module in training:
            module.training = True
