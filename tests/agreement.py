"""Whether a fused module or model agrees with its unfused form, its float64 copy being the truth.

Two things make an fp32 comparison of gradients unfair, whoever computes them. A pre-activation within rounding of zero
switches a whole gradient on or off; so every norm in front of a ReLU gets an offset of +2 or -2 by channel, which few
normalised values undo (a larger offset would drown what follows in its own mean). A norm over two or three values has a
gradient that is all cancellation; so batches hold eight maps, which the image-level branch is normalised over. What
lies before the pyramid needs neither: it runs the same code in both forms.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyramid_kernels.testing import module_error_ratios
from tests.modules import Size, results

NORMS = nn.modules.batchnorm._BatchNorm


class Fed(nn.Module):
    """A module behind one convolution for every map it takes, and everything it gives as one tensor."""

    def __init__(self, module: nn.Module, shapes: Sequence[Size], call: Any = results) -> None:
        super().__init__()
        self.shapes, self.call = shapes, call
        self.backbone = nn.ModuleList(nn.Conv2d(3, c, 1) for c, _, _ in shapes)
        self.module = module

    def images(self) -> Tensor:
        """Eight, as large as the largest map."""
        size = [max(sides) for sides in zip(*(shape[1:] for shape in self.shapes), strict=True)]
        return torch.randn(8, 3, *size, generator=torch.Generator().manual_seed(0))

    def maps(self, x: Tensor) -> list[Tensor]:
        pool = nn.functional.adaptive_avg_pool2d
        return [stem(pool(x, shape[1:])) for stem, shape in zip(self.backbone, self.shapes, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([y.flatten(1) for y in self.call(self.module, self.maps(x))], 1)


def fair_(model: nn.Module, x: Tensor, head: str = "") -> nn.Module:
    """Random affines, offsets of 2 below ``head``, the running statistics of ``x``, no dropout; left in train mode."""
    generator = torch.Generator().manual_seed(1)
    momenta = {module: module.momentum for module in model.modules() if isinstance(module, NORMS)}
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
        if isinstance(module, NORMS):
            module.momentum = 1.0
            if module.affine:
                _randomise(module, generator, gated=name.startswith(head))
    model.train()
    with torch.no_grad():
        model(x)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    return model


@torch.no_grad()
def _randomise(norm: Any, generator: torch.Generator, gated: bool) -> None:
    norm.weight.copy_(1 + torch.rand(norm.num_features, generator=generator) / 4)
    if gated:
        norm.bias.copy_(4.0 * torch.randint(0, 2, (norm.num_features,), generator=generator) - 2)


def assert_agrees(ours: nn.Module, unfused: nn.Module, x: Tensor, draws: int = 16, formats: Any = ()) -> None:
    """Every result of ``ours`` is within the oracle's limit of a float64 copy of ``unfused``, one step in its mode."""
    ratios = module_error_ratios(ours, unfused, x, draws, formats)
    worst = sorted(ratios.items(), key=lambda item: -item[1])[:5]
    assert worst[0][1] <= 1, f"error over limit: {worst}"
    counts = [{n: int(b) for n, b in m.named_buffers() if not b.is_floating_point()} for m in (ours, unfused)]
    assert counts[0] == counts[1]


def count_fused(kind: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The class of every module whose fused forward, which is that of ``kind``, runs from now on."""
    runs: list[Any] = []
    forward = kind.fused_forward
    monkeypatch.setattr(kind, "fused_forward", lambda self, x: [runs.append(type(self)), forward(self, x)][1])
    return runs


def assert_ties_alone(labels: Tensor, full: Tensor, apart: Tensor) -> None:
    """``labels`` (N, H, W) are the largest classes of ``full``; 1e-5 of them others, at most ``apart`` below."""
    first, got = full.argmax(1), labels.long()
    assert got.shape == first.shape
    wrong = got != first
    assert wrong.double().mean() <= 1e-5
    top, ours = (full.gather(1, t[:, None])[:, 0] for t in (first, got))
    assert ((top - ours) <= apart)[wrong].all()
