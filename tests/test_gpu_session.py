"""The first session on a GPU: its plan, that nothing is lost when a job hangs or it is stopped, and all of it dry."""

import contextlib
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import contact
from bench.gpu_session import Session
from bench.gpu_stages import CALL, CALLS, TINY, Job, Scope, Stage
from pyramid_kernels.benchmark.modules import MODULES
from pyramid_kernels.ops import all_ops
from pyramid_kernels.verification import oracle
from tests.kernels import HALF, backends, cuda_kernels, kernel_dtypes, only, short
from tests.marks import needs_cpu, needs_simulator
from tests.processes import ROOT, python

PY = sys.executable
FAILS, PASSES = (PY, "-c", "raise SystemExit(3)"), (PY, "-c", "print('fine')")
HANGS = (PY, "-c", "import subprocess; subprocess.run(['sleep', '999.25'])")


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def logs(out: Path, call: str) -> list[str]:
    with tarfile.open(out / f"{call}.tar.gz") as tar:
        return tar.getnames()


def still_sleeping() -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # of another user, or ended meanwhile
            if b"999.25" in path.read_bytes().split(b"\0"):
                return True
    return False


def test_the_plan_fits_and_covers_every_op_and_module() -> None:
    for stages in CALLS.values():
        assert sum(stage.seconds for stage in stages) <= CALL
        for stage in stages:
            names = [job.name for job in stage.jobs(Scope())]
            assert names and len(set(names)) == len(names)
    assert list(Scope().modules) == list(MODULES)
    done = python("bench/gpu_session.py", "--plan")
    assert done.returncode == 0
    for name in ("contact: ", "wide: ", *(stage.name for stages in CALLS.values() for stage in stages)):
        assert name in done.stdout


def test_jobs_of_a_stage_fail_alone_and_a_chain_ends(tmp_path: Path) -> None:
    def jobs(scope: Scope) -> list[Job]:
        return [Job("hangs", HANGS, 1), Job("fails", FAILS), Job("is-not-there", ("no-such",)), Job("fine", PASSES)]

    session = Session("contact", tmp_path, Scope(), "0123abc")
    assert not session.run(Stage("side", 60, jobs, workers=2), time.monotonic() + 60, again=False)
    results = {row["job"]: row["result"] for row in rows(tmp_path)}
    assert results == {
        "hangs": "stopped after 1 s", "fails": "exit code 3", "is-not-there": "no no-such", "fine": "passed",
    }  # fmt: skip
    assert not still_sleeping()
    assert logs(tmp_path, "contact") == [
        f"contact-side-{name}.log" for name in ("fails", "fine", "hangs", "is-not-there")
    ]
    assert not session.run(
        Stage("chain", 60, lambda scope: jobs(scope)[1:], chained=True), time.monotonic() + 60, False
    )
    assert [row["job"] for row in rows(tmp_path)[4:]] == ["fails"]
    late = Stage("late", 60, lambda scope: [Job("fine", PASSES)])
    assert not session.run(late, time.monotonic(), again=False)
    assert rows(tmp_path)[-1]["result"] == "not run"
    assert session.run(late, time.monotonic() + 60, again=False)
    before = len(rows(tmp_path))
    assert session.run(late, time.monotonic(), again=False), "it has passed, and is not run again"
    assert len(rows(tmp_path)) == before


def test_what_a_stopped_session_has_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"""
import sys
from bench import gpu_session, gpu_stages as s
stages = (s.Stage("first", 99, lambda scope: [s.Job("fine", {PASSES!r})]),
          s.Stage("second", 99, lambda scope: [s.Job("hangs", {HANGS!r}), s.Job("next", {PASSES!r})]),
          s.Stage("third", 99, lambda scope: [s.Job("fine", {PASSES!r})]))
s.CALLS["wide"] = stages
sys.argv = ["gpu_session", "wide", "--out", {str(out)!r}, "--commit", "0123abc"]
raise SystemExit(gpu_session.main())
"""
    process = subprocess.Popen([PY, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while not still_sleeping():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and output.endswith("stopped\n")
    assert not still_sleeping()
    results = [(row["stage"], row["job"], row["result"]) for row in rows(out)]
    assert results[0] == ("wide/first", "fine", "passed") and results[2] == ("wide/second", "next", "not run")
    assert [
        name for name, state in json.loads((out / "state.json").read_text()).items() if state["result"] == "passed"
    ] == ["wide/first"]
    assert logs(out, "wide") == ["wide-first-fine.log", "wide-second-hangs.log"]


def test_a_tree_with_changes_is_refused(tmp_path: Path) -> None:
    done = python("bench/gpu_session.py", "contact", "--commit", "0123abc-dirty", "--out", tmp_path / "out")
    assert done.returncode == 2 and "commit its changes" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@needs_cpu
@needs_simulator
@pytest.mark.parametrize("call", CALLS)
def test_a_dry_run_of_every_stage(call: str, tmp_path: Path) -> None:
    done = python("bench/gpu_session.py", call, "--dry-run", "--out", tmp_path)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    found = rows(tmp_path)
    jobs = {(row["stage"], row["job"]): row["result"] for row in found if "job" in row}
    assert jobs == {
        (f"{call}/{stage.name}", job.name): "needs a GPU" if job.gpu else "passed"
        for stage in CALLS[call] for job in stage.jobs(TINY)
    }  # fmt: skip
    if call == "contact":
        assert [row["result"] for row in found if row["stage"] == "kernels"] == ["started", "passed"]
        assert [row["dtype"] for row in found if row["stage"] == "ceilings"] == ["float32"]
    else:
        tests = [row["test"] for row in found if row["stage"] == "suite"]
        assert tests and all("test_oracle[upsample_argmax-" in test and "-triton-" in test for test in tests)
    assert len(list(tmp_path.glob("cpu-*.csv"))) == 1
    assert len(list(tmp_path.iterdir())) <= 8


@needs_cpu
@needs_simulator
def test_contact_reaches_every_body_in_every_dtype() -> None:
    reached, expected = set[tuple[str, str]](), set[tuple[str, str]]()
    for op in all_ops():
        for dtype in kernel_dtypes(op, "cuda") if "cuda" in backends(op) else ():
            for _, _, bodies in contact.candidates(op, "cuda", dtype):
                reached |= {(body, short(dtype)) for body in bodies}
            expected |= {(body, short(dtype)) for body in cuda_kernels().get(op, ()) if dtype in only(body)}
    assert len(expected) > 100
    assert expected <= reached
    assert not {body for body, dtype in reached if body.endswith("_sm90_kernel") and dtype not in map(short, HALF)}


def test_contact_takes_cases_until_every_body_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What throws is a row, and what comes after a lost context is not tried."""
    bodies = {"a": {"fwd"}, "b": {"fwd"}, "c": {"fwd", "bwd"}, "d": {"bwd"}}
    cases = [type("Case", (), {"id": name})() for name in bodies]
    monkeypatch.setattr(contact, "candidates", lambda *_: ((case, True, bodies[case.id]) for case in cases))
    monkeypatch.setenv("GPU_SESSION_ROWS", str(tmp_path / "rows.jsonl"))

    def check(op: str, case: Any, *args: Any, **kwargs: Any) -> Any:
        if case.id == "c":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        run = type("Run", (), {"forward": bodies[case.id], "backward": set()})()
        return type("Report", (), {"run": run, "worst": 0.5, "failures": lambda self: []})()

    monkeypatch.setattr(oracle, "check", check)
    assert contact.contact("pyramid_pool", "cuda", [torch.float32]) == 1
    ended = [(row["case"], row["result"]) for row in rows(tmp_path)]
    assert ended == [(case, result) for case, last in (("a", "passed"), ("c", "failed"), ("d", "passed"))
                     for result in ("started", last)]  # fmt: skip
    monkeypatch.setattr(contact, "context_lost", lambda: True)
    assert contact.contact("pyramid_pool", "cuda", [torch.float32]) == 3
    assert [row["case"] for row in rows(tmp_path)][6:] == ["a", "a", "c", "c"]
