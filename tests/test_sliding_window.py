"""``predict`` with windows against mmsegmentation's way: every window's logits upsampled, added up, and divided."""

import warnings
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.inference import sliding
from tests.label_maps import CLASSES, assert_same_labels, build, full_logits
from tests.modes import Seen

#: The model, the image, the window and its stride: odd sizes, the last window moved back, windows wider than the image.
CASES: dict[str, tuple[str, tuple[int, int], Any, Any]] = {
    "segformer": ("segformer", (97, 133), (64, 48), (40, 32)),
    "two-thirds": ("segformer", (97, 133), 64, None),
    "odd": ("segformer", (61, 83), (37, 41), (1 + 37 // 2, 13)),
    "one-pixel-of-overlap": ("segformer", (97, 129), 33, 32),
    "beside-each-other": ("segformer", (96, 128), 32, 32),
    "one-row": ("segformer", (48, 133), (64, 48), (64, 20)),
    "whole": ("segformer", (61, 83), 128, None),
    "torchvision": ("lraspp", (97, 133), 65, 43),
    "corners": ("smp-fpn", (96, 160), (64, 96), (20, 50)),
    "full-size": ("smp-unet", (64, 96), 32, 24),
}


def averaged(model: nn.Module, image: Tensor, crop: Any, stride: Any) -> Tensor:
    """mmsegmentation's ``slide_inference``."""
    size = (image.shape[2], image.shape[3])
    crop = crop if isinstance(crop, tuple) else (crop, crop)
    stride = stride if isinstance(stride, tuple) else (stride, stride) if stride else [2 * v // 3 for v in crop]
    grid = [max(v - c + s - 1, 0) // s + 1 for v, c, s in zip(size, crop, stride, strict=True)]
    total, count = image.new_zeros(len(image), CLASSES, *size), image.new_zeros(1, 1, *size)
    for i, j in product(*map(range, grid)):
        ends = [min(k * s + c, v) for k, s, c, v in zip((i, j), stride, crop, size, strict=True)]
        (y, bottom), (x, right) = ((max(end - c, 0), end) for end, c in zip(ends, crop, strict=True))
        logits = full_logits(model, image[:, :, y:bottom, x:right])
        total += F.pad(logits, (x, size[1] - right, y, size[0] - bottom))
        count[:, :, y:bottom, x:right] += 1
    return total / count


@pytest.mark.parametrize("name", list(CASES))
def test_labels_are_those_of_averaged_logits(name: str) -> None:
    kind, size, crop, stride = CASES[name]
    model, image = build(kind)
    image = image[:, :, : size[0], : size[1]]
    labels = pk.predict(model, image, crop=crop, stride=stride)
    assert labels.dtype == torch.uint8
    assert_same_labels(labels, averaged(model, image, crop, stride))
    assert torch.equal(pk.predict(model, image[1], crop=crop, stride=stride), labels[1])


def test_logits_of_the_images_size_are_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of five rows give what one band gives, and nothing of all classes is larger than they are."""
    model, image = build("segformer")
    expected = pk.predict(model, image, crop=64, stride=40)
    monkeypatch.setattr(sliding, "BAND", 5 * image.shape[0] * CLASSES * image.shape[3])
    with Seen() as shapes:
        labels = pk.predict(model, image, crop=64, stride=40)
    assert torch.equal(labels, expected)
    rows = {s[2] for s, _ in shapes.tensors if len(s) == 4 and (s[1], s[3]) == (CLASSES, image.shape[3])}
    assert rows and max(rows) == 5
    assert not shapes.builds(CLASSES, 64, 64)


def test_windows_are_dropped_once_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However tall the image, no more rows of windows wait than overlap."""
    waiting, labels_of = [], sliding._labels
    monkeypatch.setattr(sliding, "_labels", lambda live, *rest: [waiting.append(len(live)), labels_of(live, *rest)][1])
    model, image = build("segformer")
    tall = image[:1].repeat(1, 1, 4, 1)[:, :, :384]
    pk.predict(model, tall, crop=(32, tall.shape[3]), stride=(16, 1))
    assert waiting == [1] + 22 * [2]


class Upsampling(nn.Module):
    """A model of nobody's library."""

    def forward(self, image: Tensor) -> Tensor:
        low = F.avg_pool2d(image.repeat(1, 3, 1, 1)[:, :CLASSES] * torch.arange(1.0, 1 + CLASSES)[:, None, None], 4)
        return F.interpolate(low, image.shape[2:], mode="bilinear")


def test_an_unknown_model_slides_too() -> None:
    image = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="predict builds logits of full size: it does not know how Upsampling"):
        labels = pk.predict(Upsampling(), image, crop=24, stride=16)
    assert_same_labels(labels, averaged(Upsampling(), image, 24, 16))


def test_a_nan_reaches_its_pixels_alone() -> None:
    """argmax takes the first NaN; what other windows bring cannot undo it."""

    class Marked(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            logits = image.repeat(1, 2, 1, 1)
            logits[:, 4, 3, 3] = float("nan")
            return logits

    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        marked = pk.predict(Marked(), image, crop=8, stride=4) == 4
    expected = torch.zeros(1, 16, 16, dtype=torch.bool)
    expected[:, 3:12:4, 3:12:4] = True
    assert torch.equal(marked, expected)
