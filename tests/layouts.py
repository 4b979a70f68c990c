"""Pyramids as people write them, and modules of research repositories: no class here is known to any adapter.

``OPS``: the public ops that the graph of each runs, in eval and in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from tests import third_party as user
from tests import third_party_gates as gates
from tests import third_party_yolo as yolo
from tests.modules import randomise


def block(i: int, o: int, k: int = 1, d: int = 1, act: nn.Module | None = None, bias: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(i, o, k, padding=k // 2 * d, dilation=d, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(o), act or nn.ReLU(inplace=True))


def up(x: Tensor, like: Tensor, corners: bool = False) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=corners)


# Branches of several rates.


class Numbered(nn.Module):
    """Branches as numbered attributes, norms and ReLUs by functions, the image level with corners aligned."""

    def __init__(self, c: int = 10, o: int = 6, bias: bool = False) -> None:
        super().__init__()
        for n, d in enumerate((1, 2, 3)):
            setattr(self, f"aspp{n}", nn.Conv2d(c, o, 3 if n else 1, padding=d if n else 0, dilation=d, bias=bias))
            setattr(self, f"bn{n}", nn.BatchNorm2d(o))
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), *block(c, o))
        self.last = block(4 * o, o)

    def forward(self, x: Tensor) -> Tensor:
        y = [F.relu(getattr(self, f"bn{n}")(getattr(self, f"aspp{n}")(x))) for n in range(3)]
        return self.last(torch.cat([*y, up(self.image(x), x, True)], dim=1))


class ImageFirst(nn.Module):
    """The image level in front, a concat grown in a loop, no projection."""

    def __init__(self, c: int = 9, o: int = 4) -> None:
        super().__init__()
        self.image, self.features = block(c, o), nn.ModuleList([block(c, o), block(c, o, 3, 2), block(c, o, 3, 5)])

    def forward(self, x: Tensor) -> Tensor:
        y = up(self.image(x.mean(dim=[2, 3], keepdim=True)), x)
        for feature in self.features:
            y = torch.cat((y, feature(x)), 1)
        return y


class Spread(nn.Module):
    """The image level broadcast by ``expand``."""

    def __init__(self, c: int = 6, o: int = 4) -> None:
        super().__init__()
        self.image, self.branches = block(c, o), nn.ModuleList([block(c, o, 3, 2), block(c, o, 3, 3)])
        self.mix = nn.Conv2d(3 * o, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *x.shape[2:])
        return self.mix(torch.cat([image, *(branch(x) for branch in self.branches)], 1))


class Repeated(Spread):
    """The same by ``repeat``, of means over rows, then columns."""

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(x.mean(-1).mean(-1)[:, :, None, None]).repeat(1, 1, x.size(2), x.size(3))
        return self.mix(torch.cat([image, *(branch(x) for branch in self.branches)], 1))


class Classifiers(nn.Module):
    """DeepLab v2: convolutions with biases, summed."""

    def __init__(self, c: int = 7, o: int = 5) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, o, 3, padding=d, dilation=d) for d in (2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs[0](x)
        for conv in self.convs[1:]:
            y += conv(x)
        return y


class Bare(nn.Module):
    """No norm, no ReLU, concatenated and mixed (YOLOv9's ASPP)."""

    def __init__(self, c: int = 6, o: int = 8) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(c, o, 1), *(nn.Conv2d(c, o, 3, 1, d, d) for d in (6, 3))])
        self.mix = nn.Conv2d(3 * o, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat([conv(x) for conv in self.convs], 1))


class WithoutStatistics(nn.Module):
    """Norms that keep no running statistics, and have no weights."""

    def __init__(self, c: int = 6, o: int = 5) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, o, 3, padding=d, dilation=d) for d in (1, 2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(o, affine=False, track_running_stats=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([norm(conv(x)) for conv, norm in zip(self.convs, self.norms, strict=True)], 1)


class Checkpointed(nn.Module):
    """The whole module in the body of a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ImageFirst(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False)


# Averages over several grids.


class Stages(nn.Module):
    """Levels in a list, the coarsest last, x behind them, a 3x3 with a LeakyReLU."""

    def __init__(self, c: int = 8, o: int = 6) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(b), *block(c, 2)) for b in (1, 2, 3, 6))
        self.bottleneck = block(c + 8, o, 3, act=nn.LeakyReLU(0.1))

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.size(2), x.size(3)
        priors = [F.interpolate(s(x), size=(h, w), mode="bilinear", align_corners=True) for s in self.stages]
        return self.bottleneck(torch.cat([*priors[::-1], x], 1))


class LateLevels(nn.Module):
    """The 1x1 behind the upsampling, and a classifier behind the 3x3."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(b) for b in (1, 2, 4))
        self.convs = nn.ModuleList(block(c, 3) for _ in range(3))
        self.last = nn.Sequential(block(c + 9, 6, 3), nn.Conv2d(6, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        levels = [conv(up(pool(x), x)) for pool, conv in zip(self.pools, self.convs, strict=True)]
        return self.last(torch.cat([x, *levels], 1))


class SummedLevels(nn.Module):
    """ICNet: averages of x, upsampled and added to it, no layer in between."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for b in (1, 2, 3, 6):
            y = y + up(F.adaptive_avg_pool2d(x, b), x, True)
        return y


class FunctionalLevels(nn.Module):
    """Pools by functions on grids of two numbers, biases and no norm, one convolution shared by all levels."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(c, 4, 1), nn.Conv2d(c + 8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [F.relu(self.conv(F.adaptive_avg_pool2d(x, grid))) for grid in ((2, 3), (4, 1))]
        return self.last(torch.cat([x] + [up(level, x) for level in levels], 1))


# Maps of several sizes.


class TopDown(nn.Module):
    """FPN: each map added, upsampled, to the finer one; then all at the finest size."""

    def __init__(self, cs: tuple[int, ...] = (4, 5, 6, 7), o: int = 5) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(block(c, o) for c in cs)
        self.smooth = nn.ModuleList(block(o, o, 3) for _ in cs)
        self.fuse = block(4 * o, o, 3)

    def forward(self, maps: list[Tensor]) -> Tensor:
        ys = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in (3, 2, 1):
            ys[i - 1] = ys[i - 1] + up(ys[i], ys[i - 1])
        ys = [smooth(y) for smooth, y in zip(self.smooth, ys, strict=True)]
        return self.fuse(torch.cat([ys[0]] + [up(y, ys[0]) for y in ys[1:]], 1))


class InPlaceTopDown(nn.Module):
    """The same sums in place, nearest, with nothing behind them."""

    def __init__(self, cs: tuple[int, ...] = (4, 5, 6)) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, 5, 1) for c in cs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        ys = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in (2, 1):
            ys[i - 1] += F.interpolate(ys[i], size=ys[i - 1].shape[-2:], mode="nearest")
        return ys


class Exchange(nn.Module):
    """HRNet's exchange for its finest map, the upsampling in the forward, a ReLU behind the sum."""

    def __init__(self, cs: tuple[int, ...] = (4, 5, 6)) -> None:
        super().__init__()
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, cs[0], 1, bias=False), nn.BatchNorm2d(cs[0])) for c in cs[1:]
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        y = maps[0]
        for conv, x in zip(self.up, maps[1:], strict=True):
            y = y + up(conv(x), y, True)
        return F.relu(y)


class Stacked(nn.Module):
    """Maps stacked at one size: their mean, and the sum of the coarse ones."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        mean = F.relu(torch.stack([maps[0], *(up(x, maps[0]) for x in maps[1:])]).mean(0))
        return [mean, torch.stack([up(x * 2, maps[0]) for x in maps[1:]], dim=1).sum(dim=1)]


class Weighted(nn.Module):
    """BiFPN: nearest, every term times a learned weight, on the way up in a sum that begins with 0."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, 1.5, 1.0]))

    def forward(self, maps: list[Tensor]) -> Tensor:
        w = F.relu(self.w) / (F.relu(self.w).sum() + 1e-4)
        sized = [x if i == 0 else F.interpolate(x, scale_factor=2**i, mode="nearest") for i, x in enumerate(maps)]
        return F.silu(sum(w[i] * x for i, x in enumerate(sized)))


class Fitted(nn.Module):
    """U-Net: the resized map padded by what it lacks, or cropped by what it has too much, which is nothing."""

    def __init__(self, c: int = 6, low: int = 4) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True)
        self.first, self.second = block(c + low, c, 3), block(c + low, c, 3)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        y = self.up(x)
        dy, dx = low.size(2) - y.size(2), low.size(3) - y.size(3)
        y = self.first(torch.cat([low, F.pad(y, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])], dim=1))
        return y + self.second(torch.cat([self.up(x.contiguous())[:, :, : low.size(2), : low.size(3)], low], 1))


class TokenHead(nn.Module):
    """SegFormer: a linear layer on the tokens of every map, reshaped, upsampled, concatenated, mixed."""

    def __init__(self, cs: tuple[int, ...] = (4, 5, 6), o: int = 8) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(c, o) for c in cs)
        self.fuse, self.classify = block(len(cs) * o, o), nn.Conv2d(o, 3, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = []
        for linear, x in zip(self.linears, maps, strict=True):
            n, _, h, w = x.shape
            y = linear(x.flatten(2).transpose(1, 2)).permute(0, 2, 1).reshape(n, -1, h, w)
            levels.append(up(y, maps[0]))
        return self.classify(self.fuse(torch.cat(levels[::-1], dim=1)))


class PixelHead(nn.Module):
    """The same with convolutions of 1x1 and biases, and no norm."""

    def __init__(self, cs: tuple[int, ...] = (4, 5, 6), o: int = 8) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Conv2d(c, o, 1) for c in cs)
        self.fuse = nn.Conv2d(len(cs) * o, o, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        first, *rest = (embed(x) for embed, x in zip(self.embed, maps, strict=True))
        return self.fuse(torch.cat([first, *(up(y, first) for y in rest)], 1))


class Joint(nn.Module):
    """JPU: three maps at one size, concatenated for depthwise branches, which stay."""

    def __init__(self, cs: tuple[int, ...] = (4, 5, 6), o: int = 4) -> None:
        super().__init__()
        self.heads = nn.ModuleList(block(c, o, 3) for c in cs)
        c = len(cs) * o
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, c, 3, padding=d, dilation=d, groups=c, bias=False), nn.Conv2d(c, o, 1))
            for d in (1, 2, 4)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        fine, *rest = (head(x) for head, x in zip(self.heads, maps, strict=True))
        joined = torch.cat([*(up(x, fine, True) for x in rest[::-1]), fine], 1)
        return torch.cat([branch(joined) for branch in self.branches], 1)


class LowSecond(nn.Module):
    """v3+'s decoder by a scale factor, the low-level map second."""

    def __init__(self, c: int = 6, low: int = 4) -> None:
        super().__init__()
        self.reduce, self.head = block(low, 3), nn.Sequential(block(c + 3, 6, 3), nn.Conv2d(6, 4, 1))

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
        return self.head(torch.cat((x, self.reduce(low)), 1))


class Upsampled(nn.Module):
    """DPT, FPN heads: one map, upsampled by a module, in front of a 1x1 and of a 3x3."""

    def __init__(self, c: int = 5) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.project, self.conv = nn.Conv2d(c, 4, 1), block(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.up(self.project(self.up(x))))


class Sides(nn.Module):
    """U2Net: side maps at the first one's size, fused by a 1x1; the sides are results as well."""

    def __init__(self, cs: tuple[int, ...] = (4, 5, 6)) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Conv2d(c, 2, 3, padding=1) for c in cs)
        self.out = nn.Conv2d(2 * len(cs), 2, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        first, *rest = (side(x) for side, x in zip(self.sides, maps, strict=True))
        whole = self.out(torch.cat([first, *(up(x, first) for x in rest)], 1))
        return [torch.sigmoid(whole), *rest]


class Neck(nn.Module):
    """YOLOv4: the widest window first, x last; then nearest upsampling, concatenated with a lateral map."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.reduce, self.lateral = block(4 * c, c, act=nn.LeakyReLU(0.1)), nn.Conv2d(4, c, 1)
        self.mix = block(2 * c, c, act=nn.LeakyReLU(0.1))

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        pools = [F.max_pool2d(x, k, stride=1, padding=k // 2) for k in (13, 9, 5)]
        x = self.reduce(torch.cat([*pools, x], 1))
        x = F.interpolate(x, size=(low.size(2), low.size(3)), mode="nearest")
        return self.mix(torch.cat([self.lateral(low), x], 1))


# Max pools.


class CrossStage(nn.Module):
    """SPP inside a cross-stage block, SiLU."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.cv1, self.cv2 = block(c, c, act=nn.SiLU()), block(c, c, act=nn.SiLU())
        self.cv3, self.out = block(4 * c, c, act=nn.SiLU()), block(2 * c, c, act=nn.SiLU())
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (3, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        y = self.cv3(torch.cat([y, *(pool(y) for pool in self.pools)], 1))
        return self.out(torch.cat((y, self.cv2(x)), 1))


class Cascade(nn.Module):
    """SPPELAN: each pool takes the one before, from a list that grows."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(5, stride=1, padding=2) for _ in range(3))
        self.out = nn.Conv2d(4 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = [x]
        y.extend(pool(y[-1]) for pool in self.pools)
        return self.out(torch.cat(y, 1))


class Shuffled(nn.Module):
    """x between its pools, ``ceil_mode`` without effect."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.max_pool2d(x, 5, 1, 2, ceil_mode=True), x, F.max_pool2d(x, 3, 1, 1)], 1)


# Gates.


class GatedSum(nn.Module):
    """A gate by functions, its result added."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + x * torch.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


class LinearGate(nn.Module):
    """SENet: linear layers on a vector per image."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(c, 3), nn.ReLU(inplace=True), nn.Linear(3, c), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.size()
        return x * self.fc(self.pool(x).view(n, c)).view(n, c, 1, 1).expand_as(x)


class MobileGate(nn.Module):
    """EfficientNet's SiLU between the layers, and a hard sigmoid as MobileNetV3's first copies write it.

    (PyTorch's own is in whole models: its gradient is not of double precision.)
    """

    def __init__(self, c: int = 6, inplace: bool = False) -> None:
        super().__init__()
        self.reduce, self.act, self.expand = nn.Conv2d(c, 3, 1), nn.SiLU(inplace=inplace), nn.Conv2d(3, c, 1)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        z = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * (F.relu6(z.add_(3), inplace=True).div_(6) if self.inplace else F.relu6(z + 3) / 6)


class FlatGate(nn.Module):
    """Means without kept dimensions, one layer, broadcast by None."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.fc = nn.Linear(c, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3))).sigmoid().unsqueeze(-1).unsqueeze(-1) * x


class IndexedGate(nn.Module):
    """A vector per image, broadcast by None in an index."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.fc = nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean([2, 3])).sigmoid()[:, :, None, None] * x


class EinsumGate(nn.Module):
    """Means of a flattened map, which is a mean of maps itself; the product by an einsum."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(c, 3), nn.ReLU(), nn.Linear(3, c))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([x, x * 2]).mean(0)
        means = x.view(x.size(0), x.size(1), -1).mean(dim=2)
        return torch.einsum("bchw, bc -> bchw", x, torch.sigmoid(self.fc(means)))


class OnePlusGate(nn.Module):
    """Means of rows, then of columns; the map is added by a one in the gate."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.fc = nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + torch.sigmoid(self.fc(x.mean(-1).mean(-1)))[:, :, None, None])


class Refinement(nn.Module):
    """BiSeNet's ARM: a norm inside the gate."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.conv, self.gate = block(c, c, 3), nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.mul(x, torch.sigmoid(self.gate(F.avg_pool2d(x, x.size()[2:]))))


# Losses and labels.


class Loss(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        full = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
        return F.cross_entropy(full, target, ignore_index=255, label_smoothing=0.1)


class LogLoss(nn.Module):
    """Cross-entropy in two steps, of logits made contiguous."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        full = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=True)
        return F.nll_loss(F.log_softmax(full.contiguous(), dim=1), target, ignore_index=255)


class DetachedLabels(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return F.interpolate(logits, scale_factor=4, mode="bilinear").detach().argmax(1, keepdim=True)


class Labels(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=True).max(1)[1]


class Layout(NamedTuple):
    """``ops``: what runs in eval; ``trained``: in training, where it is something else."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    ops: dict[str, int]
    trained: dict[str, int] | None = None


def maps(*channels: int) -> Callable[[], tuple[list[Tensor]]]:
    return lambda: ([torch.randn(2, c, 24 >> i, 40 >> i) for i, c in enumerate(channels)],)


def one(c: int, h: int = 13, w: int = 19) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(2, c, h, w),)


def two(*channels: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: tuple(torch.randn(2, c, 13, 19) for c in channels)


def low(c: int, fine: int) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (torch.randn(2, c, 7, 9), torch.randn(2, fine, 28, 36))


BRANCHES, TRAINED = {"dilated_branches": 1}, {"dilated_branches_train": 1}
PPM = {"pyramid_pool": 1, "pyramid_project": 1, "pyramid_conv": 1}
#: Classes that no adapter knows by its name, as their repositories have them.
REPOSITORIES: dict[str, Layout] = {
    "vainf": Layout(
        lambda: user.DeepLabHeadV3Plus(7, 4, 3),
        lambda: ({"low_level": torch.randn(2, 4, 28, 36), "out": torch.randn(2, 7, 7, 9)},),
        {"dilated_branches": 2, "pyramid_conv": 1},
        {"dilated_branches_train": 2, "pyramid_conv": 1},
    ),
    "kazuto1011": Layout(lambda: user.KazutoASPP(6, 3, (1, 2, 4)), one(6), BRANCHES),
    "adaptsegnet": Layout(lambda: user.ClassifierModule(6, (1, 2, 4), 3), one(6), BRANCHES),
    "adaptsegnet-early": Layout(lambda: user.EarlyClassifierModule(6, (1, 2, 4), 3), one(6), BRANCHES),
    "official-hrnet": Layout(lambda: user.HighResolutionNet((4, 5, 6), 3), one(3, 32, 48), {"upsample_merge": 1}),
    "official-hrnet-module": Layout(lambda: user.SegmentationModule((4, 5, 6)), maps(4, 5, 6), {"upsample_merge": 3}),
    "official-pose-hrnet": Layout(lambda: user.PoseModule((4, 5, 6)), maps(4, 5, 6), {"upsample_merge": 2}),
    "coincheung-arm": Layout(lambda: gates.CoinCheungARM(6, 8), one(6), {"channel_gate": 1}, {}),
    "coincheung-ffm": Layout(lambda: gates.CoinCheungFFM(9, 8), two(5, 4), {"channel_gate": 1}, {}),
    "stdc-seg-ffm": Layout(lambda: gates.STDCSegFFM(9, 8), two(5, 4), {"channel_gate": 1}),
    "ooooverflow-arm": Layout(lambda: gates.OooARM(6, 6), one(6), {"channel_gate": 1}),
    "ooooverflow-ffm": Layout(lambda: gates.OooFFM(5, 9), two(5, 4), {"channel_gate": 1}),
    "yolov5-spp": Layout(lambda: yolo.SPP(8, 6), one(8), {"max_pool_pyramid": 1}),
    "yolov5-sppf": Layout(lambda: yolo.SPPF(8, 6), one(8), {"max_pool_pyramid": 1}),
    "yolox": Layout(lambda: yolo.SPPBottleneck(8, 6), one(8), {"max_pool_pyramid": 1}),
    "mmdet": Layout(lambda: yolo.PoolingsBottleneck(8, 6), one(8), {"max_pool_pyramid": 1}),
}
LAYOUTS: dict[str, Layout] = {
    "numbered": Layout(Numbered, one(10), {"dilated_branches": 2}, {"dilated_branches_train": 2}),
    "numbered-biases": Layout(
        lambda: Numbered(bias=True), one(10), {"dilated_branches": 2}, {"dilated_branches_train": 2}
    ),
    "image-first": Layout(ImageFirst, one(9), BRANCHES | {"upsample_merge": 1}, TRAINED | {"upsample_merge": 1}),
    "spread": Layout(Spread, one(6), {"dilated_branches": 2}, {"dilated_branches": 1, "dilated_branches_train": 1}),
    "repeated": Layout(Repeated, one(6), {"dilated_branches": 2}, {"dilated_branches": 1, "dilated_branches_train": 1}),
    "classifiers": Layout(Classifiers, one(7), BRANCHES),
    "bare": Layout(Bare, one(6), BRANCHES),
    "without-statistics": Layout(WithoutStatistics, one(6), TRAINED),
    "checkpointed": Layout(
        Checkpointed,
        one(6),
        {"dilated_branches": 2, "upsample_merge": 2},
        {"dilated_branches_train": 2, "upsample_merge": 2},
    ),  # fmt: skip
    "stages": Layout(Stages, one(8), PPM),
    "late-levels": Layout(LateLevels, one(8), {"pyramid_pool": 1, "pyramid_conv": 3}),
    "summed-levels": Layout(SummedLevels, one(8), {"pyramid_pool": 1, "upsample_merge": 1}),
    "functional-levels": Layout(FunctionalLevels, one(8), PPM),
    "top-down": Layout(TopDown, maps(4, 5, 6, 7), {"upsample_merge": 3, "pyramid_conv": 1}),
    "in-place-top-down": Layout(InPlaceTopDown, maps(4, 5, 6), {"upsample_merge": 2}),
    "exchange": Layout(Exchange, maps(4, 5, 6), {"upsample_merge": 1}),
    "stacked": Layout(Stacked, maps(4, 4, 4), {"upsample_merge": 2}),
    "weighted": Layout(Weighted, maps(4, 4, 4), {"upsample_merge": 1}),
    "fitted": Layout(Fitted, low(6, 4), {"pyramid_conv": 2}),
    "token-head": Layout(TokenHead, maps(4, 5, 6), {"pyramid_conv": 1}),
    "pixel-head": Layout(PixelHead, maps(4, 5, 6), {"pyramid_conv": 1}),
    "joint": Layout(Joint, maps(4, 5, 6), {"upsample_merge": 1}),
    "low-second": Layout(LowSecond, low(6, 4), {"pyramid_conv": 1}),
    "upsampled": Layout(Upsampled, one(5), {"pyramid_conv": 2}),
    "sides": Layout(Sides, maps(4, 5, 6), {"pyramid_conv": 1}),
    "neck": Layout(Neck, low(6, 4), {"max_pool_pyramid": 1, "pyramid_conv": 1}),
    "cross-stage": Layout(CrossStage, one(6), {"max_pool_pyramid": 1}),
    "cascade": Layout(Cascade, one(6), {"max_pool_pyramid": 1}),
    "shuffled": Layout(Shuffled, one(6), {"max_pool_pyramid": 1}),
    "gated-sum": Layout(GatedSum, one(6), {"channel_gate": 1}),
    "linear-gate": Layout(LinearGate, one(6), {"channel_gate": 1}),
    "mobile-gate": Layout(MobileGate, one(6), {"channel_gate": 1}),
    "mobile-gate-in-place": Layout(lambda: MobileGate(inplace=True), one(6), {"channel_gate": 1}),
    "flat-gate": Layout(FlatGate, one(6), {"channel_gate": 1}),
    "indexed-gate": Layout(IndexedGate, one(6), {"channel_gate": 1}),
    "einsum-gate": Layout(EinsumGate, one(6), {"channel_gate": 1}),
    "one-plus-gate": Layout(OnePlusGate, one(6), {"channel_gate": 1}),
    "refinement": Layout(Refinement, one(6), {"channel_gate": 1}, {}),
    "loss": Layout(
        Loss, lambda: (torch.randn(2, 5, 7, 9), torch.randint(0, 5, (2, 28, 36))), {"upsample_cross_entropy": 1}
    ),
    "log-loss": Layout(
        LogLoss, lambda: (torch.randn(2, 5, 7, 9), torch.randint(0, 5, (2, 28, 36))), {"upsample_cross_entropy": 1}
    ),
    "detached-labels": Layout(DetachedLabels, one(5), {"upsample_argmax": 1}),
    "labels": Layout(Labels, one(5), {"upsample_argmax": 1}),
    "relu-in-gate": Layout(lambda: gates.ReluARM(6, 8), one(6), {"channel_gate": 1}, {}),
    **REPOSITORIES,
}


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, tuple[Any, ...]]:
    """The module, norms at random, and its inputs, the same at every call."""
    torch.manual_seed(0)
    layout = LAYOUTS[name]
    module = layout.make()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine:
            randomise(norm)

    inputs = tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, layout.inputs())
    return module.to(dtype), inputs
