"""What a type checker sees of the public functions: their own signatures, and backends by name."""

import re
from pathlib import Path

import pytest

from pyramid_kernels import functional
from pyramid_kernels.ops import all_ops
from tests.processes import ROOT, python

pytest.importorskip("mypy", reason="mypy is in the lint extra: pip install 'pyramid_kernels[lint]'")

USER = f"""
import torch
import pyramid_kernels as pk

{"".join(f"reveal_type(pk.functional.{name})" + chr(10) for name in all_ops())}
x = torch.zeros(1, 4, 8, 8)
pk.functional.pyramid_pool(x, (1, 2), backend="composed")
pk.functional.pyramid_pool(x, (1, 2), backend="trition")
pk.nn.UpsampleCrossEntropyLoss(backend="trition")
pk.fuse_(torch.nn.Conv2d(1, 1, 1), backend="trition")
pk.predict(torch.nn.Conv2d(1, 1, 1), x, backend="trition")
pk.explain(pk.functional.pyramid_pool, x, (1, 2), backend="trition")
pk.functional.pyramid_pool(x)
"""


@pytest.mark.slow
def test_a_user_of_mypy_sees_signatures_and_wrong_backends(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    settings = {"MYPYPATH": str(ROOT), "PYTHONPATH": None}
    said = python("-m", "mypy", "--config-file", ROOT / "pyproject.toml", "user.py", cwd=tmp_path, **settings).stdout
    assert "Any, **" not in said, said
    revealed = re.findall(r'Revealed type is "def \((.*)\) -> (.*)"', said)
    assert len(revealed) == len(all_ops()), said
    for name, (arguments, result) in zip(all_ops(), revealed, strict=True):
        assert "Tensor" in arguments and "Tensor" in result, (name, arguments, result)
        assert "backend: Literal['auto', 'cuda', 'triton', 'composed', 'reference'] =" in arguments.replace(
            "?", ""
        ) or ("backend" in arguments and "Literal['auto']" in arguments), (name, arguments)
    lines = USER.splitlines()
    wrong = [n for n, line in enumerate(lines, 1) if "trition" in line]
    found = [int(n) for n in re.findall(r"user\.py:(\d+): error: Argument \"backend\"", said)]
    assert found == wrong, said
    assert f"user.py:{len(lines)}: error: Missing positional argument" in said
    assert hasattr(functional.pyramid_pool, "problems")
