"""The pages say what is there: generated tables are current, commands exist, every op has its page."""

import re
from pathlib import Path

import pytest

from bench import report
from pyramid_kernels import nn
from pyramid_kernels.cli import COMMANDS
from pyramid_kernels.models import networks
from pyramid_kernels.ops import all_ops
from tests.foreign import FOREIGN
from tests.kernels import cuda_kernels
from tests.layouts import REPOSITORIES
from tests.modules import MODULES
from tests.processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", report.generated(), ids=lambda path: path.name)
def test_generated_pages_are_current(path: Path) -> None:
    if path.name == "models.md":
        for library in ("torchvision", "timm"):
            pytest.importorskip(library, reason=f"needs {library}, whose backbones the networks have")
    assert path.read_text() == report.generated()[path](), "run: make docs"


def test_ledger_lists_every_kernel() -> None:
    listed = set(re.findall(r"`(\w+_kernel)`", report.gpu_ledger()))
    in_source = set()
    for file in (ROOT / "pyramid_kernels" / "ops").glob("*/triton*.py"):
        in_source |= set(re.findall(r"^def (\w+_kernel)\(", file.read_text(), flags=re.M))
    in_source = in_source.union(*cuda_kernels().values())
    assert len(in_source) >= 15
    assert listed == in_source


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.M)) <= targets
    assert set(re.findall(r"python -m pyramid_kernels (\w+)", text)) <= set(COMMANDS)
    for module in re.findall(r"python -m (bench|tests)\.(\w+)", text):
        assert ROOT.joinpath(*module).with_suffix(".py").is_file(), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_opens_with_the_two_commands() -> None:
    commands = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), flags=re.M)
    assert commands[:2] == ["demo", "test"]


@pytest.mark.parametrize("op", all_ops())
def test_every_op_has_a_page(op: str) -> None:
    """A page may hold two ops that share their kernels; its title names them."""
    titles = {page.name: page.read_text().splitlines()[0].removeprefix("# ").split(", ") for page in PAGES[2:]}
    (page,) = [name for name, title in titles.items() if op in title]
    assert f"[{op}](docs/{page})" in (ROOT / "README.md").read_text()


def test_the_table_of_systems_names_what_is_there() -> None:
    """Modules, networks and ops by their public names, what is fused by the first word of its cases' names."""
    text = (ROOT / "README.md").read_text()
    table = text.partition("## Systems")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([^`]+)`", table))
    fused = {name.partition("-")[0] for name in (*FOREIGN, *REPOSITORIES) if name != "research-aspp"}
    modules = {type(case.make()).__name__ for case in MODULES.values()} | {"UpsampleCrossEntropyLoss"}
    assert modules <= set(nn.__all__)
    assert named == modules | set(networks()) | set(all_ops()) | fused


def test_settings_are_documented() -> None:
    page = (ROOT / "docs" / "environment.md").read_text()
    sources = [*(ROOT / "pyramid_kernels").rglob("*.py"), ROOT / "setup.py"]
    pattern = r"\"(PYRAMID_KERNELS_\w+)\""
    read = {name for file in sources for name in re.findall(pattern, file.read_text())}
    assert len(read) >= 4
    assert {name for name in read if f"`{name}`" not in page} == set()
