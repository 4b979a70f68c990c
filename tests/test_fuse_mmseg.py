"""mmsegmentation itself: the stock configurations of its pyramids are fused, and agree in eval and train mode."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.kernels import ROOT


@pytest.mark.skipif(find_spec("mmseg") is None, reason="needs mmsegmentation")
def test_stock_models() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.mmseg_models"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
