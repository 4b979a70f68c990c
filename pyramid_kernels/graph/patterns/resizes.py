"""A map resized to the size of another, and what may stand behind that without a difference."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..functions import Size
from ..view import Call, call, is_map, number, pair, same, shape, value


class Upsampling(NamedTuple):
    """A resize of ``source`` that the ops have."""

    source: Node
    mode: str
    align_corners: bool
    size: Size
    nodes: list[Node]

    @property
    def kind(self) -> tuple[str, bool]:
        return self.mode, self.align_corners


def upsampling(node: Any) -> Upsampling | str | None:
    """``node`` as a resize of a map by the grid of its sizes; why not, where it is another one."""
    node, nodes = unchanged(node)
    found = call(node, "interpolate", "bilinear", "nearest", "expand", "repeat", *_CHANGES)
    if found is None or not is_map(node) or not is_map(found.input):
        return None
    nodes.append(node)
    if found.name in _CHANGES:
        inner = upsampling(found.input)
        return _CHANGES[found.name] if isinstance(inner, Upsampling) else inner
    if found.name in ("expand", "repeat"):  # one pixel, spread over the map
        pixel = shape(found.input)
        spread = same((*pixel[:2], 1, 1), (*shape(node)[:2], *pixel[2:]))
        return Upsampling(found.input, "bilinear", False, Size(), nodes) if spread else None
    arguments = found.arguments
    mode = arguments.get("mode", found.name)
    align_corners = bool(arguments.get("align_corners"))
    if mode not in ("bilinear", "nearest"):
        return f"a map is resized by mode={mode!r}"
    if arguments.get("antialias"):
        return "a map is resized with antialias"
    if arguments["size"] is not None:
        size = arguments["size"]
        size = Size(size if isinstance(size, Node) else pair(size))
        return Upsampling(found.input, mode, align_corners, size, nodes)
    factors = tuple(number(f) for f in pair(arguments["scale_factor"]))
    if not arguments.get("recompute_scale_factor"):
        # Without corners aligned the grid is that of the factor, not of the sizes, unless their ratio is the factor.
        ratios = zip(factors, shape(node)[2:], shape(found.input)[2:], strict=True)
        exact = all(f == int(f) and statically_known_true(big == small * int(f)) for f, big, small in ratios)
        if not exact and not align_corners:
            return f"scale_factor={factors} is not the ratio of the sizes"
    return Upsampling(found.input, mode, align_corners, Size(like=0, factors=factors), nodes)


#: What may stand behind a resize, and why the resize is then left, unless ``unchanged`` sees through it.
_PART = "a part of a resized map is taken, at this size or at another"
_CHANGES = {
    "pad": "a resized map is padded, at this size or at another",
    "getitem": _PART,
    "slice": _PART,
    "cast": "a resized map is cast to another type or layout",
}


def unchanged(node: Any, *more: str) -> tuple[Any, list[Node]]:
    """What ``node`` is behind calls that change nothing at the sizes and types at hand, and these calls.

    U-Nets pad or crop a resized map by the difference to another one, which mostly is none. ``more`` names other calls
    that make no difference here.
    """
    nodes: list[Node] = []
    while (found := call(node, *_CHANGES, *more)) is not None and is_map(found.input) and _is_unchanged(found):
        nodes.append(node)
        node = found.input
    return node, nodes


def _is_unchanged(found: Call) -> bool:
    """Whether a call of ``unchanged`` gives what it takes."""
    a, b = value(found.node), value(found.input)
    if found.name == "pad":
        return all(statically_known_true(value(p) == 0) for p in value(found.pad))
    if found.name == "getitem":
        parts = found.index if isinstance(found.index, tuple) else (found.index,)
        return all(isinstance(p, slice) for p in parts) and same(a.shape, b.shape)
    if found.name == "slice":
        return bool(found.step == 1) and same(a.shape, b.shape)
    return (a.dtype, a.device) == (b.dtype, b.device) and same(a.stride(), b.stride())
