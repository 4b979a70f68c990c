"""A network unfused and fused, from the same weights, and which code its fused modules run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import models
from ..nn.base import Fused
from .common import UsageError, bench_module, unknown

#: Rows and columns that the norms' statistics are taken over: enough for those of the last maps.
SETTLED = 256


def network_class(name: str) -> type[models.Network]:
    """The network called ``name``."""
    known = models.networks()
    if name not in known:
        raise UsageError(unknown("model", name, known))
    return known[name]


def pair(name: str, x: Tensor) -> dict[str, models.Network]:
    """The network "unfused" and "fused", in evaluation, on the device and in the dtype of x (N, 3, H, W)."""
    cls = network_class(name)
    bench_module("modules").define_detection_schemas()
    torch.manual_seed(0)
    try:
        plain = cls(fused=False)
        fused = cls()
    except ImportError as error:
        raise UsageError(str(error)) from None
    settle(plain.to(x.device), x.float())
    fused.load_state_dict(plain.state_dict())
    return {form: net.to(x).eval() for form, net in (("unfused", plain), ("fused", fused))}


@torch.no_grad()
def settle(network: nn.Module, x: Tensor) -> None:
    """Give every norm the statistics of x: random weights under untouched ones lose a deep network's signal."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    images = x[:1, :, :SETTLED, :SETTLED]
    network.train()(torch.cat([images, images.flip(3)]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def paths(network: nn.Module, x: Tensor) -> list[str]:
    """The distinct decisions of the fused modules of ``network`` on x."""
    found: list[str] = []

    def record(module: Any, inputs: tuple[Any, ...]) -> None:
        found.extend(module.decisions(inputs[0]))

    handles = [module.register_forward_pre_hook(record) for module in _outermost(network)]
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(found))


def _outermost(module: nn.Module) -> list[nn.Module]:
    """The fused modules that lie in no other: one within another must have no hooks, or the outer one runs unfused."""
    if isinstance(module, Fused):
        return [module]
    return [found for child in module.children() for found in _outermost(child)]


def same_path(decisions: list[str]) -> bool:
    """Whether every fused module runs the forward that it was made from."""
    return all(decision.startswith("original") for decision in decisions)
