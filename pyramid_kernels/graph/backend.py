"""The Dynamo backend ``pyramid_kernels``: graphs are rewritten, then compiled by another backend."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch._dynamo.exc import ShortenTraceback
from torch.fx import GraphModule

from ..backends import BACKENDS, Backend, for_inductor
from ..ops._shared.checks import check_choice
from .report import GraphReport, Rewrite
from .rewrite import graph_break, has_parts, rewrite

INNER = ("inductor", "eager", "aot_eager")


class OptionError(ShortenTraceback, ValueError):
    """An option that does not exist, or a value that one cannot have; Dynamo hands it to the caller as it is."""

    def __init__(self, message: str) -> None:
        super().__init__(message, first_useful_frame=None)


class Options(NamedTuple):
    """Own options of the backend, and those that go on to Inductor."""

    inner: str = "inductor"
    backend: Backend = "auto"
    inductor: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, options: dict[str, Any] | None, mode: str | None = None) -> Options:
        """Options as a caller gives them, checked."""
        given = dict(options or {})
        own = {name: given.pop(name) for name in ("inner", "backend") if name in given}
        found = cls(**own)
        try:
            check_choice("inner", found.inner, INNER)
            check_choice("backend", found.backend, BACKENDS)
        except ValueError as error:
            raise OptionError(str(error)) from None
        if (given or mode) and found.inner != "inductor":
            names = ", ".join([*given, *(["mode"] if mode else [])])
            raise OptionError(f"{names}: options of Inductor, and inner is {found.inner!r}")
        known = torch._inductor.list_options() if given else []
        for name in given:
            if name.replace("-", "_") not in known:
                close = get_close_matches(name, ["inner", "backend", *known], 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise OptionError(f"options has no {name!r}{hint}")
        given = {**(torch._inductor.list_mode_options(mode) if mode else {}), **given}
        return found._replace(inductor=tuple(given.items()))


def pyramid_kernels(
    module: GraphModule, example_inputs: Any, *, options: dict[str, Any] | None = None, mode: str | None = None
) -> Callable[..., Any]:
    """Rewrite the pyramids of a graph of Dynamo's and compile it.

    ``torch.compile(model, backend="pyramid_kernels", options=...)`` calls it.

    Args:
        module, example_inputs: from Dynamo.
        options: "inner", the backend that compiles the rewritten graph: "inductor" (default), "aot_eager", or "eager"
            for none; "backend" of every op: "auto", "cuda", "triton", "composed" or "reference"; and Inductor's own.
        mode: Inductor's.

    Raises:
        ValueError: an option that does not exist, with the close one.
    """
    return compiled(module, example_inputs, Options.of(options, mode), rewrite)


def compiled(
    module: GraphModule, example_inputs: Any, options: Options, rewriter: Callable[..., list[Rewrite]]
) -> Callable[..., Any]:
    """``module`` rewritten, and compiled by the inner backend."""
    token = for_inductor.set(options.inner == "inductor")
    try:
        rewriter(module, options.backend)
    finally:
        for_inductor.reset(token)
    if options.inner == "eager":
        return module.forward
    if options.inner == "aot_eager":
        return torch._dynamo.lookup_backend("aot_eager")(module, example_inputs)
    from torch._inductor.compile_fx import compile_fx

    result: Any = compile_fx(module, example_inputs, config_patches=dict(options.inductor) or None)
    return result


class Reporting:
    """A backend that fills a report with what it did, by graph: Inductor may ask for one graph twice."""

    def __init__(self, options: Options, report: Callable[[], GraphReport]) -> None:
        self.options, self.report = options, report

    def __call__(self, module: GraphModule, example_inputs: Any) -> Callable[..., Any]:
        return compiled(module, example_inputs, self.options, self._rewrite)

    def _rewrite(self, module: GraphModule, backend: Backend) -> list[Rewrite]:
        report, key = self.report(), str(module.graph)
        entries = report.graphs[key] = rewrite(module, backend)
        if (line := graph_break(module)) is not None:
            report.breaks[line] = None
        report.parts |= has_parts(module.graph)
        return entries
