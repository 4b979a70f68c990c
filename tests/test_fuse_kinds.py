"""Layers of other classes in a pyramid: what computes a plain layer is one, what overrides the call of one is not."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.nn import ReferenceASPP, ReferencePPM
from tests.agreement import assert_agrees, fair_
from tests.foreign import why_skipped
from tests.libraries import library
from tests.modules import replaced

X = torch.randn(8, 8, 7, 5, generator=torch.Generator().manual_seed(0))
PYRAMIDS: dict[str, Callable[[], nn.Module]] = {
    "aspp": lambda: ReferenceASPP(8, (2, 3), 6, dropout=0.0),
    "ppm": lambda: ReferencePPM(8, 6, (1, 2)),
}


class CheckedSync(nn.SyncBatchNorm):
    """mmengine's SyncBatchNorm."""

    def _check_input_dim(self, input: Tensor) -> None:
        super()._check_input_dim(input)


class BatchNormXd(nn.modules.batchnorm._BatchNorm):
    """mmengine's, which takes the place of SyncBatchNorm where there is one process."""

    def _check_input_dim(self, input: Tensor) -> None:
        return


class OwnDefaults(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.03)
        nn.init.uniform_(self.weight)


class Frozen(nn.Module):
    """detectron2's FrozenBatchNorm2d: one form for a gradient of its input, another without."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = channels, eps
        generator = torch.Generator().manual_seed(channels)
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels, generator=generator) + 0.5)
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        mean, var, weight, bias = self.running_mean, self.running_var, self.weight, self.bias
        if not x.requires_grad:
            return F.batch_norm(x, mean, var, weight, bias, training=False, eps=self.eps)
        scale = weight * (var + self.eps).rsqrt()
        shift = bias - mean * scale
        return x * scale.reshape(1, -1, 1, 1).to(x.dtype) + shift.reshape(1, -1, 1, 1).to(x.dtype)


def torchvision_frozen(channels: int) -> Any:
    """Of which ``fair_`` knows nothing: affine and statistics at random."""
    norm = library("torchvision.ops").FrozenBatchNorm2d(channels, eps=1e-3)
    for t in norm.buffers():
        t.copy_(torch.rand(channels, generator=torch.Generator().manual_seed(channels)) + 0.5)
    return norm


class ConvOfOwnWeights(nn.Conv2d):
    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.3)


class NamedReLU(nn.ReLU):
    pass


KEPT: dict[str, Callable[[int], nn.Module]] = {
    "sync": CheckedSync,
    "xd": BatchNormXd,
    "defaults": OwnDefaults,
    "frozen": Frozen,
    "frozen-eps": lambda n: Frozen(n, 1e-2),
    "frozen-torchvision": lambda n: torchvision_frozen(n),
    "cumulative": lambda n: nn.BatchNorm2d(n, momentum=None),
    "untracked": lambda n: nn.BatchNorm2d(n, track_running_stats=False),
    "plain": lambda n: CheckedSync(n, affine=False),
}


def _conv(conv: nn.Conv2d) -> nn.Module:
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size
    return ConvOfOwnWeights(*sizes, padding=conv.padding, dilation=conv.dilation, bias=False)  # type: ignore[arg-type]


def assert_fused_agrees(unfused: Any) -> None:
    ours = copy.deepcopy(unfused)
    assert pk.fuse_(ours, backend="reference").fused and ours.why_original(X) is None
    assert_agrees(ours, unfused, X)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("norm", list(KEPT))
@pytest.mark.parametrize("pyramid", list(PYRAMIDS))
def test_norms_that_keep_the_forward(pyramid: str, norm: str, train: bool) -> None:
    module = replaced(PYRAMIDS[pyramid](), nn.BatchNorm2d, lambda old: KEPT[norm](old.num_features))
    assert_fused_agrees(fair_(module, X).train(train))


@pytest.mark.parametrize("pyramid", list(PYRAMIDS))
def test_convolutions_and_activations_that_keep_the_forward(pyramid: str) -> None:
    module = replaced(PYRAMIDS[pyramid](), nn.Conv2d, _conv)
    assert_fused_agrees(fair_(replaced(module, nn.ReLU, lambda _: NamedReLU()), X))


class Whitened(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


class OtherCall(nn.BatchNorm2d):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) / 2


class OwnGain(nn.BatchNorm2d):
    """Its gain is computed from a parameter of another name."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gain = self._parameters.pop("weight")

    @property
    def weight(self) -> Tensor:
        return self.gain.exp()


class FrozenReLU(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Scaled(Frozen):
    """Another function by a setting; frozen as all others without."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class Standardised(nn.Conv2d):
    """Called by the forward of its base."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class Rounded(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight.round(decimals=1))


class Shifted(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input - 1)


def patched(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm.forward = lambda x: x  # type: ignore[method-assign]
    return norm


def halved(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    nn.utils.parametrize.register_parametrization(norm, "weight", nn.Softplus())
    return norm


def timm_norm(name: str) -> nn.Module:
    return getattr(pytest.importorskip("timm.layers", reason="needs timm"), name)(6)


DECLINED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "forward": (lambda: Whitened(6), "is a Whitened, which overrides the forward of _BatchNorm"),
    "call": (lambda: OtherCall(6), "is a OtherCall, which overrides the __call__ of _BatchNorm"),
    "weight": (lambda: OwnGain(6), "is a OwnGain, which computes its weight"),
    "instance": (lambda: patched(nn.BatchNorm2d(6)), "convs.0.1 has its own forward"),
    "parametrized": (lambda: halved(nn.BatchNorm2d(6)), "convs.0.1 is parametrized"),
    "lines": (lambda: nn.BatchNorm1d(6), "is a BatchNorm1d, which takes no maps"),
    "group": (lambda: nn.GroupNorm(2, 6), "is a GroupNorm, not a BatchNorm that the kernels know"),
    "lazy": (nn.LazyBatchNorm2d, "convs.0.1 is a LazyBatchNorm2d, not initialised yet; run the model once"),
    "timm-act": (lambda: timm_norm("BatchNormAct2d"), "is a BatchNormAct2d, which overrides the forward"),
    "timm-frozen": (lambda: timm_norm("FrozenBatchNormAct2d"), "is a FrozenBatchNormAct2d, not a BatchNorm"),
    "frozen-relu": (lambda: FrozenReLU(6), "is a FrozenReLU, not a BatchNorm that the kernels know"),
    "frozen-scaled": (lambda: Scaled(6), "is a Scaled, not a BatchNorm that the kernels know"),
}


@pytest.mark.parametrize("name", list(DECLINED))
def test_norms_that_compute_something_else(name: str) -> None:
    make, reason = DECLINED[name]
    module: Any = PYRAMIDS["aspp"]()
    module.convs[0][1] = make()
    assert reason in why_skipped(module)


def test_layers_that_compute_something_else() -> None:
    for old, new in (
        (nn.Conv2d, Standardised(8, 6, 1, bias=False)),
        (nn.Conv2d, Rounded(8, 6, 1, bias=False)),
        (nn.Conv2d, nn.LazyConv2d(6, 1, bias=False)),
        (nn.ReLU, Shifted()),
    ):
        module: Any = PYRAMIDS["aspp"]()
        module.convs[0] = replaced(module.convs[0], old, lambda _, new=new: new)  # type: ignore[misc]
        assert type(new).__name__ in why_skipped(module)


def test_a_norm_replaced_after_fusing() -> None:
    """A class that computes the same is the same norm; another takes the original forward, with the reason."""
    module: Any = PYRAMIDS["aspp"]()
    pk.fuse_(module, backend="reference")
    for make, fused in ((CheckedSync, True), (Frozen, True), (Whitened, False), (FrozenReLU, False), (Scaled, False)):
        module.convs[0][1] = make(6)
        reason = module.why_original(X)
        assert reason is None if fused else make.__name__ in reason


def test_a_frozen_norm_is_told_by_its_settings_as_well() -> None:
    module: Any = replaced(PYRAMIDS["aspp"](), nn.BatchNorm2d, lambda old: Scaled(old.num_features))
    for norm in (m for m in module.modules() if isinstance(m, Scaled)):
        norm.scale = 1.0
    assert pk.fuse_(module, backend="reference").fused and module.why_original(X) is None
    module.project[1].scale = 3.0
    assert "a norm is a Scaled" in module.why_original(X)
