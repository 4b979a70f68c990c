"""The command line.

Exit codes: 0 done, 1 a check failed, 2 the command cannot run as asked (one line on stderr), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .._version import __version__
from ..backends import BackendError, check_settings
from ..console import UsageError, unknown
from ..verification.ledger import LedgerError

COMMANDS = {
    "info": "what is installed here, and which backends each op has",
    "verify": "check every op and backend against its float64 reference",
    "demo": "fuse a network on a photograph: proof, cost, one picture",
    "compare": "time a model of your own or of a library unfused, fused and under torch.compile",
    "bench": "time the ops and networks against PyTorch eager and torch.compile",
    "tune": "measure the kernels on this GPU, for what backend='auto' takes",
}


class Parser(argparse.ArgumentParser):
    """Usage errors are one line, raised to ``main``."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser(argv).parse_args(argv)
        if not args.command:
            raise UsageError(f"a command is missing: one of {', '.join(COMMANDS)}")
        _check_settings()
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except (UsageError, BackendError, LedgerError) as error:
        print(f"pyramid_kernels: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pyramid_kernels: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _check_settings() -> None:
    try:
        check_settings()
    except ValueError as error:
        raise UsageError(str(error)) from None


def _parser(argv: list[str]) -> Parser:
    parser = Parser(prog="python -m pyramid_kernels", description="Pyramid-pooling heads, fused and verified.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="command")
    asked = next((word for word in argv if not word.startswith("-")), None)
    if asked is not None and asked not in COMMANDS:
        raise UsageError(unknown("command", asked, COMMANDS))
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == asked:
            module = importlib.import_module(f".{name}", __name__)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser
