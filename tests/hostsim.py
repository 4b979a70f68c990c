"""Builds the host simulator's Python module, on which the suite runs backend="cuda" without a GPU.

``python -m tests.hostsim`` builds it and nothing else. ``python -m tests.hostsim sanitized`` builds the module whose
kernels are compiled with AddressSanitizer and UBSan, ``race`` the one that is watched for races on shared memory, and
runs on it a share of the CUDA kernels' tests, in about two minutes. ``bench.profile`` builds ``profile`` for itself.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from filelock import FileLock

from pyramid_kernels._native import SIMULATOR
from pyramid_kernels.ops import all_ops
from tests.processes import ROOT

BUILD = ROOT / "build" / "hostsim"
MODULE = BUILD / "hostsim" / f"_hostsim{sysconfig.get_config_var('EXT_SUFFIX')}"
OPTIONS = ("-G", "Ninja", "-DPK_CUDA=OFF", f"-DPython_EXECUTABLE={sys.executable}")


def build(flavour: str = "") -> str | None:
    """Bring the module up to date and name it in the environment; the reason where that cannot be.

    Ninja rebuilds what changed. A module that the environment names already is taken as it is.
    """
    if SIMULATOR in os.environ:
        return None
    if not compiler():
        return "no C++ compiler for the host simulator; install g++ or set CXX"
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / "lock"):
        if not (BUILD / "build.ninja").exists():
            _run("cmake", "-S", str(ROOT), "-B", str(BUILD), *OPTIONS)
        _run("cmake", "--build", str(BUILD), "--target", f"_hostsim_{flavour}" if flavour else "_hostsim", "-j", "2")
    os.environ[SIMULATOR] = str(MODULE.parent / flavour / MODULE.name)
    return None


def compiler() -> str | None:
    """The C++ compiler that CMake would take."""
    return next(filter(None, (shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++") if name)), None)


def run(flavour: str) -> int | str:
    """Build ``flavour`` and run `make test`'s share of the CUDA kernels' tests on it, as far as they differ there.

    Oracle and hygiene tests hold every case and kernel body; a race does not depend on alignment, which is hygiene's.
    """
    if reason := build(flavour):
        return reason
    environment, kinds = dict(os.environ), "oracle"
    if flavour == "sanitized":
        kinds += " or hygiene"
        # Python is not linked with the sanitizer, whose library must come first and must find C++'s.
        environment["LD_PRELOAD"] = " ".join(map(_library, ("libasan.so", "libstdc++.so")))
        environment["ASAN_OPTIONS"] = "detect_leaks=0"
    # The ops' own tests besides. Uncaptured, or a report would go down with the process.
    command = [sys.executable, "-m", "pytest", "-n", "2", "-q", "-s", "-m", "not slow"]
    command += ["-k", f"(cuda or ampere) and (not test_ops or {kinds})"]
    files = [ROOT / "tests" / f"test_{name}.py" for name in ("ops", "other_calls", *all_ops())]
    command += [str(path) for path in files if path.exists()]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def _library(name: str) -> str:
    command = [compiler() or "c++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _run(*command: str) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-8000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]) if sys.argv[1:] else build())
