"""DeepLab v3's atrous spatial pyramid pooling, with torchvision's parameters and keys."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import functional
from ..backends import Backend, Calls
from ..ops._shared.layout import as_map, empty_map, is_channels_last
from . import structure
from .base import Fused, Unit, check_backend, problems_of
from .norm import as_eval, passed, track, uses_batch


class ImagePooling(nn.Sequential):
    """The image-level branch: global mean, 1x1, norm, ReLU, spread over the map."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(super().forward(x), size=x.shape[-2:], mode="bilinear", align_corners=False)


class ReferenceASPP(nn.Module):
    """``ASPP`` in plain PyTorch: the same parameters and ``state_dict`` keys, every step its own module call."""

    def __init__(
        self, in_channels: int, atrous_rates: Sequence[int], out_channels: int = 256, *, separable: bool = False,
        project_kernel: int = 1, dropout: float = 0.5, pool_first: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if project_kernel not in (1, 3):
            raise ValueError(f"project_kernel must be 1 or 3, got {project_kernel!r}")
        convs = [new_branch(in_channels, out_channels)]
        for rate in atrous_rates:
            convs.append(new_branch(in_channels, out_channels, 3, rate, separable))
        convs.append(ImagePooling(nn.AdaptiveAvgPool2d(1), *new_branch(in_channels, out_channels)))
        self.convs = nn.ModuleList(convs)
        project = new_branch(len(convs) * out_channels, out_channels, project_kernel)
        self.project = nn.Sequential(*project, nn.Dropout(dropout))
        self.pool_first = pool_first

    def forward(self, x: Tensor) -> Tensor:
        *branches, pooled = [conv(x) for conv in self.convs]
        return self.project(torch.cat([pooled, *branches] if self.pool_first else [*branches, pooled], 1))


def separable(in_channels: int, out_channels: int, *, dilation: int = 1, bias: bool = False) -> nn.Sequential:
    """A depthwise 3x3, then a 1x1, nothing between: Keras's SeparableConv2D."""
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
    )
    return nn.Sequential(depthwise, nn.Conv2d(in_channels, out_channels, 1, bias=bias))


def new_branch(
    in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1, apart: bool = False
) -> nn.Sequential:
    """[convolution, or ``separable`` where ``apart``; norm; ReLU]."""
    conv: nn.Module = (
        separable(in_channels, out_channels, dilation=dilation)
        if apart
        else nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=False)
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


class Parts(NamedTuple):
    branches: list[Unit]
    pool: Unit
    project: Unit
    dropout: list[nn.Module]


class ASPPForward(Fused):
    """The fused forward of every class in torchvision's layout.

    ``convs.i`` are [conv (or [depthwise, 1x1]), norm, ReLU], the last one [mean, 1x1, norm, ReLU], concatenated in that
    order or, with ``pool_first``, the last one first; ``project`` is [conv, norm, ReLU] and perhaps a dropout.
    """

    pool_first: bool = False

    #: The class of the image-level branch, whose own forward spreads it; None leaves that to a numeric check.
    image_pooling: ClassVar[type[nn.Module] | None] = None

    @classmethod
    def parts(cls, module: Any) -> Parts:
        """Where the layers are: all that a class with other names for them has to override."""
        *convs, pool = module.convs
        project, norm, _, *dropout = module.project
        return Parts([unit_of(*conv) for conv in convs], Unit(pool[1], pool[2]), Unit(project, norm), dropout)

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        parts = cls.parts(module)
        return [*parts.branches, parts.pool, parts.project]

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        if cls.parts.__func__ is ASPPForward.parts.__func__:  # type: ignore[attr-defined]
            reason = cls.why_not_layout(module)
            return reason or structure.why_not_units(cls.units(module)) or cls.why_not_project("project.0", module)
        try:
            parts = cls.parts(module)
            return cls.why_not_parts(module, parts) or cls.why_not_project("the projection", module)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            return f"{cls.__name__}.parts does not find its layers: {error}"

    @classmethod
    def why_not_layout(cls, module: nn.Module) -> str | None:
        """Why ``module`` does not have torchvision's layout."""
        convs: Any = module._modules.get("convs")
        project: Any = module._modules.get("project")
        sequences = isinstance(convs, nn.ModuleList) and isinstance(project, nn.Sequential)
        if not sequences or len(convs) < 2:
            return "convs and project are not a ModuleList of branches and a Sequential"
        dropout = [nn.Module] * (len(project) - 3)
        return (
            cls._why_not_branches(convs)
            or structure.why_not_sequence("project", project, nn.Conv2d, nn.Module, nn.ReLU, *dropout[:1])
            or structure.why_not_conv("project.0", project[0], (1, 3))
        )

    @classmethod
    def why_not_parts(cls, module: nn.Module, parts: Parts) -> str | None:
        """Why layers found elsewhere are not those of an ASPP, or not all that ``module`` holds."""
        for i, unit in enumerate(parts.branches):
            if reason := structure.why_not_branch(f"branch {i}", unit):
                return reason
        return (
            structure.why_not_conv("the image-level branch", parts.pool.conv)
            or structure.why_not_conv("the projection", parts.project.conv, (1, 3))
            or structure.why_not_units([*parts.branches, parts.pool, parts.project])
            or structure.why_not_rest(module, [*parts.branches, parts.pool, parts.project], parts.dropout)
        )

    @classmethod
    def _why_not_branches(cls, convs: nn.ModuleList) -> str | None:
        children: list[Any] = list(convs)
        *branches, pool = children
        for i, branch in enumerate(branches):
            path = f"convs.{i}"
            separable = isinstance(branch, nn.Sequential) and any(isinstance(part, nn.Sequential) for part in branch)
            kind = nn.Sequential if separable else nn.Conv2d
            reason = structure.why_not_sequence(path, branch, kind, nn.Module, nn.ReLU)
            if separable and not reason:
                reason = structure.why_not_sequence(f"{path}.0", branch[0], nn.Conv2d, nn.Conv2d)
            if reason := reason or structure.why_not_branch(f"{path}.0", unit_of(*branch)):
                return reason
        path = f"convs.{len(branches)}"
        if cls.image_pooling not in (None, type(pool)):
            return f"{path} is a {type(pool).__name__}, not {cls.image_pooling.__name__}"
        reason = structure.why_not_sequence(path, pool, nn.AdaptiveAvgPool2d, nn.Conv2d, nn.Module, nn.ReLU)
        if not reason and pool[0].output_size not in (1, (1, 1)):
            reason = f"{path}.0 pools to {pool[0].output_size}, not 1"
        return reason or structure.why_not_conv(f"{path}.1", pool[1])

    @classmethod
    def why_not_project(cls, path: str, module: nn.Module) -> str | None:
        *branches, project = cls.units(module)
        if project.conv.kernel_size != (1, 1) and project.conv.dilation != (1, 1):
            return f"{path} has dilation={project.conv.dilation}, not 1"
        joined = sum(unit.conv.out_channels for unit in branches)
        if joined != project.conv.in_channels:
            return f"{path} takes {project.conv.in_channels} channels, and the branches give {joined}"
        return None

    def fused_forward(self, x: Tensor) -> Tensor:
        parts = self.parts(self)
        y = self._whole(x, parts) if self._is_whole(parts) else self._stepwise(x, parts)
        # Dropout draws its mask in the order of the memory.
        y = y if self._keeps_format(x) else y.contiguous()
        for layer in parts.dropout:
            y = layer(y)
        return as_map(y, x)

    def _keeps_format(self, x: Tensor) -> bool:
        """Whether the own forward projects maps in the memory format of ``x``, where that shows in training.

        PyTorch may leave a map of one pixel contiguous, and with it the concat of all branches.
        """
        learning = self.training or torch.is_grad_enabled()
        if not (learning and is_channels_last(x)) or torch.compiler.is_compiling():
            return True
        return self._snapshot().answer(x, self._why_contiguous) is None

    @torch.no_grad()
    def _why_contiguous(self, x: Tensor) -> str | None:
        """What leaves the projected map contiguous, found by the own forward's steps on a channels_last map of 2x2."""
        parts = self.parts(self)
        tiny = empty_map(x, (*x.shape[:2], 2, 2)).zero_()
        maps = [u.conv(tiny if u.depthwise is None else u.depthwise(tiny)) for u in parts.branches]
        pooled = parts.pool.conv(F.adaptive_avg_pool2d(tiny, 1))
        if isinstance(parts.pool.norm, _BatchNorm):
            zeros = torch.zeros_like(pooled[0, :, 0, 0])
            pooled = F.batch_norm(pooled, zeros, torch.ones_like(zeros))
        maps.append(F.interpolate(pooled, size=(2, 2), mode="bilinear", align_corners=False))
        return None if is_channels_last(parts.project.conv(torch.cat(maps, 1))) else "a step gives contiguous maps"

    def problems(self, x: Tensor) -> Calls:
        parts = self.parts(self)
        weights = [unit.conv.weight for unit in parts.branches]
        dilations = [unit.conv.dilation[0] for unit in parts.branches]
        project: Any = parts.project.conv.weight
        if self._is_whole(parts):
            return problems_of(functional.aspp, x, weights, project, dilations=dilations)
        trained = {uses_batch(unit.norm) for unit in (*parts.branches, parts.project)}
        ops = [functional.dilated_branches] * (False in trained) + [functional.dilated_branches_train] * (
            True in trained
        )
        return [problem for op in ops for problem in problems_of(op, x, weights, dilations=dilations)]

    def _is_whole(self, parts: Parts) -> bool:
        """Whether one op computes it all: dense branches, every norm in eval mode."""
        units = [*parts.branches, parts.pool, parts.project]
        return not any(unit.depthwise is not None or uses_batch(unit.norm) for unit in units)

    def _whole(self, x: Tensor, parts: Parts) -> Tensor:
        return functional.aspp(
            x,
            [unit.conv.weight for unit in parts.branches],
            parts.project.conv.weight,
            dilations=[unit.conv.dilation[0] for unit in parts.branches],
            norms=[as_eval(unit.norm, unit.conv) for unit in parts.branches],
            project_norm=as_eval(parts.project.norm, parts.project.conv),
            pool_weight=parts.pool.conv.weight,
            pool_norm=as_eval(parts.pool.norm, parts.pool.conv),
            pool_first=self.pool_first,
            backend=self.kernel_backend,
        )

    def _stepwise(self, x: Tensor, parts: Parts) -> Tensor:
        """The image-level branch stays one vector per image: the projection adds what it would contribute."""
        backend = self.kernel_backend
        pooled = parts.pool.conv(x.mean((2, 3), keepdim=True))
        pooled = torch.relu(parts.pool.norm(pooled))  # [N, O, 1, 1]
        if all(unit.depthwise is None for unit in parts.branches):
            y = conv_norm_relu(x, parts.branches, backend)
        else:
            maps = [x if unit.depthwise is None else unit.depthwise(x) for unit in parts.branches]
            y = torch.cat([conv_norm_relu(m, [u], backend) for m, u in zip(maps, parts.branches, strict=True)], 1)
        widths = (pooled.shape[1], y.shape[1]) if self.pool_first else (y.shape[1], pooled.shape[1])
        columns = parts.project.conv.weight.split(widths, 1)
        weight, image_weight = columns[::-1] if self.pool_first else columns
        image_bias = torch.einsum("np,opk->nok", pooled.flatten(1), image_weight.flatten(2))
        # PyTorch's sums of a norm are of another exactness in each format.
        y = y if self._keeps_format(x) else y.contiguous()
        return conv_norm_relu(y, [parts.project], backend, weight, image_bias)


def unit_of(conv: Any, norm: nn.Module, _: nn.Module) -> Unit:
    """A convolution, or [depthwise, 1x1], with its norm and ReLU."""
    separable = isinstance(conv, nn.Sequential)
    return Unit(conv[1], norm, conv[0]) if separable else Unit(conv, norm)


def conv_norm_relu(
    x: Tensor, units: list[Unit], backend: Backend, weight: Tensor | None = None, image_bias: Tensor | None = None
) -> Tensor:
    """The units' convolutions of one map, each norm by its own mode, ReLU, concatenated.

    ``weight`` stands for the only unit's own, and ``image_bias`` goes with it.
    """
    trained = [uses_batch(unit.norm) for unit in units]
    if len(set(trained)) > 1:
        maps: dict[bool, Iterator[Tensor]] = {}
        for mode in (True, False):
            group = [unit for unit, t in zip(units, trained, strict=True) if t is mode]
            maps[mode] = iter(conv_norm_relu(x, group, backend).split([u.conv.out_channels for u in group], 1))
        return torch.cat([next(maps[t]) for t in trained], 1)
    weights = [unit.conv.weight for unit in units] if weight is None else [weight]
    dilations = [unit.conv.dilation[0] for unit in units]
    if not trained[0]:
        norm = [as_eval(unit.norm, unit.conv) for unit in units]
        return functional.dilated_branches(
            x, weights, dilations=dilations, norm=norm, activation="relu", image_bias=image_bias, backend=backend
        )
    norms: list[Any] = [unit.norm for unit in units]
    y, mean, var = functional.dilated_branches_train(
        x, weights, dilations=dilations, gamma=[n.weight for n in norms], beta=[n.bias for n in norms],
        eps=[n.eps for n in norms], activation="relu", image_bias=image_bias, backend=backend,
    )  # fmt: skip
    widths = [len(w) for w in weights]
    for norm_module, m, v in zip(norms, mean.split(widths), var.split(widths), strict=True):
        track(norm_module, m, v, x.shape[0] * x.shape[2] * x.shape[3])
    return passed(y)


class ASPP(ASPPForward, ReferenceASPP):
    """DeepLab v3's ASPP: 1x1 and dilated 3x3 branches beside image-level pooling, concatenated and projected.

    Equivalent to ``torchvision.models.segmentation.deeplabv3.ASPP``, with the same ``state_dict`` keys (those of
    segmentation_models_pytorch when ``separable``). x: (N, in_channels, H, W) -> (N, out_channels, H, W) in x's dtype
    and memory format.

    Args:
        in_channels, out_channels: channels of the input and of every branch and the result.
        atrous_rates: dilation of each 3x3 branch, any number of them.
        separable: 3x3 branches as depthwise 3x3, then 1x1, nothing between.
        project_kernel: 1 (DeepLab), or 3 (mmsegmentation).
        dropout: probability after the projection.
        pool_first: the image-level branch is concatenated first (mmsegmentation, NVIDIA), not last; the keys stay.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument; "Expected more than 1 value per channel when training" as PyTorch.

    Source: Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017.
    """

    image_pooling = ImagePooling

    def __init__(
        self, in_channels: int, atrous_rates: Sequence[int], out_channels: int = 256, *, separable: bool = False,
        project_kernel: int = 1, dropout: float = 0.5, pool_first: bool = False, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, atrous_rates, out_channels, separable=separable, project_kernel=project_kernel,
            dropout=dropout, pool_first=pool_first,
        )  # fmt: skip
        self.kernel_backend = check_backend(backend)

    @classmethod
    def from_reference(cls, module: nn.Module, *, pool_first: bool = False, backend: Backend = "auto") -> Self:
        """A copy of ``module``, any ASPP in this layout (torchvision's, segmentation_models_pytorch's, this one's).

        ``pool_first`` counts where it has no such attribute.
        """
        structure.check_layout(module, "an ASPP in torchvision's layout", ASPPForward.why_not(module))
        source: Any = copy.deepcopy(module)
        aspp = cls(1, (), 1, pool_first=getattr(module, "pool_first", pool_first), backend=backend)
        *convs, pool = source.convs
        branches = [nn.Sequential(*map(_plain, conv)) for conv in convs]
        aspp.convs = nn.ModuleList([*branches, ImagePooling(*pool)])
        aspp.project = nn.Sequential(*source.project)
        for container in (aspp, aspp.convs, *aspp.convs, aspp.project):
            container.training = module.training  # a new container is in training mode
        return aspp


def _plain(part: nn.Module) -> nn.Module:
    return nn.Sequential(*part) if isinstance(part, nn.Sequential) else part
