"""What looks like a pyramid and is none, or not one that a call can stand for: left to PyTorch, and said why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyramid_kernels as pk
from tests.layouts import block, up
from tests.modules import assert_same
from tests.test_graph import compiled, forgotten, outcome

__all__ = ["forgotten"]


class Near(NamedTuple):
    """A forward on x (2, 6, 12, 20) and low (2, 6, 6, 10) with convolutions ``convs``; None where nothing is seen."""

    forward: Callable[[Any, Tensor, Tensor], Any]
    reason: str | None
    ops: dict[str, int] = {}


class Body(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.function = forward
        self.mix, self.one, self.wide = (
            nn.Conv2d(12, 4, 3, padding=1),
            nn.Conv2d(6, 6, 1),
            nn.Conv2d(6, 6, 3, padding=1),
        )
        self.dilated = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=d, dilation=d) for d in (2, 3))
        self.depthwise = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=d, dilation=d, groups=6) for d in (2, 3))
        self.strided = nn.ModuleList(nn.Conv2d(6, 6, 3, stride=2, padding=d, dilation=d) for d in (2, 3))
        self.squeeze, self.norm = nn.Conv2d(6, 3, 1), nn.BatchNorm2d(6)
        self.excite = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor, low: Tensor) -> Any:
        return self.function(self, x * 1, low * 1)


def joined(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return m.mix(torch.cat([x, y], 1))


def read_twice(m: Any, x: Tensor, low: Tensor) -> Any:
    y = up(low, x)
    return joined(m, x, y), y.sum()


def written_between(m: Any, x: Tensor, low: Tensor) -> Tensor:
    y = up(low, x)
    low.add_(1)
    return joined(m, x, y) + low.mean()


def written_through_a_view(m: Any, x: Tensor, low: Tensor) -> Tensor:
    y = up(low, x)
    low.view(-1).mul_(2)
    return joined(m, x, y)


def seen_by_another_name(m: Any, x: Tensor, low: Tensor) -> Any:
    same = x.view(2, 6, -1)
    x += up(low, x)
    return x, same.mean()


def tensor_hook(m: Any, x: Tensor, low: Tensor) -> Tensor:
    y = up(low, x)
    y.register_hook(lambda g: g * 2)
    return joined(m, x, y)


def without_grad(m: Any, x: Tensor, low: Tensor) -> Tensor:
    with torch.no_grad():
        y = up(low, x)
    return joined(m, x, y)


def in_autocast(m: Any, x: Tensor, low: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = up(m.one(low), x)
    return m.one(y.to(x.dtype))


def branches_written(m: Any, x: Tensor, low: Tensor) -> Tensor:
    with torch.no_grad():  # or PyTorch itself refuses the write
        y = m.dilated[0](x)
        x.add_(1)
        z = m.dilated[1](x)
    return torch.cat([y, z, m.one(low * 2).sum() * x], 1)


def resized_by(**settings: Any) -> Callable[[Any, Tensor, Tensor], Tensor]:
    return lambda m, x, low: joined(m, x, F.interpolate(low, x.shape[2:], **settings))


def by_factor(m: Any, x: Tensor, low: Tensor) -> Tensor:
    return m.wide(F.interpolate(low, scale_factor=1.7, mode="bilinear", align_corners=False))


def gate(squash: Any, act: Any = F.relu) -> Callable[[Any, Tensor, Tensor], Tensor]:
    return lambda m, x, low: x * squash(m.excite(act(m.squeeze(F.adaptive_avg_pool2d(x, 1)))))


def into_a_slice(m: Any, x: Tensor, low: Tensor) -> Tensor:
    y = x * 2
    y[:, :3] += up(low[:, :3], x)
    return y


def part_into_a_slice(m: Any, x: Tensor, low: Tensor) -> Tensor:
    y = x * 2
    y[:, :3] += up(low, x)[:, :3]
    return y


def filled(m: Any, x: Tensor, low: Tensor) -> Tensor:
    y = x.new_zeros(2, 12, 12, 20)
    y[:, :6], y[:, 6:] = x, up(low, x)
    return m.mix(y)


def stacked(join: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor, Tensor], Tensor]:
    return lambda m, x, low: join(torch.stack([x, up(low, x), up(low * 2, x)]))


def labelled(label: Callable[[Tensor], Any]) -> Callable[[Any, Tensor, Tensor], Tensor]:
    return lambda m, x, low: label(up(low, x)).sum() + x.sum()


def gated_twice(m: Any, x: Tensor, low: Tensor) -> Any:
    gate = torch.sigmoid(m.one(x.mean((2, 3), keepdim=True)))
    return x * gate, gate.flatten(1)


def windows(*pools: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor, Tensor], Tensor]:
    return lambda m, x, low: torch.cat([x, *(pool(x) for pool in pools)], 1)


def means(mean: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor, Tensor], Tensor]:
    return lambda m, x, low: x * torch.sigmoid(m.excite(m.squeeze(mean(x).view(2, 6, 1, 1))))


NEAR: dict[str, Near] = {
    "read-twice": Near(read_twice, "read elsewhere"),
    "written-between": Near(written_between, "written in place by add_"),
    "written-through-a-view": Near(written_through_a_view, "written in place by mul_"),
    "seen-by-another-name": Near(seen_by_another_name, "read by another name"),
    "tensor-hook": Near(tensor_hook, "register_hook stands between"),
    "without-grad": Near(without_grad, "begins or ends inside"),
    "in-autocast": Near(in_autocast, "begins or ends inside"),
    "detached": Near(lambda m, x, low: joined(m, x, up(low, x).detach()), "detach stands between"),
    "cast": Near(lambda m, x, low: m.wide(up(low, x).float().to(x.dtype)), "is cast"),
    "padded": Near(lambda m, x, low: joined(m, x, F.pad(up(low, x[..., 1:]), (1, 0))), "is padded"),
    "shifted": Near(lambda m, x, low: joined(m, x, F.pad(up(low, x), (1, -1))), "is padded"),
    "cropped": Near(lambda m, x, low: joined(m, x[..., 1:], up(low, x)[..., :-1]), "a part of a resized map"),
    "into-a-slice": Near(into_a_slice, "read by another name"),
    "part-into-a-slice": Near(part_into_a_slice, "a part of a resized map"),
    "filled": Near(filled, "written into a part"),
    "stacked-maximum": Near(stacked(lambda y: y.amax(0)), "are stacked"),
    "stacked-sum-of-channels": Near(stacked(lambda y: y.sum(2)), "are stacked"),
    "subtracted": Near(lambda m, x, low: x - up(low, x), "is subtracted"),
    "alpha": Near(lambda m, x, low: torch.add(x, up(low, x), alpha=2), "weighed by alpha"),
    "weighed-by-channel": Near(lambda m, x, low: x + up(low, x) * m.norm.weight[:, None, None], "a resized map and"),
    "one-pixel-alone": Near(lambda m, x, low: m.wide(x.mean((2, 3), True).expand(-1, -1, 9, 11)), "one pixel per"),
    "labels-of-a-softmax": Near(labelled(lambda y: y.softmax(1).argmax(1)), "a softmax rounds"),
    "labels-of-a-log-softmax": Near(labelled(lambda y: F.log_softmax(y, 1).max(1)[1]), "a softmax rounds"),
    "labels-and-values": Near(labelled(lambda y: torch.cat(y.max(1))), "values are read"),
    "labels-and-maps": Near(labelled(lambda y: y.argmax(1) + y.sum()), "is read elsewhere as well"),
    "labels-of-a-cast": Near(labelled(lambda y: y.float().argmax(1)), "is cast"),
    "even-windows": Near(
        windows(*(lambda x, k=k: F.max_pool2d(F.pad(x, (k // 2 - 1, k // 2) * 2), k, 1) for k in (2, 4))), "is even"
    ),
    "cut-windows": Near(
        windows(*(lambda x, k=k: F.max_pool2d(x, k, 1, k // 2)[..., 1:, 1:] for k in (2, 4))), "is even"
    ),
    "oblong-windows": Near(
        windows(lambda x: F.max_pool2d(x, (3, 5), 1, (1, 2)), lambda x: F.max_pool2d(x, 5, 1, 2)), "oblong"
    ),
    "windows-alone": Near(
        lambda m, x, low: torch.cat([F.max_pool2d(x, k, 1, k // 2) for k in (3, 5)], 1), "the map itself"
    ),
    "a-cascade-of-two-windows": Near(
        lambda m, x, low: torch.cat([x, F.max_pool2d(x, 3, 1, 1), F.max_pool2d(F.max_pool2d(x, 3, 1, 1), 5, 1, 2)], 1),
        "neither side by side",
    ),
    "averages-of-windows": Near(lambda m, x, low: [F.avg_pool2d(x, k, k) for k in (2, 4)], "windows of its averages"),
    "means-of-channels": Near(means(lambda x: x.mean(1).flatten(1)[:, :6]), "no sigmoid"),
    "means-of-rows": Near(means(lambda x: x.transpose(1, 2)[:, :6].flatten(2).mean(-1)), "another map"),
    "einsum-of-rows": Near(
        lambda m, x, low: torch.einsum("nchw,nk->nchw", x, torch.sigmoid(m.one(x.mean((2, 3), True)))[:, :, 0, 0]), None
    ),
    "bicubic": Near(resized_by(mode="bicubic"), "mode='bicubic'"),
    "antialias": Near(resized_by(mode="bilinear", antialias=True), "antialias"),
    "by-factor": Near(by_factor, "not the ratio"),
    "broadcast": Near(lambda m, x, low: x + up(low[:, :1], x), "broadcasts"),
    "several-modes": Near(
        lambda m, x, low: torch.cat([up(low, x), up(low, x, True)], 1), "several modes"
    ),
    "branches-written": Near(branches_written, "written in place by add_"),
    "depthwise": Near(lambda m, x, low: torch.cat([c(x) for c in m.depthwise], 1), "depthwise"),
    "strided": Near(lambda m, x, low: torch.cat([c(x) for c in m.strided], 1), "stride 1"),
    "one-branch": Near(lambda m, x, low: m.dilated[0](x), None),
    "plain-branches": Near(lambda m, x, low: torch.cat([m.one(x), m.wide(x)], 1), None),
    "kinds-of-branches": Near(lambda m, x, low: m.dilated[0](x) + F.relu(m.dilated[1](x)), "several kinds"),
    "one-pool": Near(lambda m, x, low: F.adaptive_avg_pool2d(x, 3), None),
    "places-of-maxima": Near(
        lambda m, x, low: [F.adaptive_max_pool2d(x, b, return_indices=True)[0] for b in (1, 2)], None
    ),
    "largest": Near(lambda m, x, low: torch.maximum(x, up(low, x)), "maximum reads a resized map"),
    "activated": Near(lambda m, x, low: x + F.gelu(up(low, x)), "gelu stands between"),
    "summed-max-pools": Near(lambda m, x, low: x + sum(F.max_pool2d(x, k, 1, k // 2) for k in (3, 5)), "not conc"),
    "reflected": Near(
        lambda m, x, low: [F.conv2d(F.pad(x, [d] * 4, "reflect"), m.wide.weight, dilation=d) for d in (2, 3)], "by hand"
    ),
    "moving-grid": Near(lambda m, x, low: [F.adaptive_avg_pool2d(x, (None, b)) for b in (1, 2)], None),
    "strided-max-pools": Near(
        lambda m, x, low: torch.cat([F.max_pool2d(x, k, 2, k // 2) for k in (3, 5)], 1), None
    ),
    "pools-of-two-maps": Near(
        lambda m, x, low: torch.cat([x, F.max_pool2d(x, 3, 1, 1), F.max_pool2d(x * 2, 5, 1, 2)], 1),
        "neither side by side",
    ),
    "pools-and-others": Near(
        lambda m, x, low: torch.cat([x, F.max_pool2d(x, 3, 1, 1), F.max_pool2d(x, 5, 1, 2), x * 2], 1), "other maps"
    ),
    "gelu-in-a-gate": Near(gate(torch.sigmoid, F.gelu), "gelu between"),
    "clamped-gate": Near(gate(lambda z: (z + 3).clamp(0, 6) / 6), "clamped"),
    "another-hard-gate": Near(gate(lambda z: F.relu6(z + 3) / 3), "no sigmoid"),
    "tanh-gate": Near(gate(torch.tanh), "no sigmoid"),
    "spread-softmax": Near(
        lambda m, x, low: x * m.one(x.mean((2, 3), keepdim=True)).softmax(1).expand_as(x), "no sigmoid"
    ),
    "spatial-gate": Near(lambda m, x, low: x * torch.sigmoid(m.one(x)), None),
    "gate-read-twice": Near(gated_twice, "read elsewhere"),
    "gate-of-another-map": Near(
        lambda m, x, low: x * torch.sigmoid(m.one(low.mean((2, 3), keepdim=True))), "another map"
    ),
    "nearest-labels": Near(lambda m, x, low: F.interpolate(low, scale_factor=2).argmax(1).sum() + x.sum(), "nearest"),
    "labels-of-rows": Near(lambda m, x, low: up(low, x).argmax(2).sum() + x.sum(), None),
}  # fmt: skip


def example() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 6, *size, dtype=torch.float64, generator=generator) for size in ((12, 20), (6, 10)))  # type: ignore[return-value]


@pytest.mark.parametrize("name", NEAR)
def test_left_alone(name: str) -> None:
    near = NEAR[name]
    torch.manual_seed(0)
    module = Body(near.forward).double()
    unfused, ours = copy.deepcopy(module), compiled(module, "reference")
    with pk.testing.count_ops() as ops:
        got = outcome(module, example(), ours)
    assert_same(got, outcome(unfused, example()))
    assert not ops, ours.report
    reasons = [line.detail for line in ours.report.left]
    assert (near.reason is None and not reasons) or any(near.reason in r for r in reasons if near.reason), ours.report


@pytest.mark.parametrize("name", ["read-twice", "gelu-in-a-gate", "depthwise"])
def test_left_alone_by_fuse(name: str) -> None:
    torch.manual_seed(0)
    module = Body(NEAR[name].forward).double()
    expected = module(*example())
    report = pk.fuse_(module, backend="reference", example_input=example())
    assert not report.fused and not pk.unfuse_(module)
    assert NEAR[name].reason in str(report)  # type: ignore[operator]
    torch.testing.assert_close(module(*example()), expected, rtol=0, atol=0)


def test_a_norm_of_the_batch_inside_a_gate_stays() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = block(6, 6, act=nn.Sigmoid())

        def forward(self, x: Tensor) -> Tensor:
            return x * self.layers(x.mean((2, 3), keepdim=True))

    ours = compiled(Gate().double(), "reference")
    ours(example()[0])
    assert [line.detail for line in ours.report.left] == ["its norm takes the statistics of the batch"]
