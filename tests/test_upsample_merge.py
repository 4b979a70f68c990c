"""What of ``upsample_merge`` the tests for every op do not reach: a composed form that needs no gradient."""

import pytest
import torch

from pyramid_kernels.ops._shared.spec import Case
from pyramid_kernels.verification import oracle
from tests.kernels import cases
from tests.test_ops import assert_passes


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", cases("upsample_merge"), ids=lambda case: case.id)
def test_composed_without_a_gradient(case: Case, dtype: torch.dtype, channels_last: bool) -> None:
    """It writes into the result where the other one concatenates."""
    oracle.check("upsample_merge", case, "composed", dtype, channels_last)  # keeps the errors of gradients as well
    with torch.no_grad():
        assert_passes(oracle.check("upsample_merge", case, "composed", dtype, channels_last))
