"""That CONTRIBUTING.md is true: an op is its own files and one line, and the generic suite holds it to everything."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import hostsim
from tests.kernels import DEVICE, ROOT
from tests.processes import python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(DEVICE == "cuda", reason="builds the simulator's core, which a GPU's suite does not load"),
    pytest.mark.skipif(not hostsim.compiler(), reason="needs a C++ compiler"),
]

#: The op that the new one is a copy of, under another name.
PATTERN, TOY = ("upsample_argmax", "UpsampleArgmax"), ("toy_labels", "ToyLabels")
SUITE = ("tests/test_ops.py", "tests/test_contract.py", "tests/test_plans.py")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a further op, whose core holds no other: theirs would only take time to compile."""
    root = tmp_path_factory.mktemp("tree")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    cores = {path.parent.name for path in (ROOT / "csrc").glob("*/*.cu")} - {"common", PATTERN[0]}
    for name in tracked:
        path = Path(name)
        if not (path.parts[0] == "csrc" and ({path.parent.name, path.stem} & cores)) and (ROOT / path).exists():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, root / path)
    for folder in (f"pyramid_kernels/ops/{PATTERN[0]}", f"csrc/{PATTERN[0]}", "csrc/bindings"):
        for path in sorted((root / folder).iterdir()):
            if PATTERN[0] in str(path.relative_to(root)):
                copy = root / renamed(str(path.relative_to(root)))
                copy.parent.mkdir(exist_ok=True)
                copy.write_text(renamed(path.read_text()))
    with (root / "pyramid_kernels" / "functional.py").open("a") as exports:
        exports.write(f"from .ops.{TOY[0]}.op import {TOY[0]} as {TOY[0]}\n")
    return root


def renamed(text: str) -> str:
    for old, new in zip(PATTERN, TOY, strict=True):
        text = text.replace(old, new)
    return text


def run_suite(tree: Path, *files: str) -> tuple[str, dict[str, int]]:
    """What the generic suite prints of the new op, and how many tests ended in which way."""
    command = ("-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "not slow", "-k", TOY[0], *files)
    done = python(*command, cwd=tree, PYTHONPATH=str(tree), **{hostsim.SIMULATOR: None})
    counts = {how: int(n) for n, how in re.findall(r"(\d+) (passed|failed|error)", done.stdout.splitlines()[-1])}
    return done.stdout + done.stderr, counts


def test_a_new_op_is_its_folders_and_one_line(tree: Path) -> None:
    said, counts = run_suite(tree, *SUITE)
    assert counts.keys() == {"passed"} and counts["passed"] > 100, said[-8000:]
    for backend in ("composed", "triton", "cuda"):
        assert re.search(rf"test_oracle\[{TOY[0]}-[^\]]*-{backend}-[^\]]*\] PASSED", said), backend


def test_a_wrong_kernel_of_it_is_found(tree: Path) -> None:
    kernel = tree / "pyramid_kernels" / "ops" / TOY[0] / "triton.py"
    right = kernel.read_text()
    kernel.write_text(right.replace("better = (b_top > top)", "better = (b_top >= top)"))
    assert kernel.read_text() != right
    said, counts = run_suite(tree, "tests/test_ops.py")
    kernel.write_text(right)
    assert counts.get("failed"), said[-8000:]
    assert not re.search(r"-(composed|cuda)-\S* FAILED", said)
