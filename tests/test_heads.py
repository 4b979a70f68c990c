"""Heads against their plain PyTorch form, in float64: the same output, gradients and statistics, whatever the mode."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.nn import DeepLabV3PlusDecoder, HRNetV2Head, PSPHead, SegFormerHead, UPerHead
from pyramid_kernels.nn.base import Fused
from pyramid_kernels.nn.mixing import HeadForward
from tests.kernels import DEVICE

LEVELS = [(4, 8, 12), (5, 4, 6), (6, 2, 3)]
ODD = [(4, 9, 7), (5, 5, 3), (6, 2, 1)]
DECODER = {"low_width": 6, "low_index": 0, "dropout": 0.0}

#: The head and the (C, H, W) of its maps; a single one where it takes no list.
HEADS: dict[str, tuple[Callable[..., HeadForward], list[tuple[int, int, int]]]] = {
    "psp": (lambda **kw: PSPHead(8, 3, hidden_dim=8, dropout=0.0, **kw), [(8, 7, 5)]),
    "psp-half-pixel": (
        lambda **kw: PSPHead(8, 3, (1, 2), hidden_dim=8, dropout=0.0, align_corners=False, **kw), [(8, 6, 6)],
    ),
    "segformer": (lambda **kw: SegFormerHead((4, 5, 6), 8, 3, dropout=0.0, **kw), LEVELS),
    "segformer-odd": (lambda **kw: SegFormerHead((4, 5, 6), 8, 3, dropout=0.0, **kw), ODD),
    "uper": (lambda **kw: UPerHead((4, 5, 6), 8, 3, **kw), LEVELS),
    "uper-corners": (lambda **kw: UPerHead((4, 5, 6), 8, 3, (1, 4), align_corners=True, **kw), ODD),
    "hrnetv2": (lambda **kw: HRNetV2Head((4, 5, 6), 3, **kw), LEVELS),
    "hrnetv2-corners": (
        lambda **kw: HRNetV2Head((4, 5, 6), 3, channels=8, kernel_size=3, align_corners=True, **kw), ODD,
    ),
    "decoder": (lambda **kw: DeepLabV3PlusDecoder(8, 4, 8, (2, 3), **DECODER, **kw), [(4, 13, 9), (8, 5, 4)]),
    "decoder-low-first": (
        lambda **kw: DeepLabV3PlusDecoder(8, 4, 8, (2,), low_first=True, align_corners=False, **DECODER, **kw),
        [(4, 12, 8), (8, 3, 2)],
    ),
    "decoder-dense": (
        lambda **kw: DeepLabV3PlusDecoder(8, 4, 8, (2,), separable=False, low_first=True, **DECODER, **kw),
        [(4, 12, 8), (8, 3, 2)],
    ),
}  # fmt: skip


@pytest.fixture(params=list(HEADS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, backend: str = "composed", dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """A head whose norms have random affines and statistics, and its input."""
    make, shapes = HEADS[name]
    generator = torch.Generator().manual_seed(0)
    head = make(backend=backend).to(dtype)
    for norm in head.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for t in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                t.copy_(0.5 + torch.rand(t.shape, generator=generator))
    maps = [torch.randn(3, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return head.to(DEVICE), maps[0].to(DEVICE) if len(maps) == 1 else [m.to(DEVICE) for m in maps]


def freeze(head: nn.Module, every: int) -> nn.Module:
    for norm in [m for m in head.train().modules() if isinstance(m, nn.BatchNorm2d)][::every]:
        norm.eval()
    return head


MODES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "train": lambda m: m.train(),
    "eval": lambda m: m.eval(),
    "frozen": lambda m: freeze(m, 1),
    "some-frozen": lambda m: freeze(m, 2),
}


def step(head: nn.Module, x: Any) -> dict[str, Tensor]:
    """Output, every gradient, and buffers after it."""
    maps = [m.detach().clone().requires_grad_() for m in ([x] if isinstance(x, Tensor) else x)]
    head.zero_grad(set_to_none=True)
    y = head(maps[0] if isinstance(x, Tensor) else maps)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    (y * weight).sum().backward()
    found = {"y": y.detach()} | {f"d map {i}": m.grad for i, m in enumerate(maps)}
    found |= {f"d {name}": p.grad for name, p in head.named_parameters()}
    return found | {name: b.clone().double() for name, b in head.named_buffers()}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert got.keys() == expected.keys()
    for name, t in expected.items():
        # The gradient of a bias in front of a norm in training is zero, and what is left is rounding.
        torch.testing.assert_close(
            got[name], t, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("backend", ["reference", "composed"])
@pytest.mark.parametrize("mode", list(MODES))
def test_equals_its_reference(name: str, mode: str, backend: str) -> None:
    head, x = build(name, backend)
    MODES[mode](head)
    unfused = head.to_reference()
    assert head.why_original(x) is None and not any(isinstance(m, Fused) for m in unfused.modules())
    assert_same(step(head, x), step(unfused, x))


SLOW = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (("uper", "eval"), ("decoder-low-first", "eval"), ("hrnetv2", "train"))
]


@pytest.mark.parametrize(("name", "mode"), [("psp", "train"), ("segformer", "train"), *SLOW])
def test_equals_its_reference_on_kernels(name: str, mode: str) -> None:
    head, x = build(name, "triton", torch.float32)
    MODES[mode](head)
    unfused = head.to_reference()
    with pk.testing.count_launches() as launches:
        got = step(head, x)
    assert any("pyramid_conv" in kernel for kernel, _ in launches)
    for key, t in step(unfused, x).items():
        # The gradient of a bias in front of a norm in training is zero, and what is left is rounding.
        assert (got[key] - t).abs().max() <= 1e-3 * t.abs().max() + 1e-4, key


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_keeps_dtype_and_memory_format(name: str, layout: torch.memory_format) -> None:
    head, x = build(name, dtype=torch.float32)
    maps = [m.contiguous(memory_format=layout) for m in ([x] if isinstance(x, Tensor) else x)]
    x = maps[0] if isinstance(x, Tensor) else maps
    y, expected = head.eval()(x), head.to_reference()(x)
    # SegFormer's linear layers leave channels last; its dropout draws a mask in that order.
    layout = torch.channels_last if isinstance(head, SegFormerHead) else layout
    assert y.dtype == expected.dtype and y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"eps": 1e-3}, {"momentum": 0.997}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}],
    ids=lambda options: "-".join(options),
)
def test_every_kind_of_batch_norm(name: str, options: dict[str, Any]) -> None:
    head, x = build(name)
    for parent in list(head.modules()):
        for key, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(parent, key, nn.BatchNorm2d(norm.num_features, **options).to(norm.weight))
    for mode in (True, False):
        unfused = head.train(mode).to_reference()
        assert head.why_original(x) is None
        assert_same(step(head, x), step(unfused, x))


def test_identity_norms_and_biases(name: str) -> None:
    head, x = build(name)
    for unit in head.units(head):
        for parent in list(head.modules()):
            for key, child in parent.named_children():
                if child is unit.norm:
                    setattr(parent, key, nn.Identity())
        unit.conv.bias = nn.Parameter(torch.randn(unit.conv.out_channels, dtype=torch.float64, device=DEVICE))
    for mode in (True, False):
        head.train(mode)
        unfused = head.to_reference()
        assert head.why_original(x) is None
        assert_same(step(head, x), step(unfused, x))


def test_copies_pickles_and_from_reference(name: str) -> None:
    head, x = build(name)
    freeze(head, 2)
    unfused = head.to_reference()
    again = type(head).from_reference(unfused, backend="composed")
    assert [m.training for m in again.modules()] == [m.training for m in unfused.modules()]
    assert list(again.state_dict()) == list(unfused.state_dict())
    assert not {p.data_ptr() for p in again.parameters()} & {p.data_ptr() for p in unfused.parameters()}
    expected = step(unfused, x)
    for other in (again, copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert other.why_original(x) is None
        assert_same(step(other, x), expected)


def test_dropout_draws_the_same_mask() -> None:
    for head, shapes in (
        (SegFormerHead((4, 5, 6), 8, 3, dropout=0.5), LEVELS),
        (PSPHead(8, 3, hidden_dim=8), [(8, 7, 5)]),
    ):
        head.kernel_backend = "composed"
        maps = [torch.randn(2, *shape) for shape in shapes]
        x = maps if len(maps) > 1 else maps[0]
        results = []
        for module in (head, head.to_reference()):
            torch.manual_seed(3)
            results.append(module(x))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_other_inputs_take_the_original_forward(name: str) -> None:
    head, x = build(name)
    wrong: list[tuple[Any, str]]
    if isinstance(x, Tensor):
        wrong = [(x[0], "batch"), (x.float(), "float32"), (x[:, :-1], "channels")]
    else:
        *rest, last = x
        wrong = [(last, "not a list"), ([*rest, last[:1]], "differ in batch"), ([*rest, last[:, :-1]], "channels")]
        mixed = [*rest, last.float()]
        wrong += [(mixed, "float32")]
    unfused = head.to_reference()
    if isinstance(head, HRNetV2Head):  # its own forward joins the maps first, and a concat promotes them
        assert "float32" in head.why_original(mixed) and torch.equal(head(mixed), unfused(mixed))
        assert "not a list" in head.why_original(unfused._joined(x))
        assert torch.equal(head(unfused._joined(x)), unfused(x))
        wrong.pop()
    for bad, why in wrong:
        assert why in head.why_original(bad)
        with pytest.raises(Exception) as theirs:  # noqa: PT011  (whatever PyTorch raises)
            unfused(bad)
        # The pyramid inside a head may run its own ops and name the argument.
        with pytest.raises((type(theirs.value), ValueError)):
            head(bad)


def test_children_with_hooks_take_the_original_forward(name: str) -> None:
    head, x = build(name)
    seen: list[int] = []
    norm = head.units(head)[-1].norm
    handle = norm.register_forward_hook(lambda *_: seen.append(1))
    assert "hooks" in head.why_original(x)
    head(x)
    assert seen
    handle.remove()
    assert head.why_original(x) is None


def test_on_a_cpu_automatic_follows_the_convolution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE != "cpu":
        pytest.skip("decides on a CPU")
    for chosen, why in (("reference", "the unfused chain is what auto takes"), ("composed", None)):
        head, x = build(name, "auto", torch.float32)
        monkeypatch.setattr("pyramid_kernels.nn.base.select", lambda *_, chosen=chosen: chosen)
        if any(unit.depthwise is not None for unit in head.units(head)):
            why = "depthwise"
        found = head.why_original(x)
        assert found is None if why is None else why in found


def test_autocast(name: str) -> None:
    head, x = build(name, dtype=torch.float32)
    unfused = head.eval().to_reference()
    with torch.autocast(DEVICE, torch.bfloat16):
        a, b = head(x), unfused(x)
    assert a.dtype == b.dtype
    assert (a.float() - b.float()).abs().max() <= 0.05 * b.float().abs().max()


def test_compiles_whole(name: str) -> None:
    head, x = build(name, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(head).eval(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), head.eval()(x), rtol=1e-4, atol=1e-4)


def test_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="in_channels must not be empty"):
        SegFormerHead((), 4, 2)
    with pytest.raises(ValueError, match="in_channels and bins must not be empty"):
        UPerHead((4,), 4, 2, ())
    for make in (lambda **kw: SegFormerHead((4,), 4, 2, **kw), lambda **kw: UPerHead((4,), 4, 2, **kw)):
        with pytest.raises(ValueError, match="backend must be one of"):
            make(backend="tritn")
    with pytest.raises(ValueError, match="in_channels must not be empty"):
        HRNetV2Head.from_reference(nn.Sequential(nn.Conv2d(4, 4, 1)))
    for head in (SegFormerHead, UPerHead, DeepLabV3PlusDecoder, PSPHead, HRNetV2Head):
        with pytest.raises(ValueError, match="module must .* got a Linear"):
            head.from_reference(nn.Linear(1, 1))


def test_a_separable_decoder_stays_as_it_is_where_its_maps_are_near_in_size() -> None:
    """One dense 3x3 at full size would take seven times the work of a depthwise one and a 1x1, on a GPU too."""
    head = DeepLabV3PlusDecoder(8, 4, 8, (2, 3), **DECODER)
    for side, why in ((8, "too near in size"), (4, "the unfused chain is what auto takes")):
        maps = [torch.empty(1, 4, 16, 16, device="meta"), torch.empty(1, 8, side, side, device="meta")]
        assert why in (head.why_slower(maps) or "")


def test_a_slice_of_hrnets_head_is_a_sequential() -> None:
    head = HRNetV2Head((4, 5, 6), 3)
    assert type(head[:-1]) is nn.Sequential and list(head[:-1]) == list(head)[:-1] and head[0] is next(iter(head))
