"""Whether a fused module or model agrees with its unfused form, its float64 copy being the truth.

Two things make an fp32 comparison of gradients unfair, whoever computes them. A pre-activation within rounding of zero
switches a whole gradient on or off; so every norm in front of a ReLU gets an offset of +2 or -2 by channel, which few
normalised values undo (a larger offset would drown what follows in its own mean). A norm over two or three values has a
gradient that is all cancellation; so batches hold eight maps, which the image-level branch is normalised over. What
lies before the pyramid needs neither: it runs the same code in both forms.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pyramid_kernels.testing import Errors, errors, over_limit

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def fair_(model: nn.Module, x: Tensor, head: str = "") -> nn.Module:
    """Random affines, offsets of 2 below ``head``, the running statistics of ``x``, no dropout; left in train mode."""
    generator = torch.Generator().manual_seed(1)
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
    for module in model.modules():
        if isinstance(module, NORMS):
            module.momentum = 0.1
    return model


@torch.no_grad()
def _randomise(norm: Any, generator: torch.Generator, gated: bool) -> None:
    norm.weight.copy_(1 + torch.rand(norm.num_features, generator=generator) / 4)
    if gated:
        norm.bias.copy_(4.0 * torch.randint(0, 2, (norm.num_features,), generator=generator) - 2)


def results(model: nn.Module, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Output, gradients of the input and of every parameter, and buffers after one step, by name."""
    x = x.detach().clone().requires_grad_()
    model.zero_grad(set_to_none=True)
    y: Any = model(x)
    y = next(iter(y.values())) if isinstance(y, dict) else y
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (y * weight.to(y)).sum().backward()
    found = {"y": y.detach(), "dx": x.grad}
    found |= {f"d {name}": p.grad for name, p in model.named_parameters()}
    found |= {name: b.clone() for name, b in model.named_buffers() if b.is_floating_point()}
    return {name: t for name, t in found.items() if t is not None}


def assert_agrees(ours: nn.Module, unfused: nn.Module, x: Tensor, draws: int = 16) -> None:
    """Every result of ``ours`` is within the oracle's limit of a float64 copy of ``unfused``, one step in its mode.

    The limit rests on the unfused chain's errors, the worst of several draws: a sum of few terms may be lucky in one.
    """
    state = copy.deepcopy(unfused.state_dict())
    got = results(ours, x)
    limits: dict[str, Errors] = {}
    for draw in range(draws):
        truth = copy.deepcopy(unfused).double()
        truth.load_state_dict(state)
        unfused.load_state_dict(state)
        # Every problem in both layouts; the first is that of ``ours``, the others hold its maps in another order.
        seed, layout = draw // 2, torch.channels_last if draw % 2 else torch.contiguous_format
        unfused.to(memory_format=layout)
        data = x.roll(seed, 0).contiguous(memory_format=layout)
        exact, baseline = results(truth, data.double(), seed), results(unfused, data, seed)
        if draw == 0:
            first = exact
        for name, t in exact.items():
            limits[name] = limits.get(name, Errors()).worse(errors(baseline[name], t))
    assert got.keys() == first.keys(), got.keys() ^ first.keys()
    ratios = {name: over_limit(got[name], first[name], limits[name]) for name in first}
    worst = sorted(ratios.items(), key=lambda item: -item[1])[:5]
    assert worst[0][1] <= 1, f"error over limit: {worst}"
    counts = [{n: int(b) for n, b in m.named_buffers() if not b.is_floating_point()} for m in (ours, unfused)]
    assert counts[0] == counts[1]
