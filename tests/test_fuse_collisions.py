"""Modules of another function under known keys (wrapped children, other norms, functional layers): declined by name."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import pyramid_kernels as pk
from pyramid_kernels.nn import ReferenceASPP, ReferenceAttentionRefinementModule, ReferenceLargeFOV
from tests import third_party as user
from tests.foreign import why_skipped

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


class LeakyASPP(user.ResearchASPP):
    """A function behind the concat, where no layer would show it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.leaky_relu(torch.cat([conv(x) for conv in self.convs], dim=1) - 1))


class DroppingASPP(user.ResearchASPP):
    """A function for the dropout, beside the one among its layers."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.1, self.training)


@pytest.mark.parametrize(("cls", "mode"), [(LeakyASPP, "eval"), (DroppingASPP, "train")])
def test_functions_that_are_no_layers(cls: type[user.ResearchASPP], mode: str) -> None:
    pk.register_adapter(cls, pk.fuse.ASPPForward)
    assert f"its own forward gives another result in {mode} mode" in why_skipped(cls(6, (2, 3), 4))


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
