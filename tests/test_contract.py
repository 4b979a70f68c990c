"""What PyTorch expects of a function, on the cheapest case of every op, whatever its backend.

Operators' schemas, fakes and tracing, gradients in every way of asking for them, compilation, autocast, empty batches.
Numbers and memory are tests/test_ops.py's.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode

from pyramid_kernels import backends as decisions
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared import launch
from pyramid_kernels.ops._shared.spec import VECTORS, Arg, Case, arguments_of, map_args, materialise
from pyramid_kernels.testing import count_launches
from pyramid_kernels.verification import oracle
from tests.kernels import DEVICE, DTYPES, backends, cases, specified_ops

F32, _, _, F64 = DTYPES
MAPS = ("map", "distinct")
BATCHED = (*MAPS, "cells", "labels")


def contract(*names: str, gradients: bool = False, slow: Sequence[str] = ()) -> Any:
    """Parametrises over (op, backend) with the op's cheapest case, for the named backends or all.

    ``gradients``: for the ops that have some. ``slow``: backends left to `make test-all`.
    """
    ops = [op for op in specified_ops() if not gradients or any(a.grad for a in arguments_of(cases(op)[0]))]
    found = [(op, backend) for op in ops for backend in ("reference", *backends(op))]
    chosen = [pair for pair in found if not names or pair[1] in names]
    marks = {backend: [pytest.mark.slow] for backend in slow}
    return pytest.mark.parametrize(
        "op,backend", [pytest.param(*p, marks=marks.get(p[1], []), id="-".join(p)) for p in chosen]
    )


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
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_expanded_vectors(op: str, backend: str, channels_last: bool) -> None:
    """One value for all channels, as a view of stride zero, is what a vector of that value is, bit for bit."""
    arguments = materialise(most_vectors(op, backend), F32, DEVICE, channels_last)

    def results(shape: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        given = oracle.converted(arguments, lambda t: shape(t[:1].expand(t.shape)) if t.dim() == 1 else t)
        y = oracle.call(op, given, backend)
        leaves = inputs(given)
        return [*y, *torch.autograd.grad(y[0].float().square().sum(), leaves)]

    for ours, dense in zip(results(lambda t: t), results(torch.Tensor.contiguous), strict=True):
        torch.testing.assert_close(ours, dense, rtol=0, atol=0)


def most_vectors(op: str, backend: str) -> Case:
    """The cheapest of the cases with as many vectors as any."""
    return max(cheapest(op, backend, 100), key=lambda c: sum(a.kind in VECTORS for a in arguments_of(c)))


#: Kernels of gradients of others, where an op has one for each.
UNASKED: dict[str, Callable[[str], str]] = {
    "channel_gate": lambda name: f"channel_gate_bwd_{'dweights' if name == 'x' else 'dx'}_kernel"
}


@contract("composed", "triton", "cuda", gradients=True)
def test_gradients_one_at_a_time(op: str, backend: str) -> None:
    """Whatever is frozen, a tensor's gradient is what it is beside the others', and no more kernels run for it."""
    case = max(cheapest(op, backend, 100), key=lambda c: sum(a.grad for a in arguments_of(c)))
    arguments = materialise(case, F32, DEVICE)
    wanted = {name: t for name, t in oracle.leaves(arguments) if t.requires_grad}

    def gradients(*names: str) -> tuple[list[torch.Tensor], set[str]]:
        chosen = {id(wanted[name]) for name in names}
        given = oracle.replaced(arguments, lambda t: t.detach().requires_grad_(id(t) in chosen))
        loss = scalar(op, given, backend)
        with count_launches() as launches:
            return list(torch.autograd.grad(loss, inputs(given))), {kernel for kernel, _ in launches}

    together, every = gradients(*wanted)
    for name, expected in zip(wanted, together, strict=True):
        (alone,), launched = gradients(name)
        torch.testing.assert_close(alone, expected)
        assert launched <= every - {UNASKED.get(op, str)(name)}, name


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


@contract(slow=["reference", "composed"])
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


@contract(slow=["reference"])
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
    """GEMM ops, and those that say so, give the autocast dtype, the others what they give without; gradients are in the
    inputs' dtypes."""
    if backend == "triton" and DEVICE == "cpu":
        pytest.skip("the CPU's autocast dtype is bfloat16, which Triton's interpreter computes wrongly")
    arguments = materialise(cheapest(op, backend)[0], F32, DEVICE)
    dtype = torch.get_autocast_dtype(DEVICE)
    with torch.autocast(DEVICE):
        y = oracle.call(op, arguments, backend)[0]
    casts = all_ops()[op].bound == "gemm" or getattr(oracle.spec(op), "CASTS", False)
    assert y.dtype == (dtype if casts else oracle.call(op, arguments, "reference")[0].dtype)
    if leaves := inputs(arguments):
        gradients = torch.autograd.grad(y.float().sum(), leaves)
        assert [g.dtype for g in gradients] == [t.dtype for t in leaves]


@contract()
def test_empty_batch(op: str, backend: str) -> None:
    """N = 0 gives an empty result and zero gradients of what has no batch."""
    for place, case in enumerate(cases(op)):
        last = place % 2 == 1
        if oracle.cannot_check(op, case, backend, F32, last, DEVICE):
            continue
        empty = {k: map_args(lambda a: replace(a, shape=(0, *a.shape[1:])) if a.kind in BATCHED else a, v)
                 for k, v in case.args.items()}  # fmt: skip
        arguments = materialise(replace(case, args=empty), F32, DEVICE, last)
        y, *statistics = oracle.call(op, arguments, backend)
        expected, *others = oracle.call(op, arguments, "reference")
        assert y.shape == expected.shape and (y.shape[:1] == (0,) or not y.dim()), case.id
        for ours, theirs in zip(statistics, others, strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True)
        if leaves := inputs(arguments):
            for t, g in zip(leaves, torch.autograd.grad(y.sum(), leaves), strict=True):
                assert g.shape == t.shape and not g.any(), case.id


@pytest.mark.parametrize("fake", [False, True], ids=["meta", "fake"])
@pytest.mark.parametrize("op", specified_ops())
def test_shapes_propagate_without_data(op: str, fake: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On ``auto`` and every backend: results as there would be, gradients, and not a word. On meta nothing can run; a
    fake tensor stands for one of its device, and what cannot run there refuses it."""
    monkeypatch.setattr(decisions, "_STRICT", True)
    decisions.resolve.cache_clear()
    for place, case in list(enumerate(cases(op)))[:: 3 if fake else 1]:
        last = place % 2 == 1
        real = materialise(case, F32, DEVICE, last)
        expected = [(y.dtype, y.shape, y.stride()) for y in oracle.call(op, real, "reference")]
        for backend in ("auto", "reference", *backends(op)):
            if backend != "auto" and oracle.cannot_check(op, case, backend, F32, last, DEVICE if fake else "meta"):
                continue
            mode = FakeTensorMode()
            convert = mode.from_tensor if fake else lambda t: t.to("meta")
            given = oracle.replaced(real, lambda t, c=convert: c(t.detach()).requires_grad_(t.requires_grad))
            with mode if fake else nullcontext(), warnings.catch_warnings(action="error"):
                outputs = oracle.call(op, given, backend)
                assert [(y.dtype, y.shape, y.stride()) for y in outputs] == expected, (case.id, backend)
                if recorded := [y for y in outputs if y.requires_grad]:
                    gradients = torch.autograd.grad(recorded, inputs(given), [torch.empty_like(y) for y in recorded])
                    assert [g.shape for g in gradients] == [t.shape for t in inputs(given)], (case.id, backend)


@pytest.mark.skipif(DEVICE == "cuda", reason="a fake tensor of a GPU that is there stands for one on it")
def test_nothing_runs_on_a_fake_gpu() -> None:
    with FakeTensorMode():
        assert decisions.describe(torch.empty(1, 4, 3, 3, device="cuda"), False).device == "meta"


@contract("triton", "cuda", gradients=True)
def test_hooks_on_saved_tensors_may_lay_them_out_anew(op: str, backend: str) -> None:
    """``save_on_cpu(pin_memory=True)`` keeps the values of what is saved, and not its strides."""
    arguments = materialise(cheapest(op, backend, 6)[-1], F32, DEVICE, channels_last=True)
    expected = torch.autograd.grad(scalar(op, arguments, backend), inputs(arguments))

    def packed(t: torch.Tensor) -> torch.Tensor:
        return torch.empty(t.shape, dtype=t.dtype).copy_(t)

    with torch.autograd.graph.saved_tensors_hooks(packed, lambda t: t.to(DEVICE)):
        loss = scalar(op, arguments, backend)
    for got, want in zip(torch.autograd.grad(loss, inputs(arguments)), expected, strict=True):
        # A wrong layout mixes elements up; a library's convolution only rounds otherwise in another one.
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def of_one(op: str, backend: str) -> tuple[Any, torch.Tensor]:
    """The cheapest call as a function of its first floating tensor, and that tensor."""
    arguments = materialise(cheapest(op, backend)[0], F32, DEVICE)
    first = next(t for _, t in oracle.leaves(arguments) if t.is_floating_point())

    def function(t: torch.Tensor) -> torch.Tensor:
        return oracle.call(op, oracle.replaced(arguments, lambda a: t if a is first else a.detach()), backend)[0]

    return function, first.detach()


def squared(function: Any) -> Any:
    return lambda t: function(t).float().square().sum()


#: Ways of asking for more than one gradient of one call: what is done to a function and its argument.
TRANSFORMS: dict[str, Any] = {
    "vmap-grad": lambda f, x: torch.vmap(torch.func.grad(squared(f)))(torch.stack([x, x + 1])),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "batched-grads": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "double": lambda f, x: torch.func.grad(squared(torch.func.grad(squared(f))))(x),
    "hessian": lambda f, x: torch.func.hessian(squared(f))(x),
}


@contract(gradients=True)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_transforms_work_or_name_the_op(op: str, backend: str, transform: str) -> None:
    """What runs in PyTorch alone gives what the unfused chain gives; what a kernel cannot do is said."""
    function, x = of_one(op, backend)
    try:
        found = TRANSFORMS[transform](function, x)
    except NotImplementedError as error:
        assert backend != "reference" and str(error).startswith(tuple(f"{name}: " for name in all_ops())), error
        return
    torch.testing.assert_close(found, TRANSFORMS[transform](of_one(op, "reference")[0], x), rtol=1e-3, atol=1e-3)


@contract()
def test_vmap_runs_the_chain_unless_a_kernel_is_named(op: str, backend: str) -> None:
    function, x = of_one(op, backend)
    if backend in ("triton", "cuda"):
        with pytest.raises(NotImplementedError, match=": vmap is not implemented by the kernels"):
            torch.vmap(function)(torch.stack([x, x + 1]))
        return
    for ours, one in zip(torch.vmap(function)(torch.stack([x, x + 1])), (x, x + 1), strict=True):
        torch.testing.assert_close(ours, function(one), rtol=1e-4, atol=1e-4)


@contract("triton", "cuda", gradients=True)
def test_kernels_name_the_op_in_a_second_derivative(op: str, backend: str) -> None:
    arguments = materialise(cheapest(op, backend)[0], F32, DEVICE)
    leaves = inputs(arguments)
    first = torch.autograd.grad(scalar(op, arguments, backend), leaves, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward is not implemented"):
        torch.autograd.grad(sum(g.sum() for g in first), leaves)
