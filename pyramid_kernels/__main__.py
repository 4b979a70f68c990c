"""``python -m pyramid_kernels <command>``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
