"""What holds a model's parameters (optimisers, files, flat views) goes on as if nothing were fused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters

import pyramid_kernels as pk
from tests.modules import LEARNED, build, loss, maps_of

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, **kw: torch.optim.SGD(p, 0.1, momentum=0.9, **kw),
    "adam": lambda p, **kw: torch.optim.Adam(p, 1e-2, **kw),
    "adamw": lambda p, **kw: torch.optim.AdamW(p, 1e-2, **kw),
    "adagrad": lambda p, **kw: torch.optim.Adagrad(p, 1e-2, **kw),
}
FORMS: dict[str, dict[str, bool]] = {
    "plain": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


def run(name: str, optimiser: str, form: str, when: str) -> tuple[list[Tensor], int]:
    """The parameters after six steps, during which the plain module is fused ``when``; how many modules were."""
    module, maps = build(name).train().to_reference(), maps_of(name)
    make = OPTIMISERS[optimiser]
    fused = len(pk.fuse_(module, backend="reference").fused) if when in ("before", "unfuse") else 0
    held = make(module.parameters(), **FORMS[form])
    for step in range(6):
        if step == 3:
            fused += len(pk.fuse_(module, backend="reference").fused) if when in ("between", "resume") else 0
            if when == "unfuse":
                pk.unfuse_(module)
            if when == "resume":
                state = copy.deepcopy(held.state_dict())
                held = make(module.parameters(), **FORMS[form])
                held.load_state_dict(state)
        held.zero_grad()
        loss(module, maps).backward()
        held.step()
    return [p.detach() for p in module.parameters()], fused


def assert_unmoved(name: str, optimiser: str, form: str) -> None:
    plain, _ = run(name, optimiser, form, "never")
    for when in ("before", "between", "resume", "unfuse"):
        ours, fused = run(name, optimiser, form, when)
        apart = max((a - b).abs().max().item() for a, b in zip(ours, plain, strict=True))
        assert fused and apart <= 1e-6, f"{optimiser} {form}, fused {when}: {apart:.2g} apart"


@pytest.mark.parametrize("name", LEARNED)
def test_training_with_an_optimiser_that_walks_over_memory(name: str) -> None:
    """Such as the fused ones, which pair a parameter's memory with that of its state."""
    assert_unmoved(name, list(OPTIMISERS)[LEARNED.index(name) % len(OPTIMISERS)], "fused")


@pytest.mark.slow
@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("optimiser", list(OPTIMISERS))
def test_training_with_every_optimiser(optimiser: str, form: str) -> None:
    for name in LEARNED:
        assert_unmoved(name, optimiser, form)


def saved(module: Any, maps: list[Tensor], folder: Path) -> None:
    file = folder / "weights.safetensors"
    safetensors.torch.save_file(module.state_dict(), file)
    module.load_state_dict(safetensors.torch.load_file(file))


def flattened(module: Any, maps: list[Tensor], folder: Path) -> None:
    vector = parameters_to_vector(module.parameters())
    vector_to_parameters(vector.clone(), module.parameters())
    assert sum(p.view(-1).dot(p.view(-1)) for p in module.parameters()) > 0


def second_order(module: Any, maps: list[Tensor], folder: Path) -> None:
    held = torch.optim.LBFGS(module.parameters(), max_iter=2)

    def closure() -> Tensor:
        held.zero_grad()
        value = loss(module, maps)
        value.backward()
        return value

    held.step(closure)


def pruned(module: Any, maps: list[Tensor], folder: Path) -> None:
    conv = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    prune.l1_unstructured(conv, "weight", amount=0.5)


@pytest.mark.parametrize("tool", [saved, flattened, second_order, pruned])
def test_tools_take_fused_modules_as_they_take_plain_ones(tool: Callable[..., None], tmp_path: Path) -> None:
    for name in LEARNED:
        plain, maps = build(name).train().to_reference(), maps_of(name)
        fused = copy.deepcopy(plain)
        assert pk.fuse_(fused, backend="reference").fused, name
        for module in (plain, fused):
            tool(module, maps, tmp_path)
        assert [p.stride() for p in fused.parameters()] == [p.stride() for p in plain.parameters()]
        torch.testing.assert_close(loss(fused, maps), loss(plain, maps), rtol=1e-9, atol=1e-12, msg=name)
