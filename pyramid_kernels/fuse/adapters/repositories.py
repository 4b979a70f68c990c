"""Research repositories: their classes come by name, so nothing of them is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ...nn import structure
from ...nn.aspp import ASPPForward
from ...nn.base import Fused, Unit
from ...nn.deeplabv3plus import DeepLabV3PlusForward, Parts
from ...nn.dilated import ASPPv2Forward
from ...nn.spp import SPPFForward, SPPForward


class DeepLabHeadV3PlusForward(DeepLabV3PlusForward):
    """DeepLabHeadV3Plus of VainF/DeepLabV3Plus-Pytorch: the low-level map is concatenated first; maps in a dict."""

    @classmethod
    def parts(cls, module: Any) -> Parts:
        conv, norm, _, *tail = module.classifier
        return Parts(module.aspp, module.project, Unit(conv, norm), tail, True, False, 0)

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        low, fuse = module._modules.get("project"), module._modules.get("classifier")
        if low is None or fuse is None or "aspp" not in module._modules:
            return "it does not hold project, aspp and classifier"
        return (
            structure.why_not_sequence("project", low, nn.Conv2d, nn.Module, nn.ReLU)
            or structure.why_not_sequence("classifier", fuse, nn.Conv2d, nn.Module, nn.ReLU, nn.Conv2d)
            or cls.why_not_parts("classifier.0", cls.parts(module))
        )

    @classmethod
    def example(cls, module: Any, new: Callable[[int, int], Tensor]) -> Any:
        low, high = cls.widths(module)
        return {"low_level": new(low, 4), "out": new(high, 16)}

    def maps(self, x: Any) -> Sequence[Tensor]:
        return [x["low_level"], x["out"]] if isinstance(x, dict) and {"low_level", "out"} <= x.keys() else ()


class ClassifierForward(ASPPv2Forward):
    """Classifier_Module of many repositories: DeepLab v2's sum over ``conv2d_list``.

    Copies that return within the loop sum the first two branches only; they are found out by their results.
    """

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        if list(module._modules) != ["conv2d_list"]:
            return f"it holds {list(module._modules)}, not a conv2d_list alone"
        return super().why_not(module)

    @classmethod
    def named_branches(cls, module: Any) -> dict[str, nn.Module]:
        return {f"conv2d_list.{name}": branch for name, branch in module.conv2d_list.named_children()}


class SPPBottleneckForward(SPPForward):
    """SPPBottleneck of YOLOX."""

    called = ("conv1", "conv2")


class PoolingsBottleneckForward(SPPBottleneckForward):
    """SPPBottleneck of mmdetection, which turns autocast off around the pools: they keep the dtype anyway."""

    pooling = "poolings"


HRNET = (
    "left alone: its maps are joined in the whole model's forward; put nn.HRNetV2Head in the place of {} and hand it "
    "the list of maps"
)

#: Adapters, or why a class is left alone, by the module and the name of the class.
CLASSES: dict[tuple[str, str], type[Fused] | str] = {
    ("network._deeplab", "DeepLabHeadV3Plus"): DeepLabHeadV3PlusForward,
    ("network._deeplab", "ASPP"): ASPPForward,
    ("libs.models.deeplabv2", "_ASPP"): ASPPv2Forward,
    ("model.deeplab", "Classifier_Module"): ClassifierForward,
    ("model.deeplab_multi", "Classifier_Module"): ClassifierForward,
    ("ultralytics.nn.modules.block", "SPP"): SPPForward,
    ("ultralytics.nn.modules.block", "SPPF"): SPPFForward,
    ("models.common", "SPP"): SPPForward,
    ("models.common", "SPPF"): SPPFForward,
    ("yolox.models.network_blocks", "SPPBottleneck"): SPPBottleneckForward,
    ("mmdet.models.backbones.csp_darknet", "SPPBottleneck"): PoolingsBottleneckForward,
    ("models.seg_hrnet", "HighResolutionNet"): HRNET.format("last_layer"),
    ("models.seg_hrnet_ocr", "HighResolutionNet"): HRNET.format("aux_head and of conv3x3_ocr"),
}
