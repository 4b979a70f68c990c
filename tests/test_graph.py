"""Pyramids in graphs: every layout fused through Dynamo and through ``fuse_``, equal in all it gives."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

import pyramid_kernels as pk
from tests.layouts import LAYOUTS, build
from tests.modules import assert_same

#: Of the two ways in, `make test` takes one for each layout.
first, second = (
    pytest.mark.parametrize(
        "name", [pytest.param(n, marks=[pytest.mark.slow] if i % 2 == left else []) for i, n in enumerate(LAYOUTS)]
    )
    for left in (0, 1)
)
MODES = pytest.mark.parametrize("mode", ["eval", pytest.param("train", marks=pytest.mark.slow)])


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Every test compiles its own graphs."""
    yield
    torch._dynamo.reset()


def compiled(module: Any, backend: str = "composed", **settings: Any) -> Any:
    return pk.compile(module, options={"inner": "eager", "backend": backend}, **settings)


def outcome(module: Any, inputs: tuple[Any, ...], call: Any = None) -> dict[str, Tensor]:
    """Every output, gradient and buffer of one call."""
    leaves, form = tree_flatten(inputs)
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in leaves]
    module.zero_grad(set_to_none=True)
    outputs = tree_flatten((module if call is None else call)(*tree_unflatten(leaves, form)))[0]
    found = {f"y {i}": y.detach().clone() for i, y in enumerate(outputs)}
    if all(y.requires_grad for y in outputs):
        weights = [torch.linspace(-1, 1, y.numel()).cos().view(y.shape).to(y) for y in outputs]
        torch.autograd.backward(outputs, weights)
    found |= {f"d {i}": t.grad for i, t in enumerate(leaves) if t.grad is not None}
    found |= {f"d {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | {name: b.clone() for name, b in module.named_buffers()}


def expected_ops(name: str, module: nn.Module) -> dict[str, int]:
    layout = LAYOUTS[name]
    return layout.ops if layout.trained is None or not module.training else layout.trained


@pytest.mark.parametrize("backend", ["composed", pytest.param("reference", marks=pytest.mark.slow)])
@MODES
@first
def test_layout_through_dynamo(name: str, mode: str, backend: str) -> None:
    if (name, mode) == ("checkpointed", "train"):
        mode = "eval"  # PyTorch's own backend "eager" raises there: a norm's counter is written twice
    module, inputs = build(name)
    module.train(mode == "train")
    unfused, ours = copy.deepcopy(module), compiled(module, backend)
    with pk.testing.count_ops() as ops:
        got = outcome(module, inputs, ours)
    assert_same(got, outcome(unfused, inputs))
    assert ops == expected_ops(name, module), ours.report
    files = [__file__.replace("test_graph", name) for name in ("layouts", "third_party")]
    assert all(line.where.startswith((files[0], files[1].removesuffix(".py"))) for line in ours.report.entries)


@second
def test_layout_through_fuse(name: str) -> None:
    module, inputs = build(name)
    module.train()
    unfused = copy.deepcopy(module)
    report = pk.fuse_(module, backend="composed")
    for train in (True, True, False):
        module.train(train), unfused.train(train)
        with pk.testing.count_ops() as ops:
            got = outcome(module, inputs)
        assert_same(got, outcome(unfused, inputs))
        if train or name != "checkpointed":  # which computes no more again than it needs
            assert ops == expected_ops(name, module), report
    paths = [entry.path for entry in report.fused]
    trained = [entry for entry in report.fused if not entry.idle]
    assert bool(trained) == (LAYOUTS[name].trained != {}) and pk.unfuse_(module) == paths
    with pk.testing.count_ops() as ops:
        module(*inputs)
    assert not ops
