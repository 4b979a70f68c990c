"""Python in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def python(*argv: str | Path, cwd: Path = ROOT, **settings: str | None) -> subprocess.CompletedProcess[str]:
    """What ``python *argv`` returns and says with ``settings`` in its environment; None takes one away."""
    environment = {k: v for k, v in {**os.environ, "PYTHONPATH": str(ROOT), **settings}.items() if v is not None}
    command = [sys.executable, *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=cwd, env=environment)
