"""Candidates tried in processes of their own, timed, chosen and remembered; ``fuse_`` keeps what is faster."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels import backends, functional
from pyramid_kernels.backends import OPS, Problem, select
from pyramid_kernels.fuse import keep
from pyramid_kernels.proving import prover, results, trial
from pyramid_kernels.proving.prover import Prover, noted
from pyramid_kernels.proving.trial import Call, Modes, Verdict
from pyramid_kernels.verification import ledger

H200 = "NVIDIA H200, 132 SMs"
GEMM = Problem("cuda", 90, torch.bfloat16, True, ("bilinear", 2), "NVIDIA H200")
SIZES = (1, 128, 3, 64, 64, 256, 64, 64, 64, 16, 16)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of results, and nothing remembered before or after."""
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(tmp_path))
    again()
    yield tmp_path
    again()


def again() -> None:
    """As in a new process."""
    for memory in (results.entries.cache_clear, results._warn.cache_clear, *ledger.forget):
        memory()


def conv(training: bool = False, out: int = 6) -> Call:
    """A call of pyramid_conv: two maps that meet at 12x16."""
    torch.manual_seed(0)
    maps = [torch.randn(2, 5, 12, 16), torch.randn(2, 3, 6, 8)]
    arguments = {"maps": maps, "weight": torch.randn(out, 8, 3, 3) / 8, "bias": None, "size": (12, 16)}
    if training:
        arguments = {k: v.requires_grad_() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    return Call("pyramid_conv", arguments, Modes(training, ()))


# A candidate in a process of its own.

FAULTY = """
import importlib.abc, importlib.util, os, signal, sys, time

def wrong(y): return y + 1e-3
def raises(y): raise RuntimeError("no such thing")
def hangs(y): time.sleep(1000)
def dies(y): os.kill(os.getpid(), signal.SIGSEGV)
def loses(y):
    # As an illegal access: it, and all that comes after it in this process, fails.
    import torch
    from pyramid_kernels.proving import trial
    torch.cuda.is_available, trial.lost, trial.judged = lambda: True, lambda device: "lost", lambda *job: raises(job)
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

class Faults(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        op = name.split(".")[2] if name.startswith("pyramid_kernels.ops.") and name.endswith(".composed") else None
        fault = dict(pair.split(":") for pair in os.environ["FAULTS"].split()).get(op)
        if fault is None: return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            right = getattr(module, op)
            setattr(module, op, lambda *args: globals()[fault](right(*args)))
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Faults())
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Plants faults ("op:fault ...") in the composed forms of every process that is started."""

    def plant(faults: str) -> None:
        folder = tmp_path / "faulty"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(FAULTY)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("FAULTS", faults)
        monkeypatch.setattr(trial, "LIMIT", 5.0)
        monkeypatch.setattr(trial, "BEGIN", 60.0)

    return plant


@pytest.mark.slow
def test_every_kind_of_fault_is_its_candidates_alone(faulty: Callable[[str], None]) -> None:
    faulty("pyramid_conv:wrong pyramid_pool:raises channel_gate:hangs dilated_branches:dies")
    x = torch.randn(1, 6, 16, 16)
    calls = [
        conv(),
        Call("pyramid_pool", {"x": x, "bins": [1, 2]}, Modes(False, ())),
        Call("channel_gate", {"x": x, "weight1": torch.randn(6, 6)}, Modes(False, ())),
        Call("dilated_branches", {"x": x, "weights": [torch.randn(4, 6, 3, 3)], "dilations": [2]}, Modes(False, ())),
        Call("max_pool_pyramid", {"x": x, "kernel_sizes": [3, 5]}, Modes(False, ())),
    ]  # fmt: skip
    wrong, raised, hung, died, right = trial.tried([(call, "composed") for call in calls])
    assert 1 < wrong.error < trial.WRONG and "error over limit" in wrong.wrong
    assert raised == Verdict(trial.WRONG, "RuntimeError: no such thing")
    assert hung == Verdict(trial.WRONG, "it did not end within 5 s")
    assert died == Verdict(trial.WRONG, "its process ended by SIGSEGV")
    assert right.error <= 1 and not right.wrong


@pytest.mark.slow
def test_a_lost_gpu_is_its_candidates_alone(faulty: Callable[[str], None]) -> None:
    faulty("pyramid_conv:loses")
    lost, right = trial.tried([(conv(), "composed"), (at_pool(), "composed")])
    assert "illegal memory access" in lost.wrong and right.error <= 1 and not right.wrong


def test_where_no_process_begins_nothing_is_to_blame(
    faulty: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty("")
    (tmp_path / "faulty" / "sitecustomize.py").write_text(
        f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); exit('no')"
    )
    both = trial.tried([(conv(), "composed"), (at_pool(), "composed")])
    assert both == [Verdict(trial.WRONG, "its process ended with 1: SystemExit: no", lasting=False)] * 2
    assert (tmp_path / "starts").read_text() == "x"

    # As where another process has the GPU to itself.
    torch.save([], tmp_path / "jobs")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(trial, "compile_ahead", lambda jobs: None)
    monkeypatch.setattr(trial, "lost", lambda device: "devices are busy")
    with pytest.raises(SystemExit, match="devices are busy"):
        trial.main(str(tmp_path), "0")
    assert not (tmp_path / "began").exists()


def at_pool() -> Call:
    return Call("pyramid_pool", {"x": torch.randn(1, 6, 16, 16), "bins": [1, 2]}, Modes(False, ()))


def test_a_wrong_candidate_is_said_and_not_taken_again(faulty: Callable[[str], None]) -> None:
    faulty("pyramid_conv:dies")
    first, second = Prover(False), Prover(False)
    first.settle([conv()])
    assert first.refused == {("pyramid_conv", "composed"): "its process ended by SIGSEGV"}
    again()
    os.environ["FAULTS"] = "pyramid_conv:hangs"  # what a second try would do
    second.settle([conv(out=7)])
    assert second.refused == first.refused and select(*conv(out=7).entry(), "auto") == "reference"


# What is chosen, with times that are given.


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU whose candidates are right, and have these ratios; what they are asked."""
    state: dict[str, Any] = {"ratios": {}, "tried": [], "judged": []}
    monkeypatch.setattr(results, "place", lambda kind: H200)
    monkeypatch.setattr(backends, "cannot", lambda op, problem, backend: None)
    monkeypatch.setattr(prover, "cannot", lambda op, problem, backend: None)
    monkeypatch.setattr(prover, "timed", lambda call, able: {b: state["ratios"][b] for b in able})
    right = Verdict(0.5)
    monkeypatch.setattr(prover, "judged", lambda call, backend: state["judged"].append(backend) or right)
    monkeypatch.setattr(prover, "tried", lambda jobs: [state["tried"].append(b) or right for _, b in jobs])
    monkeypatch.setattr(Call, "entry", lambda call: (OPS["pyramid_conv"], GEMM, call.arguments["sizes"]))
    return state


def at(sizes: tuple[int, ...] = SIZES, training: bool = False) -> Call:
    return Call("pyramid_conv", {"sizes": sizes}, Modes(training, ()))


def auto(sizes: tuple[int, ...] = SIZES, problem: Problem = GEMM, training: bool = False) -> str:
    with torch.set_grad_enabled(training), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return select(OPS["pyramid_conv"], problem, sizes, "auto")


def test_the_fastest_is_taken_and_only_if_it_is_faster(given: dict[str, Any]) -> None:
    given["ratios"] = {"cuda": 1.1, "triton": 1.8, "composed": 1.2}
    Prover(False).settle([at()])
    assert auto() == "triton"
    given["ratios"] = {"cuda": 0.9, "triton": 1.02, "composed": 0.5}
    larger = (4, *SIZES[1:3], 128, 128, *SIZES[5:])
    Prover(False).settle([at(larger)])
    assert auto(larger) == "reference" and auto() == "triton"


def test_each_body_is_tried_apart_once(given: dict[str, Any]) -> None:
    given["ratios"] = dict.fromkeys(("cuda", "triton", "composed"), 2.0)
    Prover(False).settle([at(), at((2, *SIZES[1:])), at()])
    assert sorted(given["tried"]) == ["composed", "cuda", "triton"] == sorted(given["judged"])
    again()
    Prover(False).settle([at((3, *SIZES[1:])), at()])
    assert len(given["tried"]) == 3 and len(given["judged"]) == 6


def test_the_nearest_size_the_other_mode_and_then_what_was_shipped(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given["ratios"] = {"cuda": 2.0, "triton": 1.0, "composed": 1.0}
    Prover(True).settle([at(training=True)])
    near, far = (2, *SIZES[1:]), (64, *SIZES[1:])
    assert auto(training=True) == auto(training=False) == auto(near) == "cuda"
    # Far from what was measured: what is shipped, then fewer multiply-adds, then the unfused chain.
    monkeypatch.setattr(ledger, "why_not", lambda op, bound, backend, *place: None if backend == "triton" else "no")
    backends.resolve.cache_clear()
    assert auto(far) == "triton"
    monkeypatch.setattr(ledger, "why_not", lambda *place: "not verified")
    backends.resolve.cache_clear()
    monkeypatch.setattr(OPS["pyramid_conv"].composed, "share", lambda sizes: 0.6)
    assert auto(far) == "composed"
    monkeypatch.setattr(OPS["pyramid_conv"].composed, "share", lambda sizes: 0.7)
    assert auto(far) == "reference"
    assert auto(problem=GEMM._replace(dtype=torch.float32)) == "reference", "another dtype is another problem"


def test_other_sources_versions_and_devices_are_others(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given["ratios"] = dict.fromkeys(("cuda", "triton", "composed"), 2.0)
    Prover(False).settle([at()])
    assert auto() == "cuda"
    with monkeypatch.context() as changed:
        changed.setattr(ledger, "source", lambda op, backend: "another")
        again()
        assert auto() == "reference"
    for name, value in (("versions", lambda: "another"),):
        with monkeypatch.context() as changed:
            changed.setattr(ledger, name, value)
            again()
            assert auto() == "reference"
    monkeypatch.setattr(results, "place", lambda kind: "NVIDIA H100, 132 SMs")
    again()
    assert auto() == "reference"


def test_graphs_that_are_compiled_do_not_look(given: dict[str, Any]) -> None:
    given["ratios"] = dict.fromkeys(("cuda", "triton", "composed"), 2.0)
    Prover(False).settle([at()])
    token = backends.for_inductor.set(True)
    try:
        assert auto() == "reference"
    finally:
        backends.for_inductor.reset(token)


# What is remembered.


def test_entries_of_two_processes_at_once(home: Path) -> None:
    program = """
import sys
from pyramid_kernels.proving import results
for i in range(30):
    results.put("somewhere", "model", f"{i % 20} {sys.argv[1] if i % 20 > 9 else ''}", {"ratio": len(sys.argv)})
"""
    children = [subprocess.Popen([sys.executable, "-c", program, name]) for name in ("a", "b")]
    assert [child.wait() for child in children] == [0, 0]
    assert len(results.entries("somewhere")) == 30
    files = list(home.rglob("*.*"))
    assert len(files) == 30 and all(json.loads(file.read_text())["ratio"] == 2 for file in files)


def test_files_that_cannot_be_read_are_one_warning(home: Path) -> None:
    results.put("somewhere", "model", "one", {"ratio": 2.0})
    (folder := results.folder("somewhere")).joinpath("problem-2.json").write_text("{")  # type: ignore[union-attr]
    folder.joinpath("problem-3.json").write_text("[]")  # type: ignore[union-attr]
    again()
    with pytest.warns(UserWarning, match="2 files in .* are ignored") as said:
        assert results.get("somewhere", "model", "one") == {"ratio": 2.0}
    assert len(said) == 1


def test_a_folder_that_cannot_be_written_is_one_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(home / "file"))
    with pytest.warns(UserWarning, match="kept for this process alone") as said:
        for key in ("one", "two"):
            results.put("somewhere", "problem", key, {"choice": "cuda"})
    assert len(said) == 1 and results.get("somewhere", "problem", "two") == {"choice": "cuda"}


# Models.


class Net(nn.Module):
    """A pyramid of a known class, one that only its graph shows, and a part that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, stride=2)
        self.context = pk.nn.ReferenceASPP(16, (2, 4), 8)
        self.se = Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.se(self.context(self.stem(x)))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.layer(x.mean((2, 3), keepdim=True)))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Ratios that modules and candidates get instead of measured ones, by the class of the module, or "op"."""
    ratios: dict[str, float] = {"op": 1.5}

    def of_module(device: str, kind: str, key: str, ratio: Any) -> float:
        return ratios.get(json.loads(key)[0].rpartition(".")[2].removeprefix("Reference"), 2.0)

    monkeypatch.setattr(keep, "_once", of_module)
    monkeypatch.setattr(prover, "timed", lambda call, able: {b: ratios["op"] for b in able})
    monkeypatch.setattr(prover, "tried", lambda jobs: [trial.judged(*job) for job in jobs])
    return ratios


@pytest.mark.parametrize("training", [False, True])
def test_what_is_faster_is_kept(timed: dict[str, float], training: bool) -> None:
    model, x = Net().train(training), torch.randn(2, 3, 24, 32)
    before = copy.deepcopy(model)
    report = pk.fuse_(model, example_input=x)
    assert [(e.path, e.status, e.ratio) for e in report.entries] == [("context", "fused", 2.0), ("se", "fused", 2.0)]
    assert all(e.error is not None and e.error <= 1 for e in report.fused) and report.speedup == 2.0
    assert "composed" in report.entries[1].detail and "unfused / fused" in str(report)
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    torch.testing.assert_close(model.eval()(x), before.eval()(x), rtol=1e-4, atol=1e-5)


def test_what_is_slower_is_left_and_said(timed: dict[str, float]) -> None:
    model, x = Net().eval(), torch.randn(2, 3, 24, 32)
    timed |= {"ASPP": 0.93, "Gate": 0.8}
    report = pk.fuse_(model, example_input=x)
    assert [(e.path, e.status, e.ratio) for e in report.entries] == [("context", "left", 0.93), ("se", "left", 0.8)]
    assert type(model.context) is pk.nn.ReferenceASPP and not pk.unfuse_(model) and report.speedup is None
    assert "0.93" in str(report) and not report.fused and not any(line.fused for line in report.pyramids)
    with pytest.raises(pk.FuseError, match="nothing was fused"):
        pk.fuse_(model, example_input=x, strict=True)


def test_a_candidate_that_does_not_pay_leaves_its_module(timed: dict[str, float]) -> None:
    timed["op"] = 0.9
    model = Gate().eval()
    report = pk.fuse_(model, example_input=torch.randn(2, 8, 12, 16))
    assert not report.fused and report.pyramids[0].detail == "the unfused chain is what auto takes here at these sizes"


@pytest.mark.parametrize("how", [{"backend": "composed"}, {"prove": False}])
def test_a_named_backend_and_prove_off_keep_every_swap(how: dict[str, Any], home: Path) -> None:
    report = pk.fuse_(Net().eval(), example_input=torch.randn(2, 3, 24, 32), **how)
    assert report.entries[0].fused and report.entries[0].ratio is None and not list(home.rglob("*.json"))


def test_an_example_that_does_not_fit_is_the_models_error(home: Path) -> None:
    model = Net().eval()
    with pytest.raises(RuntimeError, match="channels"):
        pk.fuse_(model, example_input=torch.randn(2, 4, 24, 32))
    assert type(model.context) is pk.nn.ReferenceASPP and not list(home.rglob("*.json"))


def test_a_second_process_finds_all(timed: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 24, 32)
    pk.fuse_(Net().eval(), example_input=x)
    again()
    monkeypatch.setattr(prover, "timed", None)
    monkeypatch.setattr(prover, "judged", None)
    monkeypatch.setattr(prover, "tried", lambda jobs: jobs and pytest.fail("tried again"))
    assert len(pk.fuse_(Net().eval(), example_input=x).fused) == 2


def test_only_what_is_considered_is_timed(timed: dict[str, float]) -> None:
    """Others that are fused, before or by construction, stay as they are."""
    x = torch.randn(2, 3, 24, 32)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), pk.nn.ASPP(16, (2, 4), 8), Gate()).eval()
    assert [entry.path for entry in pk.fuse_(model, only="2", example_input=x).entries] == ["2"]
    net = Net().eval()
    pk.fuse_(net, only="context")
    assert [entry.path for entry in pk.fuse_(net, only="se", example_input=x).entries] == ["se"]
    assert pk.unfuse_(net) == ["context", "se"]


def test_what_was_fused_before_stays_so(timed: dict[str, float]) -> None:
    model, x = Net().eval(), torch.randn(2, 3, 24, 32)
    pk.fuse_(model, backend="composed", example_input=x)
    with pk.testing.count_ops() as before:
        model(x)
    timed |= {"ASPP": 0.9, "Gate": 0.9}
    with pk.fused(model, example_input=x) as report:
        assert not report.fused and type(model.context) is pk.nn.ReferenceASPP
    with pytest.raises(pk.FuseError):
        pk.fuse_(model, example_input=x, strict=True)
    with pk.testing.count_ops() as ops:
        model(x)
    assert ops == before and ops["channel_gate"] == 1


def test_a_graph_around_a_fused_module_is_not_disturbed(timed: dict[str, float]) -> None:
    class Mixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.context(self.stem(x))
            return y * torch.sigmoid(self.se.layer(y.mean((2, 3), keepdim=True)))

    model, x = Mixed().eval(), torch.randn(2, 3, 24, 32)
    pk.fuse_(model, example_input=x)
    with pk.testing.count_ops() as ops:
        model(x)
    assert ops["dilated_branches"] and ops["channel_gate"] == 1
    torch._dynamo.reset()


def test_a_hook_added_after_a_graph_was_read_runs(timed: dict[str, float]) -> None:
    model, x = Net().eval(), torch.randn(2, 3, 24, 32)
    pk.fuse_(model, example_input=x)
    heard: list[nn.Module] = []
    model.context.convs[0][0].register_forward_hook(lambda module, *_: heard.append(module))
    model(x)
    assert len(heard) == 1


def test_checkpoints_in_training(timed: dict[str, float]) -> None:
    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.se(torch.utils.checkpoint.checkpoint(self.context, self.stem(x), use_reentrant=True))

    model = Checkpointed().train()
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    assert pk.fuse_(model, example_input=torch.randn(2, 3, 24, 32)).fused
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["stem.weight"]
    assert torch.equal(model.stem.weight.grad, torch.ones_like(model.stem.weight))


def test_two_threads_fuse_at_once(timed: dict[str, float]) -> None:
    models, x = [Net().eval() for _ in range(2)], torch.randn(2, 3, 24, 32)
    with ThreadPoolExecutor(2) as workers:
        reports = list(workers.map(lambda model: pk.fuse_(model, example_input=x), models))
    assert [len(report.fused) for report in reports] == [2, 2]


def test_a_trial_that_could_not_be_made_is_not_remembered(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(home / "nothing"))
    first = Prover(False)
    first.settle([conv()])
    assert "could not be tried" in first.refused["pyramid_conv", "composed"] and not list(home.rglob("*.json"))


def test_modules_of_the_working_folder_are_not_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queue.py").write_text("raise RuntimeError('a script of the user')")
    monkeypatch.chdir(tmp_path)
    (verdict,) = trial.tried([(conv(), "composed")])
    assert verdict.error <= 1 and not verdict.wrong


@pytest.mark.parametrize("entry", [{"choice": "foo"}, {}, {"choice": "cuda"}, {"choice": None}], ids=str)
def test_an_entry_of_nonsense_raises_nowhere(entry: dict[str, Any], home: Path) -> None:
    call = conv()
    op, problem, sizes = call.entry()
    where, key = results.place("cpu"), results.problem_key(op.name, problem, sizes, False)
    results.put(where, "problem", key, {"ratios": {}, **entry})
    results.put(where, "problem", "no key", {"ratios": {}, "choice": "composed"})
    again()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert select(op, problem, sizes, "auto") in ("reference", "composed")


def test_a_head_whose_result_is_the_models(timed: dict[str, float]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), pk.nn.ReferenceASPP(16, (2, 4), 8)).eval()
    report = pk.fuse_(model, example_input=torch.randn(2, 3, 24, 32))
    assert [entry.path for entry in report.entries] == ["1"], report


def test_calls_are_noted_as_they_are() -> None:
    x = torch.randn(1, 4, 6, 8)
    with noted() as calls, torch.no_grad():
        functional.pyramid_pool(x, [1, 2], backend="reference")
        x.zero_()
    ((op, arguments, modes),) = calls
    assert (op, modes) == ("pyramid_pool", Modes(False, ())) and arguments["x"].any() and "backend" not in arguments


@pytest.mark.slow
def test_real_times_end_to_end(home: Path) -> None:
    """Nothing replaced: whatever is faster here, the result is right, and the second time nothing is timed."""
    model, x = Net().eval(), torch.randn(1, 3, 64, 64)
    expected = model(x)
    first = pk.fuse_(copy.deepcopy(model), example_input=x)
    kept = sorted(file.name for file in home.rglob("*.json"))
    second = pk.fuse_(model, example_input=x)
    assert str(first) == str(second) and kept == sorted(file.name for file in home.rglob("*.json"))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert {e.status for e in first.entries} <= {"fused", "left"} and any(name.startswith("trial") for name in kept)
