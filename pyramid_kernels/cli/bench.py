"""``bench``: the benchmarks."""

from ..benchmark.run import add_arguments as add_arguments
from ..benchmark.run import run as run
