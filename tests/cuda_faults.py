"""One-line faults planted in copies of the CUDA kernels, each of which the oracle must find in the simulator.

``python -m tests.cuda_faults PLACE`` plants fault number PLACE and prints what found it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import hostsim
from tests.faults import Fault, found_in

ROOT = Path(__file__).resolve().parent.parent


def _fault(op: str, case: str, what: str, file: str, line: str, patch: str) -> Fault:
    """``file`` is under csrc/."""
    return Fault(op, case, what, file, line, patch)


FAULTS: list[Fault] = []


def found_by(fault: Fault) -> tuple[bool, str]:
    """Whether the oracle finds ``fault`` in the simulator, and its first complaint."""
    with tempfile.TemporaryDirectory(prefix="fault_") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "csrc", folder / "csrc", ignore=shutil.ignore_patterns("tests"))
        path = folder / "csrc" / fault.file
        text = path.read_text()
        if fault.line not in text:
            return False, f"the line is no longer in {fault.file}: {fault.line.strip()}"
        path.write_text(text.replace(fault.line, fault.patch, 1))
        module = _linked(folder, [_compiled(folder, unit) for unit in sorted((ROOT / "csrc" / fault.op).glob("*.cu"))])
        return found_in(fault, "cuda", {"PYTHONPATH": str(ROOT), hostsim.SIMULATOR: str(module)})


def _compiled(folder: Path, unit: Path) -> Path:
    """The object of ``unit`` with the sources in ``folder``, by the command that compiled it for the simulator."""
    commands = json.loads((hostsim.BUILD / "compile_commands.json").read_text())
    command = next(c["command"] for c in commands if c["file"] == str(unit) and "kernels_host" in c["output"])
    target = folder / f"{unit.stem}.o"
    arguments = shlex.split(command.replace(str(ROOT / "csrc"), str(folder / "csrc")))
    arguments[arguments.index("-o") + 1] = str(target)
    _run([*arguments, "-O1"])
    return target


def _linked(folder: Path, objects: list[Path]) -> Path:
    """A copy of the simulator's module in which ``objects`` come before their like in the library of kernels."""
    module = folder / hostsim.MODULE.name
    bindings = next(hostsim.BUILD.glob("**/bindings.cpp.o"))
    libraries = [next(hostsim.BUILD.glob(f"**/{name}")) for name in ("libkernels_host.a", "libhostsim.a")]
    compiler = hostsim.compiler() or "c++"
    _run([compiler, "-shared", "-o", str(module), str(bindings), *map(str, objects), *map(str, libraries)])
    return module


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=hostsim.BUILD, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    os.environ.pop(hostsim.SIMULATOR, None)
    hostsim.build()
    print(found_by(FAULTS[int(sys.argv[1])]))
