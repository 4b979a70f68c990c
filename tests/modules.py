"""Every module of ``pyramid_kernels.nn`` that has parameters, small, with maps for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyramid_kernels.nn import ReferenceFeatureFusionModule
from tests import test_gates, test_heads, test_nn, test_nn_pyramids, test_spp

IMAGES = 4
#: How each is made, and the (C, H, W) of its maps.
MODULES: dict[str, tuple[Callable[..., Any], list[tuple[int, int, int]]]] = {
    **{f"nn {name}": (make, [(6, 7, 5)]) for name, make in test_nn.MODULES.items()},
    **{f"spp {name}": (make, [(8, 15, 14)]) for name, make in test_spp.MODULES.items()},
    **{f"head {name}": case for name, case in test_heads.HEADS.items()},
    **{f"gate {name}": case for name, case in test_gates.MODULES.items()},
    **{
        f"pyramid {name}": (make, shapes if isinstance(shapes, list) else [shapes])
        for name, (make, shapes, op) in test_nn_pyramids.MODULES.items()
        if op != "pyramid_pool" or "aspp" in name
    },
}


def build(name: str, dtype: torch.dtype = torch.float64, dropout: float | None = 0.0) -> Any:
    """A fused module with the same weights at every call; ``dropout`` None leaves its own."""
    torch.manual_seed(0)
    module = MODULES[name][0](backend="reference").to(dtype)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout) and dropout is not None:
            layer.p = dropout
    return module


def maps_of(name: str, dtype: torch.dtype = torch.float64, images: int = IMAGES) -> list[Tensor]:
    """The maps of ``build(name)``, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(images, *shape, dtype=torch.float64, generator=generator).to(dtype) for shape in MODULES[name][1]
    ]


def results(module: Any, maps: list[Tensor]) -> list[Tensor]:
    """What ``module`` gives for ``maps``, handed over as it takes them."""
    spread = len(maps) == 1 or isinstance(getattr(module, "module", module), ReferenceFeatureFusionModule)
    y = module(*maps) if spread else module(maps)
    return y if isinstance(y, list) else [y]


def loss(module: Any, maps: list[Tensor]) -> Tensor:
    return sum((y.square().mean() for y in results(module, maps)), torch.zeros(()))
