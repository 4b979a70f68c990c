"""Set-up of the whole suite, and the list of kernels that it must have launched."""

import gc
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are decorated: before any import of them
# A user's own verified kernels and tables must not change what is tested.
os.environ["PYRAMID_KERNELS_HOME"] = tempfile.mkdtemp(prefix="pyramid_kernels_")

from pyramid_kernels.benchmark.modules import define_detection_schemas  # noqa: E402
from pyramid_kernels.ops._shared import launch  # noqa: E402
from tests import hostsim  # noqa: E402
from tests.kernels import DEVICE, expected_launches  # noqa: E402

NO_SIMULATOR = None if torch.cuda.is_available() else hostsim.build()

launch.counters.append(Counter())  # from here on every launch is recorded in launch.launched
define_detection_schemas()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Modules take their first weights from the global generator: the same ones whatever ran before."""
    torch.manual_seed(0)


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command of the package: its exit code, and what it alone printed."""
    from pyramid_kernels.cli import main

    def run(*argv: str) -> Said:
        capsys.readouterr()
        return Said(main(argv), *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli: Callable[..., Said]) -> Callable[..., str]:
    """Runs a command that must fail with one line, and with nothing done; the line."""

    def run(*argv: str) -> str:
        code, out, err = cli(*argv)
        assert code == 2 and out == "" and err.count("\n") == 1, (code, out, err)
        return err

    return run


@pytest.fixture
def own_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    from tests import foreign

    foreign.load_libraries()
    monkeypatch.setattr(foreign.registry, "adapters", dict(foreign.registry.adapters))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """What the simulator runs as well, `make test` leaves to it: Triton's interpreter takes ten to a hundred times as
    long. Its kernels' share is that of tests/test_ops.py."""
    asked = [item for item in items if "backend" in getattr(getattr(item, "callspec", None), "params", ())]
    simulated = {(i.path, i.originalname) for i in asked if DEVICE == "cpu" and i.callspec.params["backend"] == "cuda"}
    for item in asked:
        both = (item.path, item.originalname) in simulated and item.path.name != "test_ops.py"
        if both and item.callspec.params["backend"] == "triton":
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """A tenth of the time went into looking for garbage, most of it among libraries and items that stay to the end."""
    gc.freeze()
    gc.set_threshold(10_000, 20)
    gc.enable()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands its launches on; the controller of a whole run fails on a kernel that nobody launched."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["launched"] = list(launch.launched)
    elif _is_whole_run(config) and session.testscollected and not session.shouldfail:
        config.stash[_MISSING] = sorted(expected_launches() - launch.launched)
        if config.stash[_MISSING] and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


class _Workers:
    def pytest_testnodedown(self, node: Any) -> None:
        launch.launched.update(tuple(entry) for entry in getattr(node, "workeroutput", {}).get("launched", []))


_MISSING = pytest.StashKey[list[tuple[str, str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all is collected
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Workers())


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
