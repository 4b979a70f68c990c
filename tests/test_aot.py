"""Every kernel compiles for compute capability 8.0 and 9.0 without a spill; `.ci/run` compiles more bodies."""

import subprocess
import sys

import pytest

from tests.aot import ROOT


@pytest.mark.slow
def test_kernels_compile_ahead_of_time() -> None:
    command = [sys.executable, "-m", "tests.aot", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
