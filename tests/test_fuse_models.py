"""``fuse_`` on whole models of torchvision and segmentation_models_pytorch: every output, gradient and statistic.

Inputs are small and in batches of eight; ``tests.agreement`` says why, and what is done to the head's norms. The
backbones run the same code in both forms, so whatever their own ReLUs and max-pools do is the same in both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import pyramid_kernels as pk
from tests.agreement import assert_agrees, fair_

segmentation = pytest.importorskip("torchvision.models.segmentation", reason="needs torchvision")
smp = pytest.importorskip("segmentation_models_pytorch", reason="needs segmentation_models_pytorch")

PLAIN = {"weights": None, "weights_backbone": None, "num_classes": 3}
SMALL = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 3}

#: The model, the path of its pyramid, the prefix of its head, the input's size.
MODELS: dict[str, tuple[Callable[[], nn.Module], str, str, int]] = {
    "deeplabv3_resnet50": (lambda: segmentation.deeplabv3_resnet50(**PLAIN), "classifier.0", "classifier", 33),
    "deeplabv3_mobilenet": (
        lambda: segmentation.deeplabv3_mobilenet_v3_large(**PLAIN), "classifier.0", "classifier", 65,
    ),
    "smp-deeplabv3": (lambda: smp.DeepLabV3(**SMALL, decoder_channels=32), "decoder.aspp", "decoder", 32),
    "smp-deeplabv3plus": (lambda: smp.DeepLabV3Plus(**SMALL, decoder_channels=32), "decoder.aspp.0", "decoder", 64),
    "smp-pspnet": (lambda: smp.PSPNet(**SMALL, psp_out_channels=32), "decoder.psp", "decoder", 48),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    make, path, head, size = MODELS[request.param]
    torch.manual_seed(0)
    x = torch.randn(8, 3, size, size)
    return fair_(make(), x, head), path, x


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_agrees(model: Any, train: bool) -> None:
    original, path, x = model
    unfused = copy.deepcopy(original).train(train)
    ours = copy.deepcopy(unfused)
    report = pk.fuse_(ours, backend="reference", example_input=x[:2])
    assert [e.path for e in report.fused] == [path]
    assert ours.get_submodule(path).why_original(torch.zeros(8, 1, 4, 4)) is None
    assert_agrees(ours, unfused, x, draws=2)


def test_automatic_results_and_exact_undo(model: Any) -> None:
    original, path, x = model
    ours = copy.deepcopy(original).eval()
    strides = [p.stride() for p in ours.parameters()]
    with torch.no_grad():
        expected = ours(x[:2])
        report = pk.fuse_(ours, strict=True, example_input=x[:2])
        got = ours(x[:2])
        assert pk.unfuse_(ours) == [e.path for e in report.fused] == [path]
        undone = ours(x[:2])
    for a, b, c in zip(*(r.values() if isinstance(r, dict) else [r] for r in (expected, got, undone)), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
        assert torch.equal(c, a)
    assert strides == [p.stride() for p in ours.parameters()]


def test_deeplab_head_has_a_line_of_its_own() -> None:
    report = pk.fuse_(segmentation.deeplabv3_mobilenet_v3_large(**PLAIN))
    assert [(e.path, e.cls) for e in report.skipped] == [("classifier", "DeepLabHead")]
    assert "left alone" in report.skipped[0].detail
