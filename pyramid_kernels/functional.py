"""Every op as a function: one export line per op."""

from .ops.pyramid_pool.op import pyramid_grids, pyramid_pool

__all__ = ["pyramid_grids", "pyramid_pool"]
