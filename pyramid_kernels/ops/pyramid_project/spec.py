"""Cases, launches and costs of ``pyramid_project``."""

from __future__ import annotations

from typing import Any

from .._shared.spec import Arg, Case, Cost, arg

Grids = list[tuple[int, int]]


def _case(
    name: str, n: int, c: int, grids: Grids, channels: list[int], *, exact: bool = True, square: bool = False,
    **options: Any,
) -> Case:  # fmt: skip
    """``square`` gives (O, C) weights instead of (O, C, 1, 1)."""
    shapes = [(o, c) if square else (o, c, 1, 1) for o in channels]
    pyramid = {
        "pooled": arg(n, c, sum(rows * cols for rows, cols in grids), kind="cells"),
        "grids": grids,
        "weights": [arg(*shape, kind="weight") for shape in shapes],
    }
    return Case(name, pyramid | options, exact)


def _norm(o: int, gamma: bool = True, beta: str = "gate") -> tuple[Arg | None | float, ...]:
    mean, var = arg(o, kind="shift", grad=False), arg(o, kind="positive", grad=False)
    return arg(o, kind="vector") if gamma else None, arg(o, kind=beta), mean, var, 1e-3


def _squares(*bins: int) -> Grids:
    return [(b, b) for b in bins]


def _vectors(kind: str, *channels: int) -> list[Arg | None]:
    return [arg(o, kind=kind) if o else None for o in channels]


_PSP = _squares(1, 2, 3, 6)

CASES = [
    _case("psp-norm-relu", 2, 24, _PSP, [6] * 4, norm=[_norm(6)] * 4, activation="relu", exact=False),
    _case("plain", 2, 16, _squares(1, 2), [8, 8]),
    _case(
        "affine-relu", 1, 16, _squares(2, 4), [6, 10], scale=_vectors("vector", 6, 10), shift=_vectors("gate", 6, 10),
        activation="relu",
    ),
    _case("primes-37-to-13-17", 3, 37, [(1, 1), (3, 5)], [13, 17]),
    _case("oblong-grids", 1, 19, [(1, 7), (5, 2), (3, 1)], [5, 6, 7]),
    _case("deep-130", 1, 130, _squares(1, 3), [40, 33]),
    _case("matrices", 2, 12, _squares(1, 2), [5, 6], square=True),
    _case("one-level", 9, 20, _squares(3), [136]),
    _case("scale-only", 2, 12, _squares(1, 2), [4, 5], scale=_vectors("vector", 4, 0)),
    _case("shift-only", 2, 12, _squares(1, 2), [4, 5], shift=_vectors("shift", 0, 5)),
    _case("norm-no-gamma", 2, 12, _squares(1, 3), [4, 5], norm=[_norm(4, False), _norm(5, beta="shift")], exact=False),
    _case("one-cell", 3, 33, _squares(1), [9], shift=_vectors("gate", 9), activation="relu"),
]  # fmt: skip

BENCH = [
    _case("psp-2048", 8, 2048, _PSP, [512] * 4, norm=[_norm(512)] * 4, activation="relu"),
    _case("psp-2048-n2", 2, 2048, _PSP, [512] * 4, norm=[_norm(512)] * 4, activation="relu"),
    _case("swin-768", 8, 768, _PSP, [512] * 4, norm=[_norm(512)] * 4, activation="relu"),
]


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    count = -(-len(case.args["grids"]) // 8) if backend == "cuda" else 1  # which takes eight levels at a time
    backward = {"pyramid_project_bwd_dpooled_kernel": count, "pyramid_project_bwd_dweights_kernel": count}
    if any(case.args.get(name) is not None for name in ("scale", "shift", "norm", "activation")):
        backward["pyramid_project_bwd_dz_kernel"] = count
    return {"pyramid_project_fwd_kernel": count}, backward


def cost(case: Case, itemsize: int) -> Cost:
    n, c, s = case.args["pooled"].shape
    cells = [rows * cols for rows, cols in case.args["grids"]]
    channels = [w.shape[0] for w in case.args["weights"]]
    work = 2 * n * c * sum(k * o for k, o in zip(cells, channels, strict=True))
    return Cost(work, work, (n * c * s + c * sum(channels) + n * sum(channels) * max(cells)) * itemsize)
