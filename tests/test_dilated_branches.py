"""The CUDA bodies of ``dilated_branches``: which is taken, what it skips, the one that the simulator does not take."""

import pytest
import torch

from pyramid_kernels import explain
from pyramid_kernels.backends import Problem
from pyramid_kernels.functional import dilated_branches
from pyramid_kernels.ops._shared import native
from pyramid_kernels.ops.dilated_branches import cuda
from pyramid_kernels.ops.dilated_branches.spec import BENCH, CASES
from pyramid_kernels.verification import ledger, oracle
from tests.kernels import DEVICE
from tests.marks import needs_cuda, needs_simulator

pytestmark = needs_cuda


@pytest.fixture
def architecture(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """For another architecture: what was planned for one is forgotten."""
    remembered = native.multiprocessors.cache_clear, *ledger.forget
    for forget in remembered:
        forget()
    yield monkeypatch
    for forget in remembered:
        forget()


@needs_simulator  # which alone can choose the architecture
@pytest.mark.parametrize(("dtype", "arch"), [(torch.float16, 80), (torch.bfloat16, 86)], ids=["80", "86"])
@pytest.mark.parametrize("case", [c for c in CASES if c.id.startswith("boxes")], ids=lambda c: c.id)
def test_half_precision_on_ampere(
    case: oracle.Case, dtype: torch.dtype, arch: int, architecture: pytest.MonkeyPatch
) -> None:
    """What takes the Hopper body where there is one also runs without it, and where a block has a smaller ring."""
    architecture.setattr(native, "SIMULATED_ARCHITECTURE", arch)
    report = oracle.check("dilated_branches", case, "cuda", dtype, True)
    assert not report.failures(), report.failures()
    assert set(report.run.forward) == {"dilated_branches_fwd_kernel"}
    assert not [kernel for kernel in report.run.backward if "sm90" in kernel]


@needs_simulator  # which alone can choose the architecture
@pytest.mark.parametrize(
    ("shape", "arch", "low", "high"),
    [("32x32-n8", 90, 0.62, 0.65), ("32x32-n8", 80, 0.58, 0.63), ("64x64-n8-os8", 90, 0.58, 0.60)],
)
def test_share_of_taps(shape: str, arch: int, low: float, high: float, architecture: pytest.MonkeyPatch) -> None:
    """Steps multiplied over those of all taps, as docs/dilated_branches.md says; shares are within 3 % of equal."""
    architecture.setattr(native, "SIMULATED_ARCHITECTURE", arch)
    architecture.setattr(native, "SIMULATED_PROCESSORS", 132)
    case = next(c for c in BENCH if c.id == shape)
    x = torch.empty(case.args["x"].shape, dtype=torch.bfloat16, memory_format=torch.channels_last)
    weights = [torch.empty(w.shape, dtype=torch.bfloat16) for w in case.args["weights"]]
    plan = cuda.planned(x, weights, case.args["dilations"], "concat")
    assert low <= plan["steps"] / plan["dense"] <= high
    assert plan["largest"] * plan["pair"] * plan["workers"] <= 1.03 * plan["steps"]
    assert plan["sm90"] == (arch == 90)


def test_explain_names_the_body() -> None:
    x = torch.randn(2, 64, 9, 11, device=DEVICE).half()
    weights = [torch.randn(8, 64, 3, 3, device=DEVICE).half()]
    text = explain(dilated_branches, x, weights, dilations=(2,), backend="cuda")
    assert "tiles of 128 pixels" in text and "equal shares" in text and "body for compute capability" in text


def test_old_gpus_are_refused_with_the_reason() -> None:
    reason = cuda.supports(Problem("cuda", 75, torch.float16, True))
    assert reason == "needs compute capability 8.0 or newer, got 7.5"
