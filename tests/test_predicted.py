"""``bench.predict`` and what it stands on: instructions by the accesses that were counted, and limits by hand."""

from typing import Any

import pytest
import torch

from bench import aten, issue, predict, profile
from pyramid_kernels.ops import all_ops, spec
from pyramid_kernels.ops._shared.spec import Arg, Case
from tests.cubins import Kernel, Unreadable
from tests.test_budgets import LOAD, flow

KERNEL = Kernel("small_kernel", "90a", b"", {}, {}, 32, 128, 0)
NARROW, STORE = "LDG.E.U16 R4, desc[UR4][R2.64]", "STG.E.128 desc[UR4][R2.64], R4"
#: A loop of two wide loads on a.cuh:10, a scalar one on a.cuh:11, and a store behind them.
TWO_LOOPS = (
    "S2R R0, SR_TID.X", f"{LOAD} ; sets 0", f"{LOAD} ; sets 0", "FADD R1, R1, R4 ; waits 0", "@P0 BRA #1",
    "@P1 BRA #8", f"{NARROW} ; sets 1", "@P0 BRA #6", STORE, "EXIT",
)  # fmt: skip
PLACES = {1: "a.cuh:10", 2: "a.cuh:10", 6: "a.cuh:30", 8: "a.cuh:40"}


def issued(accesses: issue.Accesses, warps: int) -> issue.Issued:
    found = flow(*TWO_LOOPS)
    return issue.least(KERNEL, found, found.code, PLACES, accesses, warps)


def test_a_loop_runs_as_often_as_its_accesses_say() -> None:
    found = issued({("load", "a.cuh:10", 16): 20, ("store", "a.cuh:40", 16): 4}, 4)
    # 4 warps: one instruction ahead of the loop, 10 iterations of 4, the jump, the store and the end.
    assert found.classes["all"] == 4 + 10 * 4 + 4 * 3 and found.classes["load"] == 20
    assert (found.flight, found.loaded, found.unexplained) == (2, 512, 0)


def test_scalar_requests_run_the_scalar_loop() -> None:
    found = issued({("load", "a.cuh:30", 2): 500, ("store", "a.cuh:40", 16): 4}, 4)
    assert found.classes["load"] == 4 * 2 + 500 and (found.flight, found.loaded) == (1, 64)


def test_a_line_that_the_compilers_name_differently_is_found_near() -> None:
    assert issued({("load", "a.cuh:12", 16): 20}, 4).classes["load"] == 20


def test_bytes_that_nothing_moves_are_said() -> None:
    assert issued({("load", "a.cuh:10", 16): 20, ("store", "a.cuh:40", 16): 12}, 4).unexplained == 8 / 32


def test_a_body_that_the_cubin_lacks_is_an_error() -> None:
    bodies = object.__new__(issue.Bodies)
    bodies.kernels = {}
    with pytest.raises(Unreadable, match="gone_kernel: the simulator ran it and the cubin lacks it"):
        bodies.issued("gone_kernel", {}, 1)


def test_instructions_for_each_product_are_those_of_the_way_that_copies() -> None:
    copy, product = "LDGSTS.E.BYPASS.128 [R2], desc[UR4][R4.64]", "HMMA.16816.F32.BF16 R4, R8, R12, R4"
    found = flow("NOP", "@P0 BRA #4", "NOP", "BRA #5", copy, product, product, "@P1 BRA #0", "EXIT")
    bodies = object.__new__(issue.Bodies)
    bodies.kernels, bodies._read = {"mul_kernelIfLb1E": KERNEL}, {"mul_kernelIfLb1E": (found, found.code)}
    assert bodies.per_product("mul_kernel", "fLb1E") == pytest.approx(6 / 2, abs=1e-3)


def test_places_are_the_innermost_lines_that_no_helper_holds() -> None:
    text = """\t.section\t.text.small_kernel,"ax",@progbits
\t//## File "/x/common/vec.cuh", line 31 inlined at "/x/op/a.cuh", line 12
\t//## File "/x/op/a.cuh", line 12
        /*0000*/                   LDG R1 ;
        /*0010*/                   LDG R2 ;
\t//## File "/x/op/a.cuh", line 14
        /*0020*/                   EXIT ;
"""
    assert issue.lines(text) == {"small_kernel": {0: "a.cuh:12", 1: "a.cuh:12", 2: "a.cuh:14"}}


def entry(**values: Any) -> predict.Entry:
    code = {name: values.pop(name, 0) for name in predict.COUNTED}
    own = {**code, "flight": 4, "loaded": 512, "fits": {"90": 8}}
    return {"launches": 1, "ctas": 1320, "threads": 128, **values, "90a": own}


@pytest.mark.parametrize(
    "values,limit,seconds",
    [
        ({"once": 4.3e9}, "DRAM", 1e-3),
        ({"past_l1": 5.5e9}, "L2", 1e-3),
        # All CTAs are resident but 264; each multiprocessor has 8 of 4 warps with 4 loads of 512 bytes under way.
        ({"loaded": 132 * 32 * 4 * 512, "loaded_once": 132 * 32 * 4 * 512}, "loads in flight", 0.62e-6),
        ({"all": 132 * 4 * 1755}, "issue", 1e-6),
        ({"mufu": 132 * 1755}, "exp", 2e-6),
        ({"l1_cycles": 132 * 1755}, "L1, shared", 1e-6),
        ({"mma": 430e12 / 4096}, "products", 1.0),
    ],
)
def test_the_slowest_limit_is_the_prediction(values: dict[str, float], limit: str, seconds: float) -> None:
    found = predict.kernel(entry(**values), predict.GPUS["H200"])
    assert found.limit == limit and found.seconds == pytest.approx(seconds)


def test_a_pass_is_its_kernels_launches_and_library_calls() -> None:
    gpu = predict.GPUS["H200"]
    own = {"kernels": {"a": entry(once=4.3e6)}, "library": [2, 0, 0], "eager": [4, 4_300_000, 0]}
    found = predict.predict({"passes": {"forward": own}}, "forward", gpu)
    assert found.seconds == pytest.approx(1e-6 + 4 * 1.5e-6) and found.eager == pytest.approx(1e-6 + 5 * 1.5e-6)


def test_eagers_operators_are_counted_and_views_are_not() -> None:
    x = torch.empty(1, 4, 8, 8, device="meta")
    w = torch.empty(2, 4, 1, 1, device="meta")
    _, work = aten.watched(lambda: torch.relu(torch.conv2d(x, w)).flatten(1).detach())
    assert work == aten.Work(2, 2 * 2 * 64 * 4, 2 * 4 * 2 * 64)


def test_eager_runs_at_the_whole_size_without_computing() -> None:
    x = Arg((8, 2048, 600, 600), grad=True)
    forward, backward = aten.eager("pyramid_pool", Case("big", {"x": x, "bins": [1, 2]}), torch.float32, True)
    assert forward.bytes > 2 * 4 * 8 * 2048 * 600 * 600 and backward.ops


def test_every_case_is_predicted() -> None:
    wanted = {
        f"{op}/{case.id}/{predict.RECORDED_DTYPE}/{layout}"
        for op in all_ops()
        for case in spec(op).BENCH
        for layout in profile.LAYOUTS
    }
    assert set(predict.recorded()) == wanted


def test_every_kernel_has_inputs_and_a_time_on_every_gpu() -> None:
    for key, found in predict.recorded().items():
        for which, own in found["passes"].items():
            assert own["kernels"], (key, which)
            for name, values in own["kernels"].items():
                assert all(predict.kernel(values, gpu).seconds > 0 for gpu in predict.GPUS.values()), (key, name)
