"""The four tiers, for every op, case, backend, dtype and layout. An op is tested by having a ``spec.py``.

On a GPU every combination runs. In Triton's interpreter a launch takes seconds, so each case takes every dtype once and
both layouts, and the other combinations are left to ``make test-all``; the host simulator, which runs the CUDA kernels,
takes all of them against the oracle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from pyramid_kernels import oracle
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared import launch
from pyramid_kernels.ops._shared.spec import Arg, Case, arguments_of, map_args, materialise
from tests.kernels import DEVICE, DTYPES, cases, short, specified_ops

F32, F16, BF16, F64 = DTYPES
PYTHON = ("reference", "composed")
MAPS = ("map", "distinct")
BATCHED = (*MAPS, "cells", "labels")


def test_every_op_has_a_spec() -> None:
    assert specified_ops() == list(all_ops())


def backends(op: str) -> tuple[str, ...]:
    composed = ("composed",) if all_ops()[op].composed else ()
    cuda = () if isinstance(all_ops()[op].module("cuda"), str) else ("cuda",)
    return (*composed, "triton", *cuda)


def combinations(exact: bool = False, sliced: bool = False) -> list[Any]:
    """(op, case, backend, dtype, channels_last) that exist here, the costly ones marked slow."""
    return list(_combinations(exact, sliced))


def _combinations(exact: bool, sliced: bool) -> Iterator[Any]:
    for op in specified_ops():
        for place, case in enumerate(cases(op)):
            if exact and not case.exact:
                continue
            for backend in backends(op):
                for dtype in DTYPES:
                    for channels_last in (False, True):
                        if exact and backend == "composed" and dtype in (F16, BF16):
                            continue  # rounds between its steps
                        if oracle.cannot_check(op, case, backend, dtype, channels_last, DEVICE):
                            continue
                        core = _is_core(backend, place, dtype, channels_last, exact or sliced)
                        # Hygiene's four runs of a case take the interpreter seconds: half of the cases, both layouts.
                        core &= not (sliced and backend == "triton" and place % 4 > 1)
                        slow = DEVICE == "cpu" and not core
                        layout = "channels_last" if channels_last else "contiguous"
                        yield pytest.param(
                            op, case, backend, dtype, channels_last,
                            id="-".join((op, case.id, backend, short(dtype), layout)),
                            marks=[pytest.mark.slow] if slow else [],
                        )  # fmt: skip


def _is_core(backend: str, place: int, dtype: torch.dtype, channels_last: bool, once: bool) -> bool:
    """A CPU's share of a case; ``once``: of a check that need not see every dtype.

    The interpreter takes fp32 in one layout and the other dtypes in the other, or one dtype in one layout; the
    simulator everything, or one dtype per layout.
    """
    if backend == "composed":
        return True
    if backend == "cuda":
        return not once or dtype == DTYPES[(place + channels_last) % len(DTYPES)]
    first = channels_last == bool(place % 2)
    if once:
        return not first and dtype == (F16, F32)[place % 3 == 0]
    return first == (dtype == F32)


@pytest.mark.parametrize("op,case,backend,dtype,channels_last", combinations())
def test_oracle(op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool) -> None:
    report = oracle.check(op, case, backend, dtype, channels_last, device=DEVICE)
    assert_passes(report)
    assert_formats(op, case, dtype, channels_last, report)
    if backend not in PYTHON:
        assert_launches(op, case, backend, channels_last, report)


def assert_passes(report: oracle.Report) -> None:
    failures = report.failures()
    assert not failures, "\n".join(failures)


def assert_formats(op: str, case: Case, dtype: torch.dtype, channels_last: bool, report: oracle.Report) -> None:
    """Dtypes and, up to dimensions of size one, strides are those of the reference."""
    tensors = materialise(case, dtype, DEVICE, channels_last)
    for ours, theirs in zip(report.run.outputs, oracle.call(op, tensors, "reference"), strict=True):
        assert ours.dtype == theirs.dtype
        strides = [[s for s, n in zip(y.stride(), y.shape, strict=True) if n > 1] for y in (ours, theirs)]
        assert strides[0] == strides[1]


def assert_launches(op: str, case: Case, backend: str, channels_last: bool, report: oracle.Report) -> None:
    """Exactly the kernels and copies that the spec lists, and nothing else from ATen."""
    spec = oracle.spec(op)
    forward, backward = spec.launches(case, channels_last, backend)
    assert by_kernel(report.run.forward) == forward
    assert by_kernel(report.run.backward) == backward
    allowed = spec.calls(case, channels_last) if hasattr(spec, "calls") else ({}, {})
    copies = getattr(spec, "COPIES", ())
    assert tuple({k: v for k, v in calls.items() if k not in copies} for calls in report.run.calls) == tuple(allowed)


def by_kernel(launches: Counter[str]) -> dict[str, int]:
    """Launches whichever body of a kernel they took."""
    total = Counter[str]()
    for name, count in launches.items():
        total[name.replace("_sm90_kernel", "_kernel")] += count
    return dict(total)


@pytest.mark.parametrize("op,case,backend,dtype,channels_last", combinations(exact=True))
def test_exact(op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool) -> None:
    """Small integers: fp32 accumulation is exact, so results equal the reference rounded once."""
    assert_passes(oracle.check(op, case, backend, dtype, channels_last, exact=True, device=DEVICE))


@pytest.mark.parametrize("op,case,backend,dtype,channels_last", combinations(sliced=True))
def test_hygiene(op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool) -> None:
    """Misaligned slices of NaN-filled buffers: same limits, inputs unchanged, a second run equal bit for bit."""
    assert_passes(oracle.check(op, case, backend, dtype, channels_last, sliced=True, device=DEVICE))


# The contract: what PyTorch expects of a function, on the cheapest case of every op.


def contract(*names: str, gradients: bool = False) -> Any:
    """Parametrises over (op, backend) with the op's cheapest case, for the named backends or all.

    ``gradients``: for the ops that have some.
    """
    ops = [op for op in specified_ops() if not gradients or any(a.grad for a in arguments_of(cases(op)[0]))]
    found = [(op, backend) for op in ops for backend in ("reference", *backends(op))]
    chosen = [pair for pair in found if not names or pair[1] in names]
    return pytest.mark.parametrize("op,backend", chosen, ids=["-".join(pair) for pair in chosen])


def cheapest(op: str, backend: str, count: int = 1) -> list[Case]:
    """The cases with the fewest elements, batches of one or more, that ``backend`` runs in fp32."""
    able = [c for c in cases(op) if not oracle.cannot_check(op, c, backend, F32, False, DEVICE)]
    return sorted(able, key=lambda c: sum(t.numel() for _, t in oracle.leaves(materialise(c, F32))))[:count]


def inputs(arguments: dict[str, Any]) -> list[torch.Tensor]:
    return [t for _, t in oracle.leaves(arguments) if t.requires_grad]


def scalar(op: str, arguments: dict[str, Any], backend: str) -> torch.Tensor:
    """A loss whose gradient with respect to the output is not constant."""
    return oracle.call(op, arguments, backend)[0].float().square().sum()


@contract("triton", "cuda")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_opcheck(op: str, backend: str, layout: str) -> None:
    """Schema, fake tensors (strides too) and dynamic tracing of every registered operator behind the op."""
    case = cheapest(op, backend)[0]
    arguments = materialise(case, F32, DEVICE, layout != "contiguous")
    if layout == "sliced":
        arguments = oracle.converted(arguments, oracle.embedded)
    outputs = oracle.call(op, arguments, "reference")
    seen = oracle.run(op, arguments, backend, [torch.ones_like(y, dtype=F64) for y in outputs])
    assert seen.raw
    for operator, args in seen.raw:
        torch.library.opcheck(operator, oracle.replaced(args, torch.Tensor.detach))


@contract("composed", "triton", "cuda", gradients=True)
def test_gradcheck(op: str, backend: str) -> None:
    case = cheapest(op, backend)[0]
    if reason := oracle.cannot_check(op, case, backend, F64, False, DEVICE):
        pytest.skip(reason)
    arguments = materialise(case, F64, DEVICE)
    leaves = inputs(arguments)

    def function(*tensors: torch.Tensor) -> Any:
        given = iter(tensors)
        changed = oracle.replaced(arguments, lambda t: next(given) if t.requires_grad else t)
        return tuple(oracle.call(op, changed, backend))

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@contract(gradients=True)
def test_functional_gradient(op: str, backend: str) -> None:
    """``torch.func.grad`` gives the gradients of ``backward``."""
    arguments = materialise(cheapest(op, backend)[0], F32, DEVICE)
    leaves = inputs(arguments)

    def loss(tensors: list[torch.Tensor]) -> torch.Tensor:
        given = iter(tensors)
        wanted = {id(t) for t in leaves}
        return scalar(op, oracle.replaced(arguments, lambda t: next(given) if id(t) in wanted else t), backend)

    expected = torch.autograd.grad(scalar(op, arguments, backend), leaves)
    for ours, theirs in zip(torch.func.grad(loss)([t.detach() for t in leaves]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@contract()
@torch.fx.experimental._config.patch(use_duck_shape=False)  # sizes that happen to be equal are not one size
def test_compiles_whole_with_dynamic_shapes(op: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph without breaks, forward and backward; at most two graphs for five shapes."""
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(lambda **a: oracle.call(op, a, backend), fullgraph=True, dynamic=True, backend=counter)
    with monkeypatch.context() as patch:
        patch.setattr(launch, "start", lambda *_: None)  # tracing is what is looked at
        for step in (4, 3, 2, 1):
            arguments = materialise(resized(dynamic_case(op, backend), step), F32, DEVICE)
            y = compiled(**arguments)[0].sum()
            if y.requires_grad:
                y.backward()
    arguments = materialise(resized(dynamic_case(op, backend), 0), F32, DEVICE)
    leaves, expected, found = inputs(arguments), oracle.call(op, arguments, backend), compiled(**arguments)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.stride() == theirs.stride()
    if leaves:
        gradients = (torch.autograd.grad(y.square().sum(), leaves) for (y, *_) in (found, expected))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs)
    assert counter.frame_count <= 2


@contract()
@pytest.mark.parametrize("recording", [True, False])
def test_compiles_whole_without_gradients(
    op: str, backend: str, recording: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network in evaluation: nothing needs a gradient, or none is recorded."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda **a: oracle.call(op, a, backend), fullgraph=True, backend="eager")
    monkeypatch.setattr(launch, "start", lambda *_: None)  # tracing is what is looked at
    arguments = materialise(cheapest(op, backend)[0], F32, DEVICE)
    if recording:
        arguments = oracle.replaced(arguments, lambda t: t.detach())
    with torch.set_grad_enabled(recording):
        expected, found = oracle.call(op, arguments, backend), compiled(**arguments)
    assert [(y.shape, y.stride()) for y in found] == [(y.shape, y.stride()) for y in expected]


def dynamic_case(op: str, backend: str) -> Case:
    """The cheapest case without a dimension of one, which tracing always specialises on."""
    every = cheapest(op, backend, count=100)
    return next(c for c in every if all(min(a.shape[2:] or (2,)) > 1 for a in arguments_of(c) if a.kind in MAPS))


def resized(case: Case, step: int) -> Case:
    """``case`` with a batch of 2 + ``step`` and maps larger by as much."""

    def grow(a: Arg) -> Arg:
        if a.kind not in BATCHED:
            return a
        fixed = {"cells": len(a.shape), "labels": 1}.get(a.kind, 2)
        return replace(a, shape=(2 + step, *a.shape[1:fixed], *[s + step for s in a.shape[fixed:]]))

    return replace(case, args={name: map_args(grow, value) for name, value in case.args.items()})


@contract()
def test_autocast(op: str, backend: str) -> None:
    """GEMM ops give the autocast dtype, the others what they give without; gradients are in the inputs' dtypes."""
    if backend == "triton" and DEVICE == "cpu":
        pytest.skip("the CPU's autocast dtype is bfloat16, which Triton's interpreter computes wrongly")
    arguments = materialise(cheapest(op, backend)[0], F32, DEVICE)
    dtype = torch.get_autocast_dtype(DEVICE)
    with torch.autocast(DEVICE):
        y = oracle.call(op, arguments, backend)[0]
    kept = all_ops()[op].bound == "memory"
    assert y.dtype == (oracle.call(op, arguments, "reference")[0].dtype if kept else dtype)
    if leaves := inputs(arguments):
        gradients = torch.autograd.grad(y.float().sum(), leaves)
        assert [g.dtype for g in gradients] == [t.dtype for t in leaves]


@contract()
def test_empty_batch(op: str, backend: str) -> None:
    """N = 0 gives an empty result and zero gradients of what has no batch."""
    case = cheapest(op, backend)[0]
    empty = {k: map_args(lambda a: replace(a, shape=(0, *a.shape[1:])) if a.kind in BATCHED else a, v)
             for k, v in case.args.items()}  # fmt: skip
    arguments = materialise(replace(case, args=empty), F32, DEVICE)
    y, *statistics = oracle.call(op, arguments, backend)
    for ours, theirs in zip(statistics, oracle.call(op, arguments, "reference")[1:], strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert y.shape[0] == 0 and y.shape[1:] == oracle.call(op, materialise(case, F32), "reference")[0].shape[1:]
    if leaves := inputs(arguments):
        for t, g in zip(leaves, torch.autograd.grad(y.sum(), leaves), strict=True):
            assert g.shape == t.shape and not g.any()


@contract("triton", "cuda", gradients=True)
def test_second_derivative_and_vmap_name_the_op(op: str, backend: str) -> None:
    arguments = materialise(cheapest(op, backend)[0], F32, DEVICE)
    leaves = inputs(arguments)
    first = torch.autograd.grad(scalar(op, arguments, backend), leaves, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward is not implemented"):
        torch.autograd.grad(sum(g.sum() for g in first), leaves)
    x = leaves[0].detach()

    def mapped(t: torch.Tensor) -> torch.Tensor:
        return oracle.call(op, oracle.replaced(arguments, lambda a: t if a is leaves[0] else a), backend)[0]

    with pytest.raises(NotImplementedError, match="vmap is not implemented"):
        torch.vmap(mapped)(torch.stack([x, x]))
