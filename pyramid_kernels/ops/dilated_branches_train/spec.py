"""Cases, launches and costs of ``dilated_branches_train``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._shared.spec import Case, Cost, arg
from ..dilated_branches import spec as branches_spec
from ..dilated_branches.settings import Settings
from .reference import dilated_branches_train

PADDED = branches_spec.PADDED
INFINITE = "nan"


def case(
    name: str, shape: tuple[int, ...], outputs: tuple[int, ...], kernels: tuple[int, ...], dilations: tuple[int, ...],
    **rest: Any,
) -> Case:  # fmt: skip
    args = {
        "x": arg(*shape),
        "weights": branches_spec.branches(shape[1], outputs, kernels),
        "dilations": dilations,
        "gamma": branches_spec.vectors(outputs, "vector"),
        "beta": branches_spec.vectors(outputs, "shift"),
        "eps": [1e-5] * len(outputs),
    }
    return Case(name, args | rest, exact=False)


CASES = [
    case("aspp-9x11", (2, 20, 9, 11), (6, 5, 7), (1, 3, 3), (1, 2, 12), activation="relu"),
    case("plain-13x17", (1, 18, 13, 17), (6, 6), (3, 3), (2, 6)),
    case("projection-1x1", (3, 12, 5, 7), (10,), (1,), (1,), activation="relu", image_bias=arg(3, 10, 1, kind="cells")),
    case("projection-3x3", (2, 12, 5, 4), (7,), (3,), (1,), activation="relu", image_bias=arg(2, 7, 9, kind="cells")),
    case("no-affine", (1, 9, 6, 5), (8, 3), (3, 3), (9, 1), gamma=[None, None], beta=[None, None], activation="relu"),
    case("many-tiles-33x47", (1, 5, 33, 47), (4,), (3,), (3,)),
    case("boxes-9x20", (2, 136, 9, 20), (40, 24), (3, 1), (4, 1), activation="relu"),
    case("wide-output", (2, 6, 6, 5), (140,), (3,), (2,), activation="relu"),
]


def _bench(c: Case) -> Case:
    outputs = tuple(w.shape[0] for w in c.args["weights"])
    shapes = ((w.shape[2] for w in c.args["weights"]), c.args["dilations"])
    return case(c.id, c.args["x"].shape, outputs, *(tuple(s) for s in shapes), activation="relu")


BENCH = [_bench(c) for c in branches_spec.BENCH if c.args["x"].shape[0] > 1]


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    forward = {
        "dilated_branches_fwd_kernel": 1,
        "dilated_branches_train_stats_kernel": 1,
        "dilated_branches_train_normalise_kernel": 1,
    }
    _, backward = branches_spec.launches(case, channels_last, backend)
    return forward, backward | {"dilated_branches_bwd_dz_kernel": 2, "dilated_branches_bwd_sums_kernel": 1}


def cost(case: Case, itemsize: int) -> Cost:
    """The convolutions, and one more write and read of their outputs: the statistics need all of them first."""
    n, _, h, w = case.args["x"].shape
    outputs = sum(weight.shape[0] for weight in case.args["weights"])
    convolution = branches_spec.cost(case, itemsize)
    return convolution._replace(floor_bytes=convolution.floor_bytes + 2 * n * h * w * outputs * itemsize)


def margin(tensors: dict[str, Any]) -> Tensor:
    x, weights, gamma, beta = (tensors[k] for k in ("x", "weights", "gamma", "beta"))
    settings = Settings(list(tensors["dilations"]), tensors["eps"], False)
    with torch.no_grad():
        return dilated_branches_train(x, weights, gamma, beta, tensors.get("image_bias"), settings)[0].abs()
