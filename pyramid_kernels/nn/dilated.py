"""The heads of DeepLab v1 and v2: dilated convolutions with biases and no norms, straight to class scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls
from ..ops._shared.constants import derived
from . import structure
from .base import Fused, Unit, check_backend, problems_of
from .kinds import why_not_kind


class ReferenceLargeFOV(nn.Module):
    """``LargeFOV`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(
        self, in_channels: int, classes: int, *, hidden: int = 1024, rate: int = 12, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(in_channels, hidden, 3, padding=rate, dilation=rate)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.fc8 = nn.Conv2d(hidden, classes, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.fc6(x)))

    def classify(self, y: Tensor) -> Tensor:
        return self.fc8(self.dropout(F.relu(self.fc7(self.dropout(y)))))


class LargeFOV(Fused, ReferenceLargeFOV):
    """DeepLab v1's classifier with a large field of view: one dilated 3x3, then two 1x1, ReLU and dropout between.

    Equivalent to ``fc8(dropout(relu(fc7(dropout(relu(fc6(x)))))))``, ``fc6`` being the dilated 3x3.
    x: (N, in_channels, H, W) -> class scores (N, classes, H, W) in x's dtype and memory format.

    Args:
        in_channels, hidden, classes: channels of x, between the convolutions, and of the result.
        rate: dilation of the 3x3.
        dropout: probability behind each ReLU.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument.

    Source: Chen et al., Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs, 2015
    (DeepLab-LargeFOV); its layers' names.
    """

    helpers: ClassVar[tuple[str, ...]] = ("classify",)
    own_chain: ClassVar[bool] = True

    def __init__(
        self, in_channels: int, classes: int, *, hidden: int = 1024, rate: int = 12, dropout: float = 0.5,
        backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, classes, hidden=hidden, rate=rate, dropout=dropout)
        self.kernel_backend = check_backend(backend)

    @classmethod
    def units(cls, module: Any) -> list[Unit]:
        return [Unit(module.fc6, nn.Identity())]

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        return structure.why_not_conv("fc6", module.fc6, (3,)) or structure.why_not_units(cls.units(module))

    def fused_forward(self, x: Tensor) -> Tensor:
        conv = self.fc6
        y = functional.dilated_branches(
            x, [conv.weight], dilations=[conv.dilation[0]], shift=[conv.bias], activation="relu",
            backend=self.kernel_backend,
        )  # fmt: skip
        return self.classify(y)

    def problems(self, x: Tensor) -> Calls:
        return problems_of(functional.dilated_branches, x, [self.fc6.weight], dilations=self.fc6.dilation[:1])


class ReferenceASPPv2(nn.Module):
    """``ASPPv2`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(
        self, in_channels: int, classes: int, rates: Sequence[int] = (6, 12, 18, 24), *, hidden: int | None = None
    ) -> None:
        super().__init__()
        if not rates:
            raise ValueError("rates must not be empty; give one dilation per branch, such as (6, 12, 18, 24)")
        for i, rate in enumerate(rates):
            conv = nn.Conv2d(in_channels, hidden or classes, 3, padding=rate, dilation=rate)
            self.add_module(f"c{i}", nn.Sequential(conv, *_classifier(hidden, classes)) if hidden else conv)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = [branch(x) for branch in self.children()]
        for y in others:
            first = first + y
        return first


def _classifier(hidden: int, classes: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, classes, 1)]


class ASPPv2Forward(Fused):
    """The fused forward of every sum of branches: children that are a dilated 3x3 each, or a 3x3 and two 1x1."""

    own_chain: ClassVar[bool] = True

    @classmethod
    def branches(cls, module: nn.Module) -> list[list[Any]]:
        """The convolutions of every branch."""
        found = module.children()
        return [list(branch)[::2] if isinstance(branch, nn.Sequential) else [branch] for branch in found]

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return [Unit(conv, nn.Identity()) for branch in cls.branches(module) for conv in branch]

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        found = dict(module.named_children())
        deep = any(isinstance(branch, nn.Sequential) for branch in found.values())
        for name, branch in found.items():
            if reason := _why_not_branch(name, branch, deep):
                return reason
        branches = cls.branches(module)
        if not branches:
            return "it holds no branch"
        for place in range(len(branches[0])):
            shapes = {(conv.in_channels, conv.out_channels) for conv in (branch[place] for branch in branches)}
            if len(shapes) > 1:
                return "the branches differ in their channels"
        return structure.why_not_units(cls.units(module))

    @classmethod
    def looks_like(cls, module: nn.Module) -> bool:
        """With layers behind the 3x3: convolutions side by side and nothing else are in very many classes."""
        return super().looks_like(module) and min(map(len, cls.branches(module))) > 1 < len(cls.branches(module))

    def fused_forward(self, x: Tensor) -> Tensor:
        first, *others = zip(*self.branches(self), strict=True)
        settings: dict[str, Any] = {
            "dilations": [conv.dilation[0] for conv in first],
            "shift": [conv.bias for conv in first],
            "backend": self.kernel_backend,
        }
        weights = [conv.weight for conv in first]
        if not others:
            return functional.dilated_branches(x, weights, merge="sum", **settings)
        y = functional.dilated_branches(x, weights, activation="relu", **settings)
        middle, last = others
        y = F.conv2d(y, derived(_joined, middle), derived(_biases, middle).flatten(), groups=len(middle)).relu()
        # The sum of the branches' last 1x1 is one 1x1 of their concat.
        return F.conv2d(y, derived(_joined, last, 1), derived(_biases, last).sum(0))

    def problems(self, x: Tensor) -> Calls:
        first = [convs[0] for convs in self.branches(self)]
        dilations = [conv.dilation[0] for conv in first]
        return problems_of(functional.dilated_branches, x, [conv.weight for conv in first], dilations=dilations)


def _joined(convs: Sequence[nn.Conv2d], dim: int = 0) -> Tensor:
    return torch.cat([conv.weight for conv in convs], dim)


def _biases(convs: Sequence[Any]) -> Tensor:
    return torch.stack([conv.bias for conv in convs])


def _why_not_branch(name: str, branch: nn.Module, deep: bool) -> str | None:
    if not deep:
        reason = why_not_kind(branch, nn.Conv2d)
        return f"{name} {reason}" if reason else structure.why_not_conv(name, branch, (1, 3))  # type: ignore[arg-type]
    if reason := structure.why_not_sequence(name, branch, nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Conv2d):
        return reason
    convs: Any = branch
    for place, kernels in ((0, (1, 3)), (2, (1,)), (4, (1,))):
        reason = reason or structure.why_not_conv(f"{name}.{place}", convs[place], kernels)
        if not reason and place and convs[place].bias is None:
            reason = f"{name}.{place} has no bias"
    return reason


class ASPPv2(ASPPv2Forward, ReferenceASPPv2):
    """DeepLab v2's atrous spatial pyramid pooling: branches of several dilations, each to class scores, summed.

    Equivalent to ``sum(c(x) for c in (c0, c1, ...))``, every ``c`` a dilated 3x3 with bias (the ResNet form) or, with
    ``hidden``, 3x3, ReLU, 1x1, ReLU, 1x1 (the VGG-16 form).
    x: (N, in_channels, H, W) -> (N, classes, H, W) in x's dtype.

    Args:
        in_channels, classes: channels of x and of the result.
        rates: dilation of every branch's 3x3.
        hidden: channels inside every branch, 128 in the VGG-16 form; None for the ResNet form.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument.

    Source: Chen et al., DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and
    Fully Connected CRFs, 2016; keys of kazuto1011/deeplab-pytorch.
    """

    def __init__(
        self, in_channels: int, classes: int, rates: Sequence[int] = (6, 12, 18, 24), *, hidden: int | None = None,
        backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, classes, rates, hidden=hidden)
        self.kernel_backend = check_backend(backend)
