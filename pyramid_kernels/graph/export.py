"""Graphs of ``torch.export``: the level at which patterns read them."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

#: Operators that only ``run_decompositions`` leaves in a graph.
_DECOMPOSED = ("convolution", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit_functional",
               "_adaptive_avg_pool2d")  # fmt: skip


def check_level(module: GraphModule) -> None:
    """ValueError where the graph holds no operators of ATen, or decomposed ones."""
    targets = [n.target for n in module.graph.nodes if n.op == "call_function"]
    operators = [t for t in targets if isinstance(t, torch._ops.OpOverload)]
    names = {t._schema.name.rpartition("::")[2] for t in operators}
    wrong = sorted(names.intersection(_DECOMPOSED))
    if wrong or (targets and not operators):
        got = f"aten.{wrong[0]}" if wrong else f"{getattr(targets[0], '__name__', targets[0])}"
        raise ValueError(
            "module must hold the operators of ATen as torch.export.export(model, args).module() gives them, before "
            f"run_decompositions; got {got}"
        )
