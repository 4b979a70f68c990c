"""``pk.compile`` and ``pk.fuse_graph``. What they use takes seconds to import, so it is imported where it is used."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from ..backends import Backend
from ..nn.base import check_backend
from .report import GraphReport, following


def compile(
    model: nn.Module, *, mode: str | None = None, dynamic: bool | None = None, options: dict[str, Any] | None = None
) -> Any:
    """``torch.compile`` with the pyramids of the model's graphs fused, and a report of them.

    Args:
        model: any module; it stays as it is.
        mode: Inductor's: "default", "reduce-overhead", "max-autotune".
        dynamic: as in ``torch.compile``.
        options: "inner": "inductor" (default), "aot_eager" or "eager"; "backend" of every op; and Inductor's own.

    Returns:
        What ``torch.compile`` returns, with ``report``: every pyramid that was seen, by file and line, with the op it
        runs or the reason why not. It is filled as graphs are compiled.

    Raises:
        ValueError: an option that does not exist, with the close one. TypeError: model is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    from .backend import Options, Reporting

    report = GraphReport()
    backend = Reporting(Options.of(options, None if mode == "default" else mode), lambda: report)
    result: Any = torch.compile(model, backend=backend, dynamic=dynamic)
    forward = result.forward

    def followed(*args: Any, **kwargs: Any) -> Any:
        with following(model, report):
            return forward(*args, **kwargs)

    vars(result).update(report=report, forward=followed)
    return result


def fuse_graph(module: GraphModule, *, backend: Backend = "auto") -> GraphReport:
    """Fuse, in place, the pyramids of an exported program's graph.

    Args:
        module: ``torch.export.export(model, args).module()``, before ``run_decompositions``.
        backend: of every op. "composed" is PyTorch's own operators, which leave PyTorch by ONNX.

    Returns:
        GraphReport: every pyramid that was seen, with the op it runs or the reason why not.

    Raises:
        TypeError: module is no graph. ValueError: the graph holds decomposed operators.
    """
    check_backend(backend)
    if not isinstance(module, GraphModule):
        raise TypeError(
            f"module must be the GraphModule that torch.export.export(model, args).module() gives, got a "
            f"{type(module).__name__}"
        )
    from .export import check_level
    from .rewrite import rewrite

    check_level(module)
    return GraphReport({"exported": rewrite(module, backend)})
