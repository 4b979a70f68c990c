"""Packages the tree, and has CMake build the CUDA core where nvcc is.

Never imports torch, so it runs under build isolation. docs/build.md lists the environment variables read here.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
OLDEST_ARCH = 80
OLDEST_NVCC = (12, 5)  # the driver's functions by version


class Nvcc(NamedTuple):
    path: str
    version: str
    knows: tuple[int, ...]  # compute capabilities times ten


def stop(message: str) -> None:
    sys.exit(f"pyramid_kernels: {message}")


def say(message: str) -> None:
    print(f"pyramid_kernels: {message}", file=sys.stderr)


def wanted() -> str:
    """PYRAMID_KERNELS_CUDA: "auto", "0" or "1"."""
    value = os.environ.get("PYRAMID_KERNELS_CUDA", "auto")
    if value not in ("auto", "0", "1"):
        stop(f"PYRAMID_KERNELS_CUDA must be auto, 0 or 1, got {value!r}")
    return value


@functools.cache
def find_nvcc() -> Nvcc | str:
    """The nvcc of CUDA_HOME or CUDA_PATH where one is set, else of PATH or /usr/local/cuda; or every place tried."""
    named = next((v for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)), None)
    if named:
        places = [(named, str(Path(os.environ[named], "bin", "nvcc")))]
    else:
        places = [("PATH", shutil.which("nvcc") or "nvcc"), ("default", "/usr/local/cuda/bin/nvcc")]
    tried = [] if named else ["CUDA_HOME and CUDA_PATH are not set"]
    for source, path in places:
        if not os.access(path, os.X_OK):
            tried.append(f"{source}: no {path}")
            continue
        version = re.search(r"release \S+, V([\d.]+)", _output(path, "--version"))
        if version and tuple(map(int, version[1].split(".")[:2])) >= OLDEST_NVCC:
            known = re.findall(r"sm_(\d+)\b", _output(path, "--list-gpu-code"))
            return Nvcc(path, version[1], tuple(sorted({int(n) for n in known})))
        tried.append(f"{source}: {path} is {version[1] if version else 'not an nvcc'}, 12.5 or newer is needed")
    return f"no usable nvcc ({'; '.join(tried)})"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def missing_tool() -> str | None:
    """What CMake needs beside nvcc and is not there."""
    compilers = [os.environ.get("CXX") or "c++", "g++"]
    if not any(shutil.which(name) for name in compilers):
        return f"no C++ compiler (tried CXX and {', '.join(compilers)})"
    if importlib.util.find_spec("pybind11") is None:
        return "no pybind11"
    return next((f"no {tool} on PATH" for tool in ("cmake", "ninja") if not shutil.which(tool)), None)


def plan() -> Nvcc | str:
    """The nvcc to build with, or the one line that says why there is no CUDA core."""
    if wanted() == "0":
        return "PYRAMID_KERNELS_CUDA=0: no CUDA core"
    found = find_nvcc()
    reason = found if isinstance(found, str) else missing_tool()
    return f"{reason}: no CUDA core" if reason else found


def architectures(nvcc: Nvcc) -> str:
    """What to compile for, as CMake spells it; stops at a name that this nvcc does not know."""
    for variable, read in (("PYRAMID_KERNELS_CUDA_ARCHS", _cmake_spelling), ("TORCH_CUDA_ARCH_LIST", _torch_spelling)):
        if text := os.environ.get(variable, "").strip():
            archs = read(variable, text)
            for arch in archs:
                if _number(arch) not in nvcc.knows:
                    stop(
                        f"{variable}={text!r} asks for {arch}, and nvcc {nvcc.version} ({nvcc.path}) compiles for "
                        f"{', '.join(map(str, nvcc.knows))} only"
                    )
            return ";".join(archs)
    script = str(ROOT / "cmake" / "architectures.cmake")
    command = ["cmake", f"-DNVCC={nvcc.path}", "-P", script]  # which says on stderr what it leaves out
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _cmake_spelling(variable: str, text: str) -> list[str]:
    archs = re.split(r"[;,\s]+", text.strip(";, "))
    for arch in archs:
        if not re.fullmatch(r"\d{2,3}[af]?(-real|-virtual)?", arch):
            stop(f"{variable}={text!r}: {arch!r} is not an architecture; expected entries such as '80-real;90a-real'")
        if _number(arch) < OLDEST_ARCH:
            stop(f"{variable}={text!r}: {arch} is older than {OLDEST_ARCH}, the oldest that the kernels run on")
    return archs


def _torch_spelling(variable: str, text: str) -> list[str]:
    """ "8.0 9.0a 12.0+PTX" as CMake spells it, without what is too old for the kernels: the list is made for torch."""
    archs: list[str] = []
    for entry in re.split(r"[;,\s]+", text.strip(";, ")):
        parts = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if not parts:
            stop(f"{variable}={text!r}: {entry!r} is not an architecture; expected entries such as '8.0 9.0a 12.0+PTX'")
        assert parts
        number = int(parts[1] + parts[2])
        if number < OLDEST_ARCH:
            say(f"{variable} names {entry}, older than the kernels run on: left out")
            continue
        archs.append(f"{'90a' if number == 90 else f'{number}{parts[3]}'}-real")
        archs += [f"{number}{parts[3]}-virtual"] if parts[4] else []
    if not archs:
        stop(f"{variable}={text!r} holds no architecture of {OLDEST_ARCH / 10} or newer")
    return archs


def _number(arch: str) -> int:
    return int(re.match(r"\d+", arch)[0])  # type: ignore[index]


def commit() -> str:
    """The commit built from, or "unknown" outside a checkout."""
    git = shutil.which("git")
    if not git or not (ROOT / ".git").exists():
        return "unknown"
    return _output(git, "-C", str(ROOT), "rev-parse", "--short", "HEAD").strip() or "unknown"


def source_hashes() -> dict[str, str]:
    """A hash of what lies in each folder of csrc: results of the kernels are kept for the sources they were seen on."""
    hashes: dict[str, str] = {}
    for folder in sorted(path for path in (ROOT / "csrc").iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        hashes[folder.name] = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    return hashes


def write_build_info(package: Path, cuda: dict[str, str] | str) -> None:
    version = re.search(r'"(.+)"', (ROOT / "pyramid_kernels" / "_version.py").read_text().split("__version__")[1])
    facts = {"version": version[1] if version else "unknown", "commit": commit(), "python": platform.python_version()}
    sources = {} if isinstance(cuda, str) else source_hashes()
    (package / "build_info.json").write_text(json.dumps({**facts, "cuda": cuda, "sources": sources}, indent=1) + "\n")


class BuildPython(build_py):
    """Says in one line where no CUDA core is built; stops if one was asked for."""

    def run(self) -> None:
        planned = plan()
        super().run()
        if isinstance(planned, str):
            if wanted() == "1":
                stop(f"PYRAMID_KERNELS_CUDA=1 asks for the CUDA core, but: {planned}")
            say(f"{planned}; installing the Triton, composed and reference backends")
            package = Path(ROOT if self.editable_mode else self.build_lib, "pyramid_kernels")
            for left_over in package.glob("_cuda.*.so"):  # of an earlier build in place
                left_over.unlink()
            write_build_info(package, planned)


def compile_core(nvcc: Nvcc, archs: str) -> Path:
    """Have CMake and Ninja build the module in build/cuda/<architectures>, which the next build takes up again."""
    build = ROOT / "build" / "cuda" / archs.replace(";", "+")
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    say(f"building the CUDA core for {archs} with nvcc {nvcc.version} ({nvcc.path}), {jobs} jobs")
    try:
        subprocess.run(["cmake", "-S", str(ROOT), "-B", str(build), *_options(nvcc, archs)], check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "_cuda", "-j", jobs], check=True)
    except subprocess.CalledProcessError as error:
        stop(f"{' '.join(error.cmd)} failed; PYRAMID_KERNELS_CUDA=0 installs without the CUDA core")
    return build / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"


def _options(nvcc: Nvcc, archs: str) -> list[str]:
    import pybind11  # named by build-system.requires, and needed here alone

    values = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),
        "CMAKE_CUDA_COMPILER": nvcc.path,
        "CMAKE_CUDA_ARCHITECTURES": archs,
        "PK_CUDA": "ON",
        "PK_HOSTSIM": "OFF",
        "PK_TESTS": "OFF",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    return ["-G", "Ninja", *(f"-D{key}={value}" for key, value in values.items())]


class BuildCore(build_ext):
    """Puts the compiled module where setuptools expects it, and says in build_info.json how it was compiled."""

    def build_extension(self, ext: Extension) -> None:
        nvcc = plan()
        assert isinstance(nvcc, Nvcc)
        archs = architectures(nvcc)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(compile_core(nvcc, archs), target)
        flags = f"-O3 -std=c++20 {os.environ.get('NVCC_APPEND_FLAGS', '')}".strip()
        package = ROOT / "pyramid_kernels" if self.editable_mode or self.inplace else target.parent
        write_build_info(package, {"nvcc": nvcc.version, "path": nvcc.path, "archs": archs, "flags": flags})


if __name__ == "__main__":
    core = [] if isinstance(plan(), str) else [Extension("pyramid_kernels._cuda", sources=[])]
    setup(
        packages=find_packages(include=["pyramid_kernels", "pyramid_kernels.*"]),
        ext_modules=core,
        cmdclass={"build_py": BuildPython, "build_ext": BuildCore},
    )
