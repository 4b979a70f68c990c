"""A network unfused and fused, from the same weights, and which code its fused modules run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import models
from ..console import UsageError, unknown
from ..nn.base import Fused
from .modules import define_detection_schemas

#: Rows and columns that the norms' statistics are taken over: enough for those of the last maps.
SETTLED = 256
#: How the decision of a module begins that runs the forward it was made from.
ORIGINAL = "original forward"


def network_class(name: str) -> type[models.Network]:
    """The network called ``name``."""
    known = models.networks()
    if name not in known:
        raise UsageError(unknown("model", name, known))
    return known[name]


def pair(name: str, x: Tensor) -> dict[str, models.Network]:
    """The network "unfused" and "fused", in evaluation, on the device and in the dtype of x (N, 3, H, W)."""
    cls = network_class(name)
    define_detection_schemas()
    torch.manual_seed(0)
    try:
        plain, fused = cls(fused=False), cls()
        plain.check_image(x)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from None
    settle(plain.to(x.device), x.float())
    fused.load_state_dict(plain.state_dict())
    return {form: net.to(x).eval() for form, net in (("unfused", plain), ("fused", fused))}


@torch.no_grad()
def settle(network: nn.Module, x: Tensor, side: int = SETTLED) -> None:
    """Give every norm the statistics of x: random weights under untouched ones lose a deep network's signal."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()  # in training some want labels
    for norm in norms:
        norm.train().momentum = 1.0
    images = x[:1, :, :side, :side]
    network(torch.cat([images, images.flip(3)]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def paths(network: nn.Module, x: Tensor) -> list[str]:
    """The distinct decisions of the modules that run fused on x; none where all run the forward they were made from."""
    return [path for path in decisions(network, x) if not path.startswith(ORIGINAL)]


@torch.no_grad()
def decisions(network: nn.Module, x: Tensor) -> list[str]:
    """The distinct decisions of all of them on x, those for the forward that they were made from with the reason."""
    found: list[str] = []
    modules: list[Any] = [module for module in network.modules() if isinstance(module, Fused)]
    for module in modules:
        # Not a hook: those of a fused module within another would send the outer one to its original forward.
        module.fused_forward, module.why_original = _recorded(module, found)
    try:
        network(x)
    finally:
        for module in modules:
            del module.fused_forward, module.why_original
    return list(dict.fromkeys(found))


def _recorded(module: Fused, found: list[str]) -> tuple[Callable[[Any], Any], Callable[[Any], str | None]]:
    run, why = module.fused_forward, module.why_original

    def fused_forward(x: Any) -> Any:
        found.extend(module.decisions(x))
        return run(x)

    def why_original(x: Any) -> str | None:
        reason = why(x)
        if reason:
            found.append(f"{ORIGINAL}: {reason}")
        return reason

    return fused_forward, why_original
