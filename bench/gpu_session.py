"""``python bench/gpu_session.py STAGE... --out DIR``: the first session on a GPU machine, resumable stage by stage.

Every stage stays under ten minutes, leaves its log and an exit code in DIR, and is skipped once it has passed there;
``--pack`` gathers DIR into one tar. It needs Python, torch with CUDA, Triton, and for the CUDA core nvcc, CMake, Ninja
and pybind11; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).parents[1]
PY = sys.executable
MEMORY = (
    "pyramid_pool", "upsample_merge", "pyramid_project", "channel_gate", "max_pool_pyramid", "upsample_cross_entropy",
    "upsample_argmax",
)  # fmt: skip
GEMM = ("dilated_branches", "dilated_branches_train", "aspp", "pyramid_conv", "separable_pyramid")
OPS = (*MEMORY, *GEMM)
MODULES = (
    "nn.ASPP", "nn.ASPPv2", "nn.LargeFOV", "nn.SpatialPyramidPooling", "nn.HRFuse", "nn.PPM", "nn.DSPP", "nn.MDSPP",
    "nn.PSPHead", "nn.UPerHead", "nn.DeepLabV3PlusDecoder", "nn.HRNetV2Head", "nn.SPP", "nn.SPPF",
    "nn.AttentionRefinementModule", "nn.FeatureFusionModule", "transformers.SegformerDecodeHead",
)  # fmt: skip
#: Every op's small cases on CUDA; those of Triton pass ten minutes under a sanitizer.
SMALL = "test_oracle and cuda and not triton and float16 and channels_last"
SANITIZED = ["--error-exitcode", "9", PY, "-m", "pytest", "tests/test_ops.py", "-q", "-p", "no:xdist", "-k", SMALL]
HOPPER = ["-DCMAKE_CUDA_ARCHITECTURES=90a-real"]
LIMIT = 590

#: Stage -> its commands, in the order of a first session. {out} is the folder of results.
STAGES: dict[str, list[list[str]]] = {
    "build": [
        ["nvidia-smi"],
        # Without nvcc this builds nothing, and a module that was brought along stays.
        [PY, "setup.py", "build_ext", "--inplace"],
        [PY, "-m", "pyramid_kernels", "info"],
    ],
    "conformance": [
        ["cmake", "-B", "build/gpu", "-G", "Ninja", "-DPK_CUDA=ON", "-DPK_PYTHON=OFF", *HOPPER],
        ["cmake", "--build", "build/gpu", "--target", "conformance"],
        ["build/gpu/csrc/tests/conformance"],
    ],
    "peers": [[PY, "-m", "bench.peers", "--out", "{out}"]],
    "check": [[PY, "-m", "pyramid_kernels", "info", "--check"]],
    **{f"verify-{op}": [[PY, "-m", "pyramid_kernels", "verify", "--op", op]] for op in OPS},
    "suite": [[PY, "-m", "pytest", "tests", "-q", "-x", "-n", "16", "-m", "not slow", "--maxfail", "20"]],
    "memcheck": [["compute-sanitizer", "--tool", "memcheck", *SANITIZED]],
    "racecheck": [["compute-sanitizer", "--tool", "racecheck", *SANITIZED]],
    "tune": [[PY, "-m", "pyramid_kernels", "tune"]],
    **{f"bench-{kind}": [[PY, "-m", "bench.run", "--op", name, "--out", "{out}"] for name in names]
       for kind, names in (("memory", MEMORY), ("gemm", GEMM), ("modules", MODULES))},
    "demo": [[PY, "-m", "pyramid_kernels", "demo", "--side", "512", "--steps", "40", "--out", "{out}/demo.png"]],
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python bench/gpu_session.py", description="The first session on a GPU.")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"default: all of {', '.join(STAGES)}")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-session")), help="default: $OUT")
    parser.add_argument("--again", action="store_true", help="run stages that have passed already, too")
    parser.add_argument("--pack", action="store_true", help="gather the folder into session.tar.gz at the end")
    args = parser.parse_args()
    unknown = [stage for stage in args.stages if stage not in STAGES]
    if unknown:
        parser.error(f"unknown stage {unknown[0]!r}; it is one of {', '.join(STAGES)}")
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    failed = [stage for stage in args.stages or STAGES if not run(stage, out, args.again)]
    if args.pack:
        pack(out)
    print(f"failed: {', '.join(failed)}" if failed else "every stage passed")
    return int(bool(failed))


def run(stage: str, out: Path, again: bool) -> bool:
    """Run one stage unless it has passed; its state stands in <out>/<stage>.json."""
    state = out / f"{stage}.json"
    if state.is_file() and json.loads(state.read_text())["code"] == 0 and not again:
        print(f"{stage}: passed before")
        return True
    start, code = time.monotonic(), 0
    with (out / f"{stage}.log").open("w") as log:
        for command in STAGES[stage]:
            code = code or _run(command, out, log, LIMIT - (time.monotonic() - start))
    state.write_text(json.dumps({"code": code, "seconds": round(time.monotonic() - start)}) + "\n")
    print(f"{stage}: {'passed' if code == 0 else f'exit code {code}'} in {time.monotonic() - start:.0f} s", flush=True)
    return code == 0


def _run(command: list[str], out: Path, log: TextIO, seconds: float) -> int:
    command = [part.replace("{out}", str(out)) for part in command]
    log.write(f"$ {' '.join(command)}\n")
    log.flush()
    if shutil.which(command[0]) is None and not (ROOT / command[0]).is_file():
        log.write(f"{command[0]} is not on PATH\n")
        return 127
    # The user's ledger travels with the results, and what verify records is what tune and auto read next.
    own = {"PYRAMID_KERNELS_HOME": str(out), "PYTHONPATH": str(ROOT), "PYRAMID_KERNELS_CUDA_ARCHS": "90a-real"}
    environment = os.environ | own
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=max(1, seconds)
        )
    except subprocess.TimeoutExpired:
        log.write(f"stopped after {LIMIT} s for the stage\n")
        return 124
    return done.returncode


def pack(out: Path) -> None:
    target = out / "session.tar.gz"
    with tarfile.open(target, "w:gz") as tar:
        for path in sorted(out.iterdir()):
            if path != target:
                tar.add(path, arcname=path.name)
    print(f"packed into {target}")


if __name__ == "__main__":
    raise SystemExit(main())
