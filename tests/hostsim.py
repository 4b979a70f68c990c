"""Builds the host simulator's Python module, on which the suite runs backend="cuda" without a GPU.

``python -m tests.hostsim`` builds it and nothing else; the native tests are further targets of the same folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from filelock import FileLock

from pyramid_kernels._native import SIMULATOR

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "hostsim"
MODULE = BUILD / "csrc" / "tests" / f"_hostsim{sysconfig.get_config_var('EXT_SUFFIX')}"
OPTIONS = ("-G", "Ninja", "-DPK_CUDA=OFF", f"-DPython_EXECUTABLE={sys.executable}")


def build() -> str | None:
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
        _run("cmake", "--build", str(BUILD), "--target", "_hostsim", "-j", "2")
    os.environ[SIMULATOR] = str(MODULE)
    return None


def compiler() -> str | None:
    """The C++ compiler that CMake would take."""
    return next(filter(None, (shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++") if name)), None)


def _run(*command: str) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-8000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    sys.exit(build())
