"""Segmentation models as their libraries build them, small and with random weights, and when two label maps agree."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.agreement import assert_ties_alone, fair_

segmentation = pytest.importorskip("torchvision.models.segmentation", reason="needs torchvision")
smp = pytest.importorskip("segmentation_models_pytorch", reason="needs segmentation_models_pytorch")
transformers = pytest.importorskip("transformers", reason="needs transformers")

CLASSES = 7
PLAIN = {"weights": None, "weights_backbone": None, "num_classes": CLASSES}
SMALL = {"encoder_name": "resnet18", "encoder_weights": None, "classes": CLASSES}
WIDTHS = [8, 12, 16, 20]
STAGES = [f"stage{i}" for i in range(1, 5)]


def segformer(**settings: Any) -> nn.Module:
    config = transformers.SegformerConfig(
        hidden_sizes=WIDTHS, depths=[1] * 4, num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=16,
        num_labels=CLASSES, **settings,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


def upernet(auxiliary: bool = True) -> nn.Module:
    backbone = transformers.ConvNextConfig(hidden_sizes=WIDTHS, depths=[1] * 4, out_features=STAGES)
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, num_labels=CLASSES, use_auxiliary_head=auxiliary,
        auxiliary_in_channels=WIDTHS[2], auxiliary_channels=8,
    )  # fmt: skip
    return transformers.UperNetForSemanticSegmentation(config)


#: Those of torchvision and transformers take images of any size, those of smp multiples of 16 or 32.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "deeplabv3": (lambda: segmentation.deeplabv3_mobilenet_v3_large(**PLAIN, aux_loss=True), (97, 133)),
    "fcn": (lambda: segmentation.fcn_resnet50(**PLAIN), (65, 81)),
    "lraspp": (lambda: segmentation.lraspp_mobilenet_v3_large(**PLAIN), (97, 133)),
    "smp-deeplabv3": (lambda: smp.DeepLabV3(**SMALL, decoder_channels=32), (96, 160)),
    "smp-deeplabv3plus": (lambda: smp.DeepLabV3Plus(**SMALL, decoder_channels=32), (96, 160)),
    "smp-pspnet": (lambda: smp.PSPNet(**SMALL, psp_out_channels=32), (96, 160)),
    "smp-segformer": (lambda: smp.Segformer(**SMALL, decoder_segmentation_channels=32), (96, 160)),
    "smp-fpn": (lambda: smp.FPN(**SMALL, decoder_pyramid_channels=16, decoder_segmentation_channels=32), (96, 160)),
    "smp-unet": (lambda: smp.Unet(**SMALL, decoder_channels=(32, 16, 16, 8, 8)), (96, 160)),
    "smp-upernet-classifying": (
        lambda: smp.UPerNet(**SMALL, decoder_channels=16, aux_params={"classes": 2}), (96, 160),
    ),
    "segformer": (segformer, (97, 133)),
    "upernet": (upernet, (97, 133)),
}  # fmt: skip


def build(name: str, n: int = 2) -> tuple[Any, Tensor]:
    """A model in eval mode whose norms know the images, every class somewhere ahead, and the images."""
    make, size = MODELS[name]
    torch.manual_seed(0)
    image = F.interpolate(torch.randn(n, 3, size[0] // 4, size[1] // 4), size, mode="bicubic")
    model = fair_(make(), image).eval()
    last = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.out_channels == CLASSES]
    handles = [conv.register_forward_hook(_centre) for conv in last]
    full_logits(model, image)
    for handle in handles:
        handle.remove()
    return model, image


def _centre(conv: Any, _: Any, y: Tensor) -> Tensor:
    """Take the mean of every class out of the bias."""
    mean = y.mean((0, 2, 3), keepdim=True)
    conv.bias -= mean.flatten()
    return y - mean


def full_logits(model: nn.Module, image: Tensor) -> Tensor:
    """What the library itself gives at the image's size."""
    with torch.no_grad():
        output: Any = model(image)
    if hasattr(output, "logits"):
        return F.interpolate(output.logits, image.shape[2:], mode="bilinear", align_corners=False)
    return output["out"] if isinstance(output, dict) else output[0] if isinstance(output, tuple) else output


def assert_same_labels(labels: Tensor, full: Tensor) -> None:
    """``labels`` are the largest classes of ``full``, but for ties within what a head's own roundings move."""
    assert len(full.argmax(1).unique()) >= 3, "a label map of one class proves nothing"
    assert_ties_alone(labels, full, 4 * torch.finfo(full.dtype).eps * full.abs().max())
