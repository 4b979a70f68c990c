"""What the SASS of a kernel says of its speed: accesses and their widths, loads in flight, instructions in each loop.

``python -m tests.sass_reader CUBIN ARCH [NAME]`` prints it, ARCH as in 90a, for the kernels whose name holds NAME.
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.cubins import Instruction, Kernel, Unreadable, disassembled, kernels, tool
from tests.flow import NONE, Flow, address

#: Opcodes of each class, with or without the U of uniform ones; an opcode of none is an error.
CLASSES = {
    "mma": "HMMA IMMA QMMA DMMA BMMA HGMMA IGMMA QGMMA BGMMA",
    "copy": "LDGSTS LDGDEPBAR BLKCP BLKRED TMALDG TMASTG TMAREDG TMAPF TMACMDFLUSH",
    "load": "LDG LD",
    "store": "STG ST RED REDG ATOM ATOMG",
    "lds": "LDS",
    "sts": "STS ATOMS",
    "matrix": "LDSM STSM MOVM",
    "local": "LDL STL",
    "mufu": "MUFU",
    "fp": "FADD FADD2 FMUL FMUL2 FFMA FFMA2 FSETP FSET FSEL FMNMX FMNMX3 FCHK FSWZADD FRND DADD DMUL DFMA DSETP HADD2 "
    "HMUL2 HFMA2 HSETP2 HSET2 HMNMX2 VHMNMX",
    "convert": "F2F F2I I2F I2I I2IP F2FP I2FP",
    "int": "IMAD IADD IADD3 LEA ISETP IABS IMNMX VIMNMX VIMNMX3 VIADD VIADDMNMX VABSDIFF IDP ISCADD PRMT SGXT BMSK SHF "
    "SHL SHR LOP3 PLOP3 POPC FLO BREV",
    "move": "MOV CS2R S2R S2UR CS2UR R2UR P2R R2P P2UR UR2UP SEL LDC LEPC",
    "exchange": "SHFL VOTE REDUX CREDUX MATCH",
    "wait": "BAR SYNCS DEPBAR MEMBAR FENCE ERRBAR CGAERRBAR CGABAR CCTL WARPGROUP ACQBULK NANOSLEEP ELECT "
    "PREEXIT SETMAXREG R2B B2R",
    "control": "ENDCOLLECTIVE WARPSYNC BRA BRX BSSY BSYNC EXIT RET CALL NOP BREAK BMOV BPT YIELD KILL JMP RPCMOV",
}  # fmt: skip
_CLASS = {op: name for name, ops in CLASSES.items() for op in ops.split()}
#: Classes that are counted apart; the others are in a loop's longest iteration alone.
COUNTED = ("mma", "copy", "load", "store", "lds", "sts", "matrix", "local", "mufu", "fp", "convert", "int")
ACCESSES = ("load", "store", "lds", "sts")
AT_ONCE = 32  # kernels
WIDE = 8  # bytes: a load that is worth waiting for many of
WIDTHS = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
#: What one multiprocessor has: threads, CTAs, bytes of shared memory; each has 65,536 registers.
RESIDENT = {"80": (2048, 32, 164), "90": (2048, 32, 228), "100": (2048, 32, 228), "120": (1536, 24, 100)}
_DIVISION = re.compile(r"(?:div|rem)_[su]64")


def class_of(ins: Instruction, name: str) -> str:
    base = re.match(r"[A-Z0-9]+", ins.op)[0]  # type: ignore[index]
    found = _CLASS.get(base) or _CLASS.get(base.removeprefix("U")) or _CLASS.get(base.removesuffix("U"))
    if not found:
        raise Unreadable(f"{name}: {ins.op} is an instruction of no known class")
    return found


def width(op: str) -> int:
    """Bytes that one thread moves."""
    return next((WIDTHS[part] for part in op.split(".")[1:] if part in WIDTHS), 4)


def ctas(arch: str, registers: int, threads: int, shared: int) -> int:
    """CTAs that fit on a multiprocessor by registers, threads and what is known of their shared memory, of which the
    driver takes 1,024 bytes for each; from 9.0 on they are among the kernel's own."""
    most, blocks, kilobytes = RESIDENT[re.match(r"\d+", arch)[0]]  # type: ignore[index]
    warps = -(-threads // 32)
    by_registers = 16384 // (-(-registers * 32 // 256) * 256) * 4 // warps
    return min(blocks, most // (warps * 32), by_registers, kilobytes * 1024 // max(1, shared + 1024 * (arch == "80")))


class Numbers(NamedTuple):
    ops: frozenset[str]  # without their modifiers
    recorded: dict[str, Any]


def numbers(kernel: Kernel, code: list[Instruction], dynamic: int = 0) -> Numbers:
    """What is recorded of a kernel with ``dynamic`` bytes of shared memory beside its own. Zeros are left out."""
    flow = Flow(kernel, code)
    classes = [class_of(ins, kernel.name) for ins in code]
    wide = {
        i for i, name in enumerate(classes) if name == "load" and width(code[i].op) >= WIDE and code[i].sets != NONE
    }

    def mix(blocks: Iterable[int]) -> dict[str, int]:
        found: Counter[str] = Counter()
        for i in flow.positions(blocks):
            ins, name = code[i], classes[i]
            found[f"{name}{width(ins.op)}" if name in ACCESSES else name] += name in COUNTED
            if ins.op.startswith("CALL") and _DIVISION.search(kernel.callees.get(address(ins) or 0, "")):
                found["div64"] += 1
        return {name: found[name] for name in sorted(found)}

    whole = {k: v for k, v in mix(flow.order).items() if k.rstrip("0123456789") in (*ACCESSES, "local") or k == "div64"}
    fits = ctas(kernel.arch, kernel.registers, kernel.threads, kernel.shared + dynamic) if kernel.threads else 0
    row = {"registers": kernel.registers, "shared": kernel.shared + dynamic, "ctas": fits, "instructions": len(code)}
    row |= {**whole, "flight": flow.in_flight(flow.outside, wide)}
    loops = {
        loop.name: _nonzero({"longest": flow.longest(loop), "flight": flow.in_flight(loop, wide), **mix(loop.own)})
        for loop in flow.loops
    }
    return Numbers(frozenset(ins.op.split(".")[0] for ins in code), {**_nonzero(row), "loops": loops})


def _nonzero(row: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in row.items() if value}


def read(wanted: Sequence[Kernel], dynamic: Sequence[int] = ()) -> list[Numbers]:
    """The numbers of kernels of one architecture; of few at once, since what nvdisasm prints is long."""
    rows = []
    for first in range(0, len(wanted), AT_ONCE):
        some = wanted[first : first + AT_ONCE]
        shared = dynamic[first : first + AT_ONCE] or [0] * len(some)
        codes = disassembled(some)
        rows += [numbers(k, code, more) for k, code, more in zip(some, codes, shared, strict=True)]
    return rows


def version() -> str:
    """The version of nvdisasm."""
    text = subprocess.run([tool("nvdisasm"), "--version"], check=True, capture_output=True, text=True).stdout
    return re.findall(r"V([\d.]+)", text)[0]


def main(cubin: str, arch: str, pattern: str = "") -> None:
    wanted = [kernel for kernel in kernels(Path(cubin).read_bytes(), arch) if pattern in kernel.name]
    for kernel, found in zip(wanted, read(wanted), strict=True):
        row = dict(found.recorded)
        loops = row.pop("loops")
        print(f"{kernel.name}: {_line(row)}")
        for name, inside in loops.items():
            print(f"{'  ' * name.count('.')}    loop {name}: {_line(inside)}")


def _line(row: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


if __name__ == "__main__":
    main(*sys.argv[1:])
