"""What a GPU session's processes write: one JSON object per line, on disk before the next thing is tried.

As a pytest plugin (``-p bench.session_rows --only-op OP --only-backend BACKEND``) it runs the generic tests of one op,
what a new GPU is to be asked first before the rest, and stops where no later launch can work.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

#: Names the file; every process of a session appends to it.
FILE = "GPU_SESSION_ROWS"
#: Parts of test names, the most telling first; what has none of them comes last.
ORDER = ("test_oracle", "test_hygiene", "test_exact")
DTYPES = ("bfloat16", "float16", "float32", "float64")


def add(**row: Any) -> None:
    """Append one row, whole: a single write to a file opened for appending is not cut by others."""
    if path := os.environ.get(FILE):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, (json.dumps(row) + "\n").encode())
        os.fsync(file)
        os.close(file)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only-op")
    parser.addoption("--only-backend")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    only = {name: config.getoption(f"--only-{name}") for name in ("op", "backend")}

    def parameters(item: pytest.Item) -> dict[str, Any]:
        return getattr(item, "callspec").params if hasattr(item, "callspec") else {}  # noqa: B009

    def urgency(item: pytest.Item) -> tuple[Any, ...]:
        test = item.name.partition("[")[0]
        dtype = str(parameters(item).get("dtype")).removeprefix("torch.")
        first = ORDER.index(test) if test in ORDER else len(ORDER)
        return first, not parameters(item).get("channels_last"), DTYPES.index(dtype) if dtype in DTYPES else 4

    wanted = [i for i in items if all(not v or parameters(i).get(k) == v for k, v in only.items())]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(wanted)])
    items[:] = sorted(wanted, key=urgency)


class Stop:
    session: Any = None


def pytest_sessionstart(session: pytest.Session) -> None:
    Stop.session = session


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.failed:
        text = report.longreprtext.strip()
        row = {"test": report.nodeid, "result": report.outcome, "seconds": round(report.duration, 2)}
        add(stage="suite", **row, error=text[-500:])
        if report.failed and "CUDA error" in text:
            Stop.session.shouldstop = "the GPU's context is lost: every later launch would fail"
