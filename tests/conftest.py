"""Set-up of the whole suite, and the list of kernels that it must have launched."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are decorated: before any import of them
# A user's own verified kernels and tables must not change what is tested.
os.environ["PYRAMID_KERNELS_HOME"] = tempfile.mkdtemp(prefix="pyramid_kernels_")

from bench import systems  # noqa: E402
from bench.modules import define_detection_schemas  # noqa: E402
from pyramid_kernels.ops._shared import launch  # noqa: E402
from tests import hostsim  # noqa: E402
from tests.kernels import DEVICE, ROOT, expected_launches  # noqa: E402

NO_SIMULATOR = None if torch.cuda.is_available() else hostsim.build()

launch.counters.append(Counter())  # from here on every launch is recorded in launch.launched
define_detection_schemas()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Modules take their first weights from the global generator: the same ones whatever ran before."""
    torch.manual_seed(0)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands its launches on; the controller of a whole run fails on a kernel that nobody launched."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["launched"] = list(launch.launched)
    elif _is_whole_run(config) and session.testscollected and not session.shouldfail:
        config.stash[_MISSING] = sorted(expected_launches() - launch.launched)
        # Without a simulator the CUDA kernels' tests are not there, which is no news of the table.
        comparable = DEVICE == "cpu" and NO_SIMULATOR is None
        config.stash[_STALE] = comparable and _differs_from_the_table(config.stash[_PASSED])
        if (config.stash[_MISSING] or config.stash[_STALE]) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _differs_from_the_table(passed: list[str]) -> bool:
    """Whether the README's table of systems claims other than these tests bear out; their ids are kept in build."""
    PASSED.parent.mkdir(exist_ok=True)
    PASSED.write_text("\n".join(passed) + "\n")
    return systems.cells(passed) != systems.recorded()


class _Results:
    def __init__(self, passed: list[str]) -> None:
        self.passed = passed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.append(report.nodeid)


class _Workers:
    def pytest_testnodedown(self, node: Any) -> None:
        launch.launched.update(tuple(entry) for entry in getattr(node, "workeroutput", {}).get("launched", []))


PASSED = ROOT / "build" / "passed.txt"
_MISSING = pytest.StashKey[list[tuple[str, str, str]]]()
_PASSED = pytest.StashKey[list[str]]()
_STALE = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Workers())
    config.pluginmanager.register(_Results(config.stash.setdefault(_PASSED, [])))


def _is_whole_run(config: pytest.Config) -> bool:
    option = config.option
    narrowed = option.keyword or option.collectonly or option.markexpr not in ("", "not slow")
    return config.args_source == config.ArgsSource.TESTPATHS and not narrowed


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    missing = config.stash.get(_MISSING, None)
    if missing:
        terminalreporter.section("kernels that no test launched", red=True)
        for backend, kernel, dtype in missing:
            terminalreporter.line(f"{backend}: {kernel} [{dtype}]")
    elif missing is not None:
        terminalreporter.line(
            f"every Triton and CUDA kernel was launched in every dtype it has here ({len(expected_launches())})"
        )
    if config.stash.get(_STALE, False):
        terminalreporter.section("the README's table of systems is not what passed", red=True)
        terminalreporter.line(f"run: python -m bench.report --write --passed {PASSED.relative_to(ROOT)}")
