"""What every network shares: the choice between fused and plain modules, its backbone, the images it takes."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from .. import nn as modules
from ..backends import Backend
from ..nn.base import check_backend
from ..nn.mixing import out_channels
from ..ops._shared.checks import check_map

#: The backbones that torchvision has and that can be dilated; any other name is timm's.
RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip


class Network(nn.Module):
    """A network made of pyramid modules, with the same ``state_dict`` fused and in plain PyTorch.

    Args:
        fused: modules of ``pyramid_kernels.nn``; False takes their plain forms, ``nn.Reference...``.
        backend: of the fused modules: "auto", "cuda", "triton", "composed" or "reference".
    """

    #: The ops that the fused network calls.
    ops: ClassVar[tuple[str, ...]]
    #: Rows and columns of the images it was published with.
    published_size: ClassVar[tuple[int, int]]
    #: How many pixels of the image, along each axis, one pixel of its smallest map needs: no image may have fewer.
    stride: int
    #: What the rows and the columns of an image must be multiples of.
    multiple: ClassVar[int] = 1

    def __init__(self, *, fused: bool = True, backend: Backend = "auto") -> None:
        super().__init__()
        self.fused, self.kernel_backend = fused, check_backend(backend)

    def pyramid(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A new ``nn.<name>``, or the plain form of it."""
        if self.fused:
            return getattr(modules, name)(*args, backend=self.kernel_backend, **kwargs)
        return getattr(modules, f"Reference{name}")(*args, **kwargs)

    def check_image(self, x: Tensor) -> None:
        """``x`` is a batch of images that the network's smallest map holds at least one cell of, of a size it takes."""
        check_map("x", x)
        rows, cols = x.shape[2:]
        if min(rows, cols) < self.stride:
            raise ValueError(
                f"x must be images of at least {self.stride}x{self.stride} px, the stride of {type(self).__name__}, "
                f"got {rows}x{cols}; resize or pad them"
            )
        if rows % self.multiple or cols % self.multiple:
            raise ValueError(
                f"x must be images with sides that are multiples of {self.multiple} px, got {rows}x{cols}; resize them"
            )


class Segmenter(Network):
    """A network whose logits are resized, bilinearly, to the size of the image."""

    align_corners: bool = False

    def logits(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes, h, w), smaller than the image."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        self.check_image(x)
        size = (x.shape[2], x.shape[3])
        return F.interpolate(self.logits(x), size, mode="bilinear", align_corners=self.align_corners)


class Stages(nn.Sequential):
    """The layers of a torchvision ResNet as far as its last wanted stage, under their own names.

    An image gives the list of what the wanted stages, ``layer1`` to ``layer4``, return.
    """

    def __init__(self, net: nn.Module, stages: Sequence[int]) -> None:
        super().__init__()
        self.wanted = [f"layer{i}" for i in stages]
        for name, layer in net.named_children():
            self.add_module(name, layer)
            if name == self.wanted[-1]:
                break

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for name, layer in self.named_children():
            x = layer(x)
            if name in self.wanted:
                maps.append(x)
        return maps


def backbone(
    name: str, *, output_stride: int = 32, stages: Sequence[int] = (1, 2, 3, 4)
) -> tuple[nn.Module, list[int]]:
    """A classifier's layers that turn an image into the list of its ``stages``' maps, and the channels of each map.

    Stages 1 to 4, ascending, have strides 4, 8, 16 and 32, or ``output_stride`` where that is less: strides beyond it
    become dilations. Weights are random, as the library initialises them: nothing is downloaded.

    Args:
        name: one of torchvision's ``RESNETS``, or a model of timm with ``features_only``.
        output_stride: 8, 16 or 32.

    Raises:
        ValueError: unknown name, with those nearest to it; one that does not take the output stride; an output stride
            or stages that are none. TypeError: a name that is no string.
        ImportError: torchvision or timm is not installed.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride!r}")
    if not stages or list(stages) != sorted(set(stages) & {1, 2, 3, 4}):
        raise ValueError(f"stages must be some of 1, 2, 3 and 4, ascending, got {tuple(stages)}")
    if name not in RESNETS and not (isinstance(name, str) and library("timm").is_model(name)):
        raise unknown_backbone(name, [*RESNETS, *library("timm").list_models()], "a model of torchvision or timm")
    make = _torchvision_stages if name in RESNETS else _timm_stages
    try:
        return make(name, output_stride, stages)
    except (AssertionError, RuntimeError, TypeError) as error:  # how the libraries refuse an output stride
        raise ValueError(
            f"backbone must give maps at output stride {output_stride}, got {name!r}, which does not "
            f"({str(error) or 'its library does not say why'}); resnet50 does"
        ) from error


def _torchvision_stages(name: str, output_stride: int, stages: Sequence[int]) -> tuple[nn.Module, list[int]]:
    dilate = [output_stride <= 8, output_stride <= 16]
    net = library("torchvision").models.get_model(name, replace_stride_with_dilation=[False, *dilate])
    return Stages(net, stages), [out_channels(getattr(net, f"layer{i}")) for i in stages]


def _timm_stages(name: str, output_stride: int, stages: Sequence[int]) -> tuple[nn.Module, list[int]]:
    indices = [stage - 5 for stage in stages]
    net = library("timm").create_model(name, features_only=True, output_stride=output_stride, out_indices=indices)
    return net, net.feature_info.channels()


def unknown_backbone(name: Any, known: Iterable[str], expected: str) -> Exception:
    """The error on a name that is none of ``known``, with those nearest to it."""
    if not isinstance(name, str):
        return TypeError(f"backbone must be the name of {expected}, got {name!r}")
    near = get_close_matches(name, dict.fromkeys(known), 3)
    hint = f"; near it: {', '.join(near)}" if near else ""
    return ValueError(f"backbone must be {expected}, got {name!r}{hint}")


def library(name: str) -> Any:
    """torchvision or timm: neither is a requirement of this package."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"this backbone needs {error.name}; pip install 'pyramid_kernels[models]'") from None
