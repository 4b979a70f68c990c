"""The benchmarks: what is timed under which name, what is written and when, and what the report makes of it."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import report, schedule
from pyramid_kernels import _native, console, models
from pyramid_kernels.benchmark import rows, run, timing
from pyramid_kernels.benchmark.modules import MODULES
from pyramid_kernels.benchmark.subjects import SAME, op_names, subjects, work
from pyramid_kernels.cli import main
from tests.kernels import ROOT
from tests.marks import needs_cpu

OP = "separable_pyramid"
QUICK = ["bench", "--quick", "--op", OP, "--mode", "forward", "--device", "cpu"]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this tree holds, it is a commit."""
    monkeypatch.setenv("PYRAMID_KERNELS_COMMIT", "0123abc")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tree() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (ROOT / "bench" / "results").iterdir()}


@needs_cpu
def test_writes_nothing_without_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    before = tree()
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli(*QUICK)
    assert code == 0 and "Nothing is written without --out." in out and "eager / this" in out
    assert tree() == before and not list(tmp_path.iterdir())


@needs_cpu
def test_rows_say_what_they_are_and_join_older_ones(tmp_path: Path) -> None:
    """A file of fewer columns gets the further ones; a second run adds."""
    path = tmp_path / f"{rows.device_slug('cpu')}.csv"
    path.write_text("op,case,provider\nolder,row,eager\n")
    for count in (1, 2):
        assert main([*QUICK, "--out", str(tmp_path)]) == 0
        found = read(path)
        assert found[0]["op"] == "older" and found[0]["quick"] == ""
        assert len(found) == 1 + 2 * count
    assert {row["provider"] for row in found[1:]} == {"auto", "eager"}
    assert {(row["op"], row["quick"], row["commit"]) for row in found[1:]} == {(OP, "yes", "0123abc")}
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "more,message",
    [
        (["--out", "{file}"], "must be a folder that can be written to"),
        (["--op", OP, "--model", "SPEED"], "--op beside --model"),
        (["--mode", "training", "--model", "SPEED"], "--mode training beside --model"),
    ],
)
def test_refuses_before_it_measures(
    more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    monkeypatch.setattr(timing, "interleaved", None)
    (tmp_path / "file").write_text("")
    assert message in refused("bench", *(word.replace("{file}", str(tmp_path / "file")) for word in more))


def test_a_tree_with_changes_records_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.setenv("PYRAMID_KERNELS_COMMIT", "0123abc-dirty")
    for command in (["--op", OP], ["--model", "SPEED"]):
        assert "changes that no commit holds" in refused("bench", *command, "--out", str(tmp_path / "new"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", op_names())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_say_how_many_images_run(name: str, device: str) -> None:
    """Of every module; and what is quick is one case of each op and module."""
    for quick in (False, True):
        found = work(name, device, quick)
        if name in MODULES:
            assert all(case == build.case for (case, _), build in found.items())
            assert all(case.endswith(f"-n{build.images}") for (case, _), build in found.items())
            ran = {build.images for (_, mode), build in found.items() if mode == "forward"}
            assert ran == {1} or (device, quick) == ("cuda", False)
        assert len({mode for _, mode in found}) == len(found) or not quick


@needs_cpu
def test_a_module_runs_as_many_images_as_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **kw: batches.append(shape[0]) or randn(*shape, **kw))
    for subject in subjects("nn.DSPP", "cpu", torch.float32, compiled=False):
        assert subject.case.endswith(f"-n{batches[-1]}")
    assert {1, 16} <= set(batches)


@needs_cpu
def test_the_ratio_stands_beside_same_path(cli: Any) -> None:
    out = cli(*QUICK[:3], "nn.MDSPP", *QUICK[4:]).out
    lines = [line.rstrip() for line in out.splitlines() if line.startswith("nn.MDSPP")]
    (line,) = [line for line in lines if " auto " in line]
    assert line.endswith(SAME) and float(line.removesuffix(SAME).split()[-1]) > 0


@needs_cpu
def test_nothing_is_reported_of_a_provider_that_is_wrong(monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    from pyramid_kernels.ops.max_pool_pyramid import composed

    right = composed.max_pool_pyramid
    quick = ["bench", "--quick", "--op", "max_pool_pyramid", "--mode", "forward", "--device", "cpu"]
    monkeypatch.setattr(composed, "max_pool_pyramid", lambda *args, **kw: 1.1 * right(*args, **kw))
    code, out, err = cli(*quick)
    assert code == 1 and "a check is red" in err and "eager  " not in out
    monkeypatch.setattr(composed, "max_pool_pyramid", lambda *args, **kw: 1 / 0)
    code, _, err = cli(*quick)
    assert code == 1 and "ZeroDivisionError" in err


def test_labels_that_differ() -> None:
    expected = torch.zeros(100, 100, dtype=torch.uint8)
    got = expected.clone()
    got[0, 0] = 1
    assert run.disagreement(expected, got) is None
    got[:, 0] = 1
    assert run.disagreement(expected, got) == "1.00% of the labels differ"


class Small(models.SPPNet):
    """A network of a moment, which runs its own forward."""

    published_size = (16, 24)

    def __init__(self, **settings: Any) -> None:
        super().__init__(width=2, hidden=4, classes=3, **settings)


@needs_cpu
def test_a_network_says_why_nothing_is_fused_and_is_kept(tmp_path: Path, monkeypatch: Any, cli: Any) -> None:
    monkeypatch.setattr(models, "networks", lambda: {"Small": Small})
    command = ["bench", "--model", "all", "--quick", "--mode", "forward", "--device", "cpu"]
    code, out, _ = cli(*command, "--out", str(tmp_path))
    assert code == 0 and "original forward: the unfused chain is what auto takes" in out
    (row,) = read(next(tmp_path.glob("networks-*.csv")))
    assert (row["network"], row["quick"], row["dtype"]) == ("Small", "yes", "float32")
    assert row["ratio"].endswith(SAME) and row["path"].startswith("original forward: ")


def row(**values: str) -> dict[str, str]:
    return dict.fromkeys(run.COLUMNS, "") | {
        "op": "nn.DSPP", "case": "n16", "mode": "forward", "dtype": "float32", "layout": "channels_last",
        "provider": "auto", "path": "original", "median_ms": "2.0", "vs_eager": "same path",
    } | values  # fmt: skip


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    return tmp_path / "cpu-some.csv"


def test_the_report_never_reads_quick_rows(results: Path) -> None:
    full = row(case="512-12x16-n1", vs_eager="0.80 same path", quick="no")
    rows.keep(results, [full, full | {"provider": "eager", "vs_eager": "1.00"}], run.COLUMNS)
    before = report.measured()
    rows.keep(results, [full | {"vs_eager": "9.00", "median_ms": "99", "quick": "yes"}], run.COLUMNS)
    assert report.measured() == before and "| 0.80 same path |" in before


def test_the_report_keeps_layouts_and_threads_apart(results: Path) -> None:
    for layout, threads in (("channels_last", "1"), ("contiguous", "1"), ("channels_last", "2")):
        auto = row(layout=layout, threads=threads, quick="no")
        rows.keep(results, [auto, auto | {"provider": "eager", "vs_eager": "1.00"}], run.COLUMNS)
    lines = [line.split(" | ")[4:6] for line in report.measured().splitlines() if line.startswith("| nn.DSPP")]
    assert lines == [["channels_last", "1"], ["channels_last", "2"], ["contiguous", "1"]]


def test_the_report_says_where_compile_wins_and_what_cannot_be_redone(results: Path) -> None:
    sides = {"auto": "4.0", "eager": "5.0", "compile": "2.0"}
    for case, providers in {"512-12x16-n1": ("auto", "eager", "compile"), "512-12x16-n16": ("auto", "eager")}.items():
        found = [row(case=case, provider=p, median_ms=sides[p], vs_eager="1.25", quick="no") for p in providers]
        rows.keep(results, found, run.COLUMNS)
    text = report.measured()
    faster = "faster than `auto` in 1 of the 1 rows that timed it, most in nn.DSPP 512-12x16-n1 forward, channels_last"
    assert f"{faster}: 2.0 times" in text
    assert "compile is empty" in text and "-dirty" not in text
    rows.keep(results, [f | {"commit": "0123abc-dirty", "dtype": "float64"} for f in found], run.COLUMNS)
    assert "came from a tree with changes" in (text := report.measured()) and "| 0123abc-dirty |" in text


@needs_cpu
def test_the_schedule_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.schedule"])
    monkeypatch.delenv(_native.SIMULATOR, raising=False)
    monkeypatch.setattr(schedule, "BUILT", tmp_path)
    _native.module.cache_clear()
    try:
        assert schedule.main() == 2
    finally:
        _native.module.cache_clear()
    out, err = capsys.readouterr()
    assert "python -m tests.hostsim" in err and err.count("\n") == 1 and not out


def test_the_model_of_a_schedule_by_hand() -> None:
    """An ASPP at batch 1, one tile of one worker, and two tiles of three."""
    branches = [256, 1, 1, 256, 3, 6, 256, 3, 12, 256, 3, 18]
    _, *aspp = schedule.modelled([1, 32, 32, 2048, 1, 8, 16, 256, 2, 66, *branches])
    assert aspp[:7] == ["1.6902", "1", "2", "33.6", "40.4", "34.8", "33.6"]
    once = f"{(8 * 16 + 256) * 64 * 2 / 1e6:.1f}"
    one = schedule.modelled([1, 8, 16, 64, 1, 8, 16, 256, 1, 1, 256, 1, 1])
    assert one[:8] == ["3.5", "1.0000", "1", "1", *[once] * 4]
    # Of dx 4 steps of 64 outputs, of dw 2 boxes of 64 pixels, and 3 for an epilogue; all in tiles of 128 columns.
    assert one[8:] == [f"{0.55 * (4 + 3):.1f}", "1.0000", f"{0.55 * (2 + 3):.1f}", "1.0000"]
    # Two tiles of 32 steps over three workers: the second leaves 11, takes 10 steps, and waits for the 22 of the third.
    longest = (22 + 2.5) + 3.5 + 2.5
    two = schedule.modelled([2, 8, 16, 2048, 1, 8, 16, 256, 1, 3, 256, 1, 1])
    assert two[:2] == [f"{longest:.1f}", f"{longest * 3 / (64 + 2 * 2.5):.4f}"]


@needs_cpu
def test_peak_memory_keeps_the_allocators_remark_to_itself(capfd: pytest.CaptureFixture[str]) -> None:
    """PyTorch writes it where a call frees what lay there before; what others write stays."""
    blocks = [torch.randn(1 << 16) for _ in range(3)]

    def call() -> None:
        blocks.clear()
        print("kept", file=sys.stderr)

    timing.peak_memory(call, "cpu")
    assert capfd.readouterr().err == "kept\n"


def test_off_a_terminal_lines_say_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LINES", -1.0)
    for item in console.progress(["first", "second"], "work"):
        console.say(f"did {item}")
    out, err = capsys.readouterr()
    assert out == "did first\ndid second\n"
    assert err == "work: 0 of 2 done, now first\nwork: 1 of 2 done, now second\n"
