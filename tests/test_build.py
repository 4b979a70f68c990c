"""The native core installs: with nvcc and without, from a tree and from an sdist, into Python and into C++.

Installing takes minutes, so what does is marked slow; ``.ci/run`` runs it after ``make test``.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import setup  # the build script at the root of the tree
from tests import sass
from tests.kernels import cuda_kernels
from tests.processes import ROOT

KNOBS = ("PYRAMID_KERNELS_CUDA", "PYRAMID_KERNELS_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH")
NVCC = setup.Nvcc("/opt/cuda/bin/nvcc", "12.4.131", (75, 80, 86, 89, 90))
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def knobs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KNOBS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="session")
def nvcc() -> setup.Nvcc:
    found = setup.find_nvcc()
    return pytest.skip(f"needs nvcc: {found}") if isinstance(found, str) else found


def run(*command: str | Path, cwd: Path = ROOT, ok: bool = True, **environment: str) -> str:
    """What a command prints; it must succeed or, where not ``ok``, fail."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=900
    )
    assert (done.returncode == 0) == ok, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


# What to compile for.


@pytest.mark.parametrize(
    "variable,text,expected",
    [
        ("PYRAMID_KERNELS_CUDA_ARCHS", "90a-real", "90a-real"),
        ("PYRAMID_KERNELS_CUDA_ARCHS", "80-real, 90", "80-real;90"),
        ("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX", "80-real;90a-real;90-virtual"),
        ("TORCH_CUDA_ARCH_LIST", "7.5 8.6", "86-real"),
        ("TORCH_CUDA_ARCH_LIST", "8.9 9.0a", "89-real;90a-real"),
    ],
)
def test_architectures(variable: str, text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    assert setup.architectures(NVCC) == expected


@pytest.mark.parametrize(
    "variable,text,message",
    [
        ("PYRAMID_KERNELS_CUDA_ARCHS", "sm_80", "'sm_80' is not an architecture; expected entries such as '80-real;"),
        ("PYRAMID_KERNELS_CUDA_ARCHS", "75", "75 is older than 80"),
        ("PYRAMID_KERNELS_CUDA_ARCHS", "100", "asks for 100, and nvcc 12.4.131 (/opt/cuda/bin/nvcc) compiles for 75, "),
        ("TORCH_CUDA_ARCH_LIST", "12.0", "asks for 120-real, and nvcc 12.4.131"),
        ("TORCH_CUDA_ARCH_LIST", "Hopper", "'Hopper' is not an architecture; expected entries such as '8.0 9.0a"),
        ("TORCH_CUDA_ARCH_LIST", "7.0", "holds no architecture of 8.0 or newer"),
    ],
)
def test_architectures_that_cannot_be(variable: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SystemExit) as stopped:
        setup.architectures(NVCC)
    assert variable in str(stopped.value) and message in str(stopped.value)


def script(path: Path, lines: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def old_nvcc(folder: Path, otherwise: str = "exit 1") -> Path:
    """An nvcc that knows nothing after Hopper."""
    return script(folder / "nvcc", f'[ "$1" = --list-gpu-code ] || {otherwise}\nprintf "sm_80\\nsm_90\\n"')


@pytest.mark.parametrize("text", ["", " "])
def test_an_old_nvcc_leaves_default_architectures_out(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYRAMID_KERNELS_CUDA_ARCHS", text)
    nvcc = old_nvcc(tmp_path)
    assert setup.architectures(NVCC._replace(path=str(nvcc))) == "80-real;90a-real"
    assert f"pyramid_kernels: {nvcc} is too old for 100-real, 120: left out" in capfd.readouterr().err


def test_an_nvcc_without_cpp20_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = script(tmp_path / "bin" / "nvcc", "echo 'Cuda compilation tools, release 11.8, V11.8.89'")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    setup.find_nvcc.cache_clear()
    assert f"CUDA_HOME: {nvcc} is 11.8.89, 12.5 or newer is needed" in str(setup.find_nvcc())
    setup.find_nvcc.cache_clear()


@pytest.mark.parametrize(
    "environment,message",
    [
        ({"PYRAMID_KERNELS_CUDA": "1", "CUDA_HOME": "/nowhere"}, "CUDA_HOME: no /nowhere/bin/nvcc"),
        ({"PYRAMID_KERNELS_CUDA": "yes"}, "PYRAMID_KERNELS_CUDA must be auto, 0 or 1, got 'yes'"),
    ],
)
def test_builds_that_stop(environment: dict[str, str], message: str, tmp_path: Path) -> None:
    said = run(sys.executable, "setup.py", "-q", "build", "-b", tmp_path, ok=False, **environment)
    assert message in said.strip().splitlines()[-1]


# From an sdist.


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def wheel(source: Path, folder: Path, **environment: str) -> tuple[str, Path, dict[str, str]]:
    """What an isolated build says, the wheel unpacked, and its build_info.json."""
    said = run("pip", "-v", "wheel", "--no-deps", "--wheel-dir", folder, source, **environment)
    (file,) = folder.glob("*.whl")
    zipfile.ZipFile(file).extractall(folder / "installed")
    info = json.loads((folder / "installed" / "pyramid_kernels" / "build_info.json").read_text())
    assert info["version"] == file.name.split("-")[1]
    return said, folder / "installed", info["cuda"]


@pytest.fixture(scope="session")
def core(nvcc: setup.Nvcc, source: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A wheel with the CUDA core, built by pip alone in an environment that has no torch."""
    environment = {"PYRAMID_KERNELS_CUDA": "1", "PYRAMID_KERNELS_CUDA_ARCHS": "80-real", "MAX_JOBS": "2"}
    said, installed, info = wheel(source, tmp_path_factory.mktemp("core"), **environment)
    return SimpleNamespace(said=said, installed=installed, info=info, build=source / "build" / "cuda" / "80-real")


@slow
def test_without_nvcc_the_rest_is_installed(source: Path, tmp_path: Path) -> None:
    said, installed, info = wheel(source, tmp_path, CUDA_HOME="/nowhere")
    line = "no usable nvcc (CUDA_HOME: no /nowhere/bin/nvcc): no CUDA core"
    assert said.count(f"pyramid_kernels: {line}; installing the Triton, composed and reference backends") == 1
    assert info == line and not list(installed.glob("**/*.so"))
    code = "import torch, pyramid_kernels as pk; print(pk.functional.pyramid_pool(torch.ones(1, 1, 4, 4), (1,)))"
    assert "[[[1.]]]" in run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))


@slow
def test_the_core_is_built_and_says_how(core: SimpleNamespace) -> None:
    assert core.info["archs"] == "80-real" and core.info["nvcc"].count(".") == 2
    kept = json.loads((core.installed / "pyramid_kernels" / "build_info.json").read_text())["sources"]
    assert {"common", "bindings", "pyramid_pool"} <= kept.keys() and all(kept.values())
    shown = run(sys.executable, "-m", "pyramid_kernels", "info", cwd=core.installed, PYTHONPATH=str(core.installed))
    assert "compiled for 80-real" in shown and f"nvcc: {core.info['nvcc']}" not in shown.split("build")[0]
    assert core.info["nvcc"] in shown


LAUNCH = """
import torch
from pyramid_kernels import _native
core = _native.module("cuda")
_native.module = lambda device: core
from pyramid_kernels.ops.pyramid_pool import cuda
from pyramid_kernels.ops.pyramid_pool.settings import Settings
x, y, indices = torch.zeros(1, 2, 4, 4), torch.empty(1, 2, 1), torch.empty(0, 2, 1, dtype=torch.int32)
cuda.forward(x, y, indices, Settings([1, 1], "avg", "adaptive"))
"""


@slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a driver sees")
def test_a_launch_without_a_driver_says_what_was_built_and_found(core: SimpleNamespace) -> None:
    said = run(sys.executable, "-c", LAUNCH, cwd=core.installed, ok=False, PYTHONPATH=str(core.installed))
    assert "RuntimeError: pyramid_pool_fwd_kernel: " in said
    assert "built for 80-real with CUDA" in said and "found no usable CUDA driver" in said


@slow
def test_a_cpp_program_links_the_installed_library(core: SimpleNamespace, tmp_path: Path) -> None:
    run("cmake", "--install", core.build, "--prefix", tmp_path / "prefix")
    options = (f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}", "-G", "Ninja")
    run("cmake", "-S", ROOT / "examples" / "cpp", "-B", tmp_path / "build", *options)
    run("cmake", "--build", tmp_path / "build")
    if not torch.cuda.is_available():
        assert run(tmp_path / "build" / "pool", ok=False) == "no usable GPU\n"


# By CMake alone.


def test_cmake_configures_without_nvcc_and_without_pybind11(tmp_path: Path) -> None:
    """The modules are left out with one line each; what is left has tests."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cmake", "ninja", "c++", "cc", "as", "ld", "ar", "ranlib", "nm"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    options = ("-G", "Ninja", f"-DPython_EXECUTABLE={tmp_path / 'bare' / 'bin' / 'python'}")
    said = run("cmake", "-S", ROOT, "-B", tmp_path / "build", *options, PATH=str(tools))
    assert said.count("without nvcc, for the host simulator only") == 1
    assert said.count("leaving out the Python modules") == 1
    assert (tmp_path / "build" / "compile_commands.json").is_file()
    assert "Total Tests: 0" not in run("ctest", "--test-dir", tmp_path / "build", "-N")


@slow
def test_cmake_alone_leaves_out_the_same_architectures(nvcc: setup.Nvcc, tmp_path: Path) -> None:
    compiler = old_nvcc(tmp_path, f'exec {nvcc.path} "$@"')
    options = (f"-DCMAKE_CUDA_COMPILER={compiler}", "-DPK_CUDA=ON", "-DPK_TESTS=OFF")
    said = run("cmake", "-S", ROOT, "-B", tmp_path / "build", "-G", "Ninja", *options)
    assert said.count("is too old for 100-real, 120: left out") == 1
    cache = (tmp_path / "build" / "CMakeCache.txt").read_text()
    assert "CMAKE_CUDA_ARCHITECTURES:STRING=80-real;90a-real\n" in cache


# The gate on what compiled kernels use.


def test_the_gate_complains_of_stack_and_of_missing_kernels() -> None:
    kernels = sorted(set().union(*cuda_kernels().values()))
    good = [sass.Body("80", f"void pk::{name}<float>(int)", 40, 0, 0, 0) for name in kernels]
    assert len(good) >= 3 and sass.complaints(good) == []
    spilled = good[0]._replace(signature=f"{good[0].signature}, again", stack=8)
    assert sass.complaints([*good, spilled]) == [f"{spilled.signature} on 80: 8 bytes of stack, 0 local"]
    assert sass.complaints(good[1:]) == [f"{kernels[0]} on 80: not in the module"]
    assert sass.complaints([]) == ["the module holds no kernels"]


def test_the_gate_reads_what_nvcc_compiled(nvcc: setup.Nvcc, tmp_path: Path) -> None:
    indexed = "int a[64]; for (int i = 0; i < 64; ++i) a[i] = p[i] * i; p[0] = a[p[1] % 64];"
    kernel = f"template <class T> __global__ void hungry_fwd_kernel(T* p) {{ {indexed} }}"
    (tmp_path / "kernel.cu").write_text(f"{kernel}\ntemplate __global__ void hungry_fwd_kernel<int>(int*);\n")
    run(nvcc.path, "-arch=sm_80", "-c", tmp_path / "kernel.cu", "-o", tmp_path / "kernel.o")
    (body,) = sass.bodies(tmp_path / "kernel.o")
    assert body.kernel == "hungry_fwd_kernel" and body.arch == "80" and body.stack >= 256 and body.registers > 0


def test_the_gate_reads_which_products_are_serialised(nvcc: setup.Nvcc, tmp_path: Path) -> None:
    for name, between in (("apart", ""), ("touched", "d[s] += 1;")):
        (tmp_path / "kernel.cu").write_text(
            f"""#include "common/ptx/wgmma.cuh"
            __global__ void {name}_fwd_kernel(float* g, uint64_t a, uint64_t b) {{
                float d[32] = {{}};
                pk::wgmma_fence();
                for (int s = 0; s < 4; ++s) {{
                    pk::wgmma<64, pk::half>(d, a + s, b + s, true);
                    {between}
                    pk::wgmma_commit();
                }}
                pk::wgmma_wait<0>();
                for (int i = 0; i < 32; ++i) g[threadIdx.x * 32 + i] = d[i];
            }}"""
        )
        options = "-std=c++20 -gencode arch=compute_90a,code=sm_90a"
        remarks = sass.serialised(f"{nvcc.path} {options} -I{ROOT}/csrc -c kernel.cu -o kernel.o", tmp_path)
        assert all("serialized" in line and f"{name}_fwd_kernel" in line for line in remarks)
        assert bool(remarks) == (name == "touched"), remarks
