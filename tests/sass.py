"""Build the CUDA core for every default architecture and read what its kernels use and how fast they can be.

``python -m tests.sass`` prints registers and static shared memory of each kernel, and fails on stack or local memory
(a spill), on a kernel of csrc/ that an architecture lacks, on warpgroup products that ptxas serialises, and on a number
of ``tests/budgets/sass.json`` that got worse; ``--record`` rewrites those. It needs nvcc and the tools of Triton's
wheel, but no GPU; without nvcc it says so and passes.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import setup  # the build script at the root of the tree
from tests import budgets
from tests.cubins import Kernel, kernels, objdump, tool
from tests.kernels import cuda_kernels
from tests.processes import ROOT
from tests.sass_reader import Numbers, read, version

#: (kernel, architecture) -> instructions that every body of it holds: tensor cores fed past the registers.
INSTRUCTIONS = {
    ("dilated_branches_fwd_sm90_kernel", "90a"): ("HGMMA", "UTMALDG"),
    ("dilated_branches_bwd_dx_sm90_kernel", "90a"): ("HGMMA", "UTMALDG", "UTMASTG"),
    ("dilated_branches_bwd_dw_sm90_kernel", "90a"): ("HGMMA", "UTMALDG", "UTMASTG"),
    ("dilated_branches_fwd_kernel", "80"): ("HMMA", "LDGSTS"),
    ("dilated_branches_bwd_dx_kernel", "80"): ("HMMA", "LDGSTS"),
    ("dilated_branches_bwd_dw_kernel", "80"): ("HMMA", "LDGSTS"),
}
BUDGETS = budgets.FOLDER / "sass.json"
_USE = re.compile(r"Function (.+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_KERNEL = re.compile(r"\w+_kernel\b")
_SERIALISED = re.compile(r"\(C75(?:0[89]|1[0-4])\).*")


class Body(NamedTuple):
    arch: str
    signature: str
    registers: int
    stack: int
    shared: int
    local: int

    @property
    def kernel(self) -> str:
        found = _KERNEL.search(self.signature)
        return found[0] if found else self.signature


def bodies(module: Path) -> list[Body]:
    """Everything compiled for a GPU in ``module``."""
    text = objdump("--dump-resource-usage", str(module))
    readable = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout
    found = []
    for part in readable.split("Fatbin elf code:")[1:]:
        arch = re.search(r"arch = sm_(\w+)", part)
        found += [Body(arch[1] if arch else "?", name, *map(int, use)) for name, *use in _USE.findall(part)]
    return found


def complaints(found: list[Body]) -> list[str]:
    spilled = [
        f"{b.signature} on {b.arch}: {b.stack} bytes of stack, {b.local} local" for b in found if b.stack + b.local
    ]
    archs = sorted({b.arch for b in found})
    lacking = [
        f"{kernel} on {arch}: not in the module"
        for arch in archs
        for kernel in sorted(set().union(*cuda_kernels().values()) - {b.kernel for b in found if b.arch == arch})
    ]
    return spilled + lacking + ([] if found else ["the module holds no kernels"])


def read_all(module: Path) -> dict[tuple[str, str], Numbers]:
    """(body, architecture) -> what its SASS says, for every body but those in double: nobody waits for them."""
    found: dict[str, list[Kernel]] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [str(tool("cuobjdump")), "-xelf", "all", str(module.resolve())]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        for file in sorted(Path(folder).iterdir()):
            arch = file.name.split(".")[-2].removeprefix("sm_")
            found.setdefault(arch, []).extend(kernels(file.read_bytes(), arch))
    names = demangled([kernel.name for own in found.values() for kernel in own])
    rows: dict[tuple[str, str], Numbers] = {}
    for arch, own in found.items():
        wanted = [kernel for kernel in own if "double" not in names[kernel.name]]
        rows |= {(names[k.name], arch): row for k, row in zip(wanted, read(wanted), strict=True)}
    return rows


def unread(found: list[Body], rows: Collection[tuple[str, str]]) -> list[str]:
    """Kernels that the module holds and of which no body was read."""
    have = {(body.split("<")[0], arch) for body, arch in rows}
    return [f"{kernel} on {arch}: not read" for kernel, arch in sorted({(b.kernel, b.arch) for b in found} - have)]


def demangled(names: list[str]) -> dict[str, str]:
    """Kernels by their mangled names, without namespaces: ``max_pool_pyramid_fwd_kernel<bf16,true,false>``."""
    text = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    text = re.sub(r"\w+::|\([\w:]*\)| ", "", text).replace("__nv_bfloat16", "bf16").replace("__half", "fp16")
    return dict(zip(names, text.split("\n"), strict=False))


def missing(rows: dict[tuple[str, str], Numbers]) -> list[str]:
    """What ``INSTRUCTIONS`` asks for and the half-precision bodies do not hold."""
    return [
        f"{body} on {arch}: no {op}"
        for (body, arch), row in rows.items()
        for op in INSTRUCTIONS.get((body.split("<")[0], arch), ())
        if ("fp16" in body or "bf16" in body) and op not in row.ops
    ]


def serialised(command: str, build: Path) -> list[str]:
    """ptxas's remarks on warpgroup products that it makes wait for each other, when ``command`` runs in ``build``."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = shlex.split(command)
        arguments[arguments.index("-o") + 1] = f"{folder}/kernel.o"
        done = subprocess.run(arguments, cwd=build, capture_output=True, text=True, check=True)
    return _SERIALISED.findall(done.stdout + done.stderr)


def commands(build: Path) -> list[str]:
    """How ``build`` compiles what holds warpgroup products: ptxas speaks of them only while it compiles."""
    kernels = [kernel for (kernel, _), wanted in INSTRUCTIONS.items() if "HGMMA" in wanted]
    units = json.loads((build / "compile_commands.json").read_text())
    return [u["command"] for u in units if any(kernel in Path(u["file"]).read_text() for kernel in kernels)]


def show(found: list[Body]) -> None:
    print(f"{'kernel':40} arch  bodies  registers  shared bytes")
    for kernel, arch in sorted({(b.kernel, b.arch) for b in found}):
        rows = [b for b in found if (b.kernel, b.arch) == (kernel, arch)]
        registers, shared = max(b.registers for b in rows), max(b.shared for b in rows)
        print(f"{kernel:40} {arch:5} {len(rows):6}  {registers:9}  {shared:12}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sass", description="Read every CUDA kernel.")
    parser.add_argument("--record", action="store_true", help=f"rewrite {BUDGETS.relative_to(ROOT)}")
    record = parser.parse_args(argv).record
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    nvcc = setup.plan()
    if isinstance(nvcc, str):
        print(f"tests.sass: skipped, {nvcc}")
        return 0
    module = setup.compile_core(nvcc, setup.architectures(nvcc))
    found = bodies(module)
    show(found)
    sass = read_all(module)
    wrong = complaints(found) + unread(found, sass) + missing(sass)
    for command in commands(module.parent):
        wrong += serialised(command, module.parent)
    rows = {f"{body} {arch}": row.recorded for (body, arch), row in sass.items()}
    versions = {"nvcc": nvcc.version, "nvdisasm": version()}
    wrong += budgets.write(BUDGETS, versions, rows) if record else budgets.compare(BUDGETS, versions, rows)
    for line in wrong:
        print(f"FAILED {line}")
    return min(1, len(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
