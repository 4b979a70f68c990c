"""Compiled kernels, taken out of cubins and disassembled: their instructions with the control bits of the scheduler.

The text of many kernels goes through ``nvdisasm`` at once, as raw instructions: its start takes longer than a kernel.
What it prints must be every instruction of every kernel, or ``Unreadable`` names the kernel.
"""

import math
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

#: Attributes of ``.nv.info``: threads per CTA (at most, exactly), registers, targets of indirect branches.
MAX_THREADS, EXACT_THREADS, REGISTERS, TARGETS = 0x05, 0x10, 0x2F, 0x34
FUNCTION = 2  # a kind of symbol
BYTES = 16  # of an instruction
_LINE = re.compile(
    r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P[T\d]+)\s+)?([A-Z][^;\n]*?)\s*;\s*/\* 0x[0-9a-f]{16} \*/"
    r"\s+/\* 0x([0-9a-f]{16}) \*/"
)


def tool(name: str) -> Path:
    """One of those in Triton's wheel."""
    import triton  # not before whoever compiles has said that nothing is to be interpreted

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def objdump(option: str, path: str) -> str:
    return subprocess.run([tool("cuobjdump"), option, path], check=True, capture_output=True, text=True).stdout


class Unreadable(Exception):
    """A kernel that the reader cannot make out."""


class Instruction(NamedTuple):
    guard: str  # the predicate that it runs under, or nothing
    text: str
    sets: int  # the scoreboard that it holds until its result is there; 7 is none
    waits: int  # a bit for each scoreboard that it waits for

    @property
    def op(self) -> str:
        return self.text.split(None, 1)[0]


class Kernel(NamedTuple):
    name: str
    arch: str  # as nvdisasm names it, without the SM
    code: bytes
    callees: dict[int, str]  # offset -> the function that nvcc put beside the kernel's own code
    targets: dict[int, list[int]]  # of the indirect branch at an offset
    registers: int
    threads: int
    shared: int  # static bytes


class Elf:
    """The parts of a cubin by their names."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        offset, size, count, names = *struct.unpack_from("<Q", data, 0x28), *struct.unpack_from("<HHH", data, 0x3A)
        heads = [struct.unpack_from("<IIQQQQIIQQ", data, offset + i * size) for i in range(count)]
        labels = [self._label(heads[names][4] + head[0]) for head in heads]
        self.sections = dict(zip(labels, heads, strict=True))
        strings = self.sections[".strtab"][4]
        #: (name, section, whether it is a function, offset)
        self.symbols = [
            (self._label(strings + name), labels[section] if section < count else "", kind & 15 == FUNCTION, value)
            for name, kind, _, section, value, _ in struct.iter_unpack("<IBBHQQ", self.held(".symtab"))
        ]

    def _label(self, at: int) -> str:
        return self._data[at : self._data.index(b"\0", at)].decode()

    def size(self, name: str) -> int:
        return int(self.sections[name][5]) if name in self.sections else 0

    def held(self, name: str) -> bytes:
        return self._data[self.sections[name][4] :][: self.size(name)] if name in self.sections else b""


def kernels(cubin: bytes, arch: str) -> list[Kernel]:
    """Every kernel that a cubin holds."""
    elf = Elf(cubin)
    pairs = [
        struct.unpack("<II", value) for attribute, value in _attributes(elf.held(".nv.info")) if attribute == REGISTERS
    ]
    registers = {elf.symbols[symbol][0]: used for symbol, used in pairs}
    found = []
    for section in (name for name in elf.sections if name.startswith(".text.")):
        name = section.removeprefix(".text.")
        if name not in registers:
            raise Unreadable(f"{name}: the cubin does not tell its registers")
        threads, targets = 0, {}
        for attribute, value in _attributes(elf.held(f".nv.info.{name}")):
            words = list(struct.unpack(f"<{len(value) // 4}I", value[: len(value) // 4 * 4]))
            if attribute in (MAX_THREADS, EXACT_THREADS):
                threads = math.prod(words)
            while attribute == TARGETS and words:  # the branch, nothing, how many targets, the targets
                branch, _, several, *words = words
                targets[branch], words = words[:several], words[several:]
        callees = {at: n for n, where, function, at in elf.symbols if function and where == section and n != name}
        shared = elf.size(f".nv.shared.{name}")
        found.append(Kernel(name, arch, elf.held(section), callees, targets, registers[name], threads, shared))
    return found


def _attributes(section: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 4 <= len(section):
        form, attribute, size = struct.unpack_from("<BBH", section, at)
        at += 4
        if form == 4:  # its size comes ahead of the value, else the value stands in its place
            found.append((attribute, section[at : at + size]))
            at += size
    return found


def disassembled(wanted: Sequence[Kernel]) -> list[list[Instruction]]:
    """The instructions of each kernel; all are of one architecture."""
    if not wanted:
        return []
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(b"".join(kernel.code for kernel in wanted))
        file.flush()
        command = [str(tool("nvdisasm")), "-c", "-hex", "--binary", f"SM{wanted[0].arch}", file.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unreadable(f"{wanted[0].name} on {wanted[0].arch}: {done.stderr.strip()}")
    return split(done.stdout, [(kernel.name, len(kernel.code)) for kernel in wanted])


def split(text: str, wanted: Sequence[tuple[str, int]]) -> list[list[Instruction]]:
    """What nvdisasm printed of kernels that lie one behind the other: (name, bytes) of each."""
    lines = _LINE.findall(text)
    at, found = 0, []
    for name, size in wanted:
        first = at // BYTES
        own = lines[first : first + size // BYTES]
        for i, (address, *_) in enumerate(own):
            if int(address, 16) != at + i * BYTES:
                raise Unreadable(
                    f"{name}: no instruction with control bits at {at + i * BYTES:#x} of what nvdisasm printed"
                )
        if len(own) * BYTES != size:
            raise Unreadable(f"{name}: {len(own)} of {size // BYTES} instructions in what nvdisasm printed")
        found.append([_instruction(guard, body, at, int(high, 16)) for _, guard, body, high in own])
        at += size
    return found


def _instruction(guard: str, text: str, base: int, high: int) -> Instruction:
    """Addresses in ``text`` become those inside its kernel. The upper word of an instruction ends in control bits."""
    if base and (target := re.match(r"((?:BRA|CALL|BSSY|WARPSYNC|JMP)\b.*?)0x([0-9a-f]+)$", text)):
        text = f"{target[1]}{int(target[2], 16) - base:#x}"
    return Instruction(guard, text, high >> 46 & 7, high >> 52 & 63)
