"""Packages the tree, with ``bench/`` as ``pyramid_kernels._bench``; never imports torch, so build isolation works."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def commit() -> str:
    """The commit built from, or "unknown" outside a checkout."""
    git = shutil.which("git")
    if not git or not (ROOT / ".git").exists():
        return "unknown"
    done = subprocess.run([git, "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def check_cuda() -> str:
    """What the build says about CUDA; exits where PYRAMID_KERNELS_CUDA=1 asks for what this version does not have."""
    wanted = os.environ.get("PYRAMID_KERNELS_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        sys.exit(f"PYRAMID_KERNELS_CUDA must be auto, 0 or 1, got {wanted!r}")
    if any((ROOT / "csrc").glob("*/*.cu")):
        sys.exit("csrc/ holds CUDA sources that setup.py does not build yet")
    message = "no CUDA sources in this version: installing the Triton, composed and reference backends"
    if wanted == "1":
        sys.exit("PYRAMID_KERNELS_CUDA=1 asks for the CUDA core, and this version has no CUDA sources; unset it")
    return message


class Build(build_py):
    """Says in one line what is built, and writes it to ``build_info.json``."""

    def run(self) -> None:
        message = check_cuda()
        print(f"pyramid_kernels: {message}", file=sys.stderr)
        super().run()
        if not self.editable_mode:
            info = {"commit": commit(), "python": platform.python_version(), "cuda": message}
            target = Path(self.build_lib, "pyramid_kernels", "build_info.json")
            target.write_text(json.dumps(info, indent=1) + "\n")


setup(
    packages=[*find_packages(include=["pyramid_kernels", "pyramid_kernels.*"]), "pyramid_kernels._bench"],
    package_dir={"pyramid_kernels._bench": "bench"},
    cmdclass={"build_py": Build},
)
