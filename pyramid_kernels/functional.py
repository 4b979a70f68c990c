"""Every op as a function: one export line per op."""

from .ops.aspp.op import aspp
from .ops.channel_gate.op import channel_gate
from .ops.dilated_branches.op import dilated_branches
from .ops.dilated_branches_train.op import dilated_branches_train
from .ops.max_pool_pyramid.op import max_pool_pyramid
from .ops.pyramid_conv.compose import compose_levels
from .ops.pyramid_conv.op import pyramid_conv
from .ops.pyramid_pool.op import pyramid_grids, pyramid_pool
from .ops.pyramid_project.op import pyramid_levels, pyramid_project
from .ops.separable_pyramid.op import separable_pyramid
from .ops.upsample_argmax.op import upsample_argmax
from .ops.upsample_cross_entropy.op import upsample_cross_entropy
from .ops.upsample_merge.op import upsample_merge

__all__ = [
    "dilated_branches_train",
    "dilated_branches",
    "aspp",
    "channel_gate",
    "compose_levels",
    "max_pool_pyramid",
    "pyramid_conv",
    "pyramid_grids",
    "pyramid_levels",
    "pyramid_pool",
    "pyramid_project",
    "separable_pyramid",
    "upsample_argmax",
    "upsample_cross_entropy",
    "upsample_merge",
]
