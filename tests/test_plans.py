"""The short way in: that it is taken, that it costs little, and that nothing is lost on it."""

import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from pyramid_kernels import functional
from pyramid_kernels.functional import pyramid_pool, upsample_merge
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared import launch, recorder, shortcuts
from pyramid_kernels.ops._shared.plans import Aten, New, Plan
from pyramid_kernels.ops._shared.spec import materialise
from pyramid_kernels.verification import ledger, oracle
from tests.kernels import DEVICE, QUICKEST, backends, cases, specified_ops
from tests.processes import python

SHAPE, BINS = (2, 3, 6, 5), (1, 2)
KERNELS = [(op, b) for op in specified_ops() for b in backends(op) if b != "composed"]
#: A CPU's labels are read before a kernel is, so their loss has no plan.
READS_VALUES = ("upsample_cross_entropy",) if DEVICE == "cpu" else ()


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    for memory in ledger.forget:
        memory()


def pool(x: Tensor, **options: Any) -> Tensor:
    return pyramid_pool(x, BINS, backend=QUICKEST, **options)


def a_map(**options: Any) -> Tensor:
    return torch.randn(SHAPE, device=DEVICE, **options)


def plan_of(known: Any) -> Plan:
    """Of what a public function keeps for a key: its plan, or that of the op behind it."""
    return known if isinstance(known, Plan) else known.plan


def planned(op: Callable[[Tensor], Any], x: Tensor) -> Plan | None:
    """The plan of a call of ``op``."""
    _, plan = recorder.recorded(lambda: op(x), [x])
    return plan


def again(plan: Plan, x: Tensor) -> Any:
    """The planned call on another tensor."""
    return plan.run([x], [x.data_ptr()])


def learned(**options: Any) -> Tensor:
    """A map whose shape has a plan."""
    x = a_map(**options)
    pool(x)
    pool(x)
    assert [s for s in pyramid_pool.shortcuts.values() if s and plan_of(s)]
    return x


def calls_in(fn: Callable[[], Any]) -> Counter[str]:
    """Names of the functions, of Python and C, that ``fn()`` calls."""
    seen: Counter[str] = Counter()

    def count(frame: Any, event: str, arg: Any) -> None:
        if event in ("call", "c_call"):
            seen[frame.f_code.co_qualname if event == "call" else getattr(arg, "__name__", "")] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        fn()
    finally:
        sys.setprofile(before)
    return seen


@pytest.mark.parametrize("op,backend", KERNELS, ids=["-".join(pair) for pair in KERNELS])
@pytest.mark.parametrize("wanted", [False, True], ids=["no-gradient", "gradient"])
def test_the_third_call_asks_nothing(op: str, backend: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No signature, operator or check; each tensor costs a few calls of its own."""
    if op in READS_VALUES:
        pytest.skip("reads values on a CPU")
    case = next(c for c in cases(op) if not oracle.cannot_check(op, c, backend, torch.float32, False, DEVICE))
    arguments = materialise(case, torch.float32, DEVICE)
    if not wanted:
        arguments = oracle.replaced(arguments, Tensor.detach)
    if wanted and not any(t.requires_grad for _, t in oracle.leaves(arguments)):
        pytest.skip("has no gradient")
    for _ in range(2):
        oracle.call(op, arguments, backend)
    fn = getattr(functional, op)
    (known,) = fn.shortcuts.values()
    plan = plan_of(known)
    assert isinstance(known, Plan) != wanted
    # Launches are what they are: the interpreter's take thousands of calls.
    monkeypatch.setattr(launch, "start", lambda *_: None)
    monkeypatch.setattr(launch, "counters", [])
    seen = calls_in(lambda: oracle.call(op, arguments, backend))
    tensors = len(list(oracle.leaves(arguments)))
    assert not {"signature", "setup_context", "_forward", "select"} & set(seen)
    assert seen["Function.apply"] == 0 and seen["OpOverload.__call__"] <= sum(
        isinstance(step, Aten) for step in plan.steps
    )
    assert seen["short_apply"] == 0 or wanted
    if backend == "cuda":  # the interpreter builds the tensors of each launch
        assert sum(seen.values()) <= (45 if wanted else 30) + 6 * tensors + 6 * len(plan.steps), seen


def test_the_setting_switches_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "_ON", False)
    for _ in range(3):
        pool(a_map())
    assert not pyramid_pool.shortcuts


def test_a_cpu_without_kernels_pays_nothing_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "_kernels", lambda: False)
    monkeypatch.setattr(shortcuts, "_keyer", None)
    for _ in range(3):
        pool(a_map())
    assert not pyramid_pool.shortcuts


def test_plans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "MOST", 3)
    for n in range(1, 6):
        pool(torch.randn(n, 2, 4, 3, device=DEVICE))
    assert len(pyramid_pool.shortcuts) == 3


def test_a_new_ledger_forgets_them() -> None:
    learned()
    for memory in ledger.forget:
        memory()
    assert not pyramid_pool.shortcuts


def negated(x: Tensor) -> Tensor:
    return torch.complex(torch.zeros_like(x), x).conj().imag


def zeros_without_memory(*shape: int) -> Tensor:
    return torch._efficientzerotensor(shape, device=DEVICE)


class Named(Tensor):
    pass


#: What has the shape of a map with a plan, and is another tensor.
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "pending-negation": negated,
    "strides-of-a-negation": lambda x: (
        torch.empty(2 * x.numel(), device=DEVICE).as_strided(SHAPE, negated(x).stride()).copy_(x)
    ),
    "zeros-without-memory": lambda x: zeros_without_memory(*SHAPE),
    "misaligned": lambda x: torch.empty(x.numel() + 1, device=DEVICE)[1:].view(SHAPE).copy_(x),
    "channels-last": lambda x: x.to(memory_format=torch.channels_last),
    "subclass": lambda x: x.as_subclass(Named),
    "parameter": torch.nn.Parameter,
    "meta": lambda x: x.to("meta"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_tensors_of_a_planned_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after they have a plan of their own, they give what they give without plans."""
    x = learned()
    other = OTHERS[name](x)
    with monkeypatch.context() as patch:
        patch.setattr(shortcuts, "_ON", False)
        expected, planned = pool(other), pool(x)
    for _ in range(3):
        got = pool(other)
        assert type(got) is type(expected) and got.stride() == expected.stride() and got.is_meta == expected.is_meta
        assert got.is_meta or torch.equal(got, expected)
        assert torch.equal(pool(x), planned)


def test_other_incoming_gradients_of_a_planned_shape() -> None:
    x = learned(requires_grad=True)
    ones = torch.ones(2, 3, 5, device=DEVICE)
    for dy in 3 * (ones, ones[:1, :1, :1].expand(2, 3, 5), zeros_without_memory(2, 3, 5)):
        (dx,) = torch.autograd.grad(pool(x), x, dy)
        expected = torch.autograd.grad(pyramid_pool(x, BINS, backend="reference"), x, dy)[0]
        torch.testing.assert_close(dx, expected)
    (first,) = torch.autograd.grad(pool(x).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        first.sum().backward()


def test_devices_are_told_apart() -> None:
    x = learned()
    expected = pool(x)
    with torch.device(DEVICE):
        assert torch.equal(pool(x), expected)
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        pool(x.to_sparse())


def test_modes_see_the_operator() -> None:
    x = learned()
    with FakeTensorMode() as mode:
        assert pool(mode.from_tensor(x)).shape == (2, 3, 5)
    assert pool(FakeTensorMode().from_tensor(x)).shape == (2, 3, 5)
    graph = make_fx(pool)(x).graph
    assert any("pyramid_pool_fwd" in str(node.target) for node in graph.nodes)
    with FlopCounterMode(display=False):
        assert torch.equal(pool(x), pool(x))


def test_a_profiler_sees_the_operator() -> None:
    x = learned()
    with torch.profiler.profile() as profile:
        pool(x)
    assert any("pyramid_pool_fwd" in event.key for event in profile.key_averages())


def test_tracing_and_transforms() -> None:
    x = learned()
    traced = torch.jit.trace(lambda t: pyramid_pool(t, BINS), x, check_trace=False)
    assert torch.allclose(traced(torch.zeros(1, 3, 9, 9, device=DEVICE)), torch.zeros(1, 3, 5, device=DEVICE))
    with pytest.raises(NotImplementedError, match="pyramid_pool: vmap"):
        torch.vmap(pool)(x[None])
    gradient = torch.func.grad(lambda t: pool(t).square().sum())(x)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode AD"):
        pool(forward_ad.make_dual(x, torch.ones_like(x)))
    again = x.clone().requires_grad_()
    pool(again).square().sum().backward()
    torch.testing.assert_close(gradient, again.grad)


def test_other_numbers_of_the_same_value_are_checked() -> None:
    x = learned()
    with pytest.raises(TypeError, match="ints"):
        pyramid_pool(x, (1.0, 2.0), backend=QUICKEST)  # type: ignore[arg-type]
    assert torch.equal(pyramid_pool(x, [[1, 1], [2, 2]], backend=QUICKEST), pool(x))  # type: ignore[list-item]


def test_settings_of_pytorch_are_told_apart() -> None:
    x, w = a_map().double().float(), torch.randn(3, 3, device=DEVICE)
    for _ in range(3):
        assert functional.channel_gate(x, w, backend=QUICKEST).dtype == torch.float32
    with torch.autocast(DEVICE, torch.bfloat16 if QUICKEST == "cuda" else torch.float16):
        half = torch.get_autocast_dtype(DEVICE)
        for _ in range(3):
            assert functional.channel_gate(x, w, backend=QUICKEST).dtype == half
    with torch.inference_mode():
        assert functional.channel_gate(x, w, backend=QUICKEST).is_inference()


def test_casts_under_autocast_are_part_of_the_way() -> None:
    x, w = a_map(requires_grad=True), torch.randn(3, 3, device=DEVICE, requires_grad=True)
    with torch.autocast(DEVICE, torch.bfloat16 if QUICKEST == "cuda" else torch.float16):
        found = [torch.autograd.grad(functional.channel_gate(x, w, backend=QUICKEST).sum(), (x, w)) for _ in range(4)]
    (shortcut,) = functional.channel_gate.shortcuts.values()
    assert len(shortcut.casts) == 2
    assert all(
        torch.equal(a, b) and a.dtype == torch.float32
        for more in found[1:]
        for a, b in zip(found[0], more, strict=True)
    )


def test_one_map_given_twice() -> None:
    """Neither a call that is planned with it nor one that meets the plan of two maps mixes them up."""
    a, b = a_map(), a_map()
    for maps in ([a, a], [a, a], [a, b], [a, b], [a, b], [a, a], [b, a]):
        merged = upsample_merge(maps, (6, 5), backend=QUICKEST)
        assert torch.equal(merged, torch.cat(maps, 1))


def test_gradients_of_each_wanted_set() -> None:
    maps = [a_map(requires_grad=True), a_map()]
    for wants in 3 * ((True, False), (False, True), (True, True)):
        given = [m.detach().requires_grad_(w) for m, w in zip(maps, wants, strict=True)]
        upsample_merge(given, (6, 5), backend=QUICKEST).sum().backward()
        assert [m.grad is not None for m in given] == list(wants)
        assert all((m.grad == 1).all() for m in given if m.grad is not None)


def test_every_thread_takes_it() -> None:
    x, found = learned(), []
    expected = pool(x)
    threads = [threading.Thread(target=lambda: found.append(pool(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(torch.equal(y, expected) for y in found)


def test_checkpointing_and_saved_tensor_hooks() -> None:
    x = learned(requires_grad=True)
    plain = torch.autograd.grad(pool(x, mode="max").square().sum(), x)[0]
    for _ in range(3):
        y = torch.utils.checkpoint.checkpoint(lambda t: pool(t, mode="max").square().sum(), x, use_reentrant=False)
        assert torch.equal(torch.autograd.grad(y, x)[0], plain)
        laid_out = lambda t: t.transpose(0, -1).contiguous().transpose(0, -1)  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(laid_out, lambda t: t):
            y = pool(x, mode="max").square().sum()
        assert torch.equal(torch.autograd.grad(y, x)[0], plain)


class _Compiled:
    """What Triton returns for a launch: ``run`` takes grid, stream, handles, hooks, then every parameter."""

    function, packed_metadata = "handle", "packed"

    def __init__(self) -> None:
        self.runs: list[tuple[Any, ...]] = []

    def run(self, *given: Any) -> None:
        self.runs.append(given)


class _Kernel:
    __name__ = "some_kernel"
    arg_names = ("x", "pair", "y", "n", "BLOCK")

    def __init__(self) -> None:
        self.compiled, self.asked = _Compiled(), 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., _Compiled]:
        def launched(*args: Any, **meta: Any) -> _Compiled:
            self.asked += 1
            return self.compiled

        return launched


def test_a_compiled_triton_kernel_is_called_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the addresses of this call's tensors in the kernel's order; not where an address is no multiple of 16."""
    kernel, x = _Kernel(), torch.zeros(64)
    monkeypatch.setattr(launch, "start", launch._START)

    def op(x: Tensor) -> Tensor:
        y, scratch = torch.empty_like(x), torch.empty(7)
        launch.launch(kernel, (5,), x, x, (scratch, 3), y, 1, BLOCK=16, num_warps=4)  # type: ignore[arg-type]
        return y

    plan = planned(op, x)
    assert plan is not None and kernel.asked == 1
    other = torch.zeros(80)
    y = again(plan, other[16:])
    ((*head, a, (b, three), c, one, block),) = kernel.compiled.runs
    assert head == [5, 1, 1, 0, "handle", "packed", None, None, None]
    assert (a, three, c, one, block) == (other[16:].data_ptr(), 3, y.data_ptr(), 1, 16) and b % 16 == 0
    assert kernel.asked == 1
    again(plan, other[1:65])
    assert kernel.asked == 2 and len(kernel.compiled.runs) == 1


def test_what_reads_values_has_no_plan() -> None:
    assert planned(lambda t: t * t.sum().item(), torch.ones(3)) is None


@pytest.mark.parametrize("wanted", [False, True], ids=["no-gradient", "gradient"])
def test_a_tensor_read_as_a_setting_is_read_anew(wanted: bool) -> None:
    x, w = a_map(requires_grad=wanted), torch.randn(3, 3, device=DEVICE)
    vectors = [torch.rand(3, device=DEVICE) + 0.5 for _ in range(4)]
    for eps in (1.0, 1.0, 1.0, 1e-3, 100.0):
        y, expected = (
            functional.channel_gate(x, w, norm1=(*vectors, torch.tensor(eps)), backend=b)
            for b in (QUICKEST, "reference")
        )
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_a_call_that_is_broken_off_is_no_reason_against_a_plan() -> None:
    """A checkpoint's second forward ends in an exception once it has all that it needs."""
    x = a_map(requires_grad=True)
    for _ in range(3):
        torch.utils.checkpoint.checkpoint(lambda t: pool(t * 1), x, use_reentrant=False).sum().backward()
    assert [plan_of(known) for known in pyramid_pool.shortcuts.values() if known]


def test_lists_and_tuples_are_told_apart() -> None:
    key = shortcuts._keyer()
    assert key(True, ((1,),), {})[0] != key(True, ([1],), {})[0] != key(True, (torch.Size([1]),), {})[0]


@pytest.mark.parametrize("grad", [False, True])
def test_only_a_call_that_could_record_tells_tensors_that_want_gradients_apart(grad: bool) -> None:
    for key in (shortcuts._keyer(), shortcuts.key_of):
        (one, (x,), (at,)), (other, *_) = (key(grad, (a_map(requires_grad=r),), {}) for r in (False, True))
        assert at == x.data_ptr() and (one != other) == grad


def test_scratch_is_one_allocation() -> None:
    def op(x: Tensor) -> Tensor:
        parts = [torch.empty(3, 5, dtype=torch.float64), torch.empty(2, dtype=torch.int32)]
        launch.launch(_Kernel(), (1,), x, x, *parts, 1, BLOCK=1)  # type: ignore[arg-type]
        return torch.empty(4, 3).transpose(0, 1)

    x = torch.zeros(4)
    plan = planned(op, x)
    assert plan is not None
    assert sum(isinstance(step, New) for step in plan.steps) == 2 and "as_strided" not in plan.source
    assert again(plan, x).stride() == (1, 3)


def test_every_public_op_has_the_short_way() -> None:
    assert all(hasattr(getattr(functional, op), "shortcuts") for op in all_ops())


def test_a_first_call_of_a_shape_leaves_nothing_behind() -> None:
    """Neither Dynamo nor Triton is imported by calls of the core, and no mode's flag stays on."""
    code = """
import sys, torch, pyramid_kernels as pk
x = torch.randn(1, 2, 6, 5)
for _ in range(3):
    pk.functional.pyramid_pool(x, (1, 2), backend="cuda")
assert "torch._dynamo" not in sys.modules and "triton" not in sys.modules
from torch.utils import _python_dispatch as modes
assert not modes._is_in_torch_dispatch_mode
"""
    if QUICKEST != "cuda" or DEVICE == "cuda":
        pytest.skip("needs the simulator")
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_a_list_that_holds_itself_is_named() -> None:
    bins: list[Any] = []
    bins.append(bins)
    with pytest.raises(TypeError, match="bins must hold ints"):
        pyramid_pool(a_map(), bins, backend=QUICKEST)


def test_memory_that_is_gone_is_named_in_the_backward() -> None:
    x = learned(requires_grad=True)
    for _ in range(3):
        pool(x, mode="max").sum().backward()
    y = pool(x, mode="max")
    y.grad_fn.saved_tensors[0].untyped_storage().resize_(0)  # type: ignore[union-attr]
    with pytest.raises((ValueError, RuntimeError)):
        y.sum().backward()


def test_nodes_have_the_name_of_the_op() -> None:
    x = learned(requires_grad=True)
    for _ in range(3):
        y = pool(x)
    assert y.grad_fn is not None and y.grad_fn.name() == "PyramidPoolBackward"


def test_checkpoints_unpack_once() -> None:
    """A backward that has no plan reads what was saved once, too."""
    logits = torch.randn(1, 3, 4, 4, device=DEVICE, requires_grad=True)
    target = torch.zeros(1, 8, 8, dtype=torch.int64, device=DEVICE)
    for _ in range(3):
        loss = torch.utils.checkpoint.checkpoint(
            lambda t: functional.upsample_cross_entropy(t, target, backend="composed"), logits, use_reentrant=False
        )
        loss.backward()


def test_a_plan_frees_what_it_needs_no_more() -> None:
    def op(x: Tensor) -> Tensor:
        y = x + 1
        launch.launch(_Kernel(), (1,), x, y, 1, BLOCK=1)  # type: ignore[arg-type]
        z = y * 2
        return z - 3

    x = torch.ones(4)
    plan = planned(op, x)
    assert plan is not None and torch.equal(again(plan, x), op(x))
    assert plan.source.index("del t1") < plan.source.index("return")
