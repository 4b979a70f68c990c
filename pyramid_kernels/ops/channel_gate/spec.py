"""Cases, launches and costs of ``channel_gate``."""

from __future__ import annotations

from typing import Any

from .._shared.spec import Case, Cost, arg


def _case(
    name: str, shape: tuple[int, ...], hidden: int = 0, *, square: bool = False, bias: tuple[str | None, ...] = (),
    affine: tuple[str | None, ...] = (), norm: str | None = None, **options: Any,
) -> Case:  # fmt: skip
    """``hidden``: channels between two convolutions; 0 for one. ``square`` gives weights without their two ones.

    ``bias``: the kinds of bias1 and bias2, ``affine`` of scale1 and shift1, ``norm`` of its beta; a "gate" keeps ReLU's
    input far from zero.
    """
    c = shape[1]
    k, ones = hidden or c, () if square else (1, 1)
    args: dict[str, Any] = {"x": arg(*shape), "weight1": arg(k, c, *ones, kind="weight")}
    if hidden:
        args["weight2"] = arg(c, k, *ones, kind="weight")
    widths = {"bias1": k, "bias2": c, "scale1": k, "shift1": k}
    for names, kinds in ((("bias1", "bias2"), bias), (("scale1", "shift1"), affine)):
        args |= {n: arg(widths[n], kind=kind) for n, kind in zip(names, kinds, strict=False) if kind}
    if norm:
        mean, var = arg(k, kind="shift", grad=False), arg(k, kind="positive", grad=False)
        args["norm1"] = arg(k, kind="vector"), arg(k, kind=norm), mean, var, 1e-3
    return Case(name, args | options, exact=False)


#: Its weights are those of convolutions.
CASTS = True

RELU: dict[str, Any] = {"hidden_activation": "relu"}
SILU: dict[str, Any] = {"hidden_activation": "silu"}
HARD: dict[str, Any] = {"gate_activation": "hardsigmoid"}

CASES = [
    _case("arm-bias", (2, 24, 6, 9), bias=("shift",)),
    _case("arm-norm-33x47-split", (1, 5, 33, 47), norm="shift"),
    _case("ffm", (2, 16, 12, 8), 4, bias=("gate", "shift"), residual=True, **RELU),
    _case("ffm-without-bias", (1, 12, 7, 5), 12, affine=(None, "gate"), residual=True, **RELU),
    _case("ffm-norms", (2, 13, 13, 17), 6, bias=(None, "shift"), affine=("vector", "gate"), residual=True, **RELU),
    _case("se", (3, 40, 5, 7), 6, bias=("gate", "shift"), **RELU),
    _case("se-silu-norm", (2, 10, 7, 5), 4, bias=(None, "shift"), norm="shift", **SILU),
    _case("se-silu-alone", (2, 6, 4, 9), bias=("shift",), residual=True, **SILU),
    _case("se-hard", (3, 20, 6, 5), 8, bias=("gate", "shift"), **RELU, **HARD),
    _case("se-hard-clipped", (2, 9, 5, 5), 3, bias=("shift", "gate"), **SILU, **HARD),
    _case("relu-then-sigmoid", (3, 9, 6, 4), norm="gate", **RELU),
    _case("matrices", (2, 6, 4, 4), 3, square=True),
    _case("wide-hidden", (1, 7, 3, 5), 70, bias=("gate",), **RELU),
    _case("wide-67", (2, 67, 3, 2), 33, affine=("vector",), residual=True),
    _case("one-pixel", (3, 8, 1, 1), bias=("shift",), residual=True),
    _case("one-channel-17x19", (2, 1, 17, 19), 2, bias=("gate", "shift"), **RELU),
]

BENCH = [
    _case("bisenet-arm-64x128", (1, 128, 64, 128), norm="shift"),
    _case("bisenet-arm-32x64", (1, 128, 32, 64), norm="shift"),
    _case("bisenet-ffm-128x256", (1, 256, 128, 256), 64, residual=True, **RELU),
    _case("se-56x56", (16, 256, 56, 56), 16, bias=("shift", "shift"), **RELU),
    _case("efficientnet-se-28x28", (16, 240, 28, 28), 10, bias=("shift", "shift"), **SILU),
    _case("mobilenetv3-se-28x28", (16, 120, 28, 28), 32, bias=("shift", "shift"), **RELU, **HARD),
]


def launches(case: Case, channels_last: bool, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    forward = {"channel_gate_sums_kernel": 1, "channel_gate_fwd_gate_kernel": 1, "channel_gate_fwd_kernel": 1}
    backward = ("sums", "bwd_gate", "bwd_dx", "bwd_dweights")
    return forward, {f"channel_gate_{name}_kernel": 1 for name in backward}


def cost(case: Case, itemsize: int) -> Cost:
    """x is read twice, because every gate depends on all of its channel, and written once."""
    n, c, h, w = case.args["x"].shape
    k = case.args["weight1"].shape[0]
    products = 2 * n * c * k * (2 if "weight2" in case.args else 1)
    work = (3 if case.args.get("residual") else 2) * n * c * h * w + products
    weights = c * k * (2 if "weight2" in case.args else 1)
    return Cost(work, work, (3 * n * c * h * w + weights) * itemsize)
