"""``aspp``: DeepLab v3's module in eval mode, composed of the other ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...backends import KERNELS, Backend, Op, Problem, describe, select
from ...registration import public
from .._shared.affine import Norm, check_affine, check_norm
from .._shared.autocast import autocast
from .._shared.checks import check_floating, check_like
from .._shared.layout import is_channels_last
from ..dilated_branches import op as branches_op
from ..dilated_branches.op import check_branches
from ..pyramid_pool import op as pool_op
from . import composed, reference

OP = Op("aspp", "gemm", reference, composed)


def _problem(x: Tensor, with_pool: bool) -> Problem:
    return describe(x, is_channels_last(x), with_pool)


def _problems(
    x: Tensor,
    weights: Sequence[Tensor],
    project_weight: Tensor,
    *,
    dilations: Sequence[int],
    pool_weight: Tensor | None = None,
    **_: Any,
) -> list[Any]:
    own = (OP, _problem(x, pool_weight is not None), tuple(x.shape))
    pool = pool_op._problems(x, [1]) if pool_weight is not None else []
    return [own, *branches_op._problems(x, weights, dilations=dilations), *pool]


@public(_problems)
def aspp(
    x: Tensor,
    weights: Sequence[Tensor],
    project_weight: Tensor,
    *,
    dilations: Sequence[int],
    norms: Sequence[Norm],
    project_norm: Norm,
    pool_weight: Tensor | None = None,
    pool_norm: Norm | None = None,
    pool_first: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """DeepLab v3's ASPP with running statistics: branches, image-level pooling, concat, projection, ReLU after each.

    Equivalent to the module's forward in eval mode without its dropout. The image-level branch is never broadcast: it
    enters the projection as a per-image bias.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32 (float64: reference and composed).
        weights, dilations: the branches, as in ``dilated_branches``.
        project_weight: (O, sum O_i [+ P], k, k), k = 1 or 3; columns in the order of the concat.
        norms, project_norm, pool_norm: (gamma, beta, mean, var, eps) of each BatchNorm; gamma and beta may be None.
        pool_weight: (P, C, 1, 1) of the image-level branch, or None for a module without one.
        pool_first: whether the image-level branch comes first in the concat (mmsegmentation) instead of last.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        (N, O, H, W) in x's dtype and memory format.

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017; torchvision's ASPP.
    """
    x, weights, _ = check_branches(x, weights, dilations, None)
    check_affine(x, weights, None, None, norms)
    channels = sum(w.shape[0] for w in weights)
    if (pool_weight is None) != (pool_norm is None):
        raise ValueError("pool_weight and pool_norm must be given together, got only one of them")
    if pool_weight is not None:
        pool_weight = _check_conv("pool_weight", pool_weight, x, x.shape[1], (1,))
        check_norm("pool_norm", pool_norm, pool_weight, x)
        channels += pool_weight.shape[0]
    project_weight = _check_conv("project_weight", project_weight, x, channels, (1, 3))
    check_norm("project_norm", project_norm, project_weight, x)
    settings: dict[str, Any] = {
        "dilations": dilations, "norms": norms, "project_norm": project_norm, "pool_weight": pool_weight,
        "pool_norm": pool_norm, "pool_first": pool_first,
    }  # fmt: skip
    backend = select(OP, _problem(x, pool_weight is not None), tuple(x.shape), backend)
    if backend in KERNELS:
        return composed.aspp(x, weights, project_weight, **settings, backend=backend)
    return OP.python(backend)(x, weights, project_weight, **settings)


def _check_conv(name: str, weight: Tensor, x: Tensor, channels: int, kernels: tuple[int, ...]) -> Tensor:
    check_floating(name, weight)
    shapes = " or ".join(f"(O, {channels}, {k}, {k})" for k in kernels)
    if weight.dim() != 4 or tuple(weight.shape[1:]) not in [(channels, k, k) for k in kernels]:
        raise ValueError(f"{name} must be {shapes}, got {tuple(weight.shape)}")
    _, weight = autocast(x, weight)
    check_like(name, weight, "x", x)
    return weight
