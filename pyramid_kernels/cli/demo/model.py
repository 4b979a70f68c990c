"""The demo's DeepLab v3, its photograph, and the unsupervised segmentation that it is trained towards."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import console
from ...console import UsageError
from ...nn import ReferenceASPP

CLASSES = 5
#: Output stride 8 and the rates that go with it.
RATES = (12, 24, 36)
require = functools.partial(console.require, who="demo")


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, c: int, o: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, o, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm2d(o),
            nn.ReLU(),
            nn.Conv2d(o, o, 3, 1, dilation, dilation, bias=False),
            nn.BatchNorm2d(o),
        )
        self.skip = nn.Sequential(nn.Conv2d(c, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class DeepLabV3(nn.Module):
    """Chen et al., 2017, in plain PyTorch on a narrow residual backbone: (N, 3, H, W) -> logits (N, classes, H, W)."""

    def __init__(self, classes: int = CLASSES, width: int = 32, features: int = 256) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        stages = [Block(width, width), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 1, 2)]
        self.backbone = nn.Sequential(*stem, *stages, Block(4 * width, features, 1, 4))
        self.aspp = ReferenceASPP(features, RATES, 256, dropout=0.0)
        head = [nn.Conv2d(256, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU()]
        self.classifier = nn.Sequential(*head, nn.Conv2d(128, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(self.aspp(self.backbone(x)))
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)


def load_photo(path: Path | None, side: int, multiple: int = 8) -> Any:
    """An RGB photograph as uint8 (H, W, 3), upright, its longer side about ``side`` and both multiples of ``multiple``.

    Scikit-image's cup of coffee by default.
    """
    image = require("PIL.Image")
    if path is None:
        photo = image.fromarray(require("skimage.data").coffee())
    elif not os.path.isfile(path):
        raise UsageError(f"IMAGE {str(path)!r} is not a file")
    else:
        try:
            with warnings.catch_warnings(action="ignore"):
                photo = _as_rgb(_read(path, side))
        except Exception as error:  # damaged files make Pillow's decoders raise nearly everything
            reason = " ".join(str(error).split())
            raise UsageError(f"IMAGE {str(path)!r} is not an image that can be read: {reason}") from None
    scale = side / max(photo.size)
    size = [max(1, round(v * scale / multiple)) * multiple for v in photo.size]
    return require("numpy").asarray(photo.resize(size, image.Resampling.LANCZOS))


def _read(path: Path, side: int) -> Any:
    """The picture at ``path``, upright. A JPEG is decoded at a fraction of its size that still is twice ``side``."""
    image = require("PIL.Image")
    # Given a path, Pillow maps plain TIFFs into memory, and takes width for height in those whose camera was turned.
    with path.open("rb") as file, image.open(file) as photo:
        photo.draft(None, (2 * side, 2 * side))
        most = image.MAX_IMAGE_PIXELS
        if most and photo.width * photo.height > most:
            raise ValueError(f"it has {photo.width}x{photo.height} px, more than the {most} that Pillow takes for safe")
        return require("PIL.ImageOps").exif_transpose(photo)


def _as_rgb(photo: Any) -> Any:
    """In 8 bits: more are spread from the least finite value to the largest, and what is transparent lies on white."""
    image, numpy = require("PIL.Image"), require("numpy")
    if photo.mode in ("I", "F") or photo.mode.startswith("I;16"):
        values = numpy.asarray(photo).astype(float)
        finite = values[numpy.isfinite(values)]
        if not finite.size:
            raise ValueError("none of its values is finite")
        low, high = finite.min(), finite.max()
        values = numpy.nan_to_num(values, nan=low, posinf=high, neginf=low)
        photo = image.fromarray(numpy.rint(255 * (values - low) / ((high - low) or 1)).astype(numpy.uint8))
    elif photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = image.alpha_composite(image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")


def segments(photo: Any) -> Any:
    """An unsupervised segmentation, (H, W) of ints below CLASSES: superpixels, then neighbours merged as Ward does."""
    numpy, color = require("numpy"), require("skimage.color")
    smooth = color.rgb2lab(require("skimage.filters").gaussian(photo, 1, channel_axis=2))
    labels = require("skimage.segmentation").slic(photo, n_segments=250, compactness=12, start_label=0)
    count = numpy.bincount(labels.ravel()).astype(float)
    mean = numpy.stack([numpy.bincount(labels.ravel(), c.ravel()) for c in numpy.moveaxis(smooth, 2, 0)], 1)
    mean /= count[:, None]
    owner = numpy.arange(len(count))
    sides = (labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])
    edges = {(a, b) for x, y in sides for a, b in zip(x.ravel(), y.ravel(), strict=True) if a != b}

    def cost(edge: tuple[int, int]) -> float:
        a, b = edge
        return ((mean[a] - mean[b]) ** 2).sum() * count[a] * count[b] / (count[a] + count[b])

    while edges and len(set(owner)) > CLASSES:
        a, b = min(edges, key=cost)
        mean[a] = (count[a] * mean[a] + count[b] * mean[b]) / (count[a] + count[b])
        count[a] += count[b]
        owner[owner == b] = a
        renamed = {(a if i == b else i, a if j == b else j) for i, j in edges}
        edges = {(i, j) for i, j in renamed if i != j}
    return numpy.unique(owner[labels], return_inverse=True)[1].reshape(labels.shape)


def as_image(photo: Any) -> Tensor:
    """The photograph, normalised, (1, 3, H, W)."""
    return torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def as_batch(photo: Any, target: Any, device: str) -> tuple[Tensor, Tensor]:
    """The photograph and its mirror image, darker, normalised, (2, 3, H, W), and their labels (2, H, W)."""
    x = as_image(photo)
    y = torch.from_numpy(target.copy()).long()[None]
    x, y = torch.cat([x, 0.6 * x.flip(3) - 0.3]), torch.cat([y, y.flip(2)])
    return x.contiguous(memory_format=torch.channels_last).to(device), y.to(device)


def step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One forward and backward pass; the gradients are left in the parameters."""
    model.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach()
