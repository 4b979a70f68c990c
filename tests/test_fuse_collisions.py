"""Modules of another function under known keys (wrapped children, other norms, functional layers): declined by name."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import pyramid_kernels as pk
from pyramid_kernels import fuse
from pyramid_kernels.fuse import mmseg, registry
from pyramid_kernels.nn import ReferenceASPP, ReferenceASPPv2, ReferenceAttentionRefinementModule, ReferenceLargeFOV
from tests import third_party as user
from tests import third_party_gates as gates
from tests import third_party_yolo as yolo
from tests.foreign import mm_uper, segformer, why_skipped
from tests.modules import randomise

pytestmark = pytest.mark.usefixtures("own_adapters")


def aspp() -> nn.Module:
    return ReferenceASPP(6, (2, 3), 4)


def large_fov() -> nn.Module:
    return ReferenceLargeFOV(6, 3, hidden=4, rate=2)


def refinement() -> nn.Module:
    return ReferenceAttentionRefinementModule(6, 4)


def qat(conv: nn.Conv2d) -> nn.Module:
    """The same convolution, whose weights are rounded on every call."""
    quantised: Any = copy.deepcopy(conv)
    quantised.__class__ = torch.ao.nn.qat.Conv2d
    return quantised


CHECKPOINT, QAT = "CheckpointWrapper", "torch.ao.nn.qat.modules.conv.Conv2d"


@pytest.mark.parametrize(
    ("make", "path", "wrap", "reason"),
    [
        (aspp, "convs.1.0", checkpoint_wrapper, f"convs.1 holds [{CHECKPOINT}, BatchNorm2d, ReLU]"),
        (aspp, "convs.1.0", qat, f"convs.1 holds [{QAT}, BatchNorm2d, ReLU]"),
        (large_fov, "fc6", checkpoint_wrapper, f"a convolution is a {CHECKPOINT}"),
        (large_fov, "fc6", qat, f"a convolution is a {QAT}"),
        (refinement, "conv_atten", checkpoint_wrapper, "conv_atten is not a Conv2d"),
        (refinement, "conv_atten", qat, f"a convolution is a {QAT}"),
    ],
)
def test_wrapped_convolutions(
    make: Callable[[], nn.Module], path: str, wrap: Callable[[Any], nn.Module], reason: str
) -> None:
    module = make()
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, wrap(module.get_submodule(path)))
    assert reason in why_skipped(module)


def test_an_aspp_without_an_image_level_branch() -> None:
    pk.register_adapter(user.ResearchASPP, pk.fuse.ASPPForward)
    module: Any = user.ResearchASPP(6, (2, 3), 4)
    module.convs.pop(-1)
    assert "convs.2 holds [Conv2d, BatchNorm2d, ReLU], not [AdaptiveAvgPool2d" in why_skipped(module)


class Backwards(nn.Module):
    """``block`` on the four parts of its map in the other order."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(torch.cat(x.chunk(4, 1)[::-1], 1))


def joined_backwards(head: Any, method: str, block: str) -> Any:
    """``head``, whose ``method`` concatenates what ``block`` reads in another order; no layer shows it."""
    cls = type(head)

    def call(self: Any, *args: Any, **named: Any) -> Any:
        own = self._modules[block]
        self._modules[block] = Backwards(own)
        try:
            return getattr(cls, method)(self, *args, **named)
        finally:
            self._modules[block] = own

    head.__class__ = type("Own", (cls,), {method: call})
    return head


def hidden(module: Any, weight: str) -> Any:
    """Nothing of the branches shows in the result."""
    nn.init.zeros_(module.get_parameter(weight).detach())
    return module


def gate(cls: Any, gain: float | None) -> Any:
    """A gate whose norm has hardly any gain is the same half whatever it is made of."""
    made = cls(6, 6)
    for norm in (m for m in made.modules() if isinstance(m, nn.BatchNorm2d)):
        randomise(norm)
    if gain is not None:
        norm = made.bn if cls is gates.OooARM else made.bn_atten
        norm.weight.data.fill_(gain)
        norm.bias.data.zero_()
    return made


def pool_first() -> Any:
    return user.PoolFirstASPP(8, (2, 3), 6)


def early() -> Any:
    return user.EarlyASPP(6, 3, (1, 2, 4))


def silent_third() -> Any:
    """A branch that adds nothing yet, as zero-initialised ones."""
    return hidden(hidden(early(), "c2.weight"), "c2.bias")


#: A module, the adapter that it is registered with, and the mode in which its results tell.
IMPOSTORS: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "half-pixel": (lambda: user.HalfPixelPPM(8, 2, (1, 2, 3)), fuse.PPMForward, "eval"),
    "reversed-levels": (lambda: user.ReversedPPM(8, 2, (1, 2, 3)), fuse.PPMForward, "eval"),
    "pool-first": (pool_first, fuse.ASPPForward, "eval"),
    "pool-first-hidden": (lambda: hidden(pool_first(), "project.0.weight"), fuse.ASPPForward, "eval"),
    "pool-first-on-meta": (lambda: pool_first().to("meta"), fuse.ASPPForward, "eval"),
    "function-behind-the-concat": (lambda: user.LeakyASPP(6, (2, 3), 4), fuse.ASPPForward, "eval"),
    "functional-dropout": (lambda: user.DroppingASPP(6, (2, 3), 4), fuse.ASPPForward, "train"),
    "fine-first": (lambda: joined_backwards(segformer(), "forward", "linear_fuse"), fuse.SegFormerForward, "eval"),
    "fpn-backwards": (
        lambda: joined_backwards(mm_uper(), "_forward_feature", "fpn_bottleneck"), mmseg.UPerHeadForward, "eval",
    ),
    "two-of-three-branches": (early, fuse.ASPPv2Forward, "eval"),
    "silent-third-branch": (silent_third, fuse.ASPPv2Forward, "eval"),
    "two-of-three-on-meta": (lambda: early().to("meta"), fuse.ASPPv2Forward, "eval"),
    "largest-pool-first": (lambda: yolo.LargestFirstSPP(8, 6), fuse.SPPForward, "eval"),
    "context-first": (lambda: gates.ContextFirstFFM(8, 8), fuse.FFMForward, "eval"),
    **{f"{cls.__name__}-{gain}": (functools.partial(gate, cls, gain), fuse.ARMForward, "eval")
       for cls in (gates.ReluARM, gates.WindowARM, gates.OooARM) for gain in (None, 0.01, 0.0)},
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSTORS)
def test_another_function_under_known_keys_is_found_out(name: str) -> None:
    """A subclass by what it overrides; registered, by its results, whatever its weights. It stays as it is."""
    make, adapter, mode = IMPOSTORS[name]
    module = make()
    if registry.known_class(type(module)):
        assert "overrides the " in why_skipped(module)
    pk.register_adapter(type(module), adapter)
    state, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    assert f"its own forward gives another result in {mode} mode" in why_skipped(module)
    assert torch.equal(random, torch.get_rng_state())
    pairs = zip(state.values(), module.state_dict().values(), strict=True)
    assert all(a.is_meta or torch.equal(a, b) for a, b in pairs)


def vgg_sum() -> nn.Module:
    model = user.KazutoASPP(6, 3, (1, 2))
    for name, branch in ReferenceASPPv2(6, 3, (1, 2), hidden=4).named_children():
        setattr(model, name, branch)
    return model


@pytest.mark.parametrize(
    ("lookalike", "adapter"),
    [
        (lambda: user.SemsegPPM(8, 2, (1, 2)), "PPMForward"),
        (lambda: user.ResearchASPP(8, (2,), 6), "ASPPForward"),
        (lambda: gates.CoinCheungARM(6, 8), "ARMForward"),
        (lambda: gates.CoinCheungFFM(9, 8), "FFMForward"),
        (lambda: gates.STDCSegFFM(9, 8), "FFMForward"),
        (lambda: user.PoseModule((4, 5, 6)), "HighResolutionModuleForward"),
        (vgg_sum, "ASPPv2Forward"),
        (lambda: yolo.SPPF(8, 6), "SPPFForward"),
    ],
)
def test_look_alikes_are_reported_and_left(lookalike: Any, adapter: str) -> None:
    model = lookalike()
    reason = why_skipped(model)
    assert "look-alike" in reason and reason.endswith(f"register_adapter({type(model).__name__}, fuse.{adapter})")
    pk.register_adapter(type(model), getattr(fuse, adapter))
    assert pk.fuse_(model).fused


@pytest.mark.parametrize(
    "ordinary",
    [
        lambda: user.KazutoASPP(6, 3, (1, 2)),
        lambda: gates.ConvBNReLU(6, 6, 1, 0),
        lambda: nn.Sequential(*vgg_sum().children()),
    ],
    ids=["convolutions", "conv-and-bn", "container"],
)
def test_what_is_in_very_many_classes_is_no_look_alike(ordinary: Any) -> None:
    assert not pk.fuse_(ordinary()).entries


def test_state_that_has_no_count_of_batches() -> None:
    """Files older than PyTorch 0.4.1 have none, and no version that would say so."""
    module, fresh = aspp(), aspp()
    state = {name: t for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    pk.fuse_(fresh.eval(), backend="reference", strict=True)
    fresh.load_state_dict(state)
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(fresh(x), module.eval()(x), rtol=1e-4, atol=1e-4)


class CSPSPPF(nn.Module):
    """YOLOv6's: SPPF on one of two paths, which stands behind the other in the concat."""

    def __init__(self) -> None:
        super().__init__()
        for i, (inputs, outputs) in enumerate([(4, 2), (4, 2), (2, 2), (2, 2), (8, 2), (2, 2), (4, 4)], 1):
            self.add_module(f"cv{i}", nn.Conv2d(inputs, outputs, 1))
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [self.cv4(self.cv3(self.cv1(x)))]
        for _ in range(3):
            pooled.append(self.m(pooled[-1]))
        return self.cv7(torch.cat([self.cv2(x), self.cv6(self.cv5(torch.cat(pooled, 1)))], 1))


def test_yolov6s_pools_are_not_an_sppf_of_their_own() -> None:
    module = CSPSPPF()
    assert not pk.fuse_(module).fused
    pk.register_adapter(CSPSPPF, pk.fuse.SPPFForward)
    assert "'cv7', 'm'], not ['cv1', 'cv2', 'm']" in why_skipped(module)
