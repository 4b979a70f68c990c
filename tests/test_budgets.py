"""The gates on SASS: planted slowdowns worsen a recorded number, and what cannot be read is an error with a name."""

import json
import re
import subprocess
from pathlib import Path

import pytest

import setup  # the build script at the root of the tree
from tests import aot, budgets, sass
from tests.cubins import Kernel, Unreadable, kernels, split
from tests.flow import Flow
from tests.sass_reader import numbers, read

VERSIONS = {"nvcc": "13.0"}
LOOP = """
template <int Variant>
__global__ void __launch_bounds__(128) sum_kernel(const uint4* x, float* y, int n, long long d) {
    float total = 0;
    unsigned place[64];
    for (int k = 0; k < 64 && Variant == 5; ++k) place[k] = k * n;
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += 512) {
        uint4 v[4];
        for (int k = 0; k < 4; ++k) {
            if (Variant == 1) {
                const unsigned short* narrow = reinterpret_cast<const unsigned short*>(x + i + 128 * k);
                v[k] = {narrow[0], narrow[1], narrow[2], narrow[3]};
            } else {
                v[k] = x[i + 128 * k + (Variant == 2 && k ? v[k - 1].x & 1 : 0)];
            }
        }
        for (int k = 0; k < 4; ++k) total += __uint_as_float(v[k].x ^ v[k].y ^ v[k].z ^ v[k].w);
        if (Variant == 3) total += (d + i) / (d - i);
        if (Variant == 4) total = __sinf(total) * total + __cosf(total);
        if (Variant == 5) total += place[v[0].x % 64]++;
    }
    y[threadIdx.x] = total;
}
"""
SLOWER = {
    1: ("loop 0: load of at most 2 bytes 16 instead of 0", "loop 0: flight 0 instead of 4"),
    2: ("loop 0: flight 1 instead of 4",),
    3: ("div64 1 instead of 0", "loop 0: div64 1 instead of 0"),
    4: ("loop 0: longest", "loop 0: mufu 2 instead of 0"),
    5: ("local",),
}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> budgets.Rows:
    """The loop as it should be, 0, and its slower variants."""
    if isinstance(nvcc := setup.find_nvcc(), str):
        pytest.skip(f"needs nvcc: {nvcc}")
    folder = tmp_path_factory.mktemp("loop")
    every = "".join(
        f"template __global__ void sum_kernel<{v}>(const uint4*, float*, int, long long);\n" for v in range(6)
    )
    (folder / "sum.cu").write_text(LOOP + every)
    subprocess.run([nvcc.path, "-arch=sm_90a", "-cubin", "sum.cu", "-o", "sum.cubin"], cwd=folder, check=True)
    own = kernels((folder / "sum.cubin").read_bytes(), "90a")
    return {re.findall(r"Li(\d)E", k.name)[0]: n.recorded for k, n in zip(own, read(own), strict=True)}


def recorded(path: Path, rows: budgets.Rows) -> Path:
    budgets.write(path, VERSIONS, rows)
    return path


def test_the_loop_as_it_should_be(bodies: budgets.Rows) -> None:
    loop = bodies["0"]["loops"]["0"]
    assert loop["load16"] == loop["flight"] == 4 and "local" not in bodies["0"] and bodies["0"]["ctas"] == 16


@pytest.mark.parametrize("variant", SLOWER)
def test_a_planted_slowdown_fails(variant: int, bodies: budgets.Rows, tmp_path: Path) -> None:
    path = recorded(tmp_path / "sass.json", {"sum 90a": bodies["0"]})
    assert budgets.compare(path, VERSIONS, {"sum 90a": bodies["0"]}) == []
    (line,) = budgets.compare(path, VERSIONS, {"sum 90a": bodies[str(variant)]})
    assert line.startswith("sum 90a: ") and all(part in line for part in SLOWER[variant]), line


def test_what_is_better_is_printed_and_kept_only_when_recorded(
    bodies: budgets.Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded(tmp_path / "sass.json", {"sum 90a": bodies["2"]})
    assert budgets.compare(path, VERSIONS, {"sum 90a": bodies["2"] | {"loops": bodies["0"]["loops"]}}) == []
    assert "better sum 90a: " in (said := capsys.readouterr().out) and "loop 0: flight 4 instead of 1" in said


ROW = {"registers": 40, "loops": {"0": {"longest": 9}}}


def test_bodies_come_and_go_by_name(tmp_path: Path) -> None:
    path = recorded(tmp_path / "sass.json", {"here 90a": ROW, "gone 90a": ROW})
    said = budgets.compare(path, VERSIONS, {"here 90a": ROW, "new 90a": ROW})
    assert [line.split(" (")[0] for line in said] == [
        "new 90a: not in sass.json",
        "gone 90a: in sass.json, but not compiled",
    ]
    said = budgets.compare(path, VERSIONS, {"here 90a": ROW | {"loops": {}}, "gone 90a": ROW})
    assert [line.split(" (")[0] for line in said] == ["here 90a: loops none instead of 0"]


def test_other_architectures_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path / "sass.json", {"here 80": ROW, "here 90a": ROW})
    assert budgets.compare(path, VERSIONS, {"here 80": ROW}) == []
    assert "1 bodies compared, 0 better in something; 1 of other architectures" in capsys.readouterr().out
    recorded(path, {"new 80": ROW})
    assert budgets.compare(path, VERSIONS, {"new 80": ROW, "here 90a": ROW}) == []


def test_a_kernel_of_which_nothing_was_read_is_named() -> None:
    found = [sass.Body(arch, "void pk::small_kernel<float>(int)", 40, 0, 0, 0) for arch in ("80", "90a")]
    assert sass.unread(found, [("small_kernel<float>", "80")]) == ["small_kernel on 90a: not read"]


def test_several_bodies_are_as_the_worst_of_them() -> None:
    one = {"instructions": 9, "load2": 3, "ctas": 2, "loops": {"0": {"longest": 5, "flight": 4}}}
    two = {"instructions": 8, "load2": 4, "ctas": 3, "loops": {"0": {"longest": 6, "flight": 1}}}
    other = {"instructions": 7, "ctas": 3, "loops": {}}
    loops = {"0": {"flight": 1, "longest": 6}}
    assert budgets.worst([one, two, other]) == {"instructions": 9, "load2": 4, "ctas": 2, "loops": loops}


def test_other_compilers_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path / "sass.json", {"here 90a": ROW})
    assert budgets.compare(path, {"nvcc": "14.0"}, {"here 90a": ROW, "new 90a": ROW}) == []
    assert "sass.json: 2 bodies not compared: recorded with {'nvcc': '13.0'}" in capsys.readouterr().out


def test_one_wide_access_is_better_than_narrow_ones() -> None:
    narrow, wide = {"load2": 8, "loops": {}}, {"load16": 1, "loops": {}}
    assert budgets.changes(narrow, wide)[0] == [] and budgets.changes(wide, narrow)[1] == []


def test_narrow_accesses_of_triton_kernels_are_known_debt() -> None:
    rows = {"a_kernel bfloat16 nchw 90a": {"load2": 96, "load16": 8, "store16": 4, "store4": 1, "loops": {}}}
    rows |= {
        "a_kernel float32 nchw 90a": {"load4": 64, "loops": {}},
        "b_kernel float32 nchw 90a": {"load16": 9, "loops": {}},
    }
    assert budgets.debts(rows) == ["known debt: a_kernel in nchw: 96 of 104 loads below 8 bytes, the least 2"]


def test_what_triton_compiled_worse_than_recorded_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "BUDGETS", tmp_path / "aot.json")
    (part := tmp_path / "part.json").write_text(
        json.dumps([["a float32 nchw 90a", {"instructions": 9, "load16": 2, "loops": {}}]])
    )
    (worse := tmp_path / "worse.json").write_text(
        json.dumps([["a float32 nchw 90a", {"instructions": 9, "load2": 2, "loops": {}}]])
    )
    assert aot.budget([part], record=True) == 0 == aot.budget([part], record=False)
    assert aot.budget([part, worse], record=False) == 1


# The reader, on text as nvdisasm prints it.

BASE = 0x400  # of the kernel in the text


def printed(*lines: str) -> str:
    """``@P0 LDG.E.128 R4, [R2] ; sets 1 waits 2`` and so on; jumps name instructions by their number."""
    text = []
    for i, line in enumerate(lines):
        body, _, bits = line.partition(" ; ")
        sets = int(m[1]) if (m := re.search(r"sets (\d)", bits)) else 7
        waits = sum(1 << int(b) for b in re.findall(r"waits (\d)", bits))
        body = re.sub(r"#(\d+)", lambda m: f"{BASE + int(m[1]) * 16:#x}", body)
        text.append(f"        /*{BASE + i * 16:04x}*/  {body} ;  /* 0x{0:016x} */\n")
        text.append(f"                       /* 0x{sets << 46 | waits << 52:016x} */\n")
    return "".join(text)


def flow(*lines: str) -> Flow:
    before = "".join(f"/*{i * 16:04x}*/ NOP ; /* 0x{0:016x} */ /* 0x{0:016x} */\n" for i in range(BASE // 16))
    _, code = split(before + printed(*lines), [("before", BASE), ("small_kernel", len(lines) * 16)])
    return Flow(Kernel("small_kernel", "90a", b"", {}, {}, 32, 128, 0), code)


def in_flight(found: Flow) -> dict[str, int]:
    loads = {i for i, ins in enumerate(found.code) if ins.op.startswith("LDG")}
    return {loop.name: found.in_flight(loop, loads) for loop in found.loops}


LOAD = "LDG.E.128 R4, desc[UR4][R2.64]"


@pytest.mark.parametrize(
    "body,expected",
    [
        ((f"{LOAD} ; sets 0", "FADD R1, R1, R4 ; waits 0", f"{LOAD} ; sets 0", "FADD R1, R1, R4 ; waits 0"), 1),
        ((f"{LOAD} ; sets 0", f"{LOAD} ; sets 1", "FADD R1, R1, R4 ; waits 0", "FADD R1, R1, R4 ; waits 1"), 2),
        ((f"{LOAD} ; sets 0", f"{LOAD} ; sets 0", f"{LOAD} ; sets 0", "FADD R1, R1, R4 ; waits 0"), 3),
        (("FADD R1, R1, R4 ; waits 0", f"{LOAD} ; sets 0", f"{LOAD} ; sets 1", "FADD R1, R1, R8 ; waits 1"), 2),
        (("FADD R1, R1, R4 ; waits 0", f"{LOAD} ; sets 0", "NOP", "NOP"), 1),
    ],
)  # fmt: skip
def test_loads_in_flight(body: tuple[str, ...], expected: int) -> None:
    assert in_flight(flow("S2R R0, SR_TID.X", *body, "@P0 BRA #1", "EXIT")) == {"0": expected}


def test_a_path_that_does_not_wait_meets_the_loads_of_its_own_loop_alone() -> None:
    inner = (f"{LOAD} ; sets 1", "FADD R1, R1, R4 ; waits 1", "@P1 BRA #3")
    found = flow("NOP", f"{LOAD} ; sets 0", "NOP", *inner, "FADD R1, R1, R4 ; waits 0", "@P0 BRA #1", "EXIT")
    assert in_flight(found) == {"0": 1, "0.0": 1}
    assert [found.longest(loop) for loop in found.loops] == [4, 3]


def test_a_loop_with_two_entries_is_one_and_a_trap_is_none() -> None:
    found = flow("@P0 BRA #2", "NOP", "NOP", "@P1 BRA #1", "EXIT", "BRA #5")
    assert [(loop.name, found.longest(loop)) for loop in found.loops] == [("0", 3)]


def test_calls_are_apart_and_divisions_of_64_bits_are_counted() -> None:
    found = flow("CALL.REL.NOINC #3", "@P0 BRA #0", "EXIT", "RET.REL.NODEC R4 #0")
    kernel = Kernel("small_kernel", "90a", b"", {0x30: "$__internal_0_$__cuda_sm20_div_s64"}, {}, 32, 0, 0)
    assert numbers(kernel, found.code).recorded["loops"]["0"] == {"longest": 2, "div64": 1}


def test_a_call_of_what_never_returns_is_a_jump() -> None:
    """How compilers leave a loop on 8.x."""
    found = flow("NOP", "@P1 CALL.REL.NOINC #3", "BRA #0", "@P0 BRA #0", "EXIT")
    assert found.roots == {0} and [found.longest(loop) for loop in found.loops] == [3]


@pytest.mark.parametrize(
    "lines,message",
    [
        (("FROB R1, R2", "EXIT"), "FROB is an instruction of no known class"),
        (("@P0 BRA `(.L_x_1)", "EXIT"), "the targets of .* at 0x0 are unknown"),
        (("BRA #90", "EXIT"), "the targets of .* at 0x0 are unknown"),
        (("BRX R4 -0x10", "EXIT"), "the targets of .* at 0x0 are unknown"),
        (("EXIT", "FADD R1, R1, R4", "EXIT"), "nothing leads to the instructions at 0x10"),
    ],
)
def test_what_cannot_be_read_names_the_kernel(lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(Unreadable, match=f"^small_kernel: {message}"):
        numbers(Kernel("small_kernel", "90a", b"", {}, {}, 32, 128, 0), flow(*lines).code)


def test_text_without_control_bits_or_instructions_names_the_kernel() -> None:
    whole = printed("MOV R1, R2", "FADD R1, R1, R4", "EXIT").replace(f"{BASE:04x}", "0000")
    whole = whole.replace(f"{BASE + 16:04x}", "0010").replace(f"{BASE + 32:04x}", "0020")
    assert len(split(whole, [("small_kernel", 48)])[0]) == 3
    lines = whole.splitlines(keepends=True)
    for text in ("".join(lines[:3] + lines[4:]), "".join(lines[:4]), whole.replace("/* 0x", "# 0x"), ""):
        with pytest.raises(Unreadable, match="^small_kernel: "):
            split(text, [("small_kernel", 48)])
