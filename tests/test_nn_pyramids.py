"""Modules without norms of their own, or whose norms run as they are, against their plain form: one step, exactly."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.backends import select
from pyramid_kernels.nn import ASPP, DSPP, MDSPP, ASPPv2, HRFuse, LargeFOV, ReferenceASPPv2, SpatialPyramidPooling
from pyramid_kernels.nn.base import Fused
from tests.kernels import DEVICE
from tests.test_nn import freeze_norms
from tests.third_party import PoolFirstASPP

MAP = (6, 7, 5)
LEVELS = [(4, 8, 12), (5, 4, 6), (6, 2, 3)]
ODD = [(4, 9, 7), (5, 5, 4), (6, 3, 2)]
WIDTHS = (4, 5, 6)

#: The module, the (C, H, W) of what it takes, and the op that it runs.
MODULES: dict[str, tuple[Callable[..., Fused], tuple[int, int, int] | list[tuple[int, int, int]], str]] = {
    "largefov": (lambda **kw: LargeFOV(6, 3, hidden=8, rate=3, dropout=0.0, **kw), MAP, "dilated_branches"),
    "aspp-v2": (lambda **kw: ASPPv2(6, 3, (1, 2, 4), **kw), MAP, "dilated_branches"),
    "aspp-v2-hidden": (lambda **kw: ASPPv2(6, 3, (1, 3), hidden=4, **kw), MAP, "dilated_branches"),
    "spp": (lambda **kw: SpatialPyramidPooling((4, (1, 2), 1), **kw), MAP, "pyramid_pool"),
    "spp-ceil": (lambda **kw: SpatialPyramidPooling((3, 2, 1), windows="ceil", **kw), (4, 8, 7), "pyramid_pool"),
    "dspp": (lambda **kw: DSPP(4, 3, (1, 2), **kw), (4, 3, 5), "separable_pyramid"),
    "mdspp": (lambda **kw: MDSPP(4, 8, (1, 2, 1, 2), **kw), (4, 3, 5), "separable_pyramid"),
    "hrfuse": (lambda **kw: HRFuse(WIDTHS, **kw), LEVELS, "upsample_merge"),
    "hrfuse-bilinear": (lambda **kw: HRFuse(WIDTHS, mode="bilinear", **kw), ODD, "upsample_merge"),
    "hrfuse-corners": (
        lambda **kw: HRFuse(WIDTHS, mode="bilinear", align_corners=True, **kw), LEVELS, "upsample_merge",
    ),
    "hrfuse-finest": (lambda **kw: HRFuse(WIDTHS, multi_scale_output=False, **kw), ODD, "upsample_merge"),
    "aspp-pool-first": (
        lambda **kw: ASPP(6, (2, 3), 8, project_kernel=3, dropout=0.0, pool_first=True, **kw), MAP, "dilated_branches",
    ),
    "aspp-separable-pool-first": (
        lambda **kw: ASPP(6, (2,), 8, separable=True, dropout=0.0, pool_first=True, **kw), MAP, "pyramid_pool",
    ),
}  # fmt: skip


@pytest.fixture(params=list(MODULES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, backend: str, dtype: torch.dtype = torch.float64) -> tuple[Any, list[Tensor]]:
    make, shapes, _ = MODULES[name]
    generator = torch.Generator().manual_seed(0)
    module = make(backend=backend).to(DEVICE, dtype)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for t in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                t.copy_(0.5 + torch.rand(t.shape, generator=generator))
    shapes = shapes if isinstance(shapes, list) else [shapes]
    return module, [torch.randn(3, *shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def step(module: nn.Module, maps: list[Tensor]) -> dict[str, Tensor]:
    """Every output and gradient, and the buffers after them."""
    maps = [m.detach().clone().requires_grad_() for m in maps]
    module.zero_grad(set_to_none=True)
    y = module(maps[0] if len(maps) == 1 else maps)
    outputs = y if isinstance(y, list) else [y]
    generator = torch.Generator().manual_seed(1)
    torch.autograd.backward(outputs, [torch.randn(t.shape, generator=generator).to(t) for t in outputs])
    found = {f"y {i}": t.detach() for i, t in enumerate(outputs)} | {f"d map {i}": m.grad for i, m in enumerate(maps)}
    found |= {f"d {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | {name: b.clone() for name, b in module.named_buffers() if b.is_floating_point()}


def assert_same(module: Any, maps: list[Tensor], tolerance: float = 1e-9) -> None:
    unfused = module.to_reference()
    assert module.why_original(maps[0] if len(maps) == 1 else maps) is None
    assert type(unfused) is module.original and not isinstance(unfused, Fused)
    got, expected = step(module, maps), step(unfused, maps)
    assert got.keys() == expected.keys()
    for name, t in expected.items():
        torch.testing.assert_close(got[name], t, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", ["train", "eval", "some-frozen"])
def test_equals_its_reference(name: str, mode: str, layout: torch.memory_format) -> None:
    module, maps = build(name, "reference")
    freeze_norms(module.train(), 2) if mode == "some-frozen" else module.train(mode == "train")
    assert_same(module, [m.contiguous(memory_format=layout) for m in maps])


@pytest.mark.parametrize("name", ["largefov", "aspp-v2", "aspp-v2-hidden", "spp", "hrfuse", "hrfuse-corners"])
def test_equals_its_reference_on_kernels(name: str) -> None:
    op = MODULES[name][2]
    exact = op != "dilated_branches"  # its kernels have no float64
    module, maps = build(name, "triton", torch.float64 if exact else torch.float32)
    with pk.testing.count_launches() as launches:
        assert_same(module, [m[:2] for m in maps], 1e-9 if exact else 1e-4)
    assert {kernel.partition("_fwd")[0] for kernel, _ in launches if "_fwd" in kernel} == {op}


def test_the_own_forward_runs_where_auto_is_the_unfused_chain(name: str) -> None:
    module, maps = build(name, "auto", torch.float32)
    x = maps[0] if len(maps) == 1 else maps
    chosen = {select(*call, "auto") for call in module.problems(x)}
    unfused = module.own_chain and chosen == {"reference"}
    assert ("unfused chain" in (module.why_original(x) or "")) == unfused
    module.kernel_backend = "reference"
    assert module.why_original(x) is None


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_compiles_whole(name: str, backend: str) -> None:
    module, maps = build(name, backend, torch.float32)
    x = maps[0] if len(maps) == 1 else maps
    torch._dynamo.reset()
    # What follows the trace differs by op alone: one module of each goes through AOTAutograd as well.
    through = "aot_eager" if name in ("largefov", "aspp-v2-hidden", "spp", "dspp", "hrfuse-bilinear") else "eager"
    compiled = torch.compile(module, fullgraph=True, backend=through)
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-4)


def test_one_vector_of_one_length_from_maps_of_any_size() -> None:
    spp = SpatialPyramidPooling(backend="reference")
    for size in ((13, 13), (7, 11), (1, 3)):
        x = torch.randn(2, 256, *size)
        expected = torch.cat([nn.functional.adaptive_max_pool2d(x, b).flatten(1) for b in (4, 2, 1)], 1)
        assert torch.equal(spp(x), expected) and expected.shape == (2, 256 * spp.cells) == (2, 5376)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_ceil_windows_refuse_some_sizes(size: int) -> None:
    spp = SpatialPyramidPooling(windows="ceil", backend="reference")
    for module in (spp, spp.to_reference()):
        with pytest.raises(ValueError, match=f"bin 4 on a map of size {size}"):
            module(torch.zeros(1, 2, size, size))


def test_maps_that_do_not_halve_are_refused_as_in_pytorch() -> None:
    fuse, maps = build("hrfuse", "reference")
    maps[1] = maps[1][:, :, :3]
    assert fuse.why_original(maps) == "a map is not half as large as the one before"
    with pytest.raises(RuntimeError, match="must match the size of tensor"):
        fuse(maps)
    assert fuse.why_original(maps[:2]) == "the input is not a list of 3 maps"


def test_copies_pickles_and_state(name: str) -> None:
    module, maps = build(name, "reference")
    x = maps[0] if len(maps) == 1 else maps
    expected, unfused = module.eval()(x), module.to_reference()
    fresh = MODULES[name][0](backend="reference").double().eval()
    fresh.load_state_dict(unfused.state_dict())
    again = type(module).from_reference(unfused, backend="reference")
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh, again):
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)


def test_fuse_finds_the_plain_forms(name: str) -> None:
    module, maps = build(name, "reference")
    x = maps[0] if len(maps) == 1 else maps
    model = nn.Sequential(module.to_reference())
    report = pk.fuse_(model, backend="reference", example_input=(x,))
    assert report.fused and type(model[0]) is type(module), report
    assert pk.unfuse_(model) == ["0"]


def test_an_aspp_that_does_not_say_its_order() -> None:
    theirs = PoolFirstASPP(6, (2, 3), 4).double().eval()
    x = torch.randn(2, *MAP, dtype=torch.float64)
    ours = ASPP.from_reference(theirs, pool_first=True, backend="reference")
    torch.testing.assert_close(ours(x), theirs(x))
    assert not torch.allclose(ASPP.from_reference(theirs, backend="reference")(x), theirs(x))


def test_from_reference_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="module must be a ReferenceASPPv2, got a Linear"):
        ASPPv2.from_reference(nn.Linear(1, 1))
    odd = ReferenceASPPv2(4, 3, (1, 2))
    odd.c1.stride = (2, 2)
    with pytest.raises(ValueError, match=r"as ReferenceASPPv2 makes it: c1 has stride=\(2, 2\), not 1"):
        ASPPv2.from_reference(odd)
    with pytest.raises(ValueError, match="module must be a list of lists, as fuse_layers in HRNet, got a Linear"):
        HRFuse.from_reference(nn.Linear(1, 1))
    rows = HRFuse(WIDTHS).to_reference()
    rows[0][1] = nn.ReLU()
    with pytest.raises(ValueError, match="0.1 is a ReLU, not a Sequential"):
        HRFuse.from_reference(rows)


def test_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="rates must not be empty"):
        ASPPv2(4, 3, ())
    with pytest.raises(ValueError, match="windows must be one of 'adaptive', 'ceil'"):
        SpatialPyramidPooling(windows="fixed")
    with pytest.raises(ValueError, match="mode must be one of 'nearest', 'bilinear'"):
        HRFuse(WIDTHS, mode="bicubic")
    with pytest.raises(ValueError, match=r"channels must be those of two maps or more, got \(4,\)"):
        HRFuse((4,))
