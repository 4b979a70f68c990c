"""transformers' mobile models: MobileViT's and MobileViTv2's ASPP, MobileNetV2's head. Its classes come by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...nn import structure
from ...nn.aspp import ASPPForward, Parts
from ...nn.base import Fused, Unit

LAYERS = ("MobileViTConvLayer", "MobileViTV2ConvLayer", "MobileNetV2ConvLayer")


def unit(layer: Any) -> Unit:
    """The convolution and the norm of a layer."""
    return Unit(layer.convolution, layer.normalization)


def why_not_layers(layers: dict[str, Any], mean: Any) -> str | None:
    """Why ``layers``, by path, are not a convolution, a norm and a ReLU each, and ``mean`` not a global one."""
    kinds = {"convolution": nn.Conv2d, "normalization": nn.Module, "activation": nn.ReLU}
    for path, layer in layers.items():
        if type(layer).__name__ not in LAYERS:
            return f"{path} is a {type(layer).__name__}, not one of {', '.join(LAYERS)}"
        reason = structure.why_not_children_of(path, layer, kinds) or structure.why_not_branch(path, unit(layer))
        if reason:
            return reason
    if not structure.is_kind(mean, nn.AdaptiveAvgPool2d) or mean.output_size not in (1, (1, 1)):
        return f"the image-level branch begins with {mean}, not with a global mean"
    return None


class MobileViTASPPForward(ASPPForward):
    """MobileViTASPP and MobileViTV2ASPP: torchvision's order under other names, the dropout beside the projection."""

    @classmethod
    def parts(cls, module: Any) -> Parts:
        *convs, pool = module.convs
        return Parts([unit(conv) for conv in convs], unit(pool.conv_1x1), unit(module.project), [module.dropout])

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        *convs, pool = module.convs
        if not type(pool).__name__.endswith("ASPPPooling"):
            return f"the last of convs is a {type(pool).__name__}, not an image-level branch"
        layers = {f"convs.{i}": conv for i, conv in enumerate(convs)}
        layers |= {f"convs.{len(convs)}.conv_1x1": pool.conv_1x1, "project": module.project}
        reason = why_not_layers(layers, pool.global_pool) or structure.why_not_units(cls.units(module))
        return reason or cls.why_not_project("project.convolution", module)


class MobileNetV2HeadForward(ASPPForward):
    """MobileNetV2DeepLabV3Plus: image-level features first, one 1x1 beside them, and the classifier."""

    pool_first = True

    @classmethod
    def parts(cls, module: Any) -> Parts:
        branches, pool = [unit(module.conv_aspp)], unit(module.conv_pool)
        return Parts(branches, pool, unit(module.conv_projection), [module.dropout, module.classifier])

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        layers = {name: module._modules.get(name) for name in ("conv_pool", "conv_aspp", "conv_projection")}
        reason = why_not_layers(layers, module._modules.get("avg_pool")) or structure.why_not_units(cls.units(module))
        return reason or cls.why_not_project("conv_projection.convolution", module)


_MODELS = "transformers.models"
#: Adapters by the module and the name of the class.
CLASSES: dict[tuple[str, str], type[Fused]] = {
    (f"{_MODELS}.mobilevit.modeling_mobilevit", "MobileViTASPP"): MobileViTASPPForward,
    (f"{_MODELS}.mobilevitv2.modeling_mobilevitv2", "MobileViTV2ASPP"): MobileViTASPPForward,
    (f"{_MODELS}.mobilenet_v2.modeling_mobilenet_v2", "MobileNetV2DeepLabV3Plus"): MobileNetV2HeadForward,
}
