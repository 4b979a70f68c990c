"""A model's calls of ops: noted, tried, timed, and the fastest backend of each remembered."""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from operator import truediv
from typing import Any, NamedTuple

import torch

from .. import functional
from ..backends import KERNELS, Backend, Op, Problem, cannot, select
from ..ops._shared.shortcuts import calls as listeners
from ..verification import ledger
from . import results
from .trial import WRONG, Call, Modes, Verdict, copied, judged, tensors, tried

#: How much faster than the unfused chain a candidate, or a swapped module, must be to be kept: times vary.
MARGIN = 1.05
#: Rounds of a timing, and about how many seconds of it; one round in any case.
ROUNDS, SECONDS = 30, 1.0
#: Calls in a row of which one sample is made on a GPU.
IN_A_ROW = 5


@contextmanager
def noted() -> Iterator[list[Call]]:
    """Every call of an op inside the block, with copies of its arguments."""
    found: list[Call] = []

    def hear(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = inspect.signature(getattr(functional, name)).bind(*args, **kwargs).arguments
        arguments.pop("backend", None)
        wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors(arguments))
        found.append(Call(name, copied(arguments, wanted), Modes.now()._replace(grad=wanted)))

    listeners.append(hear)
    try:
        yield found
    finally:
        listeners[:] = [other for other in listeners if other is not hear]


class Prover:
    """Decides, once per problem, which backend of an op is right and fastest here."""

    def __init__(self, training: bool) -> None:
        #: Whether it is for training, gradients included.
        self.training = training
        #: What was found wrong, by op and backend.
        self.refused: dict[tuple[str, str], str] = {}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Graphs that are rewritten inside the block ask this prover."""
        token = active.set(self)
        try:
            yield
        finally:
            active.reset(token)

    def knows(self, entry: tuple[Op, Problem, tuple[int, ...]]) -> bool:
        """Whether the fastest backend of this problem is known, or there is nothing to choose."""
        op, problem, sizes = entry
        key = results.problem_key(op.name, problem, sizes, self.training)
        where = results.place(problem.device)
        for backend in candidates(op, problem):
            found = results.get(where, "trial", f"{backend} {key}")
            if found and found["wrong"]:
                self.refused[op.name, backend] = str(found["wrong"])
        return not candidates(op, problem) or results.get(where, "problem", key) is not None

    def settle(self, calls: Sequence[Call]) -> None:
        """Try and time what the machine does not know yet of the problems of ``calls``."""
        trials: dict[str, list[Trial]] = {}
        for call in calls:
            op, problem, sizes = call.entry()
            where, key = results.place(problem.device), results.problem_key(op.name, problem, sizes, call.training)
            trials.setdefault(key, [Trial(call, b, problem, where, key) for b in candidates(op, problem)])
        known = {key for key, each in trials.items() if each and results.get(each[0].where, "problem", key)}
        self._judge([trial for key, each in trials.items() if key not in known for trial in each])
        for key, each in trials.items():
            self.refused |= {(t.call.op, t.backend): v.wrong for t in each if (v := t.verdict()).wrong}
            if each and key not in known:
                found = timed(each[0].call, [t.backend for t in each if not t.verdict().wrong])
                fastest = max(found, key=found.__getitem__, default="reference")
                choice = fastest if found.get(fastest, 0.0) >= MARGIN else "reference"
                ratios = {b: round(ratio, 3) for b, ratio in found.items()}
                lasting = all(t.verdict().lasting for t in each)
                results.put(each[0].where, "problem", key, {"choice": choice, "ratios": ratios}, lasting)

    def _judge(self, trials: list[Trial]) -> None:
        """Have a verdict on every trial: the first of a body's on this machine from a process of its own."""
        first = {t.body: t for t in reversed(trials) if results.get(t.where, "body", t.body) is None}
        jobs = [t for t in trials if first.get(t.body) is t]
        for trial, found in zip(jobs, tried([(t.call, t.backend) for t in jobs]), strict=True):
            if found.lasting:
                results.put(trial.where, "body", trial.body, {"wrong": found.wrong})
            trial.keep(found)
        for trial in trials:
            if first.get(trial.body) is not trial:
                body = results.get(trial.where, "body", trial.body) or {}
                wrong = str(body.get("wrong", ""))
                trial.keep(Verdict(WRONG, wrong) if wrong else judged(trial.call, trial.backend))


class Trial(NamedTuple):
    """A candidate for the problem of a call, where it is tried, and the problem's key there."""

    call: Call
    backend: Backend
    problem: Problem
    where: str
    key: str

    @property
    def body(self) -> str:
        """What is tried in a process of its own once: a change of the sources makes it another one."""
        layout = ledger.body_of(self.problem.dtype, self.problem.channels_last)
        return " ".join((self.call.op, self.backend, *layout.values(), ledger.source(self.call.op, self.backend)))

    def keep(self, found: Verdict) -> None:
        results.put(self.where, "trial", f"{self.backend} {self.key}", found._asdict(), found.lasting)

    def verdict(self) -> Verdict:
        found = results.get(self.where, "trial", f"{self.backend} {self.key}")
        return Verdict(0.0) if found is None else Verdict(found["error"], found["wrong"], found["lasting"])


#: The prover at work in this context, if there is one.
active: ContextVar[Prover | None] = ContextVar("active", default=None)


def candidates(op: Op, problem: Problem) -> list[Backend]:
    """What may stand for the unfused chain of ``problem``."""
    names: tuple[Backend, ...] = (*(KERNELS if problem.device == "cuda" else ()), "composed")
    return [name for name in names if cannot(op, problem, name) is None]


def timed(call: Call, backends: Sequence[Backend]) -> dict[str, float]:
    """The unfused chain's time over that of each of ``backends``."""
    steps: dict[str, Callable[[], None]] = {b: partial(call.step, b) for b in ("reference", *backends)}
    return speedups(steps, call.entry()[1].device)


def speedups(calls: dict[str, Callable[[], None]], device: str, seconds: float = SECONDS) -> dict[str, float]:
    """The first call's time over that of each other one: the median of interleaved rounds.

    At most ROUNDS rounds and about ``seconds``, but three, or one where a call takes longer than that.
    """
    begun = time.perf_counter()
    for call in calls.values():
        call()
    once = (time.perf_counter() - begun) / len(calls)
    for call in calls.values() if once < seconds / 10 else ():
        call(), call()  # a plan is made at the second call of a problem
    names = list(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    for i in range(ROUNDS):
        if i >= (1 if once > seconds else 3) and time.perf_counter() > end:
            break
        # Whoever runs second finds the caches its predecessor left: take turns.
        for name in names if i % 2 else reversed(names):
            samples[name].append(_seconds(calls[name], device))
    first, *others = names
    return {name: statistics.median(map(truediv, samples[first], samples[name])) for name in others}


def _seconds(call: Callable[[], None], device: str) -> float:
    """Of one call. On a GPU of calls in a row, so that the longer counts: what the host does, or what the GPU does."""
    repeats = 1 if device == "cpu" else IN_A_ROW
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def verdict_of(call: Call) -> tuple[str, Verdict]:
    """The backend that ``auto`` takes for ``call``, and what was found of it; nothing of the unfused chain."""
    op, problem, sizes = call.entry()
    with call.modes.on():
        backend = select(op, problem, sizes, "auto")
    key = results.problem_key(op.name, problem, sizes, call.training)
    return backend, Trial(call, backend, problem, results.place(problem.device), key).verdict()
