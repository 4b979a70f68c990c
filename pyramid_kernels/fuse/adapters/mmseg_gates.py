"""mmsegmentation: gates of BiSeNetV1 and STDC. Not imported: its classes come by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...nn import structure
from ...nn.base import Fused
from ...nn.bisenet import ARMForward, FFMForward, Parts
from ...nn.gates import Gate
from .mmseg import unit, why_not_block


class MMSegARMForward(ARMForward):
    """BiSeNetV1's ARM, made of ConvModules."""

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
    """STDC's FFM: a hidden layer in the gate, neither norm nor bias."""

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


#: Adapters by the module and the name of the class.
CLASSES: dict[tuple[str, str], type[Fused]] = {
    ("mmseg.models.backbones.bisenetv1", "AttentionRefinementModule"): MMSegARMForward,
    ("mmseg.models.backbones.stdc", "FeatureFusionModule"): STDCFFMForward,
}
