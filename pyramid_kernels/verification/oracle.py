"""Every op against its float64 reference: the checks behind the test-suite and ``python -m pyramid_kernels verify``.

The limit of an error is twice that of the *unfused chain*, the reference computed in fp32 with operands and every
result rounded to the tested dtype, plus one rounding. docs/numerics.md says why.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .. import functional
from ..backends import KERNELS, Calls, cannot
from ..ops import spec as spec
from ..ops._shared.precision import conv_precision, ieee_convolutions
from ..ops._shared.spec import Case, arguments_of, materialise
from ..testing import count_launches
from .errors import Errors, errors, limits, over_limit
from .modes import Rounded, Watched, watched

#: Draws of the data over which the unfused chain's error is taken.
DRAWS = 6
#: Values of a model's call whose errors are no luck in one draw.
ENOUGH = 1 << 14

#: Kinds of tensors in which NaN or an infinity may come along: no weights, whose products with padding are anyone's.
TRAVELLING = ("map", "distinct", "cells")

#: What an fp32 chain's error becomes in float64, where the truth may carry as much as is allowed to ours: libraries sum
#: float64 convolutions in another order.
_TO_FLOAT64 = 2 * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps

Arguments = dict[str, Any]


class Finding(NamedTuple):
    """One output ("y", "mean", ...) or gradient ("d weights[0]"): its error over the limit, and where it is worst."""

    name: str
    ratio: float
    detail: str


class Run(NamedTuple):
    """One forward and backward call: results and gradients by name, and what happened on the way."""

    results: dict[str, Tensor]
    outputs: list[Tensor]
    forward: Counter[str]  # launches by kernel
    backward: Counter[str]
    calls: tuple[Counter[str], Counter[str]]  # ATen calls of forward and backward besides allocations and views
    raw: list[tuple[Any, tuple[Any, ...]]]  # every registered operator called, with its arguments
    broken: list[str]


@dataclass
class Report:
    findings: list[Finding]
    run: Run

    @property
    def worst(self) -> float:
        return max((f.ratio for f in self.findings), default=0.0)

    @property
    def launches(self) -> int:
        return (self.run.forward + self.run.backward).total()

    def failures(self) -> list[str]:
        """Everything wrong, one line each."""
        wrong = [f"{f.name}: error over limit {f.ratio:.3g}; {f.detail}" for f in self.findings if not f.ratio <= 1]
        return wrong + self.run.broken


def cannot_check(op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool, device: str) -> str | None:
    """Why ``backend`` cannot run ``case``; None if it can."""
    entries = _problems_of(op, case, dtype, channels_last, device)
    return next((reason for part, problem, _ in entries if (reason := cannot(part, problem, backend))), None)


@functools.cache
def _problems_of(op: str, case: Case, dtype: torch.dtype, channels_last: bool, device: str) -> Calls:
    """What the op is asked about a case; every backend is asked the same."""
    entries: Calls = getattr(functional, op).problems(**materialise(case, dtype, device, channels_last))
    return entries


def check(
    op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool = False, seed: int = 0,
    *, exact: bool = False, sliced: bool = False, device: str = "cpu",
) -> Report:  # fmt: skip
    """Run ``case`` forward and backward on ``backend`` and compare every output and gradient with float64.

    ``exact``: small-integer data and equality with the reference rounded once. ``sliced``: arguments are misaligned
    slices of NaN-filled buffers, and the call is repeated, bit for bit: as it is recorded, then by its plan.
    """
    tensors = materialise(case, dtype, device, channels_last, seed, exact)
    dys = _incoming(op, cast(tensors, torch.float64), dtype, seed, exact)
    truth = run(op, cast(tensors, torch.float64), "reference", dys).results
    given = converted(tensors, embedded) if sliced else tensors
    ours = _own(op, given, backend, dys, sliced, again=sliced)
    chain = None if exact else chain_errors(op, case, dtype, channels_last, device, conv_precision(dtype))
    return Report([_compare(k, ours.results.get(k), truth[k], chain) for k in truth], ours)


def check_arguments(op: str, arguments: Arguments, backend: str, dtype: torch.dtype) -> Report:
    """As ``check``, of a call that a model makes; it is repeated bit for bit.

    The unfused chain's error is the worse of both layouts': its libraries sum in another order in each, and with the
    data of a model, unlike random data, that may make a factor of five.
    """
    chain: dict[str, Errors] = {}
    on_cpu = all(t.device.type == "cpu" for _, t in leaves(arguments))
    precision = "ieee" if on_cpu else conv_precision(dtype)
    dys, truth = _add_errors(chain, op, arguments, dtype, 0, precision, torch.contiguous_format, torch.channels_last)
    for seed in range(1, DRAWS if sum(t.numel() for t in truth.values()) < ENOUGH else 1):
        generator = torch.Generator().manual_seed(seed)
        _add_errors(chain, op, replaced(arguments, lambda t: _redrawn(t, generator)), dtype, seed, precision)  # noqa: B023
    ours = _own(op, arguments, backend, dys, again=True)
    return Report([_compare(k, ours.results.get(k), truth[k], chain) for k in truth], ours)


def _redrawn(t: Tensor, generator: torch.Generator) -> Tensor:
    """Another map of the same size of values; whatever is no map as it is."""
    if t.dim() != 4 or not t.is_floating_point() or not t.numel():
        return t
    like = t.detach()
    drawn = torch.randn(t.shape, generator=generator).to(like) * like.double().square().mean().sqrt().to(like)
    return torch.empty_like(like).copy_(drawn).requires_grad_(t.requires_grad)


def _own(op: str, given: Arguments, backend: str, dys: list[Tensor], sliced: bool = False, again: bool = False) -> Run:
    """The run of ``backend``, and what it broke; ``again``: also where another differs in a bit."""
    before = [t.detach().clone() for _, t in leaves(given)]
    ours = run(op, given, backend, dys, sliced)
    if again:
        for way in ("second", "recorded", "planned") if backend in KERNELS else ("second",):
            another = run(op, given, backend, dys, sliced, seen=False)
            different = [name for name in ours.results if not _same(ours, another, name)]
            ours.broken.extend(f"a {way} run differs in {name}" for name in different)
    after = zip(leaves(given), before, strict=True)
    ours.broken.extend(f"{name} was changed" for (name, t), b in after if not _equal(t, b))
    return ours


def places(case: Case) -> int:
    """How many tensors ``check_travel`` can put a value into: the maps and cells of ``case``, then the gradient."""
    arguments = arguments_of(case)
    return sum(a.kind in TRAVELLING for a in arguments) + any(a.grad for a in arguments)


def check_travel(
    op: str, case: Case, backend: str, value: float, place: int, channels_last: bool = False, device: str = "cpu"
) -> list[str]:
    """Put NaN or an infinity into one element of one tensor, in fp32, and see where it gets to on ``backend``.

    Returns a line for each result in which NaN and infinities stand elsewhere than in the reference's, as far as the
    op's ``spec`` does not let them be fewer (see ``_shared/spec.py``). ``place`` is one of ``places(case)``.
    """
    tensors = materialise(case, torch.float32, device, channels_last)
    dys = _incoming(op, cast(tensors, torch.float64), torch.float32, 0, exact=False)
    given = zip(leaves(tensors), arguments_of(case), strict=True)
    maps = [t for (_, t), a in given if a.kind in TRAVELLING]
    if place < len(maps):
        tensors = replaced(tensors, lambda t: _spoiled(t, value) if t is maps[place] else t)
    else:
        dys = [_spoiled(dys[0], value), *dys[1:]]
    chain, ours = (run(op, tensors, b, dys).results for b in ("reference", backend))
    found = {name: _kinds(ours[name]) != _kinds(theirs) for name, theirs in chain.items()}
    infinite = "" if math.isnan(value) else getattr(spec(op), "INFINITE", "")
    for name, wrong in found.items():
        finite, expected = ours[name].isfinite(), chain[name].isfinite()
        if infinite == "fewer" or name.startswith(getattr(spec(op), "PADDED", ())):
            wrong &= expected & ~finite
        elif infinite == "nan":
            wrong &= expected != finite
    return [f"{name}: {_where(ours[name], chain[name], wrong)}" for name, wrong in found.items() if wrong.any()]


def _spoiled(t: Tensor, value: float) -> Tensor:
    """``t`` as a new leaf with ``value`` about three quarters along every axis."""
    spoiled = t.detach().clone()
    spoiled[tuple(3 * size // 4 for size in t.shape)] = value
    return spoiled.requires_grad_(t.requires_grad)


def _kinds(t: Tensor) -> Tensor:
    """What ``check_travel`` compares: labels, or whether a value is finite, NaN, infinity or minus infinity."""
    if not t.is_floating_point():
        return t
    return torch.where(t.isnan(), 2, torch.where(t.isinf(), t.sign(), 0))


@functools.lru_cache(maxsize=512)
def chain_errors(
    op: str, case: Case, dtype: torch.dtype, channels_last: bool, device: str, precision: str
) -> dict[str, Errors]:
    """The unfused chain's errors by result: the worst of ``DRAWS`` draws of the data, for a few sums may be lucky.

    The chain has the layout of the call that is judged: the other one is summed in another order, and may be worse.
    For float64 the errors are the fp32 chain's, scaled.
    """
    worst: dict[str, Errors] = {}
    for seed in range(DRAWS):
        _add_errors(worst, op, materialise(case, dtype, device, channels_last, seed), dtype, seed, precision)
    return worst


def _add_errors(
    worst: dict[str, Errors],
    op: str,
    tensors: Arguments,
    dtype: torch.dtype,
    seed: int,
    precision: str,
    *layouts: torch.memory_format,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Make ``worst`` that of itself and of the unfused chain's errors on ``tensors``, in these layouts, by result.

    Returns the gradients of the outputs that this was done with, if any are wanted, and the results in float64.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    scale = _TO_FLOAT64 if dtype == torch.float64 else 1.0
    doubled = cast(tensors, torch.float64)
    wanted = any(t.requires_grad for _, t in leaves(tensors))
    dys = _incoming(op, doubled, dtype, seed, exact=False) if wanted else []
    truth = run(op, doubled, "reference", dys).results
    single = cast(tensors, torch.float32)
    for given in [laid_out(single, layout) for layout in layouts] or [single]:
        with ieee_convolutions(), Rounded(dtype if half else torch.float32, precision == "tf32"):
            unfused = run(op, given, "reference", dys).results
        for name, exact in truth.items():
            found = Errors(*(scale * e for e in errors(unfused[name], exact)))
            worst[name] = worst.get(name, Errors()).worse(found)
    return dys, truth


def laid_out(arguments: Arguments, layout: torch.memory_format) -> Arguments:
    """``arguments`` with every map in a memory format, as new leaves."""
    return converted(arguments, lambda t: t.contiguous(memory_format=layout) if t.dim() == 4 else t)


def run(op: str, arguments: Arguments, backend: str, dys: list[Tensor], sliced: bool = False, seen: bool = True) -> Run:
    """One forward and backward call; a kernel backend's buffers are poisoned, guarded and watched if ``seen``.

    ``dys``: one float64 tensor per output, brought to its dtype and layout (``sliced``: to a misaligned slice); none
    where nothing requires a gradient.
    """
    inputs = [(name, t) for name, t in leaves(arguments) if t.requires_grad]
    look = watched if seen and backend not in ("reference", "composed") else lambda: nullcontext(Watched())
    with count_launches() as forward, look() as ahead:
        outputs = call(op, arguments, backend)
    pairs = [(y, _beside(y, d, sliced)) for y, d in zip(outputs, dys, strict=bool(dys)) if y.requires_grad]
    with count_launches() as backward, look() as back:
        gradients = _gradients(pairs, [t for _, t in inputs])
    names = ["y"] if len(outputs) == 1 else [f"y[{i}]" for i in range(len(outputs))]
    results = {name: y.detach() for name, y in zip(names, outputs, strict=True)}
    results |= {f"d {name}": g for (name, _), g in zip(inputs, gradients, strict=True) if g is not None}
    return Run(
        results, outputs, _by_kernel(forward), _by_kernel(backward), (ahead.calls, back.calls), ahead.raw + back.raw,
        ahead.overruns() + back.overruns(),
    )  # fmt: skip


def call(op: str, arguments: Arguments, backend: str) -> list[Tensor]:
    """The outputs of ``pyramid_kernels.functional.<op>``, as a list."""
    result = getattr(functional, op)(**arguments, backend=backend)
    return [result] if isinstance(result, Tensor) else list(result)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in ``value`` with its place in it, such as "weights[0]"."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, key)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from leaves(item, f"{name}[{i}]")


def converted(arguments: Arguments, fn: Callable[[Tensor], Tensor]) -> Arguments:
    """``arguments`` with ``fn`` of every tensor as a new leaf."""
    return replaced(arguments, lambda t: fn(t.detach()).requires_grad_(t.requires_grad))


def cast(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """``arguments`` with every floating tensor in ``dtype``, as new leaves; labels stay what they are."""
    return converted(arguments, lambda t: t.to(dtype) if t.is_floating_point() else t)


def replaced(arguments: Arguments, fn: Callable[[Tensor], Tensor]) -> Arguments:
    """``arguments`` with ``fn`` of every tensor."""
    return tree_map_only(Tensor, fn, arguments)


def embedded(t: Tensor) -> Tensor:
    """``t`` as a slice, in the same order of strides, of a larger buffer; misaligned by one element or more.

    A vector is a column of a table. Around it lies NaN, or the largest integer.
    """
    strides = t.stride()
    order = sorted(range(t.dim()), key=lambda i: (-strides[i], i))
    beyond = float("nan") if t.is_floating_point() else torch.iinfo(t.dtype).max
    if t.dim() == 1:
        return torch.full((len(t) + 2, 3), beyond, dtype=t.dtype, device=t.device)[1:-1, 1].copy_(t)
    buffer = torch.full([t.shape[i] + 2 for i in order], beyond, dtype=t.dtype, device=t.device)
    view = buffer[(slice(1, -1),) * t.dim()].permute([order.index(i) for i in range(t.dim())])
    return view.copy_(t)


def _beside(y: Tensor, d: Tensor, sliced: bool) -> Tensor:
    like = torch.empty_like(y).copy_(d)
    return embedded(like) if sliced else like


def _gradients(pairs: list[tuple[Tensor, Tensor]], inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
    if not pairs or not inputs:
        return (None,) * len(inputs)
    outputs, dys = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, dys, allow_unused=True)


def _by_kernel(launches: Counter[tuple[str, str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for (kernel, _), count in launches.items():
        total[kernel] += count
    return total


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


def _same(a: Run, b: Run, name: str) -> bool:
    return torch.equal(a.results[name].nan_to_num(), b.results[name].nan_to_num())


def _incoming(op: str, arguments: Arguments, dtype: torch.dtype, seed: int, exact: bool) -> list[Tensor]:
    """Random float64 gradients of every output, rounded to ``dtype``; zero where a ReLU might go either way."""
    outputs = call(op, arguments, "reference")
    generator = torch.Generator().manual_seed(seed + 1)
    shapes = [y.shape for y in outputs]
    if exact:
        dys = [torch.randint(-2, 3, shape, generator=generator).to(dtype).double() for shape in shapes]
    else:
        dys = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).double() for shape in shapes]
    dys = [d.to(y.device) for d, y in zip(dys, outputs, strict=True)]
    distance = None if exact else _margin(op, arguments)
    if distance is not None and distance.numel():
        dys[0] *= distance > 8 * _rounding(dtype) * distance.max()
    return dys


def _margin(op: str, arguments: Arguments) -> Tensor | None:
    """How far from zero every output's pre-activation is, in float64; None without an activation."""
    if hasattr(spec(op), "margin"):
        return spec(op).margin(arguments)
    if not arguments.get("activation"):
        return None
    return call(op, {**arguments, "activation": None}, "reference")[0].detach().abs()


def _rounding(dtype: torch.dtype) -> float:
    return 2.0**-11 if conv_precision(dtype) == "tf32" else torch.finfo(dtype).eps / 2


def _compare(name: str, ours: Tensor | None, truth: Tensor, chain: dict[str, Errors] | None) -> Finding:
    if ours is None:
        return Finding(name, float("inf"), "no gradient")
    if ours.shape != truth.shape:
        return Finding(name, float("inf"), f"shape {tuple(ours.shape)}, expected {tuple(truth.shape)}")
    if chain is None or not ours.is_floating_point():  # labels are right or wrong
        wrong = ours != truth.to(ours.dtype)
        return Finding(name, float("inf") if wrong.any() else 0.0, _where(ours, truth, wrong))
    wrong = ~((ours - truth).abs() <= limits(ours, truth, chain[name])[0])
    return Finding(name, over_limit(ours, truth, chain[name]), _where(ours, truth, wrong))


def _where(ours: Tensor, truth: Tensor, wrong: Tensor) -> str:
    """The worst coordinate, both values there, and the share of elements that fail."""
    if not truth.numel():
        return "empty"
    error = (ours.double() - truth).abs().nan_to_num(nan=float("inf"))
    worst = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    share = wrong.double().mean().item()
    values = f"got {ours[worst].item():.9g}, expected {truth[worst].item():.9g}"
    return f"worst at {worst}: {values}; {share:.2%} over the limit"
