"""Bad arguments of every op: the error names the argument, what was got, and what is expected, before any launch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyramid_kernels import functional as F
from pyramid_kernels.testing import count_launches

X = torch.zeros(2, 4, 6, 5)
W = torch.zeros(3, 4, 3, 3)
V = torch.ones(3)
NORM = (V, V, V, V, 1e-5)
POOLED = torch.zeros(2, 4, 5)
GRIDS = [(1, 1), (2, 2)]
META = torch.zeros(2, 4, 6, 5, device="meta")


def pool(x: Any = X, bins: Any = (1, 2), **rest: Any) -> Tensor:
    return F.pyramid_pool(x, bins, **rest)


def project(pooled: Any = POOLED, grids: Any = GRIDS, weights: Any = None, **rest: Any) -> Tensor:
    return F.pyramid_project(pooled, grids, [torch.zeros(3, 4)] * 2 if weights is None else weights, **rest)


def merge(maps: Any = None, size: Any = None, **rest: Any) -> Tensor:
    return F.upsample_merge([X, X[..., :3, :2]] if maps is None else maps, size, **rest)


def branches(x: Any = X, weights: Any = None, dilations: Any = (2,), **rest: Any) -> Tensor:
    return F.dilated_branches(x, [W] if weights is None else weights, dilations=dilations, **rest)


def train(x: Any = X, weights: Any = None, **rest: Any) -> Any:
    settings = {"dilations": (2,), "gamma": [V], "beta": [V], "eps": [1e-5]} | rest
    return F.dilated_branches_train(x, [W] if weights is None else weights, **settings)


def aspp(x: Any = X, **rest: Any) -> Tensor:
    settings = {
        "dilations": (2,),
        "norms": [NORM],
        "project_norm": NORM,
        "project_weight": torch.zeros(3, 3, 1, 1),
    } | rest
    return F.aspp(x, [W], settings.pop("project_weight"), **settings)


MAPS = [
    (lambda f: f(X[0]), ValueError, "4-D", "unsqueeze(0)"),
    (lambda f: f(X[:, :, :0]), ValueError, "at least 1", "only N may be 0"),
    (lambda f: f(X.long()), TypeError, "torch.int64", "float16, bfloat16, float32 or float64"),
    (lambda f: f([1.0]), TypeError, "torch.Tensor", "list"),
    (lambda f: f(X, backend="fast"), ValueError, "backend", "'triton'"),
]

OWN: list[tuple[Callable[[], Any], type[Exception], str, str]] = [
    (lambda: pool(bins=()), ValueError, "bins", "must not be empty"),
    (lambda: pool(bins=(1, 0)), ValueError, "bins", "positive, got 0"),
    (lambda: pool(bins=(1.5,)), TypeError, "bins", "1.5"),
    (lambda: pool(bins=3), TypeError, "bins", "int"),
    (lambda: pool(bins=(7,), windows="fixed"), ValueError, "bin 7", "size 6"),
    (lambda: pool(X[:, :, :5], (4,), windows="ceil"), ValueError, "bin 4", "size 5"),
    (lambda: pool(mode="sum"), ValueError, "mode", "'avg', 'max'"),
    (lambda: pool(windows="loose"), ValueError, "windows", "'adaptive', 'fixed', 'ceil'"),
    (lambda: F.pyramid_grids((1,), (4, 4), "loose"), ValueError, "windows", "'ceil'"),
    (lambda: project(POOLED[0]), ValueError, "pooled", "(N, C, 5)"),
    (lambda: project(POOLED[..., :4]), ValueError, "pooled", "(2, 4, 4)"),
    (lambda: project(POOLED.int()), TypeError, "pooled", "torch.int32"),
    (lambda: project(grids=[]), ValueError, "grids", "must not be empty"),
    (lambda: project(weights=[torch.zeros(3, 4)]), ValueError, "weights", "one entry per level (2)"),
    (lambda: project(weights=[torch.zeros(3, 5)] * 2), ValueError, "weights[0]", "(3, 5)"),
    (lambda: project(weights=[torch.zeros(3, 4).double()] * 2), TypeError, "weights[0]", "dtype"),
    (lambda: project(scale=[V, V[:2]]), ValueError, "scale[1]", "(3,)"),
    (lambda: project(norm=[NORM] * 2, shift=[V, V]), ValueError, "norm", "scale or shift"),
    (lambda: project(norm=[NORM[:4]] * 2), ValueError, "norm[0]", "eps"),
    (lambda: project(activation="gelu"), ValueError, "activation", "'relu'"),
    (lambda: merge([]), ValueError, "maps", "empty"),
    (lambda: merge([X, X[0]]), ValueError, "maps[1]", "4-D"),
    (lambda: merge([X, X[:1]]), ValueError, "maps[1]", "2"),
    (lambda: merge([X, X[:, :3]], merge="sum"), ValueError, "maps[1]", "the C of maps[0]"),
    (lambda: merge([X, X.double()]), TypeError, "maps[1]", "dtype"),
    (lambda: merge([X, META]), ValueError, "maps[1]", "device"),
    (lambda: merge(size=(0, 4)), ValueError, "size", "0"),
    (lambda: merge(size=7), TypeError, "size", "7"),
    (lambda: merge(mode="cubic"), ValueError, "mode", "'bilinear', 'nearest'"),
    (lambda: merge(mode="nearest", align_corners=True), ValueError, "align_corners", "nearest"),
    (lambda: merge(merge="mean"), ValueError, "merge", "'concat', 'sum'"),
    (lambda: merge(scale=V), ValueError, "scale", "(8,)"),
    (lambda: merge(activation="gelu"), ValueError, "activation", "'relu'"),
    (lambda: branches(weights=[]), ValueError, "weights", "non-empty"),
    (lambda: branches(weights=[torch.zeros(3, 5, 3, 3)]), ValueError, "weights[0]", "(O, 4, 3, 3)"),
    (lambda: branches(weights=[torch.zeros(3, 4, 5, 5)]), ValueError, "weights[0]", "(3, 4, 5, 5)"),
    (lambda: branches(weights=[W.half()]), TypeError, "weights[0]", "dtype"),
    (lambda: branches(weights=[W.to("meta")]), ValueError, "weights[0]", "device"),
    (lambda: branches(dilations=(1, 2)), ValueError, "dilations", "one entry per branch (1), got 2"),
    (lambda: branches(dilations=(0,)), ValueError, "dilations", "positive, got 0"),
    (lambda: branches(dilations=(1.5,)), TypeError, "dilations", "1.5"),
    (lambda: branches(scale=[V[:2]]), ValueError, "scale[0]", "(3,)"),
    (lambda: branches(shift=[V.double()]), TypeError, "shift[0]", "torch.float64"),
    (lambda: branches(norm=[NORM], scale=[V]), ValueError, "norm", "scale or shift"),
    (lambda: branches(norm=[(V, V, None, V, 1e-5)]), TypeError, "norm[0] mean", "NoneType"),
    (lambda: branches(activation="gelu"), ValueError, "activation", "'relu'"),
    (lambda: branches(merge="mean"), ValueError, "merge", "'concat', 'sum'"),
    (lambda: branches(weights=[W, W[:2]], dilations=(1, 1), merge="sum"), ValueError, "weights", "equal output"),
    (lambda: branches(image_bias=torch.zeros(2, 3, 1)), ValueError, "image_bias", "(2, 3, 9)"),
    (lambda: train(X[:1, :, :1, :1]), ValueError, "Expected more than 1 value per channel", "[1, 3, 1, 1]"),
    (lambda: train(gamma=[V[:2]]), ValueError, "gamma[0]", "(3,)"),
    (lambda: train(eps=[]), ValueError, "eps", "one entry per branch (1)"),
    (lambda: aspp(norms=[]), ValueError, "norm", "one entry per branch (1)"),
    (lambda: aspp(project_weight=torch.zeros(3, 4, 1, 1)), ValueError, "project_weight", "(O, 3, 1, 1)"),
    (lambda: aspp(pool_weight=torch.zeros(3, 4, 1, 1)), ValueError, "pool_norm", "together"),
    (lambda: aspp(pool_weight=torch.zeros(3, 4, 3, 3), pool_norm=NORM), ValueError, "pool_weight", "(3, 4, 3, 3)"),
    (lambda: aspp(project_norm=NORM[:3]), ValueError, "project_norm", "eps"),
]  # fmt: skip


def first_map(maps: Any, **rest: Any) -> Tensor:
    return merge([maps], **rest)


@pytest.mark.parametrize("call", [pool, first_map, branches, train, aspp], ids=lambda f: f.__name__)
@pytest.mark.parametrize("bad,error,name,expected", MAPS, ids=range(len(MAPS)))
def test_maps(
    call: Callable[..., Any], bad: Callable[..., Any], error: type[Exception], name: str, expected: str
) -> None:
    assert_raises(lambda: bad(call), error, name, expected)


@pytest.mark.parametrize("bad,error,name,expected", OWN, ids=range(len(OWN)))
def test_arguments(bad: Callable[[], Any], error: type[Exception], name: str, expected: str) -> None:
    assert_raises(bad, error, name, expected)


def assert_raises(bad: Callable[[], Any], error: type[Exception], *parts: str) -> None:
    with count_launches() as launched, pytest.raises(error) as raised:
        bad()
    for part in parts:
        assert re.search(re.escape(part), str(raised.value)), f"{part!r} is not in: {raised.value}"
    assert not launched
