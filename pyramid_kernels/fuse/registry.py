"""Which class is fused by which adapter. Libraries are looked at only when the program has imported them itself."""

from __future__ import annotations

import copyreg
import importlib
import sys
from typing import Any

from torch import nn

from ..nn.aspp import ASPP, ASPPForward, ReferenceASPP
from ..nn.base import Fused
from ..nn.bisenet import (
    ARMForward,
    AttentionRefinementModule,
    FeatureFusionModule,
    FFMForward,
    ReferenceAttentionRefinementModule,
    ReferenceFeatureFusionModule,
)
from ..nn.deeplabv3plus import DeepLabV3PlusDecoder, ReferenceDeepLabV3PlusDecoder
from ..nn.dilated import ASPPv2, ASPPv2Forward, LargeFOV, ReferenceASPPv2, ReferenceLargeFOV
from ..nn.dspp import DSPP, MDSPP, ReferenceDSPP, ReferenceMDSPP
from ..nn.heads import PSPHead, ReferencePSPHead
from ..nn.hrnet import HRFuse, ReferenceHRFuse
from ..nn.hrnetv2 import HRNetV2Head, ReferenceHRNetV2Head
from ..nn.ppm import PPM, PPMForward, ReferencePPM
from ..nn.segformer import ReferenceSegFormerHead, SegFormerForward, SegFormerHead
from ..nn.spatial_pyramid_pooling import ReferenceSpatialPyramidPooling, SpatialPyramidPooling
from ..nn.spp import SPP, SPPF, ReferenceSPP, ReferenceSPPF, SPPFForward, SPPForward
from ..nn.upernet import ReferenceUPerHead, UPerForward, UPerHead
from .adapters import hrnet, mmseg, mmseg_gates, mobile

#: Module whose presence means that the library is in use, and the file here that holds its adapters.
LIBRARIES = {
    "torchvision.models.segmentation.deeplabv3": "torchvision",
    "segmentation_models_pytorch.decoders.deeplabv3.decoder": "smp",
    "segmentation_models_pytorch.decoders.pspnet.decoder": "smp",
    "segmentation_models_pytorch.decoders.segformer.decoder": "smp_heads",
    "transformers.models.segformer.modeling_segformer": "segformer",
    "transformers.models.upernet.modeling_upernet": "upernet",
}

#: Adapters by the module and the name of the class, for which no library is imported.
NAMED: dict[tuple[str, str], type[Fused]] = {
    **hrnet.CLASSES,
    **mmseg.CLASSES,
    **mmseg_gates.CLASSES,
    **mobile.CLASSES,
    ("ultralytics.nn.modules.block", "SPP"): SPPForward,
    ("ultralytics.nn.modules.block", "SPPF"): SPPFForward,
}

#: Adapters by the exact class they know; a subclass is fused too unless it overrides ``forward``.
adapters: dict[type[nn.Module], type[Fused]] = {
    ReferenceASPP: ASPP,
    ReferenceASPPv2: ASPPv2,
    ReferenceDSPP: DSPP,
    ReferenceAttentionRefinementModule: AttentionRefinementModule,
    ReferenceFeatureFusionModule: FeatureFusionModule,
    ReferenceLargeFOV: LargeFOV,
    ReferenceMDSPP: MDSPP,
    ReferenceHRFuse: HRFuse,
    ReferenceSpatialPyramidPooling: SpatialPyramidPooling,
    ReferencePPM: PPM,
    ReferencePSPHead: PSPHead,
    ReferenceDeepLabV3PlusDecoder: DeepLabV3PlusDecoder,
    ReferenceHRNetV2Head: HRNetV2Head,
    ReferenceSegFormerHead: SegFormerHead,
    ReferenceSPP: SPP,
    ReferenceSPPF: SPPF,
    ReferenceUPerHead: UPerHead,
}

#: Structures by which a look-alike is told, and the adapter to register for it.
layouts: dict[str, type[Fused]] = {
    "torchvision's ASPP": ASPPForward,
    "semseg's PPM": PPMForward,
    "DeepLab v2's ASPP": ASPPv2Forward,
    "CoinCheung's AttentionRefinementModule": ARMForward,
    "CoinCheung's FeatureFusionModule": FFMForward,
    "timm's HighResolutionModule": hrnet.HighResolutionModuleForward,
    "ultralytics' SPP": SPPForward,
    "ultralytics' SPPF": SPPFForward,
    "transformers' SegformerDecodeHead": SegFormerForward,
    "transformers' UperNetHead": UPerForward,
}


def register_adapter(cls: type[nn.Module], adapter: type[Fused]) -> None:
    """Let ``fuse_`` fuse modules of ``cls`` through ``adapter``.

    Args:
        cls: your module class; subclasses that keep its ``forward`` are included.
        adapter: a forward in the layout of ``cls``: ``fuse.ASPPForward`` (torchvision's keys), ``fuse.PPMForward``
            (semseg's), or your own subclass of one that finds the children elsewhere.

    Every module is still verified when it is fused: structure, attributes, and its results on random input.

    Raises:
        TypeError: ``cls`` is no Module class, or ``adapter`` no fused forward.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f"cls must be a subclass of torch.nn.Module, got {cls!r}")
    if not (isinstance(adapter, type) and issubclass(adapter, Fused)):
        raise TypeError(f"adapter must be a fused forward such as pyramid_kernels.fuse.PPMForward, got {adapter!r}")
    adapters[cls] = adapter


def load_libraries() -> None:
    """Register the adapters of every supported library that is already imported."""
    for module, file in LIBRARIES.items():
        if module in sys.modules:
            importlib.import_module(f"{__package__}.adapters.{file}")
    for (module, name), adapter in NAMED.items():
        cls = getattr(sys.modules.get(module), name, None)
        if cls is not None:
            adapters.setdefault(cls, adapter)


def known_class(cls: type[nn.Module]) -> type[nn.Module] | None:
    """The nearest class of ``cls``'s ancestry, itself first, that has an adapter."""
    return next((ancestor for ancestor in cls.__mro__ if ancestor in adapters), None)


def fused_class(cls: type[nn.Module], adapter: type[Fused]) -> Any:
    """The class an instance of ``cls`` takes: the adapter itself where it was written for exactly that class."""
    if getattr(adapter, "original", None) is cls:
        return adapter
    if (cls, adapter) not in _made:
        _made[cls, adapter] = _make(cls, adapter)
    return _made[cls, adapter]


_made: dict[tuple[type[nn.Module], type[Fused]], Any] = {}


def _make(cls: type[nn.Module], adapter: type[Fused]) -> Any:
    """A subclass of both. It cannot be imported by name, so its instances are pickled as (cls, adapter) and a state."""

    def __reduce_ex__(self: nn.Module, protocol: Any) -> Any:
        build, arguments, *state = super(made, self).__reduce_ex__(protocol)
        if build is not copyreg.__newobj__ or arguments != (made,):  # type: ignore[attr-defined]
            raise TypeError(f"{cls.__name__} pickles itself in its own way; unfuse_ it first")
        return (_blank, (cls, adapter), *state)

    members = {"original": cls, "__reduce_ex__": __reduce_ex__, "__module__": cls.__module__, "__doc__": cls.__doc__}
    made: Any = type(f"Fused{cls.__name__}", (adapter, cls), members)
    return made


def _blank(cls: type[nn.Module], adapter: type[Fused]) -> nn.Module:
    made = fused_class(cls, adapter)
    return made.__new__(made)
