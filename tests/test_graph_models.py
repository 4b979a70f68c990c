"""Whole models of libraries, by graph alone: what adapters would take is found, and what a backbone holds beside it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import pyramid_kernels as pk
from pyramid_kernels.graph import inplace
from tests.foreign import FOREIGN, build, inputs
from tests.libraries import library, mmseg, ultralytics
from tests.modules import assert_same
from tests.test_adapter_contract import no_dropout
from tests.test_graph import compiled, forgotten, outcome

__all__ = ["forgotten"]
pytestmark = pytest.mark.usefixtures("own_adapters")

#: What an adapter does by an op and a graph leaves to PyTorch: the 1x1s behind depthwise branches, a layer on one pixel
#: per image, a sum of maps of one size.
LEFT = {
    "smp-separable": Counter(dilated_branches_train=4),
    "smp-deeplabv3plus": Counter(dilated_branches_train=4, pyramid_conv=1),
    "mmseg-separable": Counter(dilated_branches_train=3),
    "transformers-mobilenet-v2": Counter(dilated_branches_train=1),
    "transformers-mobilenet-v2-padded": Counter(dilated_branches_train=1),
    "timm-hrnet": Counter(upsample_merge=1),
    "official-pose-hrnet": Counter(upsample_merge=1),
}
#: mmsegmentation warns where corners are aligned, which breaks the graph; ``fuse_`` asks Dynamo to go on.
BROKEN = ("mmseg-fcn-3x3", "mmseg-psp-corners", "mmseg-uper-corners")
FEW = ("torchvision", "smp-upernet", "mmseg-segformer", *BROKEN[:1])


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in FOREIGN])
def test_what_adapters_take(name: str) -> None:
    module = no_dropout(build(name)).train()
    given = inputs(module)
    adapted, unfused = copy.deepcopy(module), copy.deepcopy(module)
    pk.fuse_(adapted, backend="composed")
    with pk.testing.count_ops() as theirs:
        adapted(*copy.deepcopy(given))
    if name in BROKEN:
        ours = compiled(copy.deepcopy(module))
        ours(*copy.deepcopy(given))
        assert any(line.op == "graph break" for line in ours.report.left)
        inplace.compile_in_place([module], "composed")
    with pk.testing.count_ops() as ops:
        got = outcome(module, given, module if name in BROKEN else compiled(module))
    assert_same(got, outcome(unfused, given))
    assert theirs - ops == LEFT.get(name, Counter())


def exchange() -> nn.Module:
    return mmseg("models.backbones.hrnet").HRModule(
        2, mmseg("models.backbones.resnet").BasicBlock, [1, 1], [4, 5], [4, 5]
    )


def smp(path: str, *args: int) -> nn.Module:
    return attrgetter(path)(library("segmentation_models_pytorch"))(*args)


#: Modules of libraries that have no adapter, the sizes of their maps, and the op that is in them.
WITHOUT = {
    "lraspp": (
        lambda: library("torchvision.models.segmentation.lraspp").LRASPPHead(4, 6, 3, 8),
        lambda: {"low": torch.randn(4, 4, 12, 16), "high": torch.randn(4, 6, 6, 8)}, "pyramid_conv",
    ),
    "scse": (lambda: smp("base.modules.SCSEModule", 16), lambda: torch.randn(4, 16, 7, 9), "channel_gate"),
    "hrnet": (exchange, lambda: [torch.randn(4, 4, 12, 16), torch.randn(4, 5, 6, 8)], "upsample_merge"),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT)
def test_what_has_no_adapter(name: str) -> None:
    make, given, op = WITHOUT[name]
    module = make().double().train()
    unfused, x = copy.deepcopy(module), tree_map(Tensor.double, given())
    pk.fuse_(module, backend="composed", strict=True, example_input=(x,))
    for train in (True, False):
        with pk.testing.count_ops() as ops:
            got = outcome(module.train(train), (x,))
        assert_same(got, outcome(unfused.train(train), (x,)))
        assert ops == {op: 1}


class Whole(NamedTuple):
    make: Callable[[], nn.Module]
    size: tuple[int, int]
    fused: dict[str, int]  # lines of the report by op
    trained: bool = False


def deeplab() -> nn.Module:
    return library("torchvision.models.segmentation").deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None)


def segformer() -> nn.Module:
    transformers = library("transformers")
    config = transformers.SegformerConfig(num_labels=5, depths=[1, 1, 1, 1], decoder_hidden_size=32)
    return WithLoss(transformers.SegformerForSemanticSegmentation(config))


class WithLoss(nn.Module):
    """A training step: the model's own loss on random labels."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        labels = (x[:, 0] > 0).long() + 1
        return self.model(pixel_values=x, labels=labels).loss


def yolo() -> nn.Module:
    return ultralytics("nn.tasks").DetectionModel("yolov8n.yaml", verbose=False)


WHOLE = {
    "deeplabv3-mobilenet": Whole(deeplab, (64, 96), {"dilated_branches": 2, "channel_gate": 8}),
    "efficientnet": Whole(lambda: library("torchvision.models").efficientnet_b0(), (64, 96), {"channel_gate": 16}),
    "mobilenet": Whole(lambda: library("torchvision.models").mobilenet_v3_small(), (64, 96), {"channel_gate": 9}),
    "seresnet": Whole(lambda: library("timm").create_model("seresnet18"), (64, 96), {"channel_gate": 8}),
    "hrnet": Whole(lambda: library("timm").create_model("hrnet_w18_small"), (64, 96), {"upsample_merge": 6}),
    "segformer-step": Whole(segformer, (64, 96), {"pyramid_conv": 1, "upsample_cross_entropy": 1}, True),
    # Its head asks for values, which breaks the graph around the upsampling.
    "yolov8": Whole(yolo, (64, 96), {"max_pool_pyramid": 1}),
    "unet": Whole(
        lambda: library("segmentation_models_pytorch").Unet("resnet18", encoder_weights=None), (64, 96),
        {"pyramid_conv": 5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [n if n == "seresnet" else pytest.param(n, marks=pytest.mark.slow) for n in WHOLE])
def test_whole_models(name: str) -> None:
    torch.manual_seed(0)
    model = WHOLE[name].make().train(WHOLE[name].trained)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d) or type(layer).__name__ in ("StochasticDepth", "DropPath"):
            layer.p = layer.drop_prob = 0.0
    x = torch.randn(2, 3, *WHOLE[name].size)
    with torch.no_grad():
        expected = tree_leaves(copy.deepcopy(model)(x))
        ours = compiled(model)
        with pk.testing.count_ops() as ops:
            got = tree_leaves(ours(x))
    for y, z in zip(got, expected, strict=True):
        if isinstance(z, Tensor):
            torch.testing.assert_close(y, z, rtol=1e-3, atol=1e-3 * max(1.0, z.abs().max().item()))
    assert Counter(line.op for line in ours.report.fused) == WHOLE[name].fused, ours.report
    assert ops.total() == sum(len(line.detail.split(", ")) for line in ours.report.fused)
