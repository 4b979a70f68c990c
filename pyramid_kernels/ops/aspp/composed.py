"""``aspp`` from the other ops: the image-level branch enters the projection as a per-image bias.

The projection is linear, and the image-level branch is constant over the map, so its columns of the projection weight
act once per image instead of once per pixel: nothing is broadcast, and the concat holds the other branches only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...backends import Backend, Problem
from .._shared.affine import Norm
from ..dilated_branches.op import dilated_branches
from ..pyramid_pool.op import pyramid_pool
from ..pyramid_project.op import pyramid_project


def supports(problem: Problem) -> str | None:
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    (with_pool,) = problem.options
    return None if with_pool else "without an image-level branch there is nothing to recompose"


def aspp(
    x: Tensor,
    weights: Sequence[Tensor],
    project_weight: Tensor,
    *,
    dilations: Sequence[int],
    norms: Sequence[Norm],
    project_norm: Norm,
    pool_weight: Tensor | None,
    pool_norm: Norm | None,
    pool_first: bool,
    backend: Backend = "auto",
) -> Tensor:
    settings: dict[str, Any] = {"activation": "relu", "backend": backend}
    branches = dilated_branches(x, weights, dilations=dilations, norm=norms, **settings)
    image_bias = None
    if pool_weight is not None and pool_norm is not None:
        cell = [(1, 1)]
        pooled = pyramid_project(
            pyramid_pool(x, [1], backend=backend), cell, [pool_weight], norm=[pool_norm], **settings
        )  # [N, P, 1]
        width = branches.shape[1]
        widths = (pool_weight.shape[0], width) if pool_first else (width, pool_weight.shape[0])
        columns = project_weight.split(widths, 1)
        project_weight, pool_columns = columns[::-1] if pool_first else columns
        image_bias = image_columns(pooled, pool_columns, backend)
    return dilated_branches(
        branches, [project_weight], dilations=[1], norm=[project_norm], image_bias=image_bias, **settings
    )


def image_columns(pooled: Tensor, columns: Tensor, backend: Backend) -> Tensor:
    """(N, P, 1) and the projection's (O, P, k, k) columns for it -> the image bias (N, O, k*k)."""
    o, p, kernel, _ = columns.shape
    taps = columns.permute(0, 2, 3, 1).reshape(o * kernel * kernel, p)
    return pyramid_project(pooled, [(1, 1)], [taps], backend=backend).view(-1, o, kernel * kernel)
