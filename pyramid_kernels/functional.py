"""Every op as a function: one export line per op, whose ``as`` tells type checkers that it is one."""

from .ops.aspp import aspp as aspp
from .ops.channel_gate.op import channel_gate as channel_gate
from .ops.dilated_branches.op import dilated_branches as dilated_branches
from .ops.dilated_branches_train.op import dilated_branches_train as dilated_branches_train
from .ops.max_pool_pyramid.op import max_pool_pyramid as max_pool_pyramid
from .ops.pyramid_conv.compose import compose_levels as compose_levels
from .ops.pyramid_conv.op import pyramid_conv as pyramid_conv
from .ops.pyramid_pool.op import pyramid_grids as pyramid_grids
from .ops.pyramid_pool.op import pyramid_pool as pyramid_pool
from .ops.pyramid_project.op import pyramid_levels as pyramid_levels
from .ops.pyramid_project.op import pyramid_project as pyramid_project
from .ops.separable_pyramid.op import separable_pyramid as separable_pyramid
from .ops.upsample_argmax.op import upsample_argmax as upsample_argmax
from .ops.upsample_cross_entropy.op import upsample_cross_entropy as upsample_cross_entropy
from .ops.upsample_merge.op import upsample_merge as upsample_merge
