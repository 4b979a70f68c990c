"""The loss module against plain PyTorch: values and gradients within the oracle's limits, hard pixels as published."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_kernels.nn import UpsampleCrossEntropyLoss
from pyramid_kernels.testing import module_error_ratios
from tests.kernels import DEVICE

CLASSES, IGNORED = 5, 255
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0])

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"weight": WEIGHT},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none", "align_corners": True},
    "smoothing": {"label_smoothing": 0.1, "weight": WEIGHT},
    "hard": {"ohem_threshold": 0.1},
    "hard-least": {"ohem_threshold": 1e-4, "min_kept": 200},
    "hard-weight": {"ohem_threshold": 0.1, "min_kept": 200, "weight": WEIGHT, "align_corners": True},
}


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (8, C, 7, 5) and a target (8, 26, 18) of which an eighth is ignored."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(CLASSES, (8, 26, 18), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 1 / 8] = IGNORED
    return torch.randn(8, CLASSES, 7, 5, generator=generator).to(DEVICE), target.to(DEVICE)


class OfLogits(nn.Module):
    """What ``loss`` makes of logits, a target beside them."""

    def __init__(self, loss: nn.Module, target: Tensor) -> None:
        super().__init__()
        self.loss, self.target = loss, target

    def forward(self, logits: Tensor) -> Tensor:
        return self.loss(logits, self.target)


class Plain(nn.Module):
    """Full-size logits, PyTorch's loss, and hard pixels as a list, as in CoinCheung's BiSeNet."""

    def __init__(
        self, weight: Tensor | None = None, align_corners: bool = False, ohem_threshold: float | None = None,
        min_kept: int | None = None, reduction: str = "mean", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.align_corners, self.threshold, self.min_kept = align_corners, ohem_threshold, min_kept
        self.register_buffer("weight", weight)
        self.options = options | {"reduction": "none" if ohem_threshold else reduction}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        full = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=self.align_corners)
        losses = F.cross_entropy(full, target, self.weight, ignore_index=IGNORED, **self.options)
        if self.threshold is None:
            return losses
        losses = losses[target != IGNORED]
        least = self.min_kept or losses.numel() // 16
        hard = losses[losses > -math.log(self.threshold)]
        return (hard if len(hard) >= least else losses.topk(min(least, len(losses))).values).mean()


@pytest.mark.parametrize("backend", ["reference", "composed"])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_equals_plain_pytorch(name: str, backend: str) -> None:
    logits, target = data()
    ours = UpsampleCrossEntropyLoss(**OPTIONS[name], ignore_index=IGNORED, backend=backend).to(DEVICE)
    theirs = Plain(**OPTIONS[name]).to(DEVICE)
    ratios = module_error_ratios(OfLogits(ours, target), OfLogits(theirs, target), logits)
    assert {"y", "dx"} <= ratios.keys()
    assert max(ratios.values()) <= 1, ratios


@pytest.mark.parametrize("min_kept,count", [(1, 300), (300, 300), (500, 500), (10**9, 1000)])
def test_hard_pixels_and_their_least_number(min_kept: int, count: int) -> None:
    """300 of 1000 pixels are above the threshold; the gradient says which pixels count."""
    order = torch.randperm(1250, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    easy_to_hard, ignored = order[:1000], order[1000:]
    logits = torch.zeros(1, 2, 25, 50, device=DEVICE)
    logits[0, 1].view(-1)[easy_to_hard] = torch.linspace(8, -8, 1000, device=DEVICE)
    target = torch.ones(1, 25, 50, dtype=torch.uint8, device=DEVICE)
    target.view(-1)[ignored] = IGNORED
    threshold = torch.sigmoid(logits[0, 1].view(-1)[easy_to_hard[699:701]].mean()).item()
    loss = UpsampleCrossEntropyLoss(ignore_index=IGNORED, ohem_threshold=threshold, min_kept=min_kept)
    (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), target), logits)
    kept = gradient[0, 1].flatten().nonzero().flatten()
    assert set(kept.tolist()) == set(easy_to_hard[-count:].tolist())


def test_equal_losses_count_together() -> None:
    """Of equal pixels none is preferred: where a list would cut them off in any order, all of them count."""
    logits = torch.zeros(1, 3, 4, 4, device=DEVICE, requires_grad=True)
    target = torch.ones(1, 4, 4, dtype=torch.long, device=DEVICE)
    loss = UpsampleCrossEntropyLoss(ohem_threshold=0.01, min_kept=2)(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss.item(), math.log(3))
    assert torch.equal(gradient[0, 1], gradient[0, 1, :1, :1].expand(4, 4))


@pytest.mark.parametrize("options", [{}, {"ohem_threshold": 0.7}, {"ohem_threshold": 0.7, "min_kept": 3}])
def test_nothing_that_counts_is_nan_with_a_gradient_of_zero(options: dict[str, Any]) -> None:
    logits, target = data()
    loss = UpsampleCrossEntropyLoss(ignore_index=IGNORED, **options)
    for z, labels in ((logits, torch.full_like(target, IGNORED)), (logits[:0], target[:0])):
        z = z.detach().clone().requires_grad_()
        y = loss(z, labels)
        assert y.isnan() and y.shape == ()
        (gradient,) = torch.autograd.grad(y, z)
        assert torch.equal(gradient, torch.zeros_like(z))


def test_a_nan_is_not_mistaken_for_an_easy_pixel() -> None:
    logits, target = data()
    logits[0, 0, 3, 2] = float("nan")
    assert UpsampleCrossEntropyLoss(ignore_index=IGNORED, ohem_threshold=0.7, min_kept=1)(logits, target).isnan()


@pytest.mark.parametrize("ignored", [-100, 300])
def test_labels_of_one_byte_are_not_wrapped_into_the_ignored_one(ignored: int) -> None:
    """In uint8, -100 would be class 156 and 300 class 44."""
    label = ignored % 256
    target = torch.full((1, 8, 8), label, dtype=torch.uint8, device=DEVICE)
    logits = torch.zeros(1, 200, 4, 4, device=DEVICE, requires_grad=True)
    loss = UpsampleCrossEntropyLoss(ignore_index=ignored, ohem_threshold=0.7)(logits, target)
    torch.testing.assert_close(loss.item(), math.log(200))
    assert torch.autograd.grad(loss, logits)[0][:, label].all()


@pytest.mark.parametrize("backend", ["composed"] if DEVICE == "cpu" else ["triton", "cuda"])
def test_gradients_repeat_bit_by_bit(backend: str) -> None:
    logits, target = data()
    loss = UpsampleCrossEntropyLoss(ignore_index=IGNORED, ohem_threshold=0.1, backend=backend)
    first, second = (torch.autograd.grad(loss(logits.requires_grad_(), target), logits)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("weights", [None, (1.0, 0.4, 0.25)])
@pytest.mark.parametrize("options", [{}, {"ohem_threshold": 0.1}])
def test_multi_adds_the_losses_of_all_heads(weights: Any, options: dict[str, Any]) -> None:
    """BiSeNet's three heads, of different sizes, at one target."""
    (main, target), (first, _), (second, _) = (data(seed) for seed in range(3))
    logits = [main, first[:, :, :4, :3].contiguous(), F.interpolate(second, target.shape[1:])]
    ours, theirs = UpsampleCrossEntropyLoss(ignore_index=IGNORED, **options), Plain(**options)
    for z in logits:
        z.requires_grad_()
    expected = sum(w * theirs(z, target) for w, z in zip(weights or (1, 1, 1), logits, strict=True))
    got = ours.multi(logits, target, weights)
    torch.testing.assert_close(got, expected)
    for a, b in zip(torch.autograd.grad(got, logits), torch.autograd.grad(expected, logits), strict=True):
        torch.testing.assert_close(a, b)


def test_state_is_that_of_cross_entropy() -> None:
    theirs = nn.CrossEntropyLoss(WEIGHT, ignore_index=IGNORED, label_smoothing=0.1).eval()
    ours = UpsampleCrossEntropyLoss.from_reference(theirs, align_corners=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys() == {"weight"}
    assert UpsampleCrossEntropyLoss().state_dict() == {} and not ours.training and ours.align_corners
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(UpsampleCrossEntropyLoss(WEIGHT + 1).state_dict())
    assert torch.equal(ours.weight, WEIGHT + 1) and torch.equal(theirs.weight, WEIGHT)
    back = ours.to_reference()
    assert type(back) is nn.CrossEntropyLoss and not back.training
    full, target = torch.randn(8, CLASSES, 26, 18, device=DEVICE), data()[1]
    for same in (back, pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        torch.testing.assert_close(same.to(DEVICE)(full, target), ours.to(DEVICE)(full, target))


def test_half_logits_take_the_weights_they_were_given() -> None:
    logits, target = data()
    loss = UpsampleCrossEntropyLoss(WEIGHT, ignore_index=IGNORED, ohem_threshold=0.5).to(DEVICE)
    got = loss(logits.half(), target)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, loss(logits.half().float(), target))


def test_hard_pixels_compile_into_one_graph() -> None:
    logits, target = data()
    loss = UpsampleCrossEntropyLoss(ignore_index=IGNORED, ohem_threshold=0.1, backend="composed")
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert torch.equal(compiled(logits.requires_grad_(), target), loss(logits, target))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"min_kept": 5}, "min_kept needs ohem_threshold, got min_kept=5 alone"),
    ({"ohem_threshold": 0.0}, "ohem_threshold must be a probability above 0 and at most 1, or None, got 0.0"),
    ({"ohem_threshold": 1.5}, "ohem_threshold must be a probability above 0 and at most 1, or None, got 1.5"),
    ({"ohem_threshold": "0.7"}, "ohem_threshold must be a probability above 0 and at most 1, or None, got '0.7'"),
    ({"ohem_threshold": 0.7, "min_kept": 0}, "min_kept must be an int of at least 1, or None, got 0"),
    ({"ohem_threshold": 0.7, "min_kept": 0.1}, "min_kept must be an int of at least 1, or None, got 0.1"),
    ({"ohem_threshold": 0.7, "reduction": "sum"}, "reduction must be 'mean' with ohem_threshold, got 'sum'"),
    ({"backend": "fast"}, "backend must be one of 'auto', "),
]


@pytest.mark.parametrize("options,message", BAD, ids=range(len(BAD)))
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        UpsampleCrossEntropyLoss(**options)
    assert str(caught.value).startswith(message)


def test_bad_calls_are_named() -> None:
    logits, target = data()
    loss = UpsampleCrossEntropyLoss(ignore_index=IGNORED)
    with pytest.raises(TypeError, match="logits must be a non-empty list or tuple of tensors, got Tensor"):
        loss.multi(logits, target)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weights must have one entry per logits \(1\), got 2"):
        loss.multi([logits], target, [1.0, 2.0])
    with pytest.raises(ValueError, match="target must be 3-D"):
        loss(logits, target[:, None])
    with pytest.raises(ValueError, match="a loss with ohem_threshold has no reference"):
        UpsampleCrossEntropyLoss(ohem_threshold=0.7).to_reference()
