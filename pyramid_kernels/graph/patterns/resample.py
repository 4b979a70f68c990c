"""A convolution of maps resized to one size: it mixes channels, resizing mixes pixels, so the order is free."""

from __future__ import annotations

from collections import Counter

from torch.fx import Node

from .. import functions
from ..functions import Size
from ..match import Left, Match
from ..order import Order
from ..view import call, only_reader, same, shape
from .common import Pixelwise, Unit, batch_norm, concat, convolution, pixelwise, unit
from .resizes import Upsampling, upsampling


def resample(node: Node, order: Order) -> Match | Left | None:
    """``conv(cat([interpolate(m), ...]))``, or of one resized map; 1x1 layers in front of the resizing are composed."""
    found = call(node, "conv")
    if found is None:
        return None
    conv = convolution(node)
    reader = node if conv is None or conv.pad is None else conv.pad
    source: Node = reader.all_input_nodes[0]
    maps: list[Node] = [source]
    nodes: list[Node] = []
    joined = concat(source) if only_reader(source) is reader else None
    if joined is not None:
        maps, nodes = joined
    ups, reason = resized(maps, [reader] if joined is None else nodes)
    if not ups:
        return None if reason is None else Left("pyramid_conv", node, reason)
    if conv is None or (conv.kernel == 3 and conv.dilation != 1):
        return Left("pyramid_conv", node, "the convolution over resized maps is no plain 1x1 or 3x3")
    if not all(same(shape(m)[2:], shape(node)[2:]) for m in maps):
        return Left("pyramid_conv", node, "the sizes are not equal by their symbols")
    behind = unit(conv)
    if len(ups) == 1 and len(maps) > 1 and same(shape(next(iter(ups.values())).source)[2:], (1, 1)):
        return _with_image(maps, nodes, ups, behind)
    kind, _ = Counter(u.kind for u in ups.values()).most_common(1)[0]
    ups = {m: u for m, u in ups.items() if u.kind == kind}
    sources = [ups[m].source if m in ups else m for m in maps]
    layers = _layers(sources, maps, ups, conv.weight, conv.kernel)
    if layers is not None:
        sources = [layer.input if layer else source for layer, source in zip(layers, sources, strict=True)]
        nodes = [*nodes, *(n for layer in layers if layer for n in layer.nodes)]
    if behind.norm is not None and (behind.trained or behind.norm.mean is None):
        behind = behind.without_norm()
    args = (
        sources, conv.weight, conv.bias,
        None if layers is None else [layer and (layer.weight, layer.bias) for layer in layers],
        meeting(maps, ups), *kind,
        batch_norm(behind.norm), behind.relu is not None,
    )  # fmt: skip
    detail = f"{conv.kernel}x{conv.kernel} of {len(maps)} maps, {kind[0]}"
    gone = [*nodes, *(n for u in ups.values() for n in u.nodes), *behind.nodes]
    return Match("pyramid_conv", gone, [behind.last], functions.mixed, args, detail=detail)


def _with_image(maps: list[Node], nodes: list[Node], ups: dict[Node, Upsampling], behind: Unit) -> Match:
    """The image level of a pyramid: one pixel, spread over the map."""
    ((image, up),) = ups.items()
    nodes = [*nodes, *up.nodes, *behind.nodes]
    conv = behind.conv
    at = maps.index(image)
    start = sum(shape(m)[1] for m in maps[:at])
    args = (maps[:at] + maps[at + 1 :], up.source, start, conv.weight, conv.bias, behind.batch_norm(), behind.trained,
            behind.relu is not None)  # fmt: skip
    op = "dilated_branches_train" if behind.trained else "dilated_branches"
    detail = f"{conv.kernel}x{conv.kernel} of {len(maps)} maps, one of them a pixel"
    return Match(op, nodes, [behind.last], functions.with_image, args, detail=detail)


def resized(maps: list[Node], readers: list[Node]) -> tuple[dict[Node, Upsampling], str | None]:
    """The maps that are resized for these readers alone, and why a resized one is not among them."""
    ups: dict[Node, Upsampling] = {}
    reason = None
    for m in maps:
        found = upsampling(m)
        if isinstance(found, str):
            reason = found
        elif found is not None and (only_reader(m) not in readers or maps.count(m) > 1):
            reason = "a resized map is read elsewhere as well"
        elif found is not None:
            ups[m] = found
    if maps and len(ups) == len(maps) and all(up.size == Size() for up in ups.values()):
        return {}, "one pixel per image alone is spread over the map"
    return ups, reason


def meeting(maps: list[Node], ups: dict[Node, Upsampling]) -> Size:
    """How the function that takes all maps finds the size at which they meet."""
    full = [i for i, m in enumerate(maps) if m not in ups]
    if full:
        return Size(like=full[0])
    sizes = [ups[m].size for m in maps]
    given = [size for size in sizes if size.given is not None]
    if given:
        return given[0]
    return next(size._replace(like=i) for i, size in enumerate(sizes) if size.factors is not None)


def _layers(
    sources: list[Node], maps: list[Node], ups: dict[Node, Upsampling], weight: Node, kernel: int
) -> list[Pixelwise | None] | None:
    """The 1x1 layers in front of the maps, where multiplying them into the weight saves work."""
    outputs = shape(weight)[0]
    layers: list[Pixelwise | None] = []
    for source, m in zip(sources, maps, strict=True):
        layer = pixelwise(source) if only_reader(source) is not None else None
        if layer is not None and m not in ups and kernel == 3:
            layer = None
        layers.append(layer)
    known = [layer for layer in layers if layer is not None]
    if not known or len(layers) - len(known) > 1 or (kernel == 3 and any(layer.bias is not None for layer in known)):
        return None
    apart = together = 0
    for layer in known:
        inner, given = shape(layer.weight)[:2]
        apart += inner * given + outputs * inner * kernel * kernel
        together += outputs * given * kernel * kernel
    return layers if bool(together <= apart) else None
