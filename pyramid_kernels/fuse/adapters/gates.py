"""Gates of repositories and libraries: BiSeNet's, by the names of their classes, and those that stay as they are."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ...nn import structure
from ...nn.base import Fused
from ...nn.bisenet import ARMForward, FFMForward, Parts
from ...nn.gates import Gate
from .mmseg import unit, why_not_block


class UnusedNormForward(ARMForward):
    """ooooverflow's ARM: the gate of x itself, and a norm that is in the ``state_dict`` and never called."""

    norm_used = False


class ConvBlockForward(FFMForward):
    """ooooverflow's FFM."""

    joining: ClassVar[str] = "convblock"


class MMSegARMForward(ARMForward):
    """mmsegmentation's ARM, made of ConvModules."""

    @classmethod
    def gate(cls, module: Any) -> Gate:
        block = module.atten_conv_layer[1]
        return Gate(block.conv, block.norm)

    @classmethod
    def refined(cls, module: Any, x: Tensor) -> Tensor:
        return module.conv_layer(x)

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        layers = module._modules.get("atten_conv_layer")
        return (
            why_not_pooled("atten_conv_layer", layers, nn.Module)
            or why_not_block("atten_conv_layer.1", layers[1], act=None)
            or cls.gate(module).why_not("atten_conv_layer.1.conv")
        )


class STDCFFMForward(FFMForward):
    """mmsegmentation's FFM of STDC: a hidden layer in the gate, neither norm nor bias."""

    @classmethod
    def parts(cls, module: Any) -> Parts:
        _, first, second, _ = module.attention
        return Parts(unit(module.conv0), module.conv0, Gate(first.conv, nn.Identity(), True, second.conv, True))

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        layers = module._modules.get("attention")
        reason = why_not_block("conv0", module._modules.get("conv0"))
        reason = reason or why_not_pooled("attention", layers, nn.Module, nn.Module)
        reason = reason or why_not_block("attention.1", layers[1], normed=False)
        reason = reason or why_not_block("attention.2", layers[2], normed=False, act=None)
        paths = ("conv0.conv", "attention.1.conv", "attention.2.conv")
        return reason or cls.why_not_parts(cls.parts(module), *paths)


def why_not_pooled(path: str, layers: Any, *between: type[nn.Module]) -> str | None:
    """Why ``layers`` is not [the mean of every channel, the layers ``between``, a sigmoid]."""
    reason = structure.why_not_sequence(path, layers, nn.AdaptiveAvgPool2d, *between, nn.Sigmoid)
    if reason is None and layers[0].output_size not in (1, (1, 1)):
        reason = f"{path}.0 pools to {layers[0].output_size}, not to one mean per channel"
    return reason


RELU = "left alone: a ReLU stands before the sigmoid of its gate"
OTHER_MAP = "left alone: its gate weighs another map than the one it is made of"
FIXED = "left alone: its gate is made of windows of a fixed size and upsampled, not of each channel's mean"
BOTH = (
    "left alone: its gates of channels and of pixels are summed behind their products; without a residual channel_gate "
    "passes over the map no less often than PyTorch"
)

#: Adapters, or why a class is left alone, by the module and the name of the class.
CLASSES: dict[tuple[str, str], type[Fused] | str] = {
    ("lib.models.bisenetv1", "AttentionRefinementModule"): ARMForward,
    ("lib.models.bisenetv1", "FeatureFusionModule"): FFMForward,
    ("models.model_stages", "AttentionRefinementModule"): ARMForward,
    ("models.model_stages", "FeatureFusionModule"): FFMForward,
    ("model.build_BiSeNet", "AttentionRefinementModule"): UnusedNormForward,
    ("model.build_BiSeNet", "FeatureFusionModule"): ConvBlockForward,
    ("core.models.bisenet", "AttentionRefinmentModule"): RELU,
    ("core.models.bisenet", "FeatureFusion"): RELU,
    ("mmseg.models.backbones.bisenetv1", "AttentionRefinementModule"): MMSegARMForward,
    ("mmseg.models.backbones.bisenetv1", "FeatureFusionModule"): RELU,
    ("mmseg.models.backbones.stdc", "FeatureFusionModule"): STDCFFMForward,
    ("mmseg.models.decode_heads.lraspp_head", "LRASPPHead"): FIXED,
    ("torchvision.models.segmentation.lraspp", "LRASPPHead"): OTHER_MAP,
    ("segmentation_models_pytorch.base.modules", "SCSEModule"): BOTH,
    ("segmentation_models_pytorch.decoders.pan.decoder", "GAUBlock"): OTHER_MAP,
}
