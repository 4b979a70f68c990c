"""What a kernel issues for the accesses that the simulator counted: the least that its SASS can execute for them.

Compiled with line numbers, every load and store of a kernel's SASS has the source line that the simulator counted its
requests by. The fewest instructions along the kernel's jumps that move those bytes at those lines is a lower bound of
what the device issues, and close where a loop's iterations hold an access: loops without one, and lanes that part, are
not counted.
"""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.cubins import BYTES, Instruction, Kernel, Unreadable, disassembled, kernels, tool
from tests.flow import NONE, Flow, Loop, address
from tests.sass_reader import class_of, width

from . import traffic

ROOT = Path(__file__).parents[1]
CUBINS = ROOT / "build" / "predict"
LANES = 32
#: Classes of instructions that move what a row of the profile counts.
KINDS = {"load": "load", "copy": "load", "store": "store", "lds": "lds", "matrix": "lds", "sts": "sts"}
GLOBAL = "load", "store"
ROW_KINDS = {"LDG": "load", "STG": "store", "ATOMG": "store", "LDS": "lds", "STS": "sts", "ATOMS": "sts"}
_PLACE = re.compile(r'\s*//## File "(?:[^"]*/)?([^"/]*)", line (\d+)')
_AT = re.compile(r"\s+/\*([0-9a-f]{4,})\*/")

#: How many lines apart the compilers may put an access, tried in turn: they differ where an expression has several.
NEAR = 4, 16
#: Instructions that a byte costs which no way through a kernel moves: more than any way.
UNEXPLAINED = 1e3
#: Pipeline stages that asynchronous copies run ahead.
STAGES = 2

Accesses = Mapping[tuple[str, str, int], int]  # (kind, place, bytes of a lane) -> requests of a warp


class Issued(NamedTuple):
    classes: dict[str, float]  # instructions of all warps, by class, and "all"
    flight: int  # loads of a warp under way at once, in the loop that reads most
    loaded: int  # bytes that one of them brings a warp
    unexplained: float  # share of the accesses' bytes that no way through the kernel moves


def unit(kernel: str) -> Path:
    """The source that is compiled with the kernel of that name: the one that its name begins with."""
    units = [path for path in (ROOT / "csrc").glob("*/*.cu") if kernel.startswith(f"{path.stem}_")]
    return max(units, key=lambda path: len(path.stem))


@functools.cache
def cubin(source: Path, arch: str) -> Path:
    """Its kernels for one architecture, compiled with line numbers or as compiled before from what it includes."""
    options = ["-std=c++20", f"-I{ROOT / 'csrc'}"]
    made = subprocess.run(["nvcc", *options, "-E", str(source)], check=True, capture_output=True)
    path = CUBINS / f"{source.stem}-{arch}-{hashlib.sha256(made.stdout).hexdigest()[:16]}.cubin"
    if not path.exists():
        CUBINS.mkdir(parents=True, exist_ok=True)
        options += ["-O3", "-DNDEBUG", "-lineinfo", "-cubin", f"-arch=sm_{arch}"]
        subprocess.run(["nvcc", *options, "-o", str(path), str(source)], check=True)
    return path


@functools.cache
def bodies(source: Path, arch: str) -> Bodies:
    return Bodies(cubin(source, arch), arch)


class Bodies:
    """The kernels of a cubin: of each its jumps, and of each instruction its class and source line."""

    def __init__(self, path: Path, arch: str) -> None:
        self.kernels = {kernel.name: kernel for kernel in kernels(path.read_bytes(), arch)}
        command = [str(tool("nvdisasm")), "-gi", "-c", str(path)]
        self._lines = lines(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        self._read: dict[str, tuple[Flow, list[Instruction]]] = {}

    def issued(self, name: str, accesses: Accesses, warps: int) -> Issued:
        if name not in self.kernels:
            raise Unreadable(f"{name}: the simulator ran it and the cubin lacks it")
        return least(self.kernels[name], *self._body(name), self._lines.get(name, {}), accesses, warps)

    def per_product(self, kernel: str, element: str) -> float:
        """The fewest instructions for each mma.sync that make all products and copies of the main loop: of the worst
        body of a kernel for elements of that mangled name."""
        return max(self._per_product(name) for name in self.kernels if f"{kernel}I" in name and f"I{element}" in name)

    def _per_product(self, name: str) -> float:
        flow, code = self._body(name)
        products = {loop: _of(flow, loop, code, "HMMA") for loop in flow.loops}
        main = max(products, key=lambda loop: len(products[loop]))
        copies = _of(flow, main, code, "LDGSTS")
        times = 1_000_000
        needed = [(dict.fromkeys(every, 1), times * len(every)) for every in (products[main], copies) if every]
        runs, _, order = _flows(self.kernels[name], flow, code, needed, 1)
        executed = sum(n * (flow.ends[b] - flow.starts[b]) for b, n in zip(order, runs, strict=True))
        return float(executed) / times / len(products[main])

    def _body(self, name: str) -> tuple[Flow, list[Instruction]]:
        if name not in self._read:
            kernel = self.kernels[name]
            (code,) = disassembled([kernel])
            self._read[name] = Flow(kernel, code), code
        return self._read[name]


def _of(flow: Flow, loop: Loop, code: Sequence[Instruction], op: str) -> list[int]:
    return [i for i in flow.positions(loop.own) if code[i].op.startswith(op)]


def lines(text: str) -> dict[str, dict[int, str]]:
    """Per kernel the place of each instruction, by its number: the innermost line that no helper holds."""
    found: dict[str, dict[int, str]] = {}
    own: dict[int, str] = {}
    chain: list[str] = []
    begun = False
    for line in text.splitlines():
        if line.startswith("\t.section\t.text."):
            own = found.setdefault(line.split(".text.", 1)[1].split(",")[0], {})
            chain = []
        elif place := _PLACE.match(line):
            chain = [*(chain if begun else []), f"{place[1]}:{place[2]}"]
            begun = True
        elif at := _AT.match(line):
            own[int(at[1], 16) // BYTES] = traffic.outer(chain) if chain else "?"
            begun = False
    return found


def least(
    kernel: Kernel, flow: Flow, code: Sequence[Instruction], places: Mapping[int, str], accesses: Accesses, warps: int
) -> Issued:
    classes = [class_of(ins, kernel.name) for ins in code]
    for near in NEAR:
        needed = _needed(code, classes, places, accesses, near)
        x, left, order = _flows(kernel, flow, code, needed, warps)
        unexplained = float(sum(left)) / max(1, sum(every for _, every in needed))
        if unexplained < 0.02:
            break
    runs = {b: x[n] for n, b in enumerate(order)}
    totals: dict[str, float] = dict.fromkeys(classes, 0.0)
    for b in order:
        for i in flow.positions([b]):
            totals[classes[i]] += runs[b]
    counted = {name: float(round(value)) for name, value in sorted(totals.items()) if round(value)}
    flight, size = _under_way(flow, code, classes, runs)
    return Issued({"all": float(round(sum(totals.values()))), **counted}, flight, size * LANES, round(unexplained, 3))


def _under_way(
    flow: Flow, code: Sequence[Instruction], classes: Sequence[str], runs: Mapping[int, float]
) -> tuple[int, int]:
    """In the loop that reads most, how many of the loads that bring most are under way at once, and bytes of each."""
    read: dict[str, Counter[tuple[str, int]]] = {}
    for loop in (loops := [flow.outside, *flow.loops]):
        own = read[loop.name] = Counter()
        for b in loop.own:
            for i in flow.positions([b]):
                if KINDS.get(classes[i]) == "load":
                    own[classes[i], bytes_of(code[i])] += round(runs[b] * bytes_of(code[i]))
    main = max(loops, key=lambda loop: read[loop.name].total())
    kind, size = max(read[main.name], key=read[main.name].__getitem__, default=("load", 0))
    alike = {i for i in flow.positions(main.own) if classes[i] == kind and bytes_of(code[i]) == size}
    if kind == "copy":
        return STAGES * len(alike), size
    return flow.in_flight(main, {i for i in alike if code[i].sets != NONE}), size


def bytes_of(ins: Instruction) -> int:
    """Bytes that one thread moves; a matrix is a row of 16 bytes to each eighth of the warp's lanes."""
    if matrix := re.search(r"\.MT?88\.(\d)", ins.op):
        return 4 * int(matrix[1])
    return width(ins.op)


Needed = list[tuple[dict[int, int], int]]  # instructions with what each moves of a lane's bytes, and what all must


def _needed(
    code: Sequence[Instruction], classes: Sequence[str], places: Mapping[int, str], accesses: Accesses, near: int
) -> Needed:
    """Which instructions may make the requests of places that are ``near`` lines apart: those there, and those as near
    whose line made none; where there are none, all of that kind whose line made none. Of these in global memory, those
    of the width that was counted: accesses to shared memory, whose alignment it knows, nvcc joins."""
    by_place: dict[tuple[str, str], list[int]] = {}
    for i, name in enumerate(classes):
        if kind := KINDS.get(name):
            by_place.setdefault((kind, places.get(i, "?")), []).append(i)
    groups: list[tuple[str, int, list[str], int]] = []  # kind, bytes of a lane, places, bytes in all
    for (kind, place, size), requests in sorted(
        accesses.items(), key=lambda item: (item[0][0], item[0][2], _line(item[0][1]))
    ):
        if groups and groups[-1][:2] == (kind, size) and _distance(groups[-1][2][-1], place) <= near:
            _, _, joined, total = groups.pop()
            groups.append((kind, size, [*joined, place], total + requests * size))
        else:
            groups.append((kind, size, [place], requests * size))
    counted = {(kind, place) for kind, place, _ in accesses}
    needed: Needed = []
    for kind, size, joined, total in groups:
        free = {p: some for (k, p), some in by_place.items() if k == kind and (k, p) not in counted}
        some = [i for place in joined for i in by_place.get((kind, place), ())]
        some += [i for p, every in free.items() if min(_distance(p, q) for q in joined) <= near for i in every]
        some = some or [i for every in free.values() for i in every]
        alike = [i for i in some if bytes_of(code[i]) == size] if kind in GLOBAL else some
        if same := alike or some:
            needed.append(({i: bytes_of(code[i]) for i in same}, total))
    return needed


def _line(place: str) -> tuple[str, int]:
    file, _, line = place.partition(":")
    return file, int(line or 0)


def _distance(a: str, b: str) -> float:
    """Lines between two places, of one file."""
    (file, line), (other, its) = _line(a), _line(b)
    return abs(line - its) if file == other else float("inf")


def _flows(
    kernel: Kernel, flow: Flow, code: Sequence[Instruction], needed: Needed, warps: int
) -> tuple[Sequence[float], Sequence[float], list[int]]:
    """How often each block of the kernel runs: a linear programme over its jumps."""
    from scipy.optimize import linprog  # not a requirement of the package's
    from scipy.sparse import coo_matrix

    order = flow.order
    place = {b: n for n, b in enumerate(order)}
    edges = [(place[b], place[t]) for b in order for t in flow.next[b]]
    ends = [n for n, b in enumerate(order) if re.match(r"EXIT|RET|KILL", code[flow.ends[b] - 1].op) or not flow.next[b]]
    functions = {flow.starts[b]: place[b] for b in flow.roots if b}
    # Unknowns: the runs of each block, of each edge, of each end; bytes of each place that no run of a block explains.
    blocks, flows = len(order), len(order) + len(edges) + len(ends)
    count = flows + len(needed)
    cells: list[tuple[int, int, float]] = []
    right = np.zeros(2 * blocks)
    for n, b in enumerate(order):
        cells += [(n, n, -1.0), (blocks + n, n, -1.0)]  # what comes in runs, what runs goes on
        last = code[flow.ends[b] - 1]
        callee = address(last) if last.op.startswith("CALL") else None
        if callee is not None and callee // BYTES in functions:
            cells.append((functions[callee // BYTES], n, 1.0))
    for e, (a, b) in enumerate(edges, blocks):
        cells += [(b, e, 1.0), (blocks + a, e, 1.0)]
    cells += [(blocks + n, e, 1.0) for e, n in enumerate(ends, blocks + len(edges))]
    right[place[min(order, key=flow.starts.__getitem__)]] = -warps
    rows, columns, values = zip(*cells, strict=True)
    equal = coo_matrix((values, (rows, columns)), shape=(2 * blocks, count))
    held = {i: place[b] for b in order for i in flow.positions([b])}
    moved = [(n, held[i], -float(size)) for n, (some, _) in enumerate(needed) for i, size in some.items() if i in held]
    moved += [(n, flows + n, -1.0) for n in range(len(needed))]
    cost = np.full(count, UNEXPLAINED)
    cost[blocks:flows] = 0
    cost[:blocks] = [flow.ends[b] - flow.starts[b] for b in order]
    rows, columns, values = zip(*moved, strict=True) if moved else ((), (), ())
    most = coo_matrix((values, (rows, columns)), shape=(len(needed), count))
    found = linprog(cost, most, [-float(n) for _, n in needed], equal, right, method="highs")
    if found.status:
        raise Unreadable(f"{kernel.name}: no way through its jumps ({found.message})")
    return found.x[:blocks], found.x[flows:], order
