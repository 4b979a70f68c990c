"""How far a result is from exact ones, and how far it may be: twice the unfused chain's error, and one rounding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..ops._shared.layout import memory_format


def error_ratio(ours: Tensor, unfused: Tensor, exact: Tensor) -> float:
    """Error of ``ours`` over its limit; at most 1 passes, and NaN or inf out of place gives inf.

    All three have one shape; ``exact`` is the float64 reference and ``unfused`` the same chain in the tested dtype (or
    rounded to it after every op). The limit, for the largest and for the root-mean-square error each, is twice the
    unfused chain's error plus one rounding of the largest exact value in the dtype of ``ours``.
    """
    if not ours.shape == unfused.shape == exact.shape:
        raise ValueError(
            f"ours, unfused and exact must have one shape, got {tuple(ours.shape)}, {tuple(unfused.shape)}, "
            f"{tuple(exact.shape)}"
        )
    return over_limit(ours, exact, errors(unfused, exact))


class Errors(NamedTuple):
    """Largest and root-mean-square error, and both over the largest exact value."""

    largest: float = 0.0
    rms: float = 0.0
    relative_largest: float = 0.0
    relative_rms: float = 0.0

    def worse(self, other: Errors) -> Errors:
        """The larger of each."""
        return Errors(*map(max, zip(self, other, strict=True)))


def errors(values: Tensor, exact: Tensor) -> Errors:
    """The errors of ``values``, where ``exact`` is finite."""
    finite = exact.isfinite()
    if not finite.any():
        return Errors()
    error = (values.double() - exact)[finite].abs()
    found = error.max().item(), error.square().mean().sqrt().item()
    scale = exact[finite].abs().max().item()
    return Errors(*found, *(e / scale if scale else 0.0 for e in found))


def over_limit(ours: Tensor, exact: Tensor, chain: Errors) -> float:
    """Error of ``ours`` over the limit that the unfused chain's errors set; see ``error_ratio``."""
    if not torch.equal(ours.isfinite(), exact.isfinite()) or not torch.equal(ours.isnan(), exact.isnan()):
        return float("inf")
    ratios = zip(errors(ours, exact)[:2], limits(ours, exact, chain), strict=True)
    return max(e / limit if limit else float("inf") if e else 0.0 for e, limit in ratios)


def limits(ours: Tensor, exact: Tensor, chain: Errors) -> tuple[float, float]:
    """The limits of the largest and the root-mean-square error: twice the chain's, as they are or as this result's
    largest value scales them, and half a unit in the last place of that value in the dtype of ``ours``."""
    finite = exact[exact.isfinite()]
    scale = finite.abs().max().item() if finite.numel() else 0.0
    step = torch.finfo(ours.dtype).eps / 2 * scale
    largest, rms = max(chain.largest, chain.relative_largest * scale), max(chain.rms, chain.relative_rms * scale)
    return 2 * largest + step, 2 * rms + step


def module_error_ratios(
    ours: nn.Module, unfused: nn.Module, x: Tensor, draws: int = 8, formats: Sequence[torch.memory_format] = ()
) -> dict[str, float]:
    """Error over limit of everything that one step of ``ours`` gives, by name: 1 and less passes.

    "y" is the output (the maps of a tuple side by side), "dx" the gradient of ``x``, "d weight" that of a parameter;
    buffers have their own names. Both modules hold the same weights and stay in their mode; ``unfused`` in float64 is
    the truth. The limit rests on the worst of several draws of the unfused chain's errors: in one draw a sum of few
    terms may be lucky.

    Args:
        ours, unfused: a fused module and its original; ``unfused`` is left after one more step on ``x``.
        x: (N, C, H, W), what both take. Other draws roll it over the batch, in its own memory format, under other
            gradients of the output.
        draws: how many.
        formats: memory formats that the draws, and the weights of ``unfused``, take in turn; by default that of ``x``.
    """
    state = copy.deepcopy(unfused.state_dict())
    got = _step(ours, x)
    truth: dict[str, Tensor] = {}
    chains: dict[str, Errors] = {}
    for draw in range(draws):
        exact = copy.deepcopy(unfused).double()
        exact.load_state_dict(state)
        unfused.load_state_dict(state)
        seed, place = divmod(draw, max(1, len(formats)))
        layout = formats[place] if formats else memory_format(x)
        if formats:
            unfused.to(memory_format=layout)  # type: ignore[call-overload]
        data = x.roll(seed, 0).contiguous(memory_format=layout)
        expected, chain = _step(exact, data.double(), seed), _step(unfused, data, seed)
        truth = truth or expected
        for name, t in expected.items():
            chains[name] = chains.get(name, Errors()).worse(errors(chain[name], t))
    if got.keys() != truth.keys():
        raise ValueError(f"ours and unfused must give the same results, only one gives {got.keys() ^ truth.keys()}")
    return {name: over_limit(got[name], t, chains[name]) for name, t in truth.items()}


def _step(model: nn.Module, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Output, gradients of the input and of every parameter, and buffers after one step, by name."""
    x = x.detach().clone().requires_grad_()
    model.zero_grad(set_to_none=True)
    y: Any = model(x)
    y = next(iter(y.values())) if isinstance(y, dict) else torch.cat(y, 1) if isinstance(y, tuple) else y
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (y * weight.to(y)).sum().backward()
    found = {"y": y.detach(), "dx": x.grad}
    found |= {f"d {name}": p.grad for name, p in model.named_parameters()}
    found |= {name: b.clone() for name, b in model.named_buffers() if b.is_floating_point()}
    return {name: t for name, t in found.items() if t is not None}
