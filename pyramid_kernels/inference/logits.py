"""The logits of a segmentation model before its last upsampling.

Models that upsample in their own forward are known by class, as those that ``fuse_`` knows: their parts are called in
the forward's own order, and the upsampling behind them is left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..backends import Backend, automatic
from ..functional import upsample_argmax
from ..nn.base import Fused, hooked
from ..ops._shared.checks import check_map


class Logits(NamedTuple):
    """Logits (N, C, h, w) that one bilinear upsampling brings to the size of their image."""

    maps: Tensor
    align_corners: bool

    def labels(self, size: tuple[int, int], backend: Backend) -> Tensor:
        """(N, H, W): the largest class of every pixel of an image of ``size``."""
        dtype = torch.uint8 if self.maps.shape[1] <= 256 else torch.int16
        if automatic(backend) and self.maps.device.type == "cpu":
            backend = "composed"  # bands, also where the whole map at once takes no longer: memory is what they are for
        return upsample_argmax(self.maps, size, align_corners=self.align_corners, dtype=dtype, backend=backend)


class Known(NamedTuple):
    """How to get at the logits of a class, and the children whose calls that leaves out, wholly or in part."""

    logits: Callable[[Any, Tensor], Logits]
    skipped: tuple[str, ...] = ()
    #: Why this instance upsamples otherwise; None if it does as its class.
    why_not: Callable[[Any], str | None] = lambda model: None


def logits_of(model: nn.Module, image: Tensor) -> tuple[Logits, str]:
    """What ``model`` makes of image (N, 3, H, W); and why that is of full size, if its upsampling has to run."""
    known, reason = _find(model)
    logits = _own(model, image) if known is None else known.logits(model, image)
    check_map("the model's logits", logits.maps)
    if logits.maps.shape[1] == 1:
        raise ValueError("model must have at least 2 classes, got 1, whose argmax is always 0; threshold its logits")
    return logits, reason if known is None and logits.maps.shape[2:] == image.shape[2:] else ""


def _find(model: nn.Module) -> tuple[Known | None, str]:
    """How ``model`` is known, or why its own forward runs."""
    for cls in type(model).__mro__:
        known = KNOWN.get((cls.__module__, cls.__name__))
        if known is not None:
            reason = _why_not(model, known, cls)
            return (None, reason) if reason else (known, "")
    return None, f"it does not know how {type(model).__name__} upsamples them"


def _why_not(model: nn.Module, known: Known, cls: type) -> str | None:
    """Why ``model`` is not what ``cls`` is, or what it would miss if its parts were called in its place."""
    if "forward" in vars(model) or type(model).forward is not cls.forward:  # type: ignore[attr-defined]
        return f"{type(model).__name__} has another forward than {cls.__name__}"
    skipped = [m for name in known.skipped if (child := model._modules.get(name)) is not None for m in child.modules()]
    if _has_any_global_hook() or any(map(hooked, (model, *skipped))):
        return "hooks are set on the model, or on what is left out"
    return known.why_not(model)


def _own(model: nn.Module, image: Tensor) -> Logits:
    """The model's own output: those of transformers may be smaller than the image, which its post-processing mends."""
    output: Any = model(image)
    if isinstance(maps := getattr(output, "logits", None), Tensor):
        if any(cls.__module__.startswith("transformers.") for cls in type(output).__mro__):
            return Logits(maps, False)
        output = maps
    if isinstance(output, Mapping):
        output = output.get("out")
    elif isinstance(output, list | tuple):
        output = next(iter(output), None)
    if not isinstance(output, Tensor):
        raise TypeError(
            "model must return logits: a tensor, the first of a tuple, 'out' of a dict, or .logits; "
            f"{type(model).__name__} has none of these"
        )
    if any((cls.__module__, cls.__name__) in UNRESIZED for cls in type(model).__mro__):
        return Logits(output, model.align_corners)  # type: ignore[arg-type]
    return _sized(Logits(output, False), output.shape[2:], image)


def _sized(logits: Logits, size: Any, image: Tensor) -> Logits:
    if tuple(size) != tuple(image.shape[2:]):
        raise ValueError(
            f"model must return logits of the image's size, got {tuple(size)} for {tuple(image.shape[2:])}; upsample "
            "them as it is meant to with functional.upsample_argmax(logits, size, align_corners=...)"
        )
    return logits


def _torchvision(model: Any, image: Tensor) -> Logits:
    return Logits(model.classifier(model.backbone(image)["out"]), False)


def _torchvision_lraspp(model: Any, image: Tensor) -> Logits:
    return Logits(model.classifier(model.backbone(image)), False)


def _upernet(model: Any, image: Tensor) -> Logits:
    return Logits(model.decode_head(model.backbone.forward_with_filtered_kwargs(image).feature_maps), False)


def _smp(model: Any, image: Tensor) -> Logits:
    model.check_input_shape(image)
    conv, up, _ = model.segmentation_head
    logits = Logits(conv(model.decoder(model.encoder(image))), bool(getattr(up, "align_corners", False)))
    scale = int(getattr(up, "scale_factor", 1))
    return _sized(logits, [scale * v for v in logits.maps.shape[2:]], image)


def _own_network(model: Any, image: Tensor) -> Logits:
    model.check_image(image)
    return Logits(model.logits(image), model.align_corners)


def _why_not_smp(model: Any) -> str | None:
    head = model.segmentation_head
    if type(head).__name__ != "SegmentationHead" or type(head).forward is not nn.Sequential.forward or len(head) != 3:
        return f"its head is a {type(head).__name__}, not SegmentationHead"
    if any("forward" in vars(m) for m in (head, *head)):
        return "its head has another forward"
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(_own_forward(model.decoder)).parameters.values()):
        return "its decoder takes maps one by one, as before segmentation_models_pytorch 0.5"
    _, up, last = head
    activation = last.activation if type(last).__name__ == "Activation" else last
    if type(activation) is not nn.Identity:
        return f"{type(activation).__name__} follows the upsampling"
    if type(up) is nn.Identity:
        return None
    if type(up) not in (nn.Upsample, nn.UpsamplingBilinear2d) or up.mode != "bilinear" or not _whole(up.scale_factor):
        return f"its head upsamples by {up}"
    return None


def _own_forward(module: nn.Module) -> Callable[..., Any]:
    """The forward that says what ``module`` takes: a fused module's own, behind one that takes anything."""
    cls: Any = type(module)
    return vars(module).get("forward") or (cls.original if cls.forward is Fused.forward else cls).forward


def _whole(scale: Any) -> bool:
    return isinstance(scale, int | float) and scale == int(scale)


#: Networks of this package whose own output is smaller than the image; ``align_corners`` says how it is to be resized.
UNRESIZED = {
    ("pyramid_kernels.models.deeplab", "DeepLabV1"),
    ("pyramid_kernels.models.deeplab", "DeepLabV2"),
    ("pyramid_kernels.models.hrnet", "HRNet"),
}

#: By module and name, so that no library is imported for it.
KNOWN = {
    ("pyramid_kernels.models.base", "Segmenter"): Known(_own_network),
    ("pyramid_kernels.models.bisenet", "BiSeNet"): Known(_own_network),
    ("torchvision.models.segmentation._utils", "_SimpleSegmentationModel"): Known(_torchvision, ("aux_classifier",)),
    ("torchvision.models.segmentation.lraspp", "LRASPP"): Known(_torchvision_lraspp),
    ("transformers.models.upernet.modeling_upernet", "UperNetForSemanticSegmentation"): Known(
        _upernet, ("auxiliary_head",)
    ),
    ("segmentation_models_pytorch.base.model", "SegmentationModel"): Known(
        _smp, ("segmentation_head", "classification_head"), _why_not_smp
    ),
}
