"""Every kernel compiles for compute capability 8.0 and 9.0 without a spill; `.ci/run` compiles more bodies."""

import pytest

from tests.processes import python


@pytest.mark.slow
def test_kernels_compile_ahead_of_time() -> None:
    done = python("-m", "tests.aot", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
