"""Numbers of compiled kernels, kept in ``tests/budgets/``: a change that worsens one fails until it is recorded.

They depend on the compilers alone, whose versions stand beside them; with other versions nothing is compared. More of
anything is worse, except loads in flight and CTAs per multiprocessor. Accesses are counted up to each width, so that
one wide access in place of several narrow ones is better at every width.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.processes import ROOT

FOLDER = ROOT / "tests" / "budgets"
#: Bytes that an access should have, and how many narrower ones are no matter.
FLOOR, FEW = 8, 8
MORE_IS_BETTER = ("flight", "ctas")
_ACCESS = re.compile(r"(load|store|lds|sts)(\d+)")
Rows = dict[str, dict[str, Any]]


def write(path: Path, versions: dict[str, str], rows: Rows) -> list[str]:
    """A line for each body, so that a diff shows what changed; those of architectures that ``rows`` lacks stay."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("versions") == versions:
        rows = {**{name: row for name, row in kept["bodies"].items() if _arch(name) not in _archs(rows)}, **rows}
    lines = [f"{json.dumps(name)}:{json.dumps(rows[name], separators=(',', ':'))}" for name in sorted(rows)]
    text = ",\n".join(lines)
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{{"versions":{json.dumps(versions)},"bodies":{{\n{text}\n}}}}\n')
    print(f"{path.name}: {len(rows)} bodies recorded")
    return []


def _arch(name: str) -> str:
    return name.split()[-1]


def _archs(rows: Rows) -> set[str]:
    return {_arch(name) for name in rows}


def compare(path: Path, versions: dict[str, str], rows: Rows) -> list[str]:
    """What is worse than recorded, not recorded, or recorded for these architectures and gone; what is better is
    printed."""
    recorded = json.loads(path.read_text())
    if recorded["versions"] != versions:
        print(f"{path.name}: {len(rows)} bodies not compared: recorded with {recorded['versions']}, here {versions}")
        return []
    known: Rows = {name: row for name, row in recorded["bodies"].items() if _arch(name) in _archs(rows)}
    wrong = [f"{name}: not in {path.name}" for name in sorted(rows.keys() - known.keys())]
    wrong += [f"{name}: in {path.name}, but not compiled" for name in sorted(known.keys() - rows.keys())]
    both = {name: changes(known[name], rows[name]) for name in sorted(rows.keys() & known.keys())}
    wrong += [f"{name}: {', '.join(worse)}" for name, (worse, _) in both.items() if worse]
    improved = [f"better {name}: {', '.join(better)}" for name, (_, better) in both.items() if better]
    others = len(recorded["bodies"]) - len(known)
    said = f"{len(improved)} better in something" + (
        f"; {others} of other architectures not compared" if others else ""
    )
    print(*improved, f"{path.name}: {len(both)} bodies compared, {said}", sep="\n")
    return [f"{line} (--record keeps it)" for line in wrong]


def worst(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row for several bodies of a kernel; loops are those of the longest body and of what has the same ones."""
    longest = max(rows, key=lambda row: row["instructions"])["loops"]
    alike = [row["loops"] for row in rows if row["loops"].keys() == longest.keys()]
    own = _worst([{name: value for name, value in row.items() if name != "loops"} for row in rows])
    return own | {"loops": {name: _worst([loops[name] for loops in alike]) for name in longest}}


def _worst(rows: Sequence[dict[str, int]]) -> dict[str, int]:
    values = {name: [row.get(name, 0) for row in rows] for name in sorted(set().union(*rows))}
    return {name: found for name, of in values.items() if (found := (min if name in MORE_IS_BETTER else max)(of))}


def changes(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What is worse and what is better in ``after``."""
    old, new = flat(before), flat(after)
    if before["loops"].keys() != after["loops"].keys():
        return [f"loops {' '.join(after['loops']) or 'none'} instead of {' '.join(before['loops']) or 'none'}"], []
    worse: list[str] = []
    better: list[str] = []
    for name in dict.fromkeys([*old, *new]):
        was, now = old.get(name, 0), new.get(name, 0)
        if was != now:
            gained = (now > was) == name.endswith(MORE_IS_BETTER)
            (better if gained else worse).append(f"{name} {now} instead of {was}")
    return worse, better


def flat(row: dict[str, Any]) -> dict[str, int]:
    """Numbers that can be compared one by one: accesses of a kind are summed up to each width."""
    groups = {"": {k: v for k, v in row.items() if k != "loops"}, **{f"loop {k}: ": v for k, v in row["loops"].items()}}
    found: dict[str, int] = {}
    for place, numbers in groups.items():
        for name, value in numbers.items():
            if not (access := _ACCESS.fullmatch(name)):
                found[place + name] = value
                continue
            for width in (1, 2, 4, 8, 16):
                if width >= min(int(access[2]), 16):
                    key = f"{place}{access[1]} of at most {width} bytes"
                    found[key] = found.get(key, 0) + value
    return found


def debts(rows: Rows) -> list[str]:
    """Triton kernels most of whose loads or stores are below FLOOR: a line for each layout, of its worst dtype."""
    found: dict[tuple[str, str, str], tuple[int, int, int]] = {}
    for group, row in sorted(rows.items()):
        kernel, _, layout, _ = group.split()
        for kind in ("load", "store"):
            widths = {int(m[2]): n for k, n in row.items() if (m := _ACCESS.fullmatch(k)) and m[1] == kind}
            narrow, every = sum(n for width, n in widths.items() if width < FLOOR), sum(widths.values())
            if narrow >= FEW and 2 * narrow > every:
                key = (kernel, layout, kind)
                found[key] = max(found.get(key, (0, 0, 0)), (narrow, -min(widths), every))
    return [
        f"known debt: {kernel} in {layout}: {narrow} of {every} {kind}s below {FLOOR} bytes, the least {-least}"
        for (kernel, layout, kind), (narrow, least, every) in found.items()
    ]
