"""Every module of ``pyramid_kernels.nn`` with an input, small: how it is made, its maps, the ops it runs."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import pyramid_kernels as pk

Size = tuple[int, int, int]


class Case(NamedTuple):
    """``shapes``: the (C, H, W) of its maps. ``kernels``: the ops whose kernels run in evaluation."""

    make: Callable[..., Any]
    shapes: list[Size]
    kernels: str


IMAGES = 4
MAP: list[Size] = [(6, 7, 5)]
LEVELS: list[Size] = [(4, 8, 12), (5, 4, 6), (6, 2, 3)]
ODD: list[Size] = [(4, 9, 7), (5, 5, 4), (6, 3, 2)]
UNEVEN: list[Size] = [(4, 9, 7), (5, 5, 3), (6, 2, 1)]
WIDTHS = (4, 5, 6)
DECODER: dict[str, Any] = {"low_width": 6, "low_index": 0}
#: Ops of several modules.
DENSE = "dilated_branches pyramid_project"
SEPARABLE = "dilated_branches"
POOLED = "pyramid_pool pyramid_project upsample_merge"
JOINED = "pyramid_conv upsample_merge"
HEAD = f"{POOLED} pyramid_conv"
SEPARATE = f"{POOLED} separable_pyramid"
DECODED = "dilated_branches pyramid_conv"

MODULES: dict[str, Case] = {
    "aspp": Case(partial(pk.nn.ASPP, 6, (2, 3), 16), MAP, DENSE),
    "aspp-one-rate": Case(partial(pk.nn.ASPP, 6, (9,), 16), MAP, DENSE),
    "aspp-separable": Case(partial(pk.nn.ASPP, 6, (1, 2), 16, separable=True), MAP, SEPARABLE),
    "aspp-project3": Case(partial(pk.nn.ASPP, 6, (2, 3), 16, project_kernel=3), MAP, DENSE),
    "aspp-pool-first": Case(partial(pk.nn.ASPP, 6, (2, 3), 8, project_kernel=3, pool_first=True), MAP, DENSE),
    "aspp-separable-pool-first": Case(partial(pk.nn.ASPP, 6, (2,), 8, separable=True, pool_first=True), MAP, SEPARABLE),
    "ppm": Case(partial(pk.nn.PPM, 6, 12, (1, 2, 3)), MAP, POOLED),
    "ppm-half-pixel": Case(partial(pk.nn.PPM, 6, 12, (2, (1, 4), 9), align_corners=False), MAP, POOLED),
    "largefov": Case(partial(pk.nn.LargeFOV, 6, 3, hidden=8, rate=3), MAP, "dilated_branches"),
    "aspp-v2": Case(partial(pk.nn.ASPPv2, 6, 3, (1, 2, 4)), MAP, "dilated_branches"),
    "aspp-v2-hidden": Case(partial(pk.nn.ASPPv2, 6, 3, (1, 3), hidden=4), MAP, "dilated_branches"),
    "spp-net": Case(partial(pk.nn.SpatialPyramidPooling, (4, (1, 2), 1)), MAP, "pyramid_pool"),
    "spp-net-ceil": Case(partial(pk.nn.SpatialPyramidPooling, (3, 2, 1), windows="ceil"), [(4, 8, 7)], "pyramid_pool"),
    "spp": Case(partial(pk.nn.SPP, 8, 6), [(8, 15, 14)], "max_pool_pyramid"),
    "spp-two": Case(partial(pk.nn.SPP, 8, 6, (3, 7)), [(8, 15, 14)], "max_pool_pyramid"),
    "sppf": Case(partial(pk.nn.SPPF, 8, 6), [(8, 15, 14)], "max_pool_pyramid"),
    "sppf-yolo26": Case(partial(pk.nn.SPPF, 8, 8, 5, 3, True, activation=False), [(8, 15, 14)], "max_pool_pyramid"),
    "sppf-two-of-3": Case(partial(pk.nn.SPPF, 8, 6, 3, 2, True), [(8, 15, 14)], "max_pool_pyramid"),
    "dspp": Case(partial(pk.nn.DSPP, 4, 3, (1, 2)), [(4, 3, 5)], SEPARATE),
    "mdspp": Case(partial(pk.nn.MDSPP, 4, 8, (1, 2, 1, 2)), [(4, 3, 5)], SEPARATE),
    "hrfuse": Case(partial(pk.nn.HRFuse, WIDTHS), LEVELS, "upsample_merge"),
    "hrfuse-bilinear": Case(partial(pk.nn.HRFuse, WIDTHS, mode="bilinear"), ODD, "upsample_merge"),
    "hrfuse-corners": Case(
        partial(pk.nn.HRFuse, WIDTHS, mode="bilinear", align_corners=True), LEVELS, "upsample_merge",
    ),
    "hrfuse-finest": Case(partial(pk.nn.HRFuse, WIDTHS, multi_scale_output=False), ODD, "upsample_merge"),
    "psp": Case(partial(pk.nn.PSPHead, 8, 3, hidden_dim=8), [(8, 7, 5)], HEAD),
    "psp-half-pixel": Case(partial(pk.nn.PSPHead, 8, 3, (1, 2), hidden_dim=8, align_corners=False), [(8, 6, 6)], HEAD),
    "segformer": Case(partial(pk.nn.SegFormerHead, WIDTHS, 8, 3), LEVELS, JOINED),
    "segformer-odd": Case(partial(pk.nn.SegFormerHead, WIDTHS, 8, 3), UNEVEN, JOINED),
    "uper": Case(partial(pk.nn.UPerHead, WIDTHS, 8, 3), LEVELS, HEAD),
    "uper-corners": Case(partial(pk.nn.UPerHead, WIDTHS, 8, 3, (1, 4), align_corners=True), UNEVEN, HEAD),
    "hrnetv2": Case(partial(pk.nn.HRNetV2Head, WIDTHS, 3), LEVELS, JOINED),
    "hrnetv2-corners": Case(
        partial(pk.nn.HRNetV2Head, WIDTHS, 3, channels=8, kernel_size=3, align_corners=True), UNEVEN, JOINED,
    ),
    "decoder": Case(
        partial(pk.nn.DeepLabV3PlusDecoder, 8, 4, 8, (2, 3), **DECODER), [(4, 13, 9), (8, 5, 4)],
        f"{DECODED} upsample_merge",
    ),
    "decoder-low-first": Case(
        partial(pk.nn.DeepLabV3PlusDecoder, 8, 4, 8, (2,), low_first=True, align_corners=False, **DECODER),
        [(4, 12, 8), (8, 3, 2)], DECODED,
    ),
    "decoder-dense": Case(
        partial(pk.nn.DeepLabV3PlusDecoder, 8, 4, 8, (2,), separable=False, low_first=True, **DECODER),
        [(4, 12, 8), (8, 3, 2)], f"{DENSE} {JOINED}",
    ),
    "arm": Case(partial(pk.nn.AttentionRefinementModule, 6, 8), MAP, "channel_gate"),
    "arm-bias-without-norm": Case(
        partial(pk.nn.AttentionRefinementModule, 6, 5, norm=None, bias=True), [(6, 4, 3)], "channel_gate",
    ),
    "arm-of-x": Case(partial(pk.nn.AttentionRefinementModule, 6, norm="unused", bias=True), MAP, "channel_gate"),
    "ffm": Case(partial(pk.nn.FeatureFusionModule, 9, 8), [(5, 6, 7), (4, 6, 7)], "channel_gate"),
    "ffm-hidden": Case(partial(pk.nn.FeatureFusionModule, (5, 4), 8, hidden=2), [(5, 6, 7), (4, 6, 7)], "channel_gate"),
    "ffm-3x3-bias": Case(
        partial(pk.nn.FeatureFusionModule, (5, 4, 3), 6, kernel_size=3, hidden=6, bias=True, norm=True),
        [(5, 8, 6), (4, 4, 3), (3, 2, 2)], "channel_gate pyramid_conv upsample_merge",
    ),
}  # fmt: skip
LEARNED = [name for name in MODULES if not name.startswith("spp-net")]


def build(
    name: str, dtype: torch.dtype = torch.float64, dropout: float | None = 0.0, backend: str = "reference"
) -> Any:
    """A fused module, norms at random, the same at every call; ``dropout`` None leaves its own."""
    torch.manual_seed(0)
    module = MODULES[name].make(backend=backend).to(dtype)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            randomise(layer)
        if isinstance(layer, nn.Dropout | nn.Dropout2d) and dropout is not None:
            layer.p = dropout
    return module


def randomise(norm: Any) -> None:
    for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        t.data.copy_(0.5 + torch.rand(t.shape))


def maps_of(name: str, dtype: torch.dtype = torch.float64, images: int = IMAGES) -> list[Tensor]:
    """The maps of ``build(name)``, the same at every call."""
    return noise(MODULES[name].shapes, dtype, images)


def noise(shapes: list[Size], dtype: torch.dtype = torch.float64, images: int = IMAGES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, *shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]


def given(maps: list[Tensor]) -> Any:
    """The maps as ``why_original`` takes them."""
    return maps[0] if len(maps) == 1 else maps


def results(module: Any, maps: list[Tensor]) -> list[Tensor]:
    """What ``module``, compiled or wrapped or as it is, gives for ``maps``, handed over as it takes them."""
    bare = getattr(module, "_orig_mod", getattr(module, "module", module))
    spread = len(maps) == 1 or isinstance(bare, pk.nn.ReferenceFeatureFusionModule)
    y = module(*maps) if spread else module(maps)
    return y if isinstance(y, list) else [y]


def loss(module: Any, maps: list[Tensor]) -> Tensor:
    return sum((y.square().mean() for y in results(module, maps)), torch.zeros(()))


def step(module: Any, maps: list[Tensor], call: Callable[..., list[Tensor]] = results) -> dict[str, Tensor]:
    """Every output and gradient, and the buffers after them."""
    maps = [m.detach().clone().requires_grad_() for m in maps]
    module.zero_grad(set_to_none=True)
    outputs = call(module, maps)
    generator = torch.Generator().manual_seed(1)
    torch.autograd.backward(outputs, [torch.randn(y.shape, generator=generator).to(y) for y in outputs])
    found = {f"y {i}": y.detach() for i, y in enumerate(outputs)}
    found |= {f"d map {i}": m.grad for i, m in enumerate(maps) if m.grad is not None}
    found |= {f"d {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | {name: b.clone() for name, b in module.named_buffers()}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert got.keys() == expected.keys()
    for name, t in expected.items():
        # The gradient of a bias in front of a norm in training is zero, and what is left is rounding.
        torch.testing.assert_close(
            got[name], t, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def freeze_norms(module: Any, every: int = 1) -> Any:
    """Every ``every``-th norm in eval mode inside a training module."""
    for norm in [m for m in module.train().modules() if isinstance(m, nn.BatchNorm2d)][::every]:
        norm.eval()
    return module


MODES: dict[str, Callable[[Any], Any]] = {
    "train": lambda m: m.train(),
    "eval": lambda m: m.eval(),
    "frozen": freeze_norms,
    "some-frozen": lambda m: freeze_norms(m, 2),
}


def replaced(module: Any, kind: type[nn.Module], new: Callable[[Any], nn.Module]) -> Any:
    """``module`` with ``new(child)`` in the place of every child of class ``kind``."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, new(child))
    return module
