"""Modules of any dtype and without values: they fuse, run, train and propagate shapes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import pyramid_kernels as pk
from tests.modules import LEARNED, build, loss, maps_of, results


def plain_of(name: str, dtype: torch.dtype) -> Any:
    """Norms as they begin: random gains bring pre-activations near zero, where half precision switches gradients."""
    module = build(name, dtype).to_reference()
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.reset_parameters()
    return module


def gradients(module: Any, maps: list[Tensor]) -> list[Tensor]:
    module.zero_grad()
    loss(module, maps).backward()
    return [
        t.double() for m in (results(module, maps), [p.grad for p in module.parameters()]) for t in m if t is not None
    ]


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_modules_fuse_and_train(dtype: torch.dtype, train: bool) -> None:
    for name in LEARNED:
        plain, maps = plain_of(name, dtype).train(train), maps_of(name, dtype)
        ours = copy.deepcopy(plain)
        (entry,) = [e for e in pk.fuse_(ours, backend="reference").entries if e.path == ""]
        assert entry.fused, entry
        exact = gradients(copy.deepcopy(plain).double(), [m.double() for m in maps])
        for a, b, truth in zip(gradients(ours, maps), gradients(plain, maps), exact, strict=True):
            limit = 4 * (b - truth).abs().max() + 8 * torch.finfo(dtype).eps * truth.abs().max()
            assert (a - truth).abs().max() <= limit, name
        for key, value in ours.state_dict().items():
            assert value.dtype == plain.state_dict()[key].dtype, name


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_modules_on_meta_fuse_and_give_shapes(train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyramid_kernels.backends._STRICT", True)
    for name in LEARNED:
        plain = plain_of(name, torch.float32).train(train)
        maps = [m.to("meta") for m in maps_of(name, torch.float32)]
        expected = results(copy.deepcopy(plain), maps_of(name, torch.float32))
        for default in ("cpu", "meta"):
            ours = copy.deepcopy(plain).to("meta")
            with torch.device(default):
                (entry,) = [e for e in pk.fuse_(ours).entries if e.path == ""]
                assert entry.fused, entry
                got = results(ours, maps)
            assert [(y.shape, y.dtype, y.is_meta) for y in got] == [(y.shape, y.dtype, True) for y in expected], name


def test_fake_modules_fuse_and_give_shapes() -> None:
    for name in LEARNED:
        real = build(name, torch.float32).eval()
        expected = results(real, maps_of(name, torch.float32))
        ours = real.to_reference()
        with FakeTensorMode() as mode:
            ours._apply(mode.from_tensor)
            (entry,) = [e for e in pk.fuse_(ours, backend="reference").entries if e.path == ""]
            assert entry.fused, entry
            maps = [mode.from_tensor(m) for m in maps_of(name, torch.float32)]
            assert ours.why_original(maps if len(maps) > 1 else maps[0]) is None, name
            got = results(ours, maps)
        assert [(y.shape, y.stride()) for y in got] == [(y.shape, y.stride()) for y in expected], name


def test_one_module_that_cannot_be_checked_does_not_keep_others_from_being_fused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.ModuleList([pk.nn.ReferenceASPP(8, (2,), 8), pk.nn.ReferencePPM(8, 4, (1, 2))])
    original = pk.nn.ReferenceASPP.forward

    def fails(self: Any, x: Tensor) -> Tensor:
        raise KeyError("no such\ntable")

    monkeypatch.setattr(pk.nn.ReferenceASPP, "forward", fails)
    report = pk.fuse_(model, backend="reference")
    assert [e.path for e in report.fused] == ["1"] and [e.path for e in report.skipped] == ["0"]
    assert (
        report.skipped[0].detail.startswith("checking it failed: KeyError: ") and "\n" not in report.skipped[0].detail
    )
    monkeypatch.setattr(pk.nn.ReferenceASPP, "forward", original)
    assert len(pk.fuse_(model, backend="reference").fused) == 2


def test_empty_batches() -> None:
    for name in LEARNED:
        module = build(name, torch.float32).eval()
        plain = module.to_reference()
        maps = [m[:0] for m in maps_of(name, torch.float32)]
        assert [y.shape for y in results(module, maps)] == [y.shape for y in results(plain, maps)], name
