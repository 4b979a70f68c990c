"""Compile every Triton kernel ahead of time, as its launchers ask on the benchmarked shapes, and read what it uses.

``python -m tests.aot`` compiles for compute capability 8.0 and 9.0, prints a table, and fails on a spill (stack or
local memory), on too much shared memory, on a half-precision product without tensor cores, and on a number of
``tests/budgets/aot.json`` that got worse; ``--record`` rewrites those. No GPU is needed.
``--quick`` takes one body of each kernel and dtype, ``--quick 80`` for that capability alone. ``--warm OP DTYPE`` fills
Triton's cache instead: what tests and benchmarks of the op launch in that dtype on compute capability 9.0.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests import budgets
from tests.cubins import Kernel, kernels, objdump
from tests.modes import Seen
from tests.processes import ROOT
from tests.sass_reader import read, version

#: Bytes of shared memory that one block may take; beyond COMMON the smaller Ampere and Ada parts cannot run it.
SHARED, COMMON = {80: 163 * 1024, 90: 227 * 1024}, 99 * 1024
#: Processes that compile for one architecture, side by side.
SHARES = 2
#: What ``--warm`` compiles for, and the lists of cases that it takes.
WARMED, SOURCES = 90, ("CASES", "BENCH")
TENSOR_CORES = {80: {"HMMA"}, 90: {"HMMA", "HGMMA"}}
#: Capabilities as nvdisasm names them. Budgets of 8.0 are of one body for each kernel and dtype, as in ``--quick``.
ARCHS = {80: "80", 90: "90a"}
BUDGETS, RECORDED_QUICK = budgets.FOLDER / "aot.json", 80


class Launch(NamedTuple):
    kernel: Any
    dtype: torch.dtype
    args: tuple[Any, ...]
    meta: dict[str, Any]
    layout: str

    @property
    def body(self) -> Any:
        """What selects a compiled body, leaving aside the values of its integers."""
        return self.kernel.__name__, self.dtype, _types(self.args), tuple(sorted(self.meta.items()))


def _types(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_types(v) for v in value)
    return str(value.dtype) if isinstance(value, torch.Tensor) else type(value)


def recorded(capability: int) -> list[Launch]:
    """One launch of every body that the launchers choose for ``BENCH``, and for ``CASES`` where they add kernels."""
    from tests.kernels import DTYPES, specified_ops

    found: dict[Any, Launch] = {}
    wanted = _pretend(capability)
    dtype = torch.float32

    def keep(layout: str, kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], meta: dict[str, Any]) -> None:
        entry = Launch(kernel, dtype, args, meta, layout)
        if kernel.__name__ in wanted:
            found.setdefault(entry.body, entry)

    for source in SOURCES[::-1]:
        for op, dtype in product(specified_ops(), DTYPES):
            _launch(op, source, dtype, wanted, keep)
        wanted -= {entry.kernel.__name__ for entry in found.values()}
    if wanted:
        raise SystemExit(f"no case launches {', '.join(sorted(wanted))}")
    return list(found.values())


def _pretend(capability: int) -> set[str]:
    """Launchers take tensors on the CPU as if they lay on a GPU of ``capability``; the names of all kernels."""
    from pyramid_kernels.ops._shared import triton as shared
    from tests.kernels import kernels_of, triton_modules

    shared.COMPILED_FOR = capability
    cannot_launch = shared.cannot_launch

    def pretend(problem: Any, *args: Any, **kwargs: Any) -> str | None:
        return cannot_launch(problem._replace(device="cuda", arch=capability), *args, **kwargs)

    modules = triton_modules().values()
    for module in modules:
        if hasattr(module, "cannot_launch"):
            module.cannot_launch = pretend  # type: ignore[attr-defined]
    return {name for module in modules for name in kernels_of(module)}


def _launch(op: str, source: str, dtype: torch.dtype, kernels: set[str], start: Callable[..., None]) -> None:
    """Call the cases that launch some of ``kernels``, in every layout and fp32 precision; ``start`` takes launches."""
    from pyramid_kernels.ops._shared import launch
    from pyramid_kernels.ops._shared.spec import materialise
    from pyramid_kernels.verification import oracle

    spec = oracle.spec(op)
    precisions = (True, False) if dtype == torch.float32 else (True,)
    with FakeTensorMode(allow_non_fake_inputs=True), Seen(inside=True):
        cases = [
            case
            for case in getattr(spec, source)
            if kernels & set().union(*spec.launches(case, True, "triton"))
            and not oracle.cannot_check(op, case, "triton", dtype, True, "cpu")
        ]
        for case, tf32, channels_last in product(cases, precisions, (True, False)):
            torch.backends.cudnn.allow_tf32 = tf32
            launch.start = partial(start, "channels_last" if channels_last else "nchw")
            arguments = materialise(case, dtype, "cpu", channels_last)
            y = oracle.call(op, arguments, "triton")[0]
            if leaves := [t for _, t in oracle.leaves(arguments) if t.requires_grad]:
                torch.autograd.grad(y, leaves, torch.empty_like(y), allow_unused=True)


def warmed(op: str, dtype: torch.dtype, sources: Sequence[str]) -> int:
    """Compile whatever the op's cases launch in ``dtype``, with the values of their integers; how many launches."""
    launches = 0

    def compile_only(layout: str, kernel: Any, grid: tuple[int, ...], args: Any, meta: dict[str, Any]) -> None:
        nonlocal launches
        launches += 1
        kernel.warmup(*_mock(args), grid=grid, **meta)

    kernels = _pretend(WARMED)
    for source in sources:
        _launch(op, source, dtype, kernels, compile_only)
    return launches


def _mock(value: Any) -> Any:
    from triton.runtime.jit import MockTensor

    if isinstance(value, tuple):
        return tuple(map(_mock, value))
    return MockTensor(value.dtype) if isinstance(value, torch.Tensor) else value


class _Driver:
    """What Triton asks a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Usage(NamedTuple):
    kernel: str
    dtype: str
    registers: int
    stack: int
    local: int
    shared: int
    products: bool
    body: Kernel  # its machine code
    group: str  # the name of its budget


def compiled(entry: Launch, capability: int) -> Usage:
    binary = entry.kernel.warmup(*_mock(entry.args), grid=(1,), **entry.meta)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        text = objdump("--dump-resource-usage", file.name)
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    (body,) = kernels(binary.asm["cubin"], ARCHS[capability])
    name, dtype = entry.kernel.__name__, str(entry.dtype).removeprefix("torch.")
    group = f"{name} {dtype} {entry.layout} {ARCHS[capability]}"
    return Usage(
        name, dtype, numbers["REG"], numbers["STACK"], numbers["LOCAL"], binary.metadata.shared,
        "tt.dot" in binary.asm["ttir"], body, group,
    )  # fmt: skip


def complaints(usage: Usage, capability: int, ops: frozenset[str]) -> list[str]:
    half = usage.dtype in ("float16", "bfloat16")
    return [
        *([f"{usage.stack} bytes of stack, {usage.local} of local memory"] if usage.stack or usage.local else []),
        *([f"{usage.shared} bytes of shared memory"] if usage.shared > SHARED[capability] else []),
        *(["a product without tensor cores"] if half and usage.products and not ops & TENSOR_CORES[capability] else []),
    ]


def gate(capability: int, quick: bool, share: int, rows: Path) -> int:
    """Compile one of SHARES shares for an architecture, print a table, and return how many bodies fail; what their
    SASS says goes to ``rows``."""
    from triton.runtime import driver

    driver.set_active(_Driver(capability))
    entries = recorded(capability)
    one_each = list({(e.kernel.__name__, e.dtype): e for e in reversed(entries)}.values())
    counted = set(map(id, one_each if capability == RECORDED_QUICK else [] if quick else entries))
    if not counted:
        print(f"compute capability {capability / 10:.1f}: budgets are of all bodies, not compared with --quick")
    mine = (one_each if quick else entries)[share::SHARES]
    used = [compiled(entry, capability) for entry in mine]
    print(f"compute capability {capability / 10:.1f}, share {share + 1} of {SHARES}: {len(used)} bodies")
    show(used)
    fast = [i for i, u in enumerate(used) if u.dtype != "float64"]  # nobody waits for double
    sass = dict(zip(fast, read([used[i].body for i in fast], [used[i].shared for i in fast]), strict=True))
    ops = [sass[i].ops if i in sass else frozenset[str]() for i in range(len(used))]
    failed = [(u, c) for u, of in zip(used, ops, strict=True) for c in complaints(u, capability, of)]
    for u, complaint in failed:
        print(f"FAILED {u.kernel} [{u.dtype}]: {complaint}")
    rows.write_text(json.dumps([(used[i].group, sass[i].recorded) for i in fast if id(mine[i]) in counted]))
    return len(failed)


def show(used: Sequence[Usage]) -> None:
    print(f"{'kernel':42} dtype     registers  shared bytes")
    for name, dtype in sorted({(u.kernel, u.dtype) for u in used}):
        own = [u for u in used if (u.kernel, u.dtype) == (name, dtype)]
        registers, shared = max(u.registers for u in own), max(u.shared for u in own)
        print(f"{name:42} {dtype:9} {registers:9}  {shared:12}{'  more than 99 KB' if shared > COMMON else ''}")


def budget(parts: Sequence[Path], record: bool) -> int:
    """Compare or record what the shares read; how much of it is worse."""
    import triton

    bodies = [body for part in parts for body in json.loads(part.read_text())]
    rows = {group: budgets.worst([row for name, row in bodies if name == group]) for group, _ in bodies}
    versions = {"triton": triton.__version__, "nvdisasm": version()}
    wrong = budgets.write(BUDGETS, versions, rows) if record else budgets.compare(BUDGETS, versions, rows)
    print(*budgets.debts(rows), sep="\n")
    for line in wrong:
        print(f"FAILED {line}")
    return len(wrong)


def warm(op: str, dtype: torch.dtype, sources: Sequence[str]) -> int:
    os.environ.pop("TRITON_INTERPRET", None)  # read when kernels are decorated, which is later
    from triton.runtime import driver

    driver.set_active(_Driver(WARMED))
    print(f"{op} {dtype}: {warmed(op, dtype, sources)} launches compiled for {WARMED / 10:.1f}")
    return 0


def main(argv: list[str]) -> int:
    """Both architectures side by side, in processes that do not interpret kernels."""
    parser = argparse.ArgumentParser(prog="python -m tests.aot", description="Compile every Triton kernel.")
    parser.add_argument("--quick", type=int, nargs="*", choices=sorted(SHARED), metavar="CAPABILITY")
    parser.add_argument("--record", action="store_true", help=f"rewrite {BUDGETS.relative_to(ROOT)}")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--warm", nargs=2, metavar=("OP", "DTYPE"), help="fill Triton's cache")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES, help="of --warm")
    args = parser.parse_args(argv)
    if args.warm:
        return warm(args.warm[0], getattr(torch, args.warm[1]), args.sources)
    quick = sorted(SHARED) if args.quick == [] else args.quick or []
    if args.only:
        capability, share = map(int, args.only[:2])
        return min(1, gate(capability, capability in quick, share, Path(args.only[2])))
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(ROOT / "build" / "aot"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        shares = {Path(folder, f"{c}-{s}.json"): (str(c), str(s)) for c in sorted(SHARED) for s in range(SHARES)}
        commands = [[sys.executable, "-m", "tests.aot", "--only", *of, str(rows), *argv] for rows, of in shares.items()]
        runs = [subprocess.Popen(command, cwd=ROOT, env=environment) for command in commands]
        failed = max(run.wait() for run in runs)
        return failed or min(1, budget(list(shares), args.record))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
