"""``python -m bench.predict``: what the CUDA kernels' benchmarked cases should take on GPUs that are not here.

Inputs come from tools that need no GPU: accesses, CTAs and DRAM traffic from the simulator's profile (``traffic``),
instructions from SASS (``issue``), the Hopper forward of ``dilated_branches`` from its schedule, and the bytes of
PyTorch's own operators from their shapes (``aten``). ``--record`` writes them to ``bench/results/predicted.json``;
``bench.report`` makes docs/predicted.md of them. A kernel is predicted at the slowest of its limits, as if the others
were hidden behind it: a prediction sorts what to look at, and no claim of speed rests on one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyramid_kernels.console import progress, table
from pyramid_kernels.ops import all_ops, spec
from pyramid_kernels.ops._shared.spec import Case
from tests.cubins import Kernel, Unreadable
from tests.sass import demangled
from tests.sass_reader import ctas

from . import aten, issue, schedule, traffic
from .profile import DTYPES, GENERAL, LAYOUTS

RECORD = Path(__file__).parent / "results" / "predicted.json"
ARCHS = "90a", "80"
RECORDED_DTYPE = "bfloat16"
COUNTED = "all", "mufu", "mma"
#: Seconds from a launch's begin to its first load's data and from its last store to the next launch's begin; once a
#: pass more: both are seen on an empty kernel.
KERNEL, PASS = 1.5e-6, 1.5e-6
#: FLOPs of one mma.sync of 16-bit elements; TF32's has half, and takes as long.
MMA_FLOPS = 4096
#: Instructions a cycle that one warp issues by itself, waiting for its own results.
ALONE = 0.4


class Gpu(NamedTuple):
    arch: str  # whose cubin it runs
    resident: str  # whose limits of a multiprocessor it has, as ``sass_reader.RESIDENT`` names them
    processors: int
    clock: float  # Hz
    copy: float  # bytes a second read and written by a copy from DRAM
    l2: float  # bytes a second from L2
    tensor: float  # FLOPs a second of a 16-bit product in a library
    mma: float  # FLOPs a second that mma.sync reaches


GPUS = {
    "H200": Gpu("90a", "90", 132, 1.755e9, 4.3e12, 5.5e12, 700e12, 430e12),
    "A100": Gpu("80", "80", 108, 1.41e9, 1.75e12, 4.0e12, 250e12, 220e12),
    "RTX 4090": Gpu("80", "120", 128, 2.52e9, 0.92e12, 5.0e12, 150e12, 140e12),
}
#: Kernels whose time is that of their products: cut cases are too short for them.
PRODUCTS = (
    "dilated_branches_fwd_kernel",
    "dilated_branches_fwd_sm90_kernel",
    "dilated_branches_bwd_dx_kernel",
    "dilated_branches_bwd_dw_kernel",
    "dilated_branches_bwd_dx_sm90_kernel",
    "dilated_branches_bwd_dw_sm90_kernel",
)
#: Seconds that a load waits for DRAM, for L2.
DRAM_LATENCY, L2_LATENCY = 0.62e-6, 0.16e-6

#: The share of a kernel's bytes that its SASS may not move: nvcc keeps in registers what g++ reads again.
UNEXPLAINED = 0.3

Entry = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.predict", description="What kernels should take on a GPU.")
    parser.add_argument("--op", choices=list(all_ops()), nargs="+", default=list(all_ops()))
    parser.add_argument("--case", help="one of the op's benchmarked cases (default: all)")
    parser.add_argument("--dtype", choices=list(DTYPES), nargs="+", default=[RECORDED_DTYPE])
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}, in {RECORDED_DTYPE}")
    args = parser.parse_args(argv)
    if args.record:
        args.dtype, args.case = [RECORDED_DTYPE], None
    found = {}
    runs = [
        (op, case, dtype, layout)
        for op in args.op
        for case in spec(op).BENCH
        for dtype in args.dtype
        for layout in LAYOUTS
        if args.case in (None, case.id)
    ]
    for op, case, dtype, layout in progress(runs, "predictions", lambda run: "/".join((run[0], run[1].id, *run[2:]))):
        key = f"{op}/{case.id}/{dtype}/{layout}"
        found[key] = measured(op, case, dtype, layout)
        if not args.record:
            print(f"\n{key}", table(SHOWN, list(shown(found[key]))), sep="\n")
    if args.record:
        kept = {key: entry for key, entry in recorded().items() if key.split("/")[0] not in args.op}
        lines = (f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in sorted({**kept, **found}.items()))
        RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


def recorded() -> dict[str, Entry]:
    found: dict[str, Entry] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return found


def measured(op: str, case: Case, dtype: str, layout: str) -> Entry:
    """The case's inputs, for the whole of it."""
    taken = traffic.profile(op, case, DTYPES[dtype], LAYOUTS[layout], 80 if op in GENERAL else 90)
    cost = spec(op).cost(case, DTYPES[dtype].itemsize)
    part = spec(op).cost(taken.cut.case, DTYPES[dtype].itemsize)
    of_data = part.floor_bytes / cost.floor_bytes
    if op in GENERAL:  # without the products, whose sums over channels the cut leaves short, it is the outputs' bytes
        of_data = _outputs(taken.cut.case) / _outputs(case)
    eager = aten.eager(op, case, DTYPES[dtype], LAYOUTS[layout])
    passes: dict[str, Entry] = {
        which: {
            "eager": eager[which == "backward"],
            "library": counted.library.scaled(1 / of_data),
            "kernels": dict(_kernels(counted, of_data)),
        }
        for which, counted in taken.passes.items()
    }
    if op in GENERAL:
        products = _products(case, dtype, cost.useful)
        for which, pattern in (("forward", "_fwd_"), ("backward", "_bwd_")):
            passes[which]["kernels"].update((name, own) for name, own in products.items() if pattern in name)
    return {"floor_bytes": cost.floor_bytes, "floor_flops": cost.useful, "passes": passes}


def _outputs(case: Case) -> int:
    return int(case.args["x"].shape[0] * sum(weight.shape[0] for weight in case.args["weights"]))


def _products(case: Case, dtype: str, useful: int) -> dict[str, Entry]:
    """The kernels of ``dilated_branches`` on tensor cores: the forward by its schedule, the others by FLOPs on data."""
    slower = 2 if dtype == "float32" else 1  # TF32, by mma.sync alone
    hopper, ampere = (schedule.planned(case, GPUS["H200"].processors, arch) for arch in (90, 80))
    scheduled = round(ampere.longest * ampere.plan["workers"] * 2 * 128 * ampere.plan["columns"] * 64)

    def by_mma(kernel: str, flops: int) -> Entry:
        element = {"float32": "fLb1E", "bfloat16": "13__nv_bfloat16", "float16": "6__half"}[dtype]
        each = {arch: issue.bodies(issue.unit(kernel), arch).per_product(kernel, element) for arch in ARCHS}
        return {arch: {"flops": slower * flops, "per_mma": round(each[arch], 2)} for arch in ARCHS}

    found = {
        "dilated_branches_fwd_kernel": by_mma("dilated_branches_fwd_kernel", scheduled),
        "dilated_branches_bwd_dx_kernel": by_mma("dilated_branches_bwd_dx_kernel", useful),
        "dilated_branches_bwd_dw_kernel": by_mma("dilated_branches_bwd_dw_kernel", useful),
    }
    if dtype != "float32":
        for kernel, steps in (
            ("fwd", hopper.longest),
            ("bwd_dx", float(hopper.dx[0])),
            ("bwd_dw", float(hopper.dw[0])),
        ):
            found[f"dilated_branches_{kernel}_kernel"]["90a"] = {"steps": steps}
    return found


def _kernels(counted: traffic.Pass, share: float) -> Iterator[tuple[str, Entry]]:
    frames = traffic.frames({r.code for r in counted.rows} | {x.body for x in counted.launches})
    for body in dict.fromkeys(x.body for x in counted.launches):
        launches = [x for x in counted.launches if x.body == body]
        rows = [r for r in counted.rows if r.body == body]
        if launches[0].kernel in PRODUCTS:
            continue
        accesses: Counter[tuple[str, str, int]] = Counter()
        memory: Counter[str] = Counter()
        for row in rows:
            place = traffic.outer([where for _, where in frames[row.code]])
            accesses[issue.ROW_KINDS[row.kind], place, row.counts["largest"]] += row.counts["requests"]
            memory += Counter({
                "once": 32 * row.counts["new"], "past_l1": 32 * row.counts["block"],
                "l1_cycles": max(row.counts["lines"], row.counts["sectors"] // 4) + row.counts["wavefronts"],
            })  # fmt: skip
            if row.kind == "LDG":
                memory += Counter({"loaded_once": 32 * row.counts["new"], "loaded": 32 * row.counts["block"]})
        name = frames[body][-1][0]
        number, threads = sum(x.ctas for x in launches), launches[0].threads
        warps, shared = number * -(-threads // 32), max(x.shared for x in launches)
        own: dict[str, Entry] = {}
        for arch in ARCHS:
            bodies = issue.bodies(issue.unit(launches[0].kernel), arch)
            found = bodies.issued(name, accesses, warps)
            if found.unexplained > UNEXPLAINED:
                raise Unreadable(
                    f"{name} on {arch}: {found.unexplained:.0%} of its bytes are moved at no line of its SASS"
                )
            own[arch] = {
                **{n: round(found.classes.get(n, 0) / share) for n in COUNTED},
                **{"flight": found.flight, "loaded": found.loaded},
                "fits": {g.resident: _fits(bodies.kernels[name], g, threads, shared) for g in _run_by(arch)},
            }
        scaled = {n: round(v / share) for n, v in sorted(memory.items())}
        entry = {"launches": len(launches), "ctas": round(number / share), "threads": threads, **scaled, **own}
        yield demangled([name])[name], entry


def _run_by(arch: str) -> list[Gpu]:
    return [gpu for gpu in GPUS.values() if gpu.arch == arch]


def _fits(kernel: Kernel, gpu: Gpu, threads: int, shared: int) -> int:
    return max(1, ctas(gpu.resident, kernel.registers, threads, kernel.shared + shared))


class Time(NamedTuple):
    seconds: float
    limit: str  # what it is bound by


def kernel(entry: Entry, gpu: Gpu) -> Time:
    own = entry[gpu.arch]
    if "steps" in own:
        return Time(own["steps"] * schedule.CYCLES / schedule.CLOCK, "products")
    if "flops" in own:
        issued = own["flops"] / MMA_FLOPS * own["per_mma"] / (4 * gpu.clock * gpu.processors)
        return max(Time(own["flops"] / gpu.mma, "products"), Time(issued, "issue"))
    if not entry["ctas"]:
        return Time(0, "nothing to do")
    busy = min(gpu.processors, entry["ctas"])
    each = -(-entry["ctas"] // gpu.processors)  # CTAs of the multiprocessor that has most
    warps = min(own["fits"][gpu.resident], each) * -(-entry["threads"] // 32)
    cycles = each / entry["ctas"] / gpu.clock  # seconds of one of all cycles on that multiprocessor
    once = entry.get("loaded_once", 0) / max(1, entry.get("loaded", 0))
    under_way = busy * warps * max(1, own["flight"]) * own["loaded"]
    limits = {
        "DRAM": entry.get("once", 0) / gpu.copy,
        "L2": entry.get("past_l1", 0) / gpu.l2,
        "loads in flight": entry.get("loaded", 0) * (once * DRAM_LATENCY + (1 - once) * L2_LATENCY) / max(1, under_way),
        "issue": own["all"] * cycles / min(4, ALONE * warps),
        "L1, shared": entry.get("l1_cycles", 0) * cycles,
        "exp": 2 * own["mufu"] * cycles,
        "products": MMA_FLOPS * own["mma"] / gpu.mma,
    }
    limit = max(limits, key=limits.__getitem__)
    return Time(limits[limit], limit)


def library(work: Sequence[int], gpu: Gpu) -> float:
    """Seconds of PyTorch's own operators."""
    ops, moved, flops = work
    return ops * KERNEL + moved / gpu.copy + flops / gpu.tensor


class Prediction(NamedTuple):
    seconds: float
    eager: float
    limits: list[str]  # of its kernels


def predict(entry: Entry, which: str, gpu: Gpu) -> Prediction:
    own = entry["passes"][which]
    kernels = {name: kernel(values, gpu) for name, values in own["kernels"].items()}
    launches = sum(own["kernels"][name].get("launches", 1) for name in kernels)
    seconds = PASS + launches * KERNEL + sum(k.seconds for k in kernels.values()) + library(own["library"], gpu)
    by_time = sorted(kernels.values(), key=lambda k: -k.seconds)
    return Prediction(seconds, PASS + library(own["eager"], gpu), [k.limit for k in by_time])


def floor(entry: Entry, gpu: Gpu) -> float:
    """Seconds of the forward's compulsory bytes, or of its FLOPs on data."""
    return max(entry["floor_bytes"] / gpu.copy, entry["floor_flops"] / gpu.tensor)


SHOWN = (
    "pass", "kernel", "CTAs x threads", "instructions, M", "once MB", "past L1 MB", "L1 cycles, M", "in flight", *GPUS,
)  # fmt: skip


def shown(entry: Entry) -> Iterator[list[str]]:
    """Each kernel's inputs, instructions and loads in flight being Hopper's, and its time and limit on each GPU."""
    for which, own in entry["passes"].items():
        for name, values in own["kernels"].items():
            inputs = values["90a"]
            times = [kernel(values, gpu) for gpu in GPUS.values()]
            numbers = ["", "", "", "", "", ""]
            if "all" in inputs:
                numbers = [
                    f"{values['ctas']} x {values['threads']}", f"{inputs['all'] / 1e6:.2f}",
                    f"{values.get('once', 0) / 1e6:.2f}", f"{values.get('past_l1', 0) / 1e6:.2f}",
                    f"{values.get('l1_cycles', 0) / 1e6:.2f}", f"{inputs['flight']} x {inputs['loaded']} B",
                ]  # fmt: skip
            yield [which, f"`{name}`", *numbers, *(f"{t.seconds * 1e6:.1f} ({t.limit})" for t in times)]


CASES = (
    "case",
    "layout",
    "pass",
    "floor, us",
    "limit",
    *(f"{name}, us" for name in GPUS),
    *(f"eager / {name}" for name in GPUS),
)


def cases(op: str) -> Iterator[tuple[str, list[str]]]:
    """Of each recorded case of the op its key, and a row for each pass."""
    for key, entry in recorded().items():
        name, case, _, layout = key.split("/")
        if name != op:
            continue
        for which in entry["passes"]:
            found = [predict(entry, which, gpu) for gpu in GPUS.values()]
            least = f"{floor(entry, GPUS['H200']) * 1e6:.1f}" if which == "forward" else ""
            yield key, [
                case, layout, which, least, found[0].limits[0], *(f"{p.seconds * 1e6:.1f}" for p in found),
                *(f"{p.eager / p.seconds:.2f}" for p in found),
            ]  # fmt: skip


def page() -> str:
    lines = [PAGE]
    for op in all_ops():
        rows = list(cases(op))
        if not rows:
            continue
        lines += [f"## {op}", "", *_markdown(CASES, [row for _, row in rows]), ""]
        lines += ["Inputs, of the whole case:", ""]
        keys = list(dict.fromkeys(key for key, _ in rows))
        inputs = [
            [*key.split("/")[1::2][:1], key.split("/")[3], *row] for key in keys for row in shown(recorded()[key])
        ]
        lines += [*_markdown(("case", "layout", *SHOWN), inputs), ""]
    return "\n".join(lines)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


PAGE = """# Predicted times

Nothing on this page was measured. `python -m bench.predict --record` computes it without a GPU, `bench.report --write`
makes the page; where a measurement stands in the README or [the ledger](gpu-ledger.md), that is what counts. It sorts
what to look at: which kernel, in which layout, is held up by what. Of bfloat16; `--dtype` prints others.

A kernel is predicted at the slowest of its limits, as if the others hid behind it:

- **DRAM**: bytes new to the kernel, at the bandwidth of a copy. **L2**: bytes new to their CTA.
- **loads in flight**: those bytes at the latency of DRAM or L2, with as many under way as the resident warps hold in
  the loop that reads most ("in flight": loads of one warp before it waits for the first, and the bytes of each).
- **issue**: the fewest instructions along the kernel's jumps that make the accesses which the simulator counted at each
  source line (`bench/issue.py`), on the multiprocessor that has most CTAs. **exp**: those of the special function unit.
- **L1, shared**: tags, sectors and wavefronts. **products**: matrix products; of `dilated_branches` by its schedule.

Not in it: phases of a kernel that do not overlap, chains of dependent instructions, lanes that part, tails, replays,
atomics. Accesses, CTAs and bytes come from cases cut to seconds, scaled by the bytes that the op must move, with the
plan for 132 multiprocessors on every GPU. A launch costs 1.5 us, a pass 1.5 more. **floor**: the forward's compulsory
bytes or useful FLOPs on an H200. **eager**: PyTorch's own operators at the same bandwidth and FLOP rate, 1.5 us each:
better than they are, above all in backward passes.

"""


if __name__ == "__main__":
    sys.exit(main())
