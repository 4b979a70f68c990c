"""HRNet for poses and for segmentation: maps of four resolutions side by side, which exchange again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..backends import Backend
from .base import Network, library


class Exchange(nn.Module):
    """A module of HRNet, under timm's and the official keys: every branch by itself, then the exchange between them."""

    def __init__(self, branches: Any, fuse_layers: nn.Module) -> None:
        super().__init__()
        self.branches, self.fuse_layers = branches, fuse_layers

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return self.fuse_layers([branch(m) for branch, m in zip(self.branches, maps, strict=True)])


class HighResolution(Network):
    """What both networks share: timm's HRNet up to its four last maps, with ``nn.HRFuse`` as its exchanges.

    Args:
        width: channels of the finest map, 18, 32 or 48 in the paper's networks; every coarser one has twice as many.
        modules: exchanges in the stages of two, three and four resolutions.
        blocks: residual blocks of every branch before an exchange.
        multi_scale_output: whether the last exchange gives all resolutions, or the finest alone.
        mode, align_corners: of the exchanges.
    """

    stride = 32

    def __init__(
        self, width: int, modules: Sequence[int], blocks: int, *, multi_scale_output: bool, mode: str,
        align_corners: bool = False, fused: bool, backend: Backend,
    ) -> None:  # fmt: skip
        super().__init__(fused=fused, backend=backend)
        stages = {f"stage{n}": _stage(width, count, n, blocks) for n, count in zip((2, 3, 4), modules, strict=True)}
        self.backbone = library("timm").create_model(
            "hrnet_w32", features_only=True, feature_location="", out_indices=(1, 2, 3, 4), **stages
        )
        self.widths = [width << i for i in range(4)]
        for name in stages:
            stage = getattr(self.backbone, name)
            for i, module in enumerate(stage):
                scales = multi_scale_output or name != "stage4" or i + 1 < len(stage)
                fuse = self.pyramid(
                    "HRFuse", self.widths[: len(module.branches)], multi_scale_output=scales, mode=mode,
                    align_corners=align_corners,
                )  # fmt: skip
                stage[i] = Exchange(module.branches, fuse)

    def maps(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> (N, width << i, H / 4 >> i, W / 4 >> i) for every resolution, the finest first."""
        self.check_image(x)
        return self.backbone(x)


def _stage(width: int, modules: int, branches: int, blocks: int) -> dict[str, Any]:
    """A stage in the words of timm's configuration."""
    return {
        "num_modules": modules,
        "num_branches": branches,
        "block_type": "BASIC",
        "num_blocks": (blocks,) * branches,
        "num_channels": tuple(width << i for i in range(branches)),
        "fuse_method": "SUM",
    }


class HRNetPose(HighResolution):
    """HRNet for human poses: a heat map per joint from the finest map.

    x: (N, 3, H, W) -> (N, joints, H / 4, W / 4), rounded up: (17, 64, 48) of an image of 256x192.

    Args:
        joints: channels of the result.
        width: 32 or 48 in the paper; ``modules`` and ``blocks`` are the paper's too.
        fused, backend: as in ``Network``.

    Raises:
        ValueError: naming the argument; an image under 32 px. ImportError: timm is not installed.

    Source: Sun et al., Deep High-Resolution Representation Learning for Human Pose Estimation, 2019.
    """

    ops = ("upsample_merge",)
    published_size = (256, 192)

    def __init__(
        self, joints: int = 17, width: int = 32, *, modules: Sequence[int] = (1, 4, 3), blocks: int = 4,
        fused: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(width, modules, blocks, multi_scale_output=False, mode="nearest", fused=fused, backend=backend)
        self.final_layer = nn.Conv2d(width, joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final_layer(self.maps(x)[0])


class HRNet(HighResolution):
    """HRNetV2 for segmentation: its four maps, upsampled to the finest, one 1x1 over all of them, a classifier.

    x: (N, 3, H, W) -> class scores (N, classes, H / 4, W / 4), rounded up: (19, 128, 256) of an image of 512x1024.

    Args:
        classes: channels of the result.
        width: 18 or 48 in the paper; ``modules`` and ``blocks`` are the paper's too.
        align_corners: of every upsampling, and of ``predict``'s; ALIGN_CORNERS in the official code, False in versions
            without it.
        fused, backend: as in ``Network``.

    Raises:
        ValueError: naming the argument; an image under 32 px. ImportError: timm is not installed.

    Source: Sun et al., High-Resolution Representations for Labeling Pixels and Regions, 2019.
    """

    ops = ("pyramid_conv", "upsample_merge")
    published_size = (512, 1024)

    def __init__(
        self, classes: int = 19, width: int = 48, *, modules: Sequence[int] = (1, 4, 3), blocks: int = 4,
        align_corners: bool = False, fused: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            width, modules, blocks, multi_scale_output=True, mode="bilinear", align_corners=align_corners,
            fused=fused, backend=backend,
        )  # fmt: skip
        self.align_corners = align_corners
        self.last_layer = self.pyramid("HRNetV2Head", self.widths, classes, align_corners=align_corners)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(self.maps(x))
