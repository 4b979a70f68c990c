"""Heads of libraries and repositories that cannot be installed beside the tests, under their own names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.fuse import registry
from tests import third_party as user
from tests import third_party_mmseg as like

WIDTHS = [4, 5, 6, 7]
LEVELS = {"in_channels": WIDTHS, "in_index": [0, 1, 2, 3], "channels": 8}
HRNET = LEVELS | {"input_transform": "resize_concat", "num_convs": 1, "kernel_size": 1, "concat_input": False}

HEADS: dict[str, Callable[[], nn.Module]] = {
    "psp": lambda: like.PSPHead(in_channels=7, in_index=3, channels=8),
    "psp-corners": lambda: like.PSPHead(pool_scales=(1, 3), in_channels=7, channels=8, align_corners=True),
    "uper": lambda: like.UPerHead(**LEVELS),
    "uper-corners": lambda: like.UPerHead(pool_scales=(1, 2), **LEVELS | {"align_corners": True}),
    "hrnetv2": lambda: like.FCNHead(**HRNET | {"dropout_ratio": -1}),
    "fcn-3x3": lambda: like.FCNHead(**HRNET | {"num_convs": 2, "kernel_size": 3, "align_corners": True}),
    "segformer": lambda: like.SegformerHead(**LEVELS),
    "vainf": lambda: user.DeepLabHeadV3Plus(7, 4, 3),
}

X = torch.randn(8, 3, 16, 24, generator=torch.Generator().manual_seed(0))
MAPS = [torch.randn(2, c, 16 >> i, 24 >> i, generator=torch.Generator().manual_seed(1)) for i, c in enumerate(WIDTHS)]


@pytest.fixture(autouse=True)
def under_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes stand where their libraries have them; adapters of this test only."""
    registry.load_libraries()
    for registered in ("adapters", "notes"):
        monkeypatch.setattr(registry, registered, dict(getattr(registry, registered)))
    found = {f"mmseg.models.decode_heads.{name}": cls for name, cls in like.MODULES.items()}
    found |= {"network._deeplab": user.DeepLabHeadV3Plus, "models.seg_hrnet_ocr": user.HighResolutionNet}
    for name, cls in found.items():
        module = ModuleType(name)
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, name, module)


class Segmentor(nn.Module):
    """A head behind a backbone of four maps."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.ModuleList(nn.Conv2d(3, c, 3, stride=1 << i, padding=1) for i, c in enumerate(WIDTHS))
        self.decode_head = head

    def forward(self, x: Tensor) -> Tensor:
        maps = [conv(x) for conv in self.backbone]
        takes_dict = isinstance(self.decode_head, user.DeepLabHeadV3Plus)
        return self.decode_head({"low_level": maps[0], "out": maps[-1]} if takes_dict else maps)


def why_skipped(head: nn.Module) -> str:
    cls = type(head)
    own = next(e for e in pk.fuse_(head, backend="reference", only="").entries if e.path == "")
    assert not own.fused and type(head) is cls
    return own.detail
