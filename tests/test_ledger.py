"""The user's ledger beside the shipped one: it decides what ``auto`` takes, and nothing in it can break a call."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pyramid_kernels import testing
from pyramid_kernels.backends import Problem, resolve
from pyramid_kernels.ops import all_ops
from pyramid_kernels.verification import ledger
from tests.processes import ROOT

GPU = "NVIDIA A100"
BODY = {
    "op": "pyramid_pool",
    "backend": "triton",
    "dtype": "float16",
    "layout": "channels_last",
    "arch": 80,
    "gpu": GPU,
}
ENTRY: dict[str, Any] = {**BODY, "commit": "0", "driver": "1", "ran": "verify", "result": "passed"}
RATIO: dict[str, Any] = {**BODY, "ratio": 1.3}


def why_not(
    bound: str = "memory", arch: int = 80, dtype: torch.dtype = torch.float16, last: bool = True, gpu: str = GPU
) -> str:
    return str(ledger.why_not("pyramid_pool", bound, "triton", arch, dtype, last, gpu))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(tmp_path))
    monkeypatch.setattr(ledger, "SHIPPED", tmp_path / "none.json")
    ledger.read.cache_clear()
    yield tmp_path
    ledger.read.cache_clear()


SHIPPED = ledger.SHIPPED


def test_the_shipped_file_is_well_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SHIPPED", SHIPPED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entries = ledger.read()["verified"]
    for entry in entries:
        assert {*BODY, "versions", "source", "commit", "ran", "result"} <= set(entry)


def test_an_unverified_kernel_is_refused_and_a_verified_one_taken() -> None:
    assert why_not().startswith("not verified on compute capability 8.0 for float16 channels_last; run")
    path = ledger.record("verified", ENTRY)
    assert path == ledger.user_file() and why_not() == "None"
    assert ENTRY.items() <= testing.gpu_ledger()[0].items()


@pytest.mark.parametrize(
    "other",
    [{"arch": 90}, {"gpu": "NVIDIA A30"}, {"dtype": torch.float32}, {"last": False}],
    ids=lambda other: "-".join(other),
)
def test_a_result_counts_for_its_gpu_dtype_and_layout_alone(other: dict[str, Any]) -> None:
    ledger.record("verified", ENTRY)
    ledger.record("ratios", RATIO | {"ratio": 0.5})
    assert "0.50x" in why_not()
    assert "not verified" in why_not(**other)


@pytest.mark.parametrize("part", ["package", "torch", "triton", "kernel", "shared", "used", "core"])
def test_results_of_other_versions_and_sources_do_not_count(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The op's own kernels, what all ops share, an op that it is made of, and what its CUDA core was compiled from."""
    backend = "cuda" if part == "core" else "triton"
    ops, built = tmp_path / "ops", tmp_path / "build_info.json"
    for folder, text in (
        ("_shared", "a"),
        ("separable_pyramid", "from ..pyramid_pool.op import x"),
        ("pyramid_pool", "b"),
    ):
        (ops / folder).mkdir(parents=True)
        (ops / folder / "triton.py").write_text(text)
    built.write_text(json.dumps({"sources": {"pyramid_pool": "1", "upsample_merge": "1"}}))
    monkeypatch.setattr(ledger, "OPS", ops)
    monkeypatch.setattr(ledger, "BUILD_INFO", built)
    memories = (ledger.versions, ledger.source, ledger._compiled)

    def counted() -> bool:
        for memory in memories:
            memory.cache_clear()
        problem = (80, torch.float16, True, GPU)
        return ledger.why_not("separable_pyramid", "memory", backend, *problem) is None

    ledger.record("verified", ENTRY | {"op": "separable_pyramid", "backend": backend})
    assert counted()
    built.write_text(json.dumps({"sources": {"pyramid_pool": "1", "upsample_merge": "2"}}))
    (ops / "upsample_merge").mkdir()
    (ops / "upsample_merge" / "triton.py").write_text("of another op")
    assert counted()
    changed = {"kernel": "separable_pyramid", "shared": "_shared", "used": "pyramid_pool"}
    if part in changed:
        (ops / changed[part] / "triton.py").write_text("from ..pyramid_pool.op import y")
    elif part == "core":
        built.write_text(json.dumps({"sources": {"pyramid_pool": "2", "upsample_merge": "2"}}))
    elif part == "package":
        monkeypatch.setattr(ledger, "__version__", "0.0.1")
    elif part == "torch":
        monkeypatch.setattr(torch, "__version__", "2.11.0")
    else:
        monkeypatch.setattr(ledger, "installed", lambda package: "3.6.0")
    assert not counted()
    for memory in memories:
        memory.cache_clear()


def test_every_source_that_a_cuda_kernel_includes_is_part_of_its_hash() -> None:
    for folder in (ROOT / "csrc").iterdir():
        if folder.name in all_ops():
            text = "".join(file.read_text() for file in folder.iterdir())
            named = {name for name in all_ops() if f'#include "{name}/' in text}
            assert named <= set(ledger._with_imported(folder.name)), folder.name


def test_a_failure_replaces_a_pass() -> None:
    ledger.record("verified", ENTRY)
    ledger.record("verified", ENTRY | {"result": "failed"})
    assert "verification failed on compute capability 8.0" in why_not()
    assert len(json.loads((path := ledger.user_file()) and path.read_text() or "")["verified"]) == 1


def test_a_failure_on_this_machine_outweighs_a_shipped_pass(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any pass on record used to switch a kernel on."""
    monkeypatch.setattr(ledger, "SHIPPED", ledger.record("verified", ENTRY))
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(home / "own"))
    ledger.read.cache_clear()
    assert why_not() == "None"
    ledger.record("verified", ENTRY | {"result": "failed"})
    assert why_not().startswith("verification failed on compute capability 8.0")


def test_gemm_ops_need_a_measurement_and_slow_kernels_are_off() -> None:
    assert why_not().endswith("run `python -m pyramid_kernels verify --op pyramid_pool`")
    assert why_not("gemm").endswith("and `python -m pyramid_kernels tune --op pyramid_pool --dtype float16`")
    ledger.record("verified", ENTRY)
    assert "no measurement" in why_not("gemm") and "tune --op pyramid_pool" in why_not("gemm")
    ledger.record("ratios", RATIO | {"ratio": 0.8})
    assert "0.80x" in why_not()
    ledger.record("ratios", RATIO)
    assert why_not("gemm") == "None"


def test_what_is_recorded_counts_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyramid_kernels import backends

    monkeypatch.setattr(backends, "cannot", lambda op, problem, backend: None if backend == "triton" else "absent")
    problem = Problem("cuda", 80, torch.float16, True, (), GPU)
    with pytest.warns(UserWarning, match="not verified"):
        assert resolve(all_ops()["pyramid_pool"], problem, "auto").backend == "reference"
    ledger.record("verified", ENTRY)
    assert resolve(all_ops()["pyramid_pool"], problem, "auto").backend == "triton"
    resolve.cache_clear()


def test_the_home_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger.user_file() == tmp_path / "gpu_ledger.json"
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert ledger.user_file() == tmp_path / "cache" / "pyramid_kernels" / "gpu_ledger.json"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for relative in ("", "cache", "./cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert ledger.user_file() == tmp_path / "home" / ".cache" / "pyramid_kernels" / "gpu_ledger.json"


def test_without_a_home_there_are_no_entries_and_none_can_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    assert ledger.user_file() is not None, "the home folder is not looked for where another is named"
    monkeypatch.delenv("PYRAMID_KERNELS_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert ledger.user_file() is None and "not verified" in why_not()
    with pytest.raises(ledger.LedgerError, match="no home folder; set PYRAMID_KERNELS_HOME"):
        ledger.record("verified", ENTRY)


def text(**changes: Any) -> bytes:
    return json.dumps({"verified": [ENTRY | changes]}).encode()


DAMAGED: dict[str, bytes] = {
    "cut off": b'{"verified": [{"op": "pyra',
    "empty": b"",
    "not text": bytes(range(128, 256)),
    "another kind": b"<html></html>",
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "another tool's": b'{"tool": {"version": 1}}',
    "a later version's": b'{"schema": 2, "verified": []}',
    "a section of another type": b'{"verified": {"op": "x"}}',
    "a section of numbers": b'{"verified": [1, 2]}',
    "an op that is a list": text(op=["pyramid_pool"]),
    "a result that is an object": text(result={"passed": True}),
    "an arch that is text": text(arch="80"),
    "a gpu that is null": text(gpu=None),
    "a ratio that is text": b'{"ratios": [{"op": "x", "ratio": "fast"}]}',
    "a ratio that is true": b'{"ratios": [{"op": "x", "ratio": true}]}',
    "a ratio that is no number": b'{"ratios": [{"op": "x", "ratio": NaN}]}',
    "a ratio beyond all numbers": b'{"ratios": [{"op": "x", "ratio": 1%s}]}' % (b"0" * 400),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
def test_a_file_that_cannot_be_read_is_one_warning_and_no_entries(content: bytes, home: Path) -> None:
    (home / "gpu_ledger.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"gpu_ledger\.json is ignored") as caught:
        for _ in range(3):
            assert "not verified" in why_not()
    assert len(caught) == 1 and ledger.read() == {"verified": [], "ratios": []}
    ledger.record("verified", ENTRY)
    assert why_not() == "None" and (home / "gpu_ledger.unreadable").read_bytes() == content


def test_entries_that_lack_a_name_do_not_count(home: Path) -> None:
    whole = {**ENTRY, "versions": ledger.versions(), "source": ledger.source("pyramid_pool", "triton")}
    for name in (None, *BODY, "versions", "source", "result"):
        entry = {k: v for k, v in whole.items() if k != name}
        content = {"verified": [entry, {"op": "pyramid_pool"}, {}], "ratios": [entry]}
        (home / "gpu_ledger.json").write_text(json.dumps(content))
        ledger.read.cache_clear()
        assert (why_not() == "None") == (name is None), name
        assert sum(ledger.counts(e, 80, GPU) for e in ledger.read()["verified"]) <= 1


def test_what_is_not_a_file_is_one_warning_and_cannot_be_replaced(home: Path) -> None:
    (home / "gpu_ledger.json").mkdir()
    with pytest.warns(UserWarning, match="not a file"):
        assert "not verified" in why_not()
    with pytest.raises(ledger.LedgerError, match=r"gpu_ledger\.json cannot be written"):
        ledger.record("verified", ENTRY)
    assert [path.name for path in home.iterdir() if path.suffix not in (".json", ".lock")] == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_waited_for(home: Path) -> None:
    os.mkfifo(home / "gpu_ledger.json")
    with pytest.warns(UserWarning, match="not a file"):
        assert "not verified" in why_not()


@pytest.mark.parametrize("where", ["gpu_ledger.json", "."])
def test_what_may_not_be_read_is_one_warning(where: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the file, and of its folder; the tests may run as one who may read everything."""

    def denied(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    ledger.record("verified", ENTRY)
    monkeypatch.setattr(Path, "exists" if where == "." else "read_text", denied)
    with pytest.warns(UserWarning, match="Permission denied"):
        assert "not verified" in why_not()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(tmp_path / "file" / "folder"))
    assert "not verified" in why_not()
    with pytest.raises(ledger.LedgerError, match="cannot be written: .*; set PYRAMID_KERNELS_HOME") as caught:
        ledger.record("verified")
    assert "\n" not in str(caught.value)


def test_a_write_that_stops_half_way_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.record("verified", ENTRY)
    before = (home / "gpu_ledger.json").read_bytes()

    def full(self: Path, text: str, **kwargs: Any) -> int:
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ledger.LedgerError, match="No space left"):
        ledger.record("verified", ENTRY | {"result": "failed"})
    assert (home / "gpu_ledger.json").read_bytes() == before
    assert {path.suffix for path in home.iterdir()} == {".json", ".lock"}


WRITER = """
import sys
from pyramid_kernels.verification import ledger
for i in range(40):
    ledger.record("verified", {"op": f"{sys.argv[1]}{i}", "backend": "triton", "arch": 80, "result": "passed"})
    assert ledger.read()["verified"]
"""


def test_processes_that_write_at_once_lose_nothing(home: Path) -> None:
    environment = {**os.environ, "PYRAMID_KERNELS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([sys.executable, "-W", "error", "-c", WRITER, k], env=environment) for k in "abc"]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0, 0]
    kept = {entry["op"] for entry in json.loads((home / "gpu_ledger.json").read_text())["verified"]}
    assert kept == {f"{k}{i}" for k in "abc" for i in range(40)}
