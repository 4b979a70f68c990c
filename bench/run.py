"""``python -m bench.run``: ``python -m pyramid_kernels bench``, from a source tree."""

import sys

from pyramid_kernels.cli import main

raise SystemExit(main(["bench", *sys.argv[1:]]))
