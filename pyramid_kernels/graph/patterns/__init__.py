"""The patterns, one file a shape of subgraph, in the order in which a graph is searched.

What takes a concat whole comes before what takes its parts, and sums come last, each from its last addition on.
``hints`` says what it sees where none of them has a line.
"""

from ..match import Pattern
from .branches import branches
from .gate import gate
from .hints import hints
from .losses import labels, loss
from .max_pools import max_pools
from .pools import maxima, pools
from .resample import resample
from .sums import concats, sums

PATTERNS: tuple[Pattern, ...] = (loss, labels, max_pools, gate, pools, maxima, resample, concats, branches, sums)

__all__ = ["PATTERNS", "hints"]
