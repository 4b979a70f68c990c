"""Prints the paired ratios after pytest-benchmark's tables."""

from __future__ import annotations

import pytest

from pyramid_kernels.console import table

from . import test_bench


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if test_bench.ratios:
        terminalreporter.write_line("\nTime of the unfused form over that of backend='auto', median of paired samples:")
        terminalreporter.write_line(table(["work", "path of auto", "eager / auto"], test_bench.ratios))
