"""``bench.profile``: what is cut, compared and recorded, and planted slowdowns. Known answers are in hostsim/tests."""

import json
import shutil
from pathlib import Path

import pytest

import setup  # the build script at the root of the tree
from bench import predict, profile, traffic
from pyramid_kernels import _native
from pyramid_kernels.ops import spec
from tests import hostsim
from tests.cuda_faults import compiled, linked
from tests.processes import ROOT, python

#: File under csrc/, line, and what makes it slow: scattered loads in channels_last, lanes in each other's banks.
SLOWDOWNS = [
    ("common/vec.cuh", "    if (whole) {", "    if (whole && K < 0) {"),
    ("pyramid_pool/pyramid_pool_fwd.cuh", "(end - plan.x.at(0)) % per_lane == 0;", "end < 0;"),
    (
        "pyramid_pool/pyramid_pool_fwd.cuh",
        "const int next = whole ? 1 : across, x = x0 + lane % across * (whole ? per_lane : 1);",
        "const int next = 1, x = x0 + lane % across * per_lane;",
    ),
]


def test_worse_numbers_have_a_line_each() -> None:
    recorded = {"a": {"load_sectors": 100, "load_ideal_sectors": 10}, "b": {"shared_wavefronts": 7}, "gone": {}}
    measured = {"a": {"load_sectors": 150, "load_ideal_sectors": 50}, "b": {"shared_wavefronts": 6}, "new": {}}
    assert profile.compare(recorded, recorded) == ([], 0)
    worse, better = profile.compare(recorded, measured)
    assert worse == ["gone: not launched any more", "a: load_sectors 100 -> 150 (1.50x)", "new: not recorded"]
    assert better == 1


def test_all_that_is_checked_is_recorded() -> None:
    recorded = profile.recorded()["profiles"]
    wanted = [
        f"{op}/{case}/{dtype}/{layout}"
        for op, cases in profile.RECORDED.items()
        for case in cases
        for dtype in profile.RECORDED_DTYPES
        for layout in profile.LAYOUTS
    ]
    assert sorted(recorded) == sorted(wanted)


def test_a_cut_case_keeps_its_geometry() -> None:
    cases = {case.id: case for case in spec("upsample_merge").BENCH}
    maps = traffic.cut("upsample_merge", cases["hrnet-w48-head"]).case.args["maps"]
    assert [m.shape for m in maps] == [(1, 48, 32, 64), (1, 96, 16, 32), (1, 192, 8, 16), (1, 384, 4, 8)]
    psp = next(case for case in spec("pyramid_pool").BENCH if case.id == "psp-60x60")
    small = traffic.cut("pyramid_pool", psp)
    assert (small.case.args["x"].shape, small.processors) == ((1, 256, 60, 60), 2)


@pytest.mark.slow
@pytest.mark.skipif(not hostsim.compiler(), reason="no C++ compiler")
def test_a_planted_slowdown_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_native.SIMULATOR, raising=False)
    hostsim.build("profile")
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    for file, line, patch in SLOWDOWNS:
        path = tmp_path / "csrc" / file
        assert path.read_text().count(line) == 1, file
        path.write_text(path.read_text().replace(line, patch))
    unit = compiled(tmp_path, ROOT / "csrc" / "pyramid_pool" / "pyramid_pool.cu", "profile")
    module = linked(tmp_path, [unit], "profile")
    done = python("-m", "bench.profile", "--check", "--op", "pyramid_pool", **{_native.SIMULATOR: str(module)})
    assert done.returncode == 1, done.stderr
    found = done.stdout.splitlines()
    assert any("psp-60x60/bfloat16/channels_last: forward pyramid_pool_fwd_kernel: load_sectors" in x for x in found)
    assert any("psp-60x60/float32/contiguous: forward pyramid_pool_fwd_kernel: shared_wavefronts" in x for x in found)


@pytest.mark.slow
@pytest.mark.skipif(not hostsim.compiler(), reason="no C++ compiler")
def test_a_case_is_predicted_from_its_accesses_and_its_sass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_native.SIMULATOR, raising=False)
    if isinstance(nvcc := setup.find_nvcc(), str):
        pytest.skip(f"needs nvcc: {nvcc}")
    done = python("-m", "bench.predict", "--op", "upsample_argmax", "--case", "voc-513x513")
    assert done.returncode == 0, done.stderr
    found = json.loads(predict.RECORD.read_text())["upsample_argmax/voc-513x513/bfloat16/channels_last"]
    lines = done.stdout.splitlines()
    for row in predict.shown(found):
        assert any(all(cell in line for cell in row) for line in lines), row
