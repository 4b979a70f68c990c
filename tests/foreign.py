"""Modules of libraries and repositories that ``fuse_`` takes: how each is made and what it becomes.

Those of a library come from the library; those of a repository that cannot be installed stand in ``third_party*.py``.
No adapter knows these by their names, but the pose network's: the others are registered here, or fused through their
graph as ``layouts.py`` says.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels import fuse
from pyramid_kernels.fuse import registry
from pyramid_kernels.nn.base import Fused
from tests import third_party as user
from tests import third_party_gates as gates
from tests import third_party_yolo as yolo
from tests.libraries import library, mmseg, ultralytics
from tests.modules import randomise

WIDTHS = [4, 5, 6, 7]
LEVELS = {"in_channels": WIDTHS, "in_index": [0, 1, 2, 3]}
JOINED = LEVELS | {"input_transform": "resize_concat", "num_convs": 1, "kernel_size": 1, "concat_input": False}
MOBILEVIT = {"aspp_out_channels": 8, "aspp_dropout_prob": 0.1, "atrous_rates": [2, 3, 4]}


class Foreign(NamedTuple):
    """``kind``: of what it becomes an instance; ``register``: for a class that ``fuse_`` does not know by itself."""

    make: Callable[[], Any]
    kind: type[Fused]
    register: bool = False


def torchvision_aspp() -> Any:
    return library("torchvision.models.segmentation.deeplabv3").ASPP(8, (2, 3), 6)


def smp(path: str, cls: str) -> Callable[..., Any]:
    """What makes a ``cls`` of segmentation_models_pytorch."""
    return lambda *args, **kwargs: getattr(library(f"segmentation_models_pytorch.decoders.{path}"), cls)(
        *args, **kwargs
    )


def transformers(path: str, cls: str, config: str, *args: Any, **settings: Any) -> Any:
    made = getattr(library("transformers"), config)(**settings)
    return getattr(library(f"transformers.models.{path}"), cls)(made, *args)


def segformer() -> Any:
    settings = {"hidden_sizes": WIDTHS, "decoder_hidden_size": 8, "num_labels": 3}
    return transformers("segformer.modeling_segformer", "SegformerDecodeHead", "SegformerConfig", **settings)


def upernet() -> Any:
    settings = {"hidden_size": 8, "num_labels": 3}
    return transformers("upernet.modeling_upernet", "UperNetHead", "UperNetConfig", WIDTHS, **settings)


def mobile_vit() -> Any:
    settings = MOBILEVIT | {"neck_hidden_sizes": [8, 8, 8, 8, 8, 6, 8]}
    return transformers("mobilevit.modeling_mobilevit", "MobileViTASPP", "MobileViTConfig", **settings)


def mobile_vit2() -> Any:
    settings = MOBILEVIT | {"width_multiplier": 1 / 64}
    return transformers("mobilevitv2.modeling_mobilevitv2", "MobileViTV2ASPP", "MobileViTV2Config", **settings)


def mobile_net(**settings: Any) -> Any:
    settings |= {"depth_multiplier": 1 / 32, "num_labels": 3}
    path = "mobilenet_v2.modeling_mobilenet_v2"
    return transformers(path, "MobileNetV2DeepLabV3Plus", "MobileNetV2Config", **settings)


def timm_module(multi_scale_output: bool = True) -> Any:
    hrnet = library("timm.models.hrnet")
    widths = WIDTHS[:3]
    return hrnet.HighResolutionModule(
        3, hrnet.BasicBlock, (1, 1, 1), list(widths), tuple(widths), "SUM", multi_scale_output=multi_scale_output
    )


def mm_head(path: str, cls: str, **settings: Any) -> Any:
    """A decode head of mmsegmentation."""
    common = {"channels": 8, "num_classes": 3, "norm_cfg": {"type": "BN"}}
    return getattr(mmseg(f"models.decode_heads.{path}"), cls)(**common | settings)


def mm_psp(**settings: Any) -> Any:
    return mm_head("psp_head", "PSPHead", **{"in_channels": 7, "in_index": 3} | settings)


def mm_uper(**settings: Any) -> Any:
    return mm_head("uper_head", "UPerHead", **LEVELS | settings)


def mm_fcn(**settings: Any) -> Any:
    return mm_head("fcn_head", "FCNHead", **JOINED | settings)


def mm_segformer() -> Any:
    return mm_head("segformer_head", "SegformerHead", **LEVELS)


def mm_aspp() -> Any:
    return mm_head("aspp_head", "ASPPHead", in_channels=7, in_index=3, dilations=(1, 2, 3))


def mm_separable() -> Any:
    settings: dict[str, Any] = {"in_channels": 7, "in_index": 3, "dilations": (1, 2, 3)}
    return mm_head("sep_aspp_head", "DepthwiseSeparableASPPHead", c1_in_channels=4, c1_channels=3, **settings)


def mm_gate(path: str, cls: str, *widths: int) -> Any:
    return getattr(mmseg(f"models.backbones.{path}"), cls)(*widths)


def mm_arm() -> Any:
    return mm_gate("bisenetv1", "AttentionRefinementModule", 6, 8)


def mm_stdc() -> Any:
    return mm_gate("stdc", "FeatureFusionModule", 9, 8)


def yolo_block(cls: str, *args: Any) -> Any:
    """A block of ultralytics with the norms that its models give it."""
    module = getattr(ultralytics("nn.modules.block"), cls)(*args)
    ultralytics("utils.torch_utils").initialize_weights(module)
    return module


FOREIGN: dict[str, Foreign] = {
    "torchvision": Foreign(torchvision_aspp, fuse.ASPPForward),
    "smp": Foreign(lambda: smp("deeplabv3.decoder", "ASPP")(8, 6, (1, 2, 3), False, 0.5), fuse.ASPPForward),
    "smp-separable": Foreign(lambda: smp("deeplabv3.decoder", "ASPP")(8, 6, (1, 2, 3), True, 0.5), fuse.ASPPForward),
    "smp-psp-module": Foreign(lambda: smp("pspnet.decoder", "PSPModule")(8, (1, 2, 3)), fuse.PPMForward),
    "smp-psp": Foreign(lambda: smp("pspnet.decoder", "PSPDecoder")([3, 4, 8], out_channels=8), fuse.PSPForward),
    "smp-segformer": Foreign(
        lambda: smp("segformer.decoder", "SegformerDecoder")([3, 0, *WIDTHS], 5, 8), fuse.SegFormerForward
    ),
    "smp-upernet": Foreign(lambda: smp("upernet.decoder", "UPerNetDecoder")([3, 4, *WIDTHS], 5, 8), fuse.UPerForward),
    "smp-deeplabv3plus": Foreign(
        lambda: smp("deeplabv3.decoder", "DeepLabV3PlusDecoder")([3, 4, *WIDTHS], 5, 8, (1, 2, 3), 16, True, 0.5),
        fuse.DeepLabV3PlusForward,
    ),
    "transformers-segformer": Foreign(segformer, fuse.SegFormerForward),
    "transformers-upernet": Foreign(upernet, fuse.UPerForward),
    "transformers-mobilevit": Foreign(mobile_vit, fuse.ASPPForward),
    "transformers-mobilevit-v2": Foreign(mobile_vit2, fuse.ASPPForward),
    "transformers-mobilenet-v2": Foreign(mobile_net, fuse.ASPPForward),
    "transformers-mobilenet-v2-padded": Foreign(lambda: mobile_net(tf_padding=False), fuse.ASPPForward),
    "timm-hrnet": Foreign(timm_module, fuse.HighResolutionModuleForward),
    "timm-hrnet-finest": Foreign(lambda: timm_module(False), fuse.HighResolutionModuleForward),
    "mmseg-psp": Foreign(mm_psp, fuse.PSPForward),
    "mmseg-psp-corners": Foreign(lambda: mm_psp(pool_scales=(1, 3), align_corners=True), fuse.PSPForward),
    "mmseg-uper": Foreign(mm_uper, fuse.UPerForward),
    "mmseg-uper-corners": Foreign(lambda: mm_uper(pool_scales=(1, 2), align_corners=True), fuse.UPerForward),
    "mmseg-hrnetv2": Foreign(lambda: mm_fcn(dropout_ratio=-1), fuse.HRNetV2Forward),
    "mmseg-fcn-3x3": Foreign(lambda: mm_fcn(num_convs=2, kernel_size=3, align_corners=True), fuse.HRNetV2Forward),
    "mmseg-segformer": Foreign(mm_segformer, fuse.adapters.mmseg.SegformerHeadForward),
    "mmseg-aspp": Foreign(mm_aspp, fuse.ASPPForward),
    "mmseg-separable": Foreign(mm_separable, Fused),
    "mmseg-arm": Foreign(mm_arm, fuse.ARMForward),
    "mmseg-stdc-ffm": Foreign(mm_stdc, fuse.FFMForward),
    "ultralytics-spp": Foreign(lambda: yolo_block("SPP", 8, 6), fuse.SPPForward),
    "ultralytics-sppf": Foreign(lambda: yolo_block("SPPF", 8, 6), fuse.SPPFForward),
    "ultralytics-sppf-shortcut": Foreign(lambda: yolo_block("SPPF", 8, 8, 3, 2, True), fuse.SPPFForward),
    "official-pose-hrnet": Foreign(lambda: user.PoseModule((4, 5, 6)), fuse.HighResolutionModuleForward, register=True),
    "kazuto1011": Foreign(lambda: user.KazutoASPP(6, 3, (1, 2, 4)), fuse.ASPPv2Forward, register=True),
    "coincheung-arm": Foreign(lambda: gates.CoinCheungARM(6, 8), fuse.ARMForward, register=True),
    "coincheung-ffm": Foreign(lambda: gates.CoinCheungFFM(9, 8), fuse.FFMForward, register=True),
    "stdc-seg-ffm": Foreign(lambda: gates.STDCSegFFM(9, 8), fuse.FFMForward, register=True),
    "yolov5-sppf": Foreign(lambda: yolo.SPPF(8, 6), fuse.SPPFForward, register=True),
    "semseg-ppm": Foreign(lambda: user.SemsegPPM(8, 2, (1, 2, 3)), fuse.PPMForward, register=True),
    "research-aspp": Foreign(lambda: user.ResearchASPP(8, (2, 3), 6), fuse.ASPPForward, register=True),
}


@functools.cache
def load_libraries() -> None:
    """Ahead of every test: their adapters are registered once, when their file here is first imported."""
    for name in registry.LIBRARIES:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    registry.load_libraries()


def build(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """The module, norms at random, the same at every call."""
    torch.manual_seed(0)
    make, kind, register = FOREIGN[name]
    module = make()
    if register:
        pk.register_adapter(type(module), kind)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        randomise(norm)
    return module.to(dtype)


def inputs(module: Any, images: int = 4, size: tuple[int, int] = (64, 96)) -> tuple[Any, ...]:
    """The arguments of its forward on maps of images of ``size``."""
    registry.load_libraries()
    cls = getattr(type(module), "original", type(module))
    adapter: Any = registry.adapters[registry.known_class(cls) or cls]
    like, generator = next(module.parameters()), torch.Generator().manual_seed(0)

    def new(channels: int, stride: int) -> Tensor:
        return torch.randn(images, channels, *(n // stride for n in size), generator=generator).to(like)

    x = adapter.example(module, new)
    return tuple(x) if adapter.spreads_maps else (x,)


def why_skipped(module: nn.Module) -> str:
    """The reason in its own line; pyramids inside it may still be fused."""
    before = {m: type(m) for m in module.modules()}
    own = next(e for e in pk.fuse_(module, backend="reference", only="").entries if e.path == "")
    assert not own.fused and type(module) is before[module]
    return own.detail
