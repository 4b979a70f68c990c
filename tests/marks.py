"""What can run here, asked once the simulator has been built."""

import pytest

from pyramid_kernels import _native
from tests.kernels import DEVICE

#: The kernel backends, "cuda" being the GPU's or the simulator's.
KERNELS = ("triton",) if isinstance(_native.module(DEVICE), str) else ("triton", "cuda")
needs_cpu = pytest.mark.skipif(DEVICE == "cuda", reason="says what happens without a GPU")
needs_cuda = pytest.mark.skipif("cuda" not in KERNELS, reason="needs the CUDA core or its simulator")
needs_simulator = pytest.mark.skipif(not _native.simulated(), reason="needs the host simulator")
