"""HRNet's exchange between resolutions, with the parameters and keys of its official ``fuse_layers``."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls, Op
from ..ops._shared.checks import check_choice
from . import structure
from .base import Fused, Unit, check_backend, problems_of, why_not_map
from .kinds import why_not_kind
from .mixing import around


class ReferenceHRFuse(nn.ModuleList):
    """``HRFuse`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(
        self, channels: Sequence[int], *, multi_scale_output: bool = True, mode: str = "nearest",
        align_corners: bool = False,
    ) -> None:  # fmt: skip
        check_choice("mode", mode, ("nearest", "bilinear"))
        if len(channels) < 2:
            raise ValueError(f"channels must be those of two maps or more, got {tuple(channels)}")
        outputs = len(channels) if multi_scale_output else 1
        super().__init__(nn.ModuleList(_path(channels, j, i) for j in range(len(channels))) for i in range(outputs))
        self.mode, self.align_corners = mode, align_corners

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        corners = self.align_corners if self.mode == "bilinear" else None
        results = []
        for i, row in enumerate(rows_of(self)):
            size = maps[i].shape[2:]
            sources = [layer(m) for layer, m in zip(row, maps, strict=True)]
            for j in range(i + 1, len(row)):
                sources[j] = F.interpolate(sources[j], size=size, mode=self.mode, align_corners=corners)
            results.append(F.relu(functools.reduce(torch.add, sources)))
        return results


def _path(channels: Sequence[int], j: int, i: int) -> nn.Module:
    """What map j goes through on its way to output i; the upsampling of coarser maps comes after it."""
    if j == i:
        return nn.Identity()
    if j > i:
        return nn.Sequential(nn.Conv2d(channels[j], channels[i], 1, bias=False), nn.BatchNorm2d(channels[i]))
    steps = []
    for last in [False] * (i - j - 1) + [True]:
        out = channels[i if last else j]
        norm = [nn.BatchNorm2d(out)] if last else [nn.BatchNorm2d(out), nn.ReLU()]
        steps.append(nn.Sequential(nn.Conv2d(channels[j], out, 3, 2, 1, bias=False), *norm))
    return nn.Sequential(*steps)


def rows_of(module: Any) -> list[list[Any]]:
    """The layers that map j takes on its way to output i, as [i][j]."""
    return [list(row) for row in module]


class HRFuseForward(Fused):
    """The fused forward of every class in the layout of HRNet's ``fuse_layers``."""

    mode: str = "nearest"
    align_corners: bool = False
    calls_norms: ClassVar[bool] = True
    own_chain: ClassVar[bool] = True

    @classmethod
    def rows(cls, module: Any) -> list[list[Any]]:
        return rows_of(module)

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        rows = cls.rows(module)
        upward = [layer for i, row in enumerate(rows) for layer in row[i + 1 :]]
        return [Unit(layer[0], layer[1], biased=True) for layer in upward]

    @classmethod
    def widths(cls, module: nn.Module) -> list[int]:
        """The channels of every map that comes in."""
        first, *others = cls.rows(module)[0]
        return [others[0][0].out_channels, *(layer[0].in_channels for layer in others)]

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        rows = cls.rows(module)
        if not rows or len(rows[0]) < 2 or len(rows) not in (1, len(rows[0])):
            return "its layers are not one row for every output, or for the first alone"
        for i, row in enumerate(rows):
            for j, layer in enumerate(row):
                if reason := cls.why_not_path(f"{i}.{j}", layer, j - i):
                    return reason
        return structure.why_not_units(cls.units(module))

    @classmethod
    def why_not_path(cls, path: str, layer: Any, steps: int) -> str | None:
        """Why ``layer`` is not what a map goes through that is coarser than the output by so many halvings."""
        if steps == 0:
            same = layer is None or why_not_kind(layer, nn.Identity) is None
            return None if same else f"{path} is a {type(layer).__name__}, and should leave the map as it is"
        if steps > 0:
            reason = structure.why_not_sequence(path, layer, nn.Conv2d, nn.Module)
            return reason or structure.why_not_conv(f"{path}.0", layer[0])
        return structure.why_not_sequence(path, layer, *[nn.Sequential] * -steps)

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        return [new(width, 4 << i) for i, width in enumerate(cls.widths(module))]

    def maps(self, x: Any) -> Sequence[Tensor]:
        """The maps that are exchanged."""
        return x

    def why_not_input(self, x: Any) -> str | None:
        widths = self.widths(self)
        if not isinstance(x, list | tuple) or len(x) != len(widths):
            return f"the input is not a list of {len(widths)} maps"
        conv = self.units(self)[0].conv
        reason = next(filter(None, (why_not_map(m, conv) for m in x)), None)
        if reason is None and not all(map(self.follows, x, x[1:])):
            reason = "a map is not half as large as the one before"
        if reason is None and any(len(m) != len(x[0]) for m in x[1:]):  # the plain sum broadcasts one image
            reason = "the maps differ in batch"
        return reason

    @staticmethod
    def follows(fine: Tensor, coarse: Tensor) -> bool:
        """Whether a stride-2 convolution of ``fine`` has the size of ``coarse``; the plain sum refuses another."""
        return all((n + 1) // 2 == m for n, m in zip(fine.shape[2:], coarse.shape[2:], strict=True))

    def fused_forward(self, x: Any) -> Any:
        maps, results = self.maps(x), []
        for i, row in enumerate(self.rows(self)):
            sources = [*(layer(m) for layer, m in zip(row[:i], maps, strict=False)), maps[i]]
            sources += [layer[1](layer[0](m)) for layer, m in zip(row[i + 1 :], maps[i + 1 :], strict=True)]
            results.append(functional.upsample_merge(sources, **self._merge(maps[i])))
        return results

    def _merge(self, output: Tensor) -> dict[str, Any]:
        return {
            "size": (output.shape[2], output.shape[3]), "mode": self.mode, "align_corners": self.align_corners,
            "merge": "sum", "activation": "relu", "backend": around(self.kernel_backend),
        }  # fmt: skip

    def backend_of(self, op: Op) -> Backend:
        return around(self.kernel_backend)

    def problems(self, x: Any) -> Calls:
        calls = []
        for i in range(len(self.rows(self))):
            n, width, *_ = x[i].shape
            coarser = [x[i].new_empty((n, width, *m.shape[2:])) for m in x[i + 1 :]]
            calls.append(([x[i]] * (i + 1) + coarser, self._merge(x[i])))
        return [problem for maps, how in calls for problem in problems_of(functional.upsample_merge, maps, **how)]


class HRFuse(HRFuseForward, ReferenceHRFuse):
    """HRNet's exchange: every output resolution sums what all maps bring to it.

    Output i is ``relu(sum_j path_ij(maps[j]))``: finer maps come through stride-2 3x3 convolutions with norms (the
    library's), coarser ones through a 1x1 and a norm at their own size, then upsampled in the one pass that sums.
    maps: one (N, channels[j], H_j, W_j) per resolution, the finest first, each half as large as the one before ->
    list of maps of the same shapes, in their dtype; the finest alone without ``multi_scale_output``.

    Args:
        channels: of every map, two or more.
        multi_scale_output: False computes the finest output only.
        mode: "nearest" (pose estimation, classification) or "bilinear" (segmentation).
        align_corners: of bilinear upsampling; ALIGN_CORNERS in the official code, False in versions without it.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument.

    Source: Sun et al., Deep High-Resolution Representation Learning for Human Pose Estimation, 2019; keys of the
    official ``fuse_layers``.
    """

    def __init__(
        self, channels: Sequence[int], *, multi_scale_output: bool = True, mode: str = "nearest",
        align_corners: bool = False, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(channels, multi_scale_output=multi_scale_output, mode=mode, align_corners=align_corners)
        self.kernel_backend = check_backend(backend)

    @classmethod
    def from_reference(
        cls, module: Any, *, mode: str = "nearest", align_corners: bool = False, backend: Backend = "auto"
    ) -> Self:
        """A copy of ``module``, any ``fuse_layers``; ``mode`` and ``align_corners`` count where it does not say."""
        if not isinstance(module, nn.ModuleList) or not all(isinstance(row, nn.ModuleList) for row in module):
            raise ValueError(f"module must be a list of lists, as fuse_layers in HRNet, got a {type(module).__name__}")
        settings: dict[str, Any] = {"mode": mode, "align_corners": align_corners}
        settings = {name: getattr(module, name, value) for name, value in settings.items()}
        fuse = cls((1, 1), backend=backend, **settings)
        fuse._modules.clear()
        for i, row in enumerate(rows_of(copy.deepcopy(module))):
            layers = [layer if j < i else _plain(layer) for j, layer in enumerate(row)]
            fuse.append(nn.ModuleList(layers))
            fuse[-1].training = module.training
        fuse.training = module.training
        structure.check_layout(module, "the fuse_layers of an HRNet", fuse.why_not(fuse))
        return fuse


def _plain(layer: Any) -> nn.Module:
    """A path without the upsampling that ends it in pose networks: the forward upsamples."""
    if layer is None:
        return nn.Identity()
    if isinstance(layer, nn.Sequential) and isinstance(layer[-1], nn.Upsample):
        return nn.Sequential(*list(layer)[:-1])
    return layer
