"""``python -m bench.profile --op OP``: what CUDA kernels ask of memory, line by line, on any machine.

The op's benchmarked cases, cut to seconds, run in the simulator's profile build, which counts sectors per request
(coalescing), wavefronts per request (bank conflicts) and bytes over the op's floor; docs/hostsim.md says how, and what
it does not know. ``--record`` writes the numbers of ``RECORDED``, ``--check`` fails where one is worse than recorded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pyramid_kernels.console import progress, table, unknown
from pyramid_kernels.ops import all_ops, spec
from pyramid_kernels.ops._shared.spec import Case

from . import traffic
from .traffic import Profile, Row

#: What is recorded, in both layouts and ``RECORDED_DTYPES``: a case for each way through memory-bound kernels.
RECORDED = {
    "pyramid_pool": ("psp-60x60", "global-33x33", "spp-13x13"),
    "max_pool_pyramid": ("sppf-1x512-20x20", "sppf-16x512-20x20", "yolo-16x512-20x20"),
    "channel_gate": ("bisenet-ffm-128x256", "se-56x56"),
    "upsample_merge": ("ppm-60x60", "hrnet-w48-row", "hrnet-w48-head"),
    "upsample_cross_entropy": ("cityscapes-from-1-8",),
    "upsample_argmax": ("cityscapes-from-1-8",),
    "pyramid_conv": ("deeplabv3plus-129x129", "segformer-b0-128x128"),
    "dilated_branches": ("32x32-n1",),
}
#: Of these the body for older GPUs is counted, whose copies the simulator tells of, in TF32 as PyTorch's convolutions.
GENERAL = "dilated_branches", "dilated_branches_train"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
RECORDED_DTYPES = "bfloat16", "float32"
LAYOUTS = {"contiguous": False, "channels_last": True}
BUDGETS = Path(__file__).parent / "results" / "profile.json"
#: Numbers may grow by this share before they count as worse: another compiler joins other loads.
SLACK = 0.01

HEADER = (
    "line", "op", "on", "B", "requests", "lanes", "sectors", "ideal", "lines", "wavefronts", "ideal",
    "as 4 B", "as 8 B", "as 16 B", "MB", "past L1", "once",
)  # fmt: skip

Numbers = dict[str, dict[str, int]]  # by "pass kernel", as traffic.totals has them
Entry = dict[str, Any]  # "cut", "share", "floor_bytes" and "kernels": Numbers


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description="What CUDA kernels ask of memory.")
    parser.add_argument("--op", choices=list(all_ops()))
    parser.add_argument("--case", help="one of the op's benchmarked cases (default: those recorded)")
    parser.add_argument("--dtype", choices=list(DTYPES), nargs="+", default=["bfloat16"])
    parser.add_argument("--layout", choices=list(LAYOUTS), nargs="+", default=list(LAYOUTS))
    parser.add_argument("--top", type=int, default=12, help="lines shown of each case")
    parser.add_argument("--json", type=Path, help="write the sums per kernel there")
    parser.add_argument("--record", action="store_true", help=f"write {BUDGETS.name}, of --op only where given")
    parser.add_argument("--check", action="store_true", help="compare with what is recorded, of --op only where given")
    args = parser.parse_args(argv)
    if args.record or args.check:
        return record(args.op) if args.record else check(args.op)
    if not args.op:
        parser.error("--op is needed, or --check or --record")
    found: dict[str, Entry] = {}
    for case in _cases(args.op, [args.case] if args.case else None):
        for dtype in args.dtype:
            for layout in args.layout:
                taken = traffic.profile(args.op, case, DTYPES[dtype], LAYOUTS[layout], _arch(args.op))
                key = f"{args.op}/{case.id}/{dtype}/{layout}"
                found[key] = _entry(taken)
                print(report(key, taken, args.top), flush=True)
    if args.json:
        args.json.write_text(_json(found))
    return 0


def _cases(op: str, ids: Sequence[str] | None) -> list[Case]:
    known = {case.id: case for case in (*spec(op).BENCH, *spec(op).CASES)}
    wanted = ids or RECORDED.get(op) or [case.id for case in spec(op).BENCH]
    if missing := [name for name in wanted if name not in known]:
        raise SystemExit(f"bench.profile: {unknown('case', missing[0], known)}")
    return [known[name] for name in wanted]


def _arch(op: str) -> int:
    return 80 if op in GENERAL else 90


def _entry(taken: Profile) -> Entry:
    kernels = {
        f"{which} {kernel}": sums
        for which, (rows, *_) in taken.passes.items()
        for kernel, sums in traffic.totals(rows).items()
    }
    return {"cut": str(taken.cut), "share": taken.cut.share, "floor_bytes": taken.floor, "kernels": kernels}


def report(title: str, taken: Profile, top: int) -> str:
    """Each kernel's sums and its most expensive lines."""
    lines = [f"\n{title}: {taken.cut}; floor of the forward {taken.floor / 1e6:.3f} MB"]
    for which, (rows, *_) in taken.passes.items():
        for kernel, sums in traffic.totals(rows).items():
            lines += ["", f"{which} {kernel}", *_summary(sums, taken.floor)]
            lines.append(table(HEADER, _lines([row for row in rows if row.kernel == kernel], top)))
    return "\n".join(lines)


def _lines(rows: list[Row], top: int) -> list[list[str]]:
    where = traffic.places(rows)
    joined: dict[tuple[str, str, str, int], Counter[str]] = {}
    for row in rows:
        key = where.get(row.code, "?"), row.kind, row.buffer, row.counts["largest"]
        joined.setdefault(key, Counter()).update(row.counts)
    costly = sorted(joined.items(), key=lambda item: -(item[1]["sectors"] + item[1]["wavefronts"]))[:top]
    return [_cells(*key, counts) for key, counts in costly]


def _summary(sums: dict[str, int], floor: int) -> list[str]:
    parts = []
    for side in ("load", "store"):
        if count := sums.get(f"{side}_requests"):
            sectors, ideal = sums[f"{side}_sectors"], sums[f"{side}_ideal_sectors"]
            past, once = sums[f"{side}_past_l1_bytes"], sums[f"{side}_once_bytes"]
            parts.append(
                f"  {side}s: {count} of {sectors / count:.2f} sectors ({sectors / max(1, ideal):.2f}x ideal), "
                f"{sectors * 32 / 1e6:.3f} MB, {past / 1e6:.3f} past L1, {once / 1e6:.3f} once "
                f"({once / floor:.2f} of the floor)"
            )
    if count := sums.get("shared_requests"):
        waves = sums["shared_wavefronts"]
        ratio = waves / max(1, sums["shared_ideal_wavefronts"])
        parts.append(f"  shared: {count} of {waves / count:.2f} wavefronts ({ratio:.2f}x ideal)")
    return parts


def _cells(place: str, kind: str, buffer: str, size: int, c: Counter[str]) -> list[str]:
    n = c["requests"]
    shared = buffer == "shared"

    def each(name: str) -> str:
        return f"{c[name] / n:.2f}"

    def merged(width: int) -> str:
        """An eighth of the requests at four wavefronts each: "/8.0 x 4.00"."""
        fewer = c[f"requests_{width}"]
        return "" if fewer == n else f"/{n / fewer:.1f} x {c[f'cost_{width}'] / fewer:.2f}"

    def megabytes(name: str) -> str:
        return "" if shared else f"{c[name] * 32 / 1e6:.3f}"

    sectors = ["", "", ""] if shared else [each("sectors"), each("ideal"), each("lines")]
    waves = [each("wavefronts"), each("ideal_wavefronts")] if shared else ["", ""]
    asked = [megabytes("sectors"), megabytes("block"), megabytes("new")]
    return [
        place, kind, buffer, str(size), str(n), f"{c['lanes'] / n:.1f}", *sectors, *waves,
        merged(4), merged(8), merged(16), *asked,
    ]  # fmt: skip


def _measured(op: str | None) -> Iterator[tuple[str, Entry]]:
    """What is recorded, profiled now."""
    runs = [
        (name, case, dtype, layout)
        for name in ([op] if op else RECORDED)
        for case in _cases(name, RECORDED.get(name))
        for dtype in RECORDED_DTYPES
        for layout in LAYOUTS
    ]
    for name, case, dtype, layout in progress(runs, "profiles", lambda run: "/".join((run[0], run[1].id, *run[2:]))):
        taken = traffic.profile(name, case, DTYPES[dtype], LAYOUTS[layout], _arch(name))
        yield f"{name}/{case.id}/{dtype}/{layout}", _entry(taken)


def recorded() -> dict[str, Any]:
    """The "compiler" that joined the loads, and its "profiles"."""
    found: dict[str, Any] = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {"profiles": {}}
    return found


def record(op: str | None) -> int:
    kept = {key: entry for key, entry in recorded()["profiles"].items() if op and not key.startswith(f"{op}/")}
    BUDGETS.write_text(_json(kept | dict(_measured(op))))
    return 0


def check(op: str | None) -> int:
    """A line for each number that is worse than recorded, or that has no record or no profile any more."""
    if op and op not in RECORDED:
        print(f"bench.profile: nothing is recorded of {op}", file=sys.stderr)
        return 2
    known = recorded()
    before = {key: entry for key, entry in known["profiles"].items() if not op or key.startswith(f"{op}/")}
    measured = dict(_measured(op))
    wrong = [f"{key}: not profiled any more" for key in before if key not in measured]
    better = 0
    for key, entry in measured.items():
        if key not in before:
            wrong.append(f"{key}: not recorded")
            continue
        worse, fewer = compare(before[key]["kernels"], entry["kernels"])
        wrong += [f"{key}: {line}" for line in worse]
        better += fewer
    print(*wrong, f"{len(measured)} profiles, {len(wrong)} worse, {better} numbers better than recorded", sep="\n")
    if wrong and known.get("compiler") != traffic.compiler():
        print(f"recorded with {known.get('compiler')}, this is {traffic.compiler()}", file=sys.stderr)
    if wrong or better:
        print("python -m bench.profile --record writes what is now, to be committed with the change", file=sys.stderr)
    return bool(wrong)


def compare(was: Numbers, now: Numbers) -> tuple[list[str], int]:
    """What is worse, a line each, and how many numbers are better."""
    worse = [f"{kernel}: not launched any more" for kernel in was if kernel not in now]
    better = 0
    for kernel, sums in now.items():
        before = was.get(kernel)
        if before is None:
            worse.append(f"{kernel}: not recorded")
            continue
        for name in sorted(before.keys() | sums.keys()):
            if "ideal" in name:
                continue
            old, new = before.get(name, 0), sums.get(name, 0)
            better += new < old * (1 - SLACK)
            if new > old * (1 + SLACK):
                worse.append(f"{kernel}: {name} {old} -> {new}" + (f" ({new / old:.2f}x)" if old else ""))
    return worse, better


def _json(entries: dict[str, Entry]) -> str:
    """A line per kernel, so that a change shows what it changes."""
    blocks = []
    for key, entry in sorted(entries.items()):
        kernels = ",\n".join(f"    {json.dumps(name)}: {json.dumps(sums)}" for name, sums in entry["kernels"].items())
        head = json.dumps({name: value for name, value in entry.items() if name != "kernels"}).removesuffix("}")
        blocks.append(f'  {json.dumps(key)}: {head}, "kernels": {{\n{kernels}\n  }}}}')
    return f'{{"compiler": {json.dumps(traffic.compiler())}, "profiles": {{\n' + ",\n".join(blocks) + "\n}}\n"


if __name__ == "__main__":
    sys.exit(main())
