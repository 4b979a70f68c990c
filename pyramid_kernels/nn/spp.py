"""YOLO's spatial pyramid pooling, SPP and SPPF, with the parameters and keys of ultralytics' modules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls
from ..ops._shared.layout import empty_map
from . import structure
from .base import Fused, Unit, check_backend, is_plain, problems_of
from .kinds import why_not_kind
from .mixing import first_conv, out_channels


class ConvBlock(nn.Module):
    """A 1x1 convolution without bias, the BatchNorm of YOLO and, if ``activation``, SiLU."""

    def __init__(self, in_channels: int, out_channels: int, *, activation: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class ReferenceSPP(nn.Module):
    """``SPP`` in plain PyTorch: the same parameters and ``state_dict`` keys, every step its own module call."""

    def __init__(self, in_channels: int, out_channels: int, kernel_sizes: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.cv1 = ConvBlock(in_channels, hidden)
        self.cv2 = ConvBlock(hidden * (1 + len(kernel_sizes)), out_channels)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in kernel_sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *[pool(x) for pool in self.m]], 1))


class ReferenceSPPF(nn.Module):
    """``SPPF`` in plain PyTorch: the same parameters and ``state_dict`` keys, every step its own module call."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 5, n: int = 3, shortcut: bool = False, *,
        activation: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = in_channels // 2
        self.cv1 = ConvBlock(in_channels, hidden, activation=activation)
        self.cv2 = ConvBlock(hidden * (1 + n), out_channels)
        self.m = nn.MaxPool2d(kernel_size, 1, kernel_size // 2)
        self.n, self.add = n, shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.cv1(x)]
        for _ in range(self.n):
            maps.append(self.m(maps[-1]))
        y = self.cv2(torch.cat(maps, 1))
        return y + x if self.add else y


class Pools(NamedTuple):
    """What stands between the two layers: pools of x, ascending, or equal ones in series."""

    sizes: list[int]
    cascade: bool


class SPPForward(Fused):
    """The fused forward of a layer, parallel max pools in a ModuleList, and a layer on the concat of them all.

    Only the pools and the concat are fused: both layers are called as they are, whatever has become of them.
    """

    called: ClassVar[tuple[str, ...]] = ("cv1", "cv2")
    calls_norms: ClassVar[bool] = True

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return []

    @classmethod
    def pools(cls, module: Any) -> Pools:
        return Pools(cls.sizes(module.m), False)

    @classmethod
    def sizes(cls, pools: Any) -> list[int]:
        return [side(pool.kernel_size) for pool in pools]

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        children = module._modules
        if set(children) != {"cv1", "cv2", "m"}:
            return f"it holds {list(children)}, not ['cv1', 'cv2', 'm']"
        first: Any = children["cv1"]
        if not any(isinstance(m, nn.Conv2d) for m in first.modules()):
            return "cv1 holds no convolution"
        return cls.why_not_pools(children["m"])

    @classmethod
    def why_not_pools(cls, pools: Any) -> str | None:
        if not isinstance(pools, nn.ModuleList) or not len(pools):
            return "m is not a ModuleList of pools"
        for i, pool in enumerate(pools):
            if reason := why_not_pool(f"m.{i}", pool):
                return reason
        sizes = cls.sizes(pools)
        return None if sizes == sorted(set(sizes)) else f"m pools {sizes}, which do not ascend"

    @classmethod
    def example(cls, module: Any, new: Callable[[int, int], Tensor]) -> Any:
        # Maps wider than the windows: at YOLO's stride of 32 a self-check would not tell their sizes.
        return new(first_conv(module.cv1).in_channels, 2)

    def why_not_input(self, x: Any) -> str | None:
        maps = is_plain(x) and x.dim() == 4 and x.numel() > 0
        return None if maps else "the input is not a batch of maps"

    def fused_forward(self, x: Tensor) -> Tensor:
        own: Any = self
        sizes, cascade = self.pools(self)
        y = own.cv2(functional.max_pool_pyramid(own.cv1(x), sizes, cascade=cascade, backend=self.kernel_backend))
        return y + x if getattr(self, "add", False) else y

    def problems(self, x: Tensor) -> Calls:
        before: Any = self.cv1
        hidden = empty_map(x, (len(x), out_channels(before), *x.shape[2:]))
        wanted = x.requires_grad or any(p.requires_grad for p in before.parameters())
        hidden.requires_grad_(wanted and torch.is_grad_enabled())
        sizes, cascade = self.pools(self)
        return problems_of(functional.max_pool_pyramid, hidden, sizes, cascade=cascade)


class SPPFForward(SPPForward):
    """The same around one max pool that is called ``n`` times in series (3 where there is no ``n``)."""

    @classmethod
    def pools(cls, module: Any) -> Pools:
        return Pools([side(module.m.kernel_size)] * getattr(module, "n", 3), True)

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        n = getattr(module, "n", 3)
        counted = isinstance(n, int) and n > 0
        return super().why_not(module) or (None if counted else f"n is {n!r}, not a count of pools")

    @classmethod
    def why_not_pools(cls, pools: Any) -> str | None:
        return why_not_pool("m", pools)


def side(size: int | tuple[int, int]) -> int:
    """The rows of a window; its columns are as many."""
    return size if isinstance(size, int) else size[0]


def why_not_pool(path: str, pool: Any) -> str | None:
    """Why ``pool`` is not a stride-1, same-padded max pool of an odd square window."""
    reason = why_not_kind(pool, nn.MaxPool2d)
    if reason:
        return f"{path} {reason}"
    k = side(pool.kernel_size)
    expected = {"kernel_size": k, "stride": 1, "padding": k // 2, "dilation": 1}
    for name, value in expected.items():
        if getattr(pool, name) not in (value, (value, value)):
            return f"{path} has {name}={getattr(pool, name)}, not {value}"
    if k % 2 == 0 or pool.ceil_mode or pool.return_indices:
        return f"{path} has an even window, ceil_mode or return_indices"
    return None


class _Module(SPPForward):
    """What both modules of this package add to their forward."""

    @classmethod
    def from_reference(cls, module: nn.Module, *, backend: Backend = "auto") -> Self:
        """A copy of ``module``, any one in ultralytics' layout; its layers stay what they are."""
        structure.check_layout(module, f"ultralytics' {cls.__name__}", cls.why_not(module))
        own: Any = cls(2, 1)
        for name in ("cv1", "cv2", "m"):
            setattr(own, name, copy.deepcopy(getattr(module, name)))
        for name in {"n", "add"} & vars(own).keys():
            setattr(own, name, getattr(module, name, getattr(own, name)))
        own.training, own.kernel_backend = module.training, check_backend(backend)
        return own


class SPP(_Module, ReferenceSPP):
    """A 1x1 that halves the channels, its map beside max pools of it, and a 1x1 on all of them.

    Equivalent to ``cv2(cat([y, *[max_pool2d(y, k, 1, k // 2) for k in kernel_sizes]], 1))`` with ``y = cv1(x)``.
    x: (N, in_channels, H, W) -> (N, out_channels, H, W) in x's dtype.

    Args:
        in_channels, out_channels: of x and of the result; in_channels // 2 between.
        kernel_sizes: odd windows, ascending.
        backend: "auto", "cuda", "triton", "composed" or "reference", of the pools.

    Raises:
        ValueError, TypeError: naming the argument, in the forward for ``kernel_sizes``.

    Source: ultralytics' and YOLOv5's SPP; the pools are those of YOLOv3-SPP (Redmon and Farhadi, 2018).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_sizes: Sequence[int] = (5, 9, 13), *,
        backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_sizes)
        self.kernel_backend = check_backend(backend)


class SPPF(SPPFForward, _Module, ReferenceSPPF):
    """SPP by ``n`` max pools in series: the same values, but of equal maxima others may take the gradient.

    x: (N, in_channels, H, W) -> (N, out_channels, H, W) in x's dtype.

    Args:
        in_channels, out_channels: of x and of the result; in_channels // 2 between.
        kernel_size, n: the pool and how often it is applied; 5 and 3 are SPP's 5, 9, 13.
        shortcut: add x to the result, where the channels are as many (YOLO26).
        activation: whether cv1 ends in SiLU, as from YOLOv5 to YOLO11; False is ultralytics' own default from 8.4.
        backend: "auto", "cuda", "triton", "composed" or "reference", of the pools.

    Raises:
        ValueError, TypeError: naming the argument, in the forward for ``kernel_size``.

    Source: Jocher, YOLOv5, 2021; ultralytics' SPPF.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 5, n: int = 3, shortcut: bool = False, *,
        activation: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, n, shortcut, activation=activation)
        self.kernel_backend = check_backend(backend)
