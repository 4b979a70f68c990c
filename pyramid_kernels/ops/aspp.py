"""``aspp``: DeepLab v3's module in eval mode, a composite of ops.

The projection is linear, and the image-level branch is constant over the map, so its columns of the projection weight
act once per image instead of once per pixel: nothing is broadcast, and the concat holds the other branches only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..backends import Backend, Calls
from ..registration import public
from ._shared.affine import Norm, check_affine, check_norm
from ._shared.autocast import autocast
from ._shared.checks import check_floating, check_like
from .dilated_branches import op as branches_op
from .dilated_branches.op import check_branches, dilated_branches
from .pyramid_project.op import pyramid_project


def _problems(
    x: Tensor, weights: Sequence[Tensor], project_weight: Tensor, *, dilations: Sequence[int], **_: Any
) -> Calls:
    return branches_op._problems(x, weights, dilations=dilations)


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
    branches = dilated_branches(x, weights, dilations=dilations, norm=norms, activation="relu", backend=backend)
    image_bias = None
    if pool_weight is not None and pool_norm is not None:
        # One mean per channel is the library's: its one launch is not to be beaten.
        pooled = x.mean((2, 3)).unsqueeze(-1)  # [N, C, 1]
        width = branches.shape[1]
        widths = (pool_weight.shape[0], width) if pool_first else (width, pool_weight.shape[0])
        columns = project_weight.split(widths, 1)
        project_weight, pool_columns = columns[::-1] if pool_first else columns
        image_bias = _image_bias(pooled, pool_weight, pool_norm, pool_columns, backend)
    return dilated_branches(
        branches, [project_weight], dilations=[1], norm=[project_norm], image_bias=image_bias, activation="relu",
        backend=backend,
    )  # fmt: skip


def _image_bias(pooled: Tensor, weight: Tensor, norm: Norm, columns: Tensor, backend: Backend) -> Tensor:
    """(N, C, 1) through the image-level branch, and the projection's (O, P, k, k) columns of it: (N, O, k*k)."""
    backend = "reference" if backend == "composed" else backend  # pyramid_project has no composed form
    branch = pyramid_project(pooled, [(1, 1)], [weight], norm=[norm], activation="relu", backend=backend)
    o, p, kernel, _ = columns.shape
    taps = columns.permute(0, 2, 3, 1).reshape(o * kernel * kernel, p)
    return pyramid_project(branch, [(1, 1)], [taps], backend=backend).view(-1, o, kernel * kernel)


def _check_conv(name: str, weight: Tensor, x: Tensor, channels: int, kernels: tuple[int, ...]) -> Tensor:
    check_floating(name, weight)
    shapes = " or ".join(f"(O, {channels}, {k}, {k})" for k in kernels)
    if weight.dim() != 4 or tuple(weight.shape[1:]) not in [(channels, k, k) for k in kernels]:
        raise ValueError(f"{name} must be {shapes}, got {tuple(weight.shape)}")
    _, weight = autocast(x, weight)
    check_like(name, weight, "x", x)
    return weight
