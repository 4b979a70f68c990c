"""``pyramid_conv`` in float64 against the unfused chain: hand-listed and generated problems, borders, work, memory."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from pyramid_kernels.backends import select
from pyramid_kernels.benchmark.timing import peak_memory
from pyramid_kernels.functional import compose_levels, pyramid_conv
from pyramid_kernels.ops.pyramid_conv import spec
from pyramid_kernels.ops.pyramid_conv.layout import inside, split
from pyramid_kernels.verification import oracle
from tests.kernels import DEVICE, kernel_dtypes

Shape = tuple[int, ...]
Options = dict[str, Any]
CUDA = ("cuda",) if torch.float64 in kernel_dtypes("pyramid_conv", "cuda") else ()
RESIZING: list[Options] = [{}, {"align_corners": True}, {"mode": "nearest"}]


def problem(shapes: Sequence[Shape], o: int, k: int, bias: bool, affine: bool, last: bool = False) -> Options:
    """float64 leaves; the maps grow along rows and columns, so that no two pixels of a border are alike."""
    generator = torch.Generator().manual_seed(sum(map(sum, shapes)) + o)
    maps = []
    for shape in shapes:
        rows, cols = torch.arange(shape[2]).double(), torch.arange(shape[3]).double()
        x = torch.randn(shape, generator=generator, dtype=torch.float64) + rows[:, None] + 3 * cols
        maps.append(x.contiguous(memory_format=torch.channels_last) if last else x)
    weight = torch.randn((o, sum(s[1] for s in shapes), k, k), generator=generator, dtype=torch.float64)
    given: Options = {"maps": maps, "weight": weight}
    if bias:
        given["bias"] = torch.randn(o, generator=generator, dtype=torch.float64)
    if affine:
        given["scale"] = torch.randn(o, generator=generator, dtype=torch.float64)
        given["shift"] = torch.randn(o, generator=generator, dtype=torch.float64)
    return oracle.replaced(given, lambda t: t.to(DEVICE).requires_grad_())


def chain(
    maps: Sequence[torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None = None, *, size: Any = None,
    mode: str = "bilinear", align_corners: bool = False, scale: Any = None, shift: Any = None, activation: Any = None,
) -> torch.Tensor:  # fmt: skip
    """The unfused chain, apart from the package's own reference."""
    size = size or maps[0].shape[2:]
    corners = {"align_corners": align_corners} if mode == "bilinear" else {}
    x = torch.cat([F.interpolate(m, size, mode=mode, **corners) for m in maps], 1)
    y = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)
    y = y if scale is None else y * scale[:, None, None]
    y = y if shift is None else y + shift[:, None, None]
    return y.relu() if activation else y


def assert_equals_chain(given: Options, options: Options, backend: str) -> None:
    """Outputs and every gradient to 1e-12 of the largest value; the ReLU's mask is the same by equal outputs."""
    ours, theirs = pyramid_conv(**given, **options, backend=backend), chain(**given, **options)
    dy = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(DEVICE)
    leaves = [t for _, t in oracle.leaves(given)]
    found, expected = (torch.autograd.grad(y, leaves, dy) for y in (ours, theirs))
    for a, b in zip((ours, *found), (theirs, *expected), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-12 * b.abs().max().clamp(min=1)


#: (shapes, size): scales 2, 3, 4, 8, mixed ratios, oblong maps, maps larger than the result, single pixels.
LISTED: list[tuple[list[Shape], Any]] = [
    ([(2, 4, 8, 12), (2, 5, 4, 6)], None),
    ([(1, 3, 9, 12), (1, 4, 3, 4)], None),
    ([(1, 3, 8, 16), (1, 4, 2, 4), (1, 2, 1, 2)], None),
    ([(1, 4, 7, 11), (1, 9, 3, 5)], (7, 11)),
    ([(1, 3, 5, 4), (1, 4, 13, 9), (1, 6, 5, 2)], (5, 4)),
    ([(2, 5, 1, 1), (2, 4, 1, 1)], (4, 3)),
    ([(1, 5, 1, 1), (1, 3, 1, 1)], None),
]
_HAND = [
    (shapes, size, k, options)
    for (shapes, size), k, options in product(LISTED, (1, 3), RESIZING)
]  # fmt: skip


BACKENDS = ("composed", "triton", *CUDA)
_LISTED = [pytest.param(*listed, b, id=f"{i}-{b}") for b in BACKENDS for i, listed in enumerate(_HAND)]


@pytest.mark.parametrize("shapes,size,k,options,backend", _LISTED)
def test_listed_problems(shapes: list[Shape], size: Any, k: int, options: Options, backend: str) -> None:
    for epilogue in ({"bias": True, "affine": False}, {"bias": False, "affine": True}):
        activation = {"activation": "relu"} if epilogue["affine"] else {}
        given = problem(shapes, 3, k, last=epilogue["affine"], **epilogue)
        assert_equals_chain(given, {"size": size, **options, **activation}, backend)


@pytest.mark.parametrize("backend", ["composed", *CUDA])
@pytest.mark.parametrize("options", RESIZING, ids=str)
@pytest.mark.parametrize("full,low", [(129, 33), (97, 13)])
def test_ratios_that_are_not_whole(full: int, low: int, options: Options, backend: str) -> None:
    given = problem([(1, 2, full, full), (1, 3, low, low)], 2, 3, True, False)
    assert_equals_chain(given, options, backend)


@pytest.mark.parametrize(
    "shapes,k,expected",
    [
        ([(8, 48, 32, 32), (8, 96, 16, 16)], 1, 0),
        ([(8, 96, 16, 16), (8, 64, 32, 32), (8, 96, 8, 8)], 1, 1),
        ([(8, 65, 32, 32), (8, 96, 16, 16)], 1, None),  # too many channels
        ([(8, 48, 32, 32), (8, 48, 32, 32), (8, 96, 16, 16)], 1, None),  # two at full size
        ([(8, 48, 64, 64), (8, 96, 16, 16)], 1, None),  # resized first
        ([(8, 48, 32, 32)], 1, None),
        ([(8, 48, 32, 32), (8, 96, 16, 16)], 3, None),
    ],
)
def test_which_product_the_merge_computes(shapes: list[Shape], k: int, expected: int | None) -> None:
    assert inside(shapes, (100, sum(s[1] for s in shapes), k, k), (32, 32)) == expected


@st.composite
def problems(draw: st.DrawFn) -> tuple[Options, Options]:
    n, o, k = draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.sampled_from((1, 3)))
    sides = st.integers(1, 12)
    shapes = [(n, draw(st.integers(1, 6)), draw(sides), draw(sides)) for _ in range(draw(st.integers(1, 4)))]
    size = draw(st.one_of(st.none(), st.tuples(sides, sides)))
    given = problem(shapes, o, k, draw(st.booleans()), draw(st.booleans()), draw(st.booleans()))
    options = draw(st.sampled_from(RESIZING)) | {"activation": draw(st.sampled_from((None, "relu")))}
    return given, {"size": size, **options}


@pytest.mark.parametrize(
    "backend,examples",
    [
        *((b, 4 if b == "triton" else 40) for b in BACKENDS),
        *(pytest.param(b, 200, marks=pytest.mark.slow) for b in BACKENDS),
    ],
)
def test_generated_problems(backend: str, examples: int) -> None:
    every = list(HealthCheck)

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=every)
    @given(problems())
    def check(drawn: tuple[Options, Options]) -> None:
        assert_equals_chain(*drawn, backend)

    check()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("side", range(4))
def test_taps_outside_the_map_are_zero(side: int, backend: str) -> None:
    """A weight of one tap reads the neighbour, and beyond the border zero, where a clamped sample would give data."""
    given = problem([(1, 9, 6, 8), (1, 9, 3, 4)], 1, 3, False, False)
    dy, dx = ((-1, 0), (1, 0), (0, -1), (0, 1))[side]
    weight = torch.zeros_like(given["weight"])
    weight[:, 9:, 1 + dy, 1 + dx] = 1
    up = F.interpolate(given["maps"][1], (6, 8), mode="bilinear").sum(1, keepdim=True)
    expected = F.pad(up, (1, 1, 1, 1))[:, :, 1 + dy : 7 + dy, 1 + dx : 9 + dx]
    assert split([m.shape for m in given["maps"]], weight.shape, (6, 8))[1] == [1]  # mixed, so the rule is at work
    y = pyramid_conv(given["maps"], weight, backend=backend)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    outside = (slice(None), 0 if min(dy, dx) < 0 else -1) if dx else 0 if dy < 0 else -1
    assert not y[0, 0][outside].any()


@pytest.mark.parametrize("case", spec.BENCH, ids=lambda c: c.id)
def test_work_removed(case: Any) -> None:
    """FLOPs of the products, as PyTorch counts them, against the unfused convolution: forward and backward."""
    with FakeTensorMode():
        maps = [torch.empty(a.shape, requires_grad=True) for a in case.args["maps"]]
        weight = torch.empty(case.args["weight"].shape, requires_grad=True)
        with FlopCounterMode(display=False) as unfused:
            chain(maps, weight).sum().backward()
        with FlopCounterMode(display=False) as ours:
            pyramid_conv(maps, weight, backend="composed").sum().backward()
    o, k = weight.shape[0], weight.shape[2]
    whole, mixed = split([m.shape for m in maps], weight.shape, maps[0].shape[2:])
    expected = 3 * 2 * o * k * k * sum(m.numel() for m in maps)
    assert (whole, mixed) == ([0], list(range(1, len(maps))))
    assert unfused.get_total_flops() > 1.9 * expected
    assert expected <= ours.get_total_flops() < 0.85 * unfused.get_total_flops()
    flops = ours.get_flop_counts()["Global"]
    convolutions = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)
    assert sum(flops[op] for op in convolutions) == expected


MEMORY = {
    "psp": ([(1, 256, 30, 30), *[(1, 64, b, b) for b in (1, 2, 3, 6)]], 64, 3),
    "upernet": ([(1, 64, 32 >> i, 32 >> i) for i in range(4)], 64, 3),
    "deeplab": ([(1, 48, 33, 33), (1, 256, 9, 9)], 256, 3),
    "segformer": ([(1, c, 64 >> i, 64 >> i) for i, c in enumerate((32, 64, 160, 256))], 128, 1),
    "hrnet": ([(1, 18 << i, 48 >> i, 64 >> i) for i in range(4)], 270, 1),
}


@pytest.mark.skipif(DEVICE != "cpu", reason="the simulator of allocations is the CPU's profiler")
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", MEMORY)
def test_peak_memory_is_at_most_that_of_the_chain(name: str, training: bool) -> None:
    shapes, o, k = MEMORY[name]
    given = oracle.converted(problem(shapes, o, k, False, True), lambda t: t.float())
    leaves = [t for _, t in oracle.leaves(given)]

    def peak(backend: str) -> int:
        def call() -> None:
            with torch.set_grad_enabled(training):
                y = pyramid_conv(**given, activation="relu", backend=backend)
            if training:
                torch.autograd.grad(y, leaves, torch.ones_like(y))

        call()
        return peak_memory(call, "cpu")

    assert peak("composed") <= peak("reference")


def test_auto_on_a_cpu_takes_the_composed_form_for_the_heads_and_not_for_small_maps() -> None:
    def chosen(shapes: Sequence[Shape], o: int, k: int, dtype: torch.dtype = torch.float32) -> str:
        with torch.device("meta"):
            maps = [torch.empty(s, dtype=dtype) for s in shapes]
            weight = torch.empty((o, sum(s[1] for s in shapes), k, k), dtype=dtype)
        ((op, described, sizes),) = pyramid_conv.problems(maps, weight)
        return select(op, described._replace(device="cpu"), sizes, "auto")

    for case in spec.BENCH:
        shapes, (o, _, k, _) = [a.shape for a in case.args["maps"]], case.args["weight"].shape
        assert chosen(shapes, o, k) == "composed", case.id
        assert chosen(shapes, o, k, torch.bfloat16) == "reference"
    assert chosen([(1, 8, 16, 16), (1, 8, 8, 8)], 8, 3) == "reference"
    assert chosen([(1, 64, 64, 64), (1, 64, 32, 32)], 64, 3) == "reference"
    assert chosen([(1, 1024, 32, 32), (1, 64, 8, 8)], 256, 1) == "reference"


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("as_conv", [False, True])
def test_composed_levels(k: int, as_conv: bool) -> None:
    """A 1x1 in front of the convolution, multiplied into it: the same results, and gradients to every tensor."""
    given = problem([(1, 3, 8, 6), (1, 4, 4, 3), (1, 5, 2, 2)], 2, k, True, False)
    generator = torch.Generator().manual_seed(0)
    linear = [torch.randn((c, c + 1), generator=generator, dtype=torch.float64) for c in (3, 4)]
    biases = [torch.randn(c, generator=generator, dtype=torch.float64) for c in (3, 4)] if k == 1 else [None, None]
    maps = [
        torch.randn((1, c + 1, *m.shape[2:]), dtype=torch.float64) for c, m in zip((3, 4), given["maps"], strict=False)
    ]
    leaves = [t.requires_grad_() for t in (*maps, *linear, *biases) if t is not None]
    weights = [w[:, :, None, None] if as_conv else w for w in linear]
    leaves += [given["weight"], given["bias"], given["maps"][2]]
    before = [F.conv2d(x, w[:, :, None, None], b) for x, w, b in zip(maps, linear, biases, strict=True)]
    theirs = chain([*before, given["maps"][2]], given["weight"], given["bias"])
    composed = compose_levels(given["weight"], [*weights, None], [*biases, None], given["bias"])
    ours = pyramid_conv([*maps, given["maps"][2]], *composed, backend="composed")
    dy = torch.randn(ours.shape, dtype=torch.float64)
    pairs = zip(*(torch.autograd.grad(y, leaves, dy) for y in (ours, theirs)), strict=True)
    for a, b in ((ours, theirs), *pairs):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


W3, W1, V = torch.zeros(2, 7, 3, 3), torch.zeros(2, 7, 1, 1), torch.zeros(4, 5)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ((W3, [V, None], [torch.zeros(4), None]), "biases must be None for a 3x3 weight, whose taps see padding"),
        ((W1, [V, None], [torch.zeros(3), None]), r"biases\[0\] must have shape \(4,\), that of its level's D, got"),
        ((W1, [V, None], [None]), r"biases must have one entry per level \(2\), got 1"),
        ((W1, [None, None]), r"weights must account for the 7 input channels of weight, with at most one None, got"),
        ((W1, [V]), "weights must account for the 7 input channels of weight"),
        ((W1, [V, V]), "weights must account for the 7 input channels of weight"),
        ((W1, [torch.zeros(4, 5, 3, 3), None]), r"weights\[0\] must be \(D, C\) or \(D, C, 1, 1\), got \(4, 5, 3, 3\)"),
        ((W1, []), "weights must be a non-empty list"),
        ((torch.zeros(2, 7), [V, None]), r"weight must be \(O, sum D_i, 1, 1\) or"),
    ],
)
def test_levels_that_cannot_be_composed(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose_levels(*arguments)
