"""``python bench/gpu_session.py contact --out DIR``, then ``wide``: what a new GPU is asked, in eight minutes each.

*contact*: do the kernels compile, run and give the right numbers, and what are the ceilings and the rivals' times?
*wide*: every Triton body, the generic suite, the benchmarks. A stage is a row of CALLS: its seconds and its jobs, each
a process of its own with a time limit, so that a hang or a lost context costs one job. DIR gets a few files, however
long the session: rows (``rows.jsonl`` and the CSVs of ``bench.run``) as they come, ``state.json`` and a tar of the logs
after every stage, also when the session is stopped. A stage that has passed in DIR is not run again. It needs Python,
torch with CUDA, Triton, nvcc, CMake, Ninja and pybind11; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for running it as a file

from bench.gpu_stages import CALL, CALLS, TINY, Job, Scope, Stage  # noqa: E402

#: Bytes of every log that are kept: its end.
KEPT = 1 << 20


class Session:
    """One call into one folder."""

    def __init__(self, call: str, out: Path, scope: Scope, commit: str) -> None:
        self.call, self.out, self.scope = call, out, scope
        self.logs = ROOT / "build" / "gpu_session" / f"{call}-{os.getpid()}"
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        self.writing = threading.Lock()
        paths = {"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)}
        self.environment = os.environ | {
            "GPU_SESSION_ROWS": str(out / "rows.jsonl"), "PYRAMID_KERNELS_HOME": str(out), "PYTHONUNBUFFERED": "1",
            "PYRAMID_KERNELS_CUDA_ARCHS": "90a-real", "TRITON_CACHE_DIR": str(ROOT / "build" / "triton"),
            "OMP_NUM_THREADS": "1", "PYRAMID_KERNELS_COMMIT": commit,
            # All cores for the longest file too, not only one file per core.
            "NVCC_APPEND_FLAGS": "-split-compile=0",
        }  # fmt: skip
        for name, first in paths.items():
            self.environment[name] = os.pathsep.join(filter(None, (first, os.environ.get(name))))

    def run(self, stage: Stage, until: float, again: bool) -> bool:
        """Run a stage unless it has passed; whether it has."""
        states, key, start = self.states(), f"{self.call}/{stage.name}", time.monotonic()
        if states.get(key, {}).get("result") == "passed" and not again:
            print(f"{key}: passed before", flush=True)
            return True
        jobs, results = stage.jobs(self.scope), list[str]()
        with ThreadPoolExecutor(stage.workers) as pool:
            for job in jobs if stage.chained else ():
                results.append(self.job(key, job, until))
                if results[-1] not in ("passed", "needs a GPU"):
                    break
            results += pool.map(lambda job: self.job(key, job, until), () if stage.chained else jobs)
        passed = all(result in ("passed", "needs a GPU") for result in results)
        states[key] = {"result": "passed" if passed else "failed", "seconds": round(time.monotonic() - start, 1)}
        replace(self.out / "state.json", (json.dumps(states, indent=1) + "\n").encode())
        self.pack()
        print(f"{key}: {states[key]['result']} in {states[key]['seconds']} s", flush=True)
        return passed

    def job(self, stage: str, job: Job, until: float) -> str:
        """Run one job within its own limit and the stage's; its result, which is a row as well."""
        start = time.monotonic()
        limit = min(job.seconds * self.scope.patience, until - start)
        if job.gpu and self.scope.dry:
            result = "needs a GPU"
        elif self.stopped or limit < 1:
            result = "not run"
        else:
            result = self.process(job, self.logs / f"{stage.replace('/', '-')}-{job.name}.log", limit)
        row = {"stage": stage, "job": job.name, "result": result, "seconds": round(time.monotonic() - start, 1)}
        with self.writing, (self.out / "rows.jsonl").open("a") as rows:
            rows.write(json.dumps(row) + "\n")
        if result not in ("passed", "needs a GPU"):
            print(f"  {stage} {job.name}: {result} after {row['seconds']} s", flush=True)
        return result

    def process(self, job: Job, log: Path, limit: float) -> str:
        command = [part.replace("{out}", str(self.out)) for part in job.command]
        with log.open("w") as file:
            file.write(f"$ {' '.join(command)}\n")
            file.flush()
            try:  # a group of its own, to be ended with its children, in the session that ends with us
                process = subprocess.Popen(
                    command, cwd=ROOT, env=self.environment, stdout=file, stderr=subprocess.STDOUT, process_group=0
                )
            except FileNotFoundError:
                return f"no {command[0]}"
            self.running.add(process)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                return f"stopped after {limit:.0f} s"
            finally:
                end(process)
                self.running.discard(process)
        return "passed" if code == 0 else f"exit code {code}"

    def stop(self, *_: Any) -> None:
        """End what runs and start nothing more: the stage at work then ends and writes what there is."""
        self.stopped = True
        for process in list(self.running):
            kill(process, signal.SIGKILL)

    def states(self) -> dict[str, Any]:
        path = self.out / "state.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def pack(self) -> None:
        """The end of every log in one file."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as tar:
            for path in sorted(self.logs.iterdir()):
                data = path.read_bytes()[-KEPT:]
                entry = tarfile.TarInfo(path.name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        replace(self.out / f"{self.call}.tar.gz", content.getvalue())


def end(process: subprocess.Popen[bytes]) -> None:
    """End a job and its children (Ninja ends its own only if asked); one that hangs in the driver is not waited for."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        kill(process, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)


def kill(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def described() -> str:
    """The commit of this tree; "unknown" where it is no checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    if not shutil.which("git") or not (ROOT / ".git").exists():
        return "unknown"
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def replace(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)


def plan() -> str:
    lines = []
    for call, stages in CALLS.items():
        lines.append(f"{call}: {sum(stage.seconds for stage in stages)} of {CALL} s")
        for stage in stages:
            jobs = stage.jobs(Scope())
            lines.append(f"  {stage.name:12} {stage.seconds:4} s  {len(jobs):3} jobs, {stage.workers} at a time")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python bench/gpu_session.py", description="The first session on a GPU.")
    parser.add_argument("call", nargs="?", choices=CALLS)
    parser.add_argument("--plan", action="store_true", help="print the stages with their seconds")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-session")), help="default: $OUT")
    parser.add_argument("--again", action="store_true", help="run stages that have passed already, too")
    parser.add_argument("--commit", help="what rows name where the tree is no checkout")
    parser.add_argument("--dry-run", action="store_true", help="a little of every stage, in simulator and interpreter")
    args = parser.parse_args()
    if args.plan:
        print(plan())
        return 0
    if not args.call:
        parser.error(f"a call is missing: one of {', '.join(CALLS)}")
    commit = args.commit or ("dry-run" if args.dry_run else described())
    if commit.endswith("-dirty"):
        parser.error(f"the tree is {commit}: commit its changes, or its rows could not be reproduced")
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    session = Session(args.call, out, TINY if args.dry_run else Scope(), commit)
    signal.signal(signal.SIGTERM, session.stop)
    signal.signal(signal.SIGINT, session.stop)
    until, failed = time.monotonic(), []
    for stage in CALLS[args.call]:
        until += stage.seconds * session.scope.patience
        if not session.stopped and not session.run(stage, until, args.again):
            failed.append(stage.name)
    print("stopped" if session.stopped else f"failed: {', '.join(failed)}" if failed else "every stage passed")
    return int(bool(failed) or session.stopped)


if __name__ == "__main__":
    raise SystemExit(main())
