"""mmsegmentation's stock configurations of its pyramids, built whole and fused; their heads among several processes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from tests.agreement import assert_agrees, fair_
from tests.libraries import library, mmseg

#: The output strides of what their backbones give.
DILATED, PYRAMID = (4, 8, 8, 8), (4, 8, 16, 32)
MODELS = {
    "segformer_mit-b0": PYRAMID,
    "pspnet_r50-d8": DILATED,
    "deeplabv3_r50-d8": DILATED,
    "deeplabv3plus_r50-d8": DILATED,
    "upernet_r50": PYRAMID,
    "upernet_swin": PYRAMID,
    "fcn_hr18": PYRAMID,
}
X = torch.randn(8, 3, 64, 96, generator=torch.Generator().manual_seed(0))

#: The whole models and every head take seconds; the heads' classes are cases of the adapters' contract.
stock = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "segformer_mit-b0" else [pytest.mark.slow]) for name in MODELS]
)


class FedHead(nn.Module):
    """A head behind one convolution for every map of its backbone."""

    def __init__(self, head: Any, widths: list[int], strides: tuple[int, ...]) -> None:
        super().__init__()
        stems = (nn.Conv2d(3, c, 3, s, 1) for c, s in zip(widths, strides, strict=True))
        self.backbone, self.decode_head = nn.ModuleList(stems), head

    def maps(self, x: Tensor) -> list[Tensor]:
        return [stem(x) for stem in self.backbone]

    def forward(self, x: Tensor) -> Tensor:
        return self.decode_head(self.maps(x))


def read(name: str) -> Any:
    folder = Path(mmseg("models").__file__).parents[1] / ".mim/configs/_base_/models"
    model = library("mmengine.config").Config.fromfile(str(folder / f"{name}.py")).model
    model.pretrained = None
    return model


def built(config: Any) -> Any:
    return mmseg("registry").MODELS.build(config)


def fed(config: Any, strides: tuple[int, ...], x: Tensor) -> Any:
    """The configuration's head, narrow and with rates that fit small maps, where they can be given."""
    settings, given = copy.deepcopy(config.decode_head), config.decode_head.in_channels
    if settings.get("input_transform") is None:
        settings.channels = 16
    if "dilations" in settings:
        settings.dilations = (1, 2, 3, 5)
    widths = [given] if isinstance(given, int) else list(given)
    widths = [settings.get("c1_in_channels", 4), 4, 4, *widths][-4:]
    return fair_(FedHead(built(settings), widths, strides), x, "decode_head")


@stock
def test_stock_models(name: str) -> None:
    model, x = built(read(name)).eval(), X[:2, :, :, :64]
    with torch.no_grad():
        expected = model(x)
        report = pk.fuse_(model, backend="composed", strict=True, example_input=x)
        assert [row.path for row in report.fused] == ["decode_head"], report
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@stock
def test_heads_with_the_norms_of_several_processes_and_of_one(name: str, train: bool) -> None:
    strides = MODELS[name]
    x = X[..., :40, :56].contiguous() if strides is DILATED else X  # whose coarsest maps have a few pixels
    unfused = fed(read(name), strides, x).train(train)
    ours = copy.deepcopy(unfused)
    pk.fuse_(ours, backend="reference", only="decode_head", strict=True)
    assert ours.decode_head.why_original(ours.maps(x)) is None
    assert_agrees(ours, unfused, x, draws=4)
    reverted = library("mmengine.model").revert_sync_batchnorm(ours)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in reverted.modules())
    assert reverted.decode_head.why_original(reverted.maps(x)) is None
