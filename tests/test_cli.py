"""The command line: exit codes, one line per error, and what each command prints."""

import functools
import gc
import io
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from pyramid_kernels import backends, console, models, verification
from pyramid_kernels.backends import BACKENDS
from pyramid_kernels.benchmark.pairs import pair, paths
from pyramid_kernels.cli import COMMANDS, demo, info, main, tune, verify
from pyramid_kernels.cli.demo import network
from pyramid_kernels.cli.demo.model import load_photo
from pyramid_kernels.console import UsageError
from pyramid_kernels.nn import DeepLabV3PlusDecoder, HRFuse, SpatialPyramidPooling
from pyramid_kernels.ops import all_ops
from pyramid_kernels.verification import ledger, oracle
from tests.marks import needs_cpu
from tests.processes import ROOT, python

run = functools.partial(python, "-m", "pyramid_kernels")

BAD = {
    (): "a command is missing",
    ("verfy",): "did you mean 'verify'?",
    ("verify", "--op", "pyramid_pol"): "did you mean 'pyramid_pool'?",
    ("verify", "--backend", "tritn"): "did you mean 'triton'?",
    ("verify", "--op", "pyramid_project", "--backend", "composed"): "pyramid_project has no composed form",
    ("info", "--jsn"): "unrecognized arguments: --jsn",
    ("bench", "--op", "pyramid_pol"): "did you mean 'pyramid_pool'?",
    ("bench", "--model", "PSPNt"): "did you mean 'PSPNet'?",
    ("bench", "--mode", "sideways"): "invalid choice: 'sideways'",
    ("demo", "missing.jpg"): "IMAGE 'missing.jpg' is not a file",
    ("demo", "pyproject.toml"): "is not an image that can be read",
    ("demo", "--model", "deeplabv3"): "did you mean 'deeplabv3-narrow'?",
    ("demo", "--out", "picture.doc"): "--out must end in one of",
    ("demo", "--out", "no/such/folder/picture.png"): "does not exist",
    ("demo", "a" * 300 + ".jpg"): "is not a file",
    ("demo", "docs"): "IMAGE 'docs' is not a file",
    ("demo", "--steps", "0"): "--steps at least 1",
}


@pytest.mark.parametrize("argv", BAD, ids=lambda argv: " ".join(argv) or "nothing")
def test_bad_input_is_one_line_and_exit_code_2(argv: tuple[str, ...], refused: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    assert BAD[argv] in refused(*argv)


@needs_cpu
@pytest.mark.parametrize("argv", [("tune",), ("bench", "--device", "cuda")], ids=" ".join)
def test_gpu_commands_say_so_without_one(argv: tuple[str, ...], refused: Any) -> None:
    assert "PyTorch sees no" in refused(*argv)


def test_errors_reach_the_shell_without_a_traceback() -> None:
    done = run("demo", "missing.jpg")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pyramid_kernels: IMAGE 'missing.jpg' is not a file\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: python -m pyramid_kernels" in capsys.readouterr().out


def test_info_lists_every_op_and_backend(cli: Any) -> None:
    facts = json.loads(cli("info", "--json").out)
    assert facts["torch"] == torch.__version__
    assert set(facts["ops"]) == set(all_ops())
    for found in facts["ops"].values():
        assert set(found) == set(BACKENDS)
        assert found["reference"] == "available"
    assert "no composed form" in facts["ops"]["pyramid_project"]["composed"]
    assert facts["cuda core"].startswith(("compiled for ", "this installation has no CUDA core"))


@pytest.mark.slow
@needs_cpu
def test_info_check_runs_kernels() -> None:
    """In a process of its own, which has not been told to interpret them."""
    done = run("info", "--json", "--check", TRITON_INTERPRET=None)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["check"]
    triton = [row for row in rows if row["backend"] == "triton"]
    assert {row["op"] for row in triton} == {"pyramid_pool", "dilated_branches"}
    assert all(row["launches"] > 0 and row["error"] <= 1 for row in triton)


def report(error: float = 0.5, broken: str | None = None) -> oracle.Report:
    """What a check of a kernel finds, without one."""
    run = oracle.Run({}, [], Counter({"kernel": 1}), Counter(), (Counter(), Counter()), [], [broken] if broken else [])
    return oracle.Report([oracle.Finding("y", error, "worst at (0, 0)")], run)


def throws(**settings: Any) -> oracle.Report:
    raise RuntimeError("PTX JIT failed")


FAULTS: dict[str, Callable[..., oracle.Report]] = {
    "RuntimeError: PTX JIT failed": throws,
    "the guard band behind y was written": lambda **settings: report(0.0, "the guard band behind y was written"),
    "y: error over limit 2": lambda **settings: report(2.0),
    "y: error over limit nan": lambda **settings: report(float("nan")),
}


@pytest.mark.parametrize("said", FAULTS)
def test_info_check_and_verify_fail_with_a_kernel(said: str, monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    monkeypatch.setattr(oracle, "check", FAULTS[said])
    code, out, _ = cli("info", "--check")
    assert code == 1 and "pyramid_pool triton float32 contiguous " in out and said in out
    code, out, _ = cli("info", "--check", "--json")
    assert code == 1 and said in str(json.loads(out)["check"])
    code, _, err = cli("verify", "--op", "pyramid_pool", "--backend", "composed")
    assert code == 1 and said in err


def test_info_tells_what_its_columns_are(cli: Any) -> None:
    code, out, _ = cli("info")
    assert code == 0 and "auto: what it takes for the op's first test case" in out
    ops = out.partition("\n\n")[2]  # after versions and settings, whose paths are as long as they are
    assert max(map(len, ops.splitlines())) < 200, "all ops have one name"


@needs_cpu
def test_info_reports_a_setting_that_cannot_run_here() -> None:
    done = run("info", PYRAMID_KERNELS_BACKEND="cuda", PYRAMID_KERNELS_HOSTSIM=None)
    assert done.returncode == 0 and done.stderr == ""
    assert "PYRAMID_KERNELS_BACKEND: cuda" in done.stdout
    assert done.stdout.count("raises: backend='cuda' cannot run: CUDA kernels need a CUDA device") == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_setting_is_one_line(command: str, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.setattr(backends, "_WRONG", ["PYRAMID_KERNELS_BACKEND must be one of 'auto', got 'foo'"])
    argv = [command, "torch.nn:Identity"] if command == "compare" else [command]
    assert refused(*argv) == "pyramid_kernels: PYRAMID_KERNELS_BACKEND must be one of 'auto', got 'foo'\n"


POOL = ("verify", "--op", "pyramid_pool", "--backend", "triton")


class Gpu:
    """A GPU that is not there, whose kernels are what ``outcome`` says of (backend, dtype, channels_last)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.lost = False
        self.outcome: Callable[..., str] = lambda *body: "passes"
        self.checked: list[tuple[str, str, str, bool]] = []
        monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(folder))
        monkeypatch.setattr(verify, "interpret_without_gpu", lambda: "cuda")
        monkeypatch.setattr(oracle, "cannot_check", lambda **settings: None)
        monkeypatch.setattr(oracle, "check", self.check)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA H200")
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        ledger.read.cache_clear()

    def synchronize(self) -> None:
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with more")

    def check(self, op: str, backend: str, dtype: torch.dtype, channels_last: bool, **rest: Any) -> oracle.Report:
        self.synchronize()
        body = (op, backend, str(dtype).removeprefix("torch."), channels_last)
        self.checked.append(body)
        self.lost = self.outcome(*body) == "crashes"
        self.synchronize()
        if self.outcome(*body) == "is stopped":
            raise KeyboardInterrupt
        return report(2.0 if self.outcome(*body) == "fails" else 0.5)

    def results(self, op: str = "pyramid_pool") -> dict[tuple[str, str, str], str]:
        entries = [entry for entry in ledger.read()["verified"] if entry["op"] == op]
        return {(e["backend"], e["dtype"], e["layout"]): e["result"] for e in entries}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Gpu]:
    yield Gpu(monkeypatch, tmp_path)
    ledger.read.cache_clear()


def test_verify_records_every_dtype_and_layout_for_itself(gpu: Gpu, cli: Any) -> None:
    gpu.outcome = lambda op, backend, dtype, last: "fails" if dtype == "float64" or last else "passes"
    code, _, err = cli(*POOL)
    assert code == 1 and "pyramid_pool triton float64 contiguous" in err
    assert gpu.results() == {
        ("triton", dtype, layout): "failed" if dtype == "float64" or layout == "channels_last" else "passed"
        for dtype in ("float32", "float16", "bfloat16", "float64")
        for layout in ("contiguous", "channels_last")
    }
    question = ("pyramid_pool", "memory", "triton", 90)
    assert ledger.why_not(*question, torch.bfloat16, False, "NVIDIA H200") is None


def test_an_error_that_stays_is_one_bodys(gpu: Gpu, cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every op has a process of its own: an illegal access, after which all that follows fails, is its alone."""

    def apart(command: list[str]) -> int:
        gpu.lost = False
        return main(command[3:])

    monkeypatch.setattr(verify, "process", apart)
    crashing = ("dilated_branches", "triton", "float16", False)
    gpu.outcome = lambda *body: "crashes" if body == crashing else "passes"
    ops = ("channel_gate", "dilated_branches", "pyramid_pool", "upsample_merge")
    code, out, err = cli("verify", "--backend", "triton", "--op", *ops, "--json", str(tmp_path / "rows"))
    assert code == 1 and out.count("backend") == 1
    assert all(set(gpu.results(op).values()) == {"passed"} for op in ops if op != "dilated_branches")
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert len(rows) == 3 * 8 + 3 and [row["failures"] for row in rows].count([]) == 3 * 8 + 2
    failed = {body for body, result in gpu.results("dilated_branches").items() if result != "passed"}
    assert failed == {("triton", "float16", "contiguous")}
    assert "an illegal memory access" in err and "float16   contiguous" in out


def test_an_op_that_hangs_or_ends_its_process_is_said(gpu: Gpu, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def apart(command: list[str]) -> int:
        if "channel_gate" in command:
            raise subprocess.TimeoutExpired(command, 1)
        return -11 if "pyramid_pool" in command else main(command[3:])

    monkeypatch.setattr(verify, "process", apart)
    ops = ("channel_gate", "pyramid_pool", "upsample_merge")
    code, out, err = cli("verify", "--backend", "triton", "--dtype", "bfloat16", "--op", *ops)
    assert code == 1 and "channel_gate triton: it did not end within 30 minutes" in err
    assert "pyramid_pool triton: its process ended with -11" in err
    assert gpu.results("upsample_merge") == {
        ("triton", "bfloat16", k): "passed" for k in ("contiguous", "channels_last")
    }


def test_a_body_that_ends_the_process_has_not_passed(gpu: Gpu, cli: Any) -> None:
    assert cli(*POOL).code == 0
    gpu.outcome = lambda op, backend, dtype, last: "is stopped" if dtype == "float16" else "passes"
    code, out, err = cli(*POOL)
    assert code == 130 and err == "pyramid_kernels: stopped\n"
    assert [line.split()[2] for line in out.splitlines()[2:]] == ["float32", "float32"], "rows that were finished"
    unfinished = {body for body, result in gpu.results().items() if result != "passed"}
    assert unfinished == {("triton", "float16", "contiguous")}
    question = ("pyramid_pool", "memory", "triton", 90, torch.float16, False, "NVIDIA H200")
    assert "verification did not finish" in str(ledger.why_not(*question))


def test_rows_come_one_by_one(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    gpu.outcome = lambda *body: str(seen.append(printed.getvalue().count("pyramid_pool")))
    assert main(["verify", "--op", "pyramid_pool", "--backend", "composed"]) == 0
    assert sorted(set(seen)) == list(range(8)) and gpu.results() == {}


@pytest.mark.parametrize("command", ["verify", "tune"])
def test_rows_need_a_folder(command: str, refused: Callable[..., str]) -> None:
    assert "--json: the folder" in refused(command, "--json", "no/such/folder/rows")


@pytest.mark.parametrize("command", ["verify", "tune"])
def test_results_that_cannot_be_kept_are_said_before_the_work(
    command: str, gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(tmp_path / "file"))
    assert "set PYRAMID_KERNELS_HOME to another folder" in refused(command, "--op", "pyramid_pool") and not gpu.checked


def test_tune_records_every_dtype_and_layout_for_itself(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def slowest(op: str, dtype: torch.dtype, channels_last: bool) -> dict[str, tuple[float, str]]:
        return {"triton": (0.5 if dtype == torch.bfloat16 and channels_last else 1.5, op)}

    monkeypatch.setattr(tune, "slowest", slowest)
    assert main(POOL) == 0
    assert main(["tune", "--op", "pyramid_pool", "--json", str(tmp_path / "rows")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row["ratio"] for row in rows] == [1.5] * 5 + [0.5] and rows[5]["dtype"] == "bfloat16"
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for last in (False, True):
            reason = ledger.why_not("pyramid_pool", "gemm", "triton", 90, dtype, last, "NVIDIA H200")
            assert (reason is None) != (dtype == torch.bfloat16 and last), reason
    assert len(ledger.read()["ratios"]) == 6
    question = ("pyramid_pool", "gemm", "triton", 90, torch.float64, False, "NVIDIA H200")
    command = str(ledger.why_not(*question)).split("`")[1].split()
    assert main(command[command.index("tune") :]) == 0 and ledger.why_not(*question) is None


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -m pyramid_kernels info | head -c 10; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")


def test_info_check_fails_on_a_wrong_result(monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    from pyramid_kernels.ops.pyramid_pool import composed

    monkeypatch.setattr(info, "verify", functools.partial(verification.rows.verify, backends=["composed"]))
    right = composed.pyramid_pool
    monkeypatch.setattr(composed, "pyramid_pool", lambda *args, **kwargs: right(*args, **kwargs) * 1.001)
    code, out, _ = cli("info", "--check")
    assert code == 1 and "pyramid_pool" in out
    code, _, err = cli("verify", "--op", "pyramid_pool", "--backend", "composed")
    assert code == 1 and "error over limit" in err


@pytest.mark.slow
@needs_cpu
def test_verify_in_a_fresh_process_interprets_the_kernels() -> None:
    done = run("verify", "--op", "pyramid_project", "--backend", "triton")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("pyramid_project")]
    assert {row[2] for row in rows} == {"float32", "float16"}
    assert {row[3] for row in rows} == {"contiguous", "channels_last"}
    assert all(int(row[5]) > 0 and float(row[6]) <= 1 for row in rows)
    assert "nothing is recorded" in done.stdout


@pytest.mark.slow
def test_demo_writes_the_picture(tmp_path: Path, cli: Any) -> None:
    from skimage import data, io

    photo, picture = tmp_path / "photo.png", tmp_path / "out.png"
    io.imsave(photo, data.astronaut())
    code, text, _ = cli("demo", str(photo), "--side", "64", "--steps", "2", "--out", str(picture))
    assert code == 0 and "label maps identical on" in text
    assert ("same path" in text) != ("time unfused / fused" in text)
    assert "kernels in" in text or "kernels on" in text
    assert io.imread(picture).shape[1] > 1000


#: A ramp from black to white, 96 high.
RAMP = np.tile(np.linspace(0, 1, 160), (96, 1))


def grey(scale: float = 255, dtype: Any = np.uint8) -> Image.Image:
    return Image.fromarray((RAMP * scale).astype(dtype))


def with_values_that_are_not_finite() -> Image.Image:
    values = (RAMP * 1e-3).astype(np.float32)
    values[3, :3] = np.nan, np.inf, -np.inf
    return Image.fromarray(values)


#: By the name of a file: a picture of the ramp, and how it is saved.
PICTURES: dict[str, tuple[Callable[[], Image.Image], dict[str, Any]]] = {
    "L.png": (grey, {}),
    "1.png": (lambda: grey().convert("1"), {}),
    "P.png": (lambda: grey().convert("P"), {}),
    "RGB.webp": (lambda: grey().convert("RGB"), {"lossless": True}),
    "YCbCr.jpg": (lambda: grey().convert("YCbCr"), {}),
    "CMYK.jpg": (lambda: grey().convert("RGB").convert("CMYK"), {}),
    "I;16.png": (lambda: grey(65535, np.uint16), {}),
    "I;16 of 12 bits.tif": (lambda: grey(4095, np.uint16), {}),
    "I;16B.tif": (lambda: grey(65535, ">u2"), {}),
    "I.tif": (lambda: grey(1e6, np.int32), {}),
    "F.tif": (lambda: grey(1, np.float32), {}),
    "F below zero.tif": (lambda: Image.fromarray((RAMP * 6e38 - 3e38).astype(np.float32)), {}),
    "F with NaN.tif": (with_values_that_are_not_finite, {}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_photograph_of_any_mode(name: str, tmp_path: Path) -> None:
    make, settings = PICTURES[name]
    make().save(tmp_path / name, **settings)
    photo = load_photo(tmp_path / name, 160).astype(float)
    assert photo.shape == (96, 160, 3)
    assert np.abs(photo.mean((0, 2)) - 255 * RAMP[0]).max() < 30  # mode "1" dithers


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "RGB", "L", "1"])
def test_what_is_transparent_lies_on_white(mode: str, tmp_path: Path) -> None:
    """And is not shown as whatever colour lies under it, black as a rule."""
    picture = Image.new("L", (64, 64)).convert(mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(0)
        picture.save(tmp_path / "clear.png")
    else:
        black = picture.getpixel((0, 0))
        picture.save(tmp_path / "clear.png", transparency=black)
    assert (load_photo(tmp_path / "clear.png", 64) == 255).all()


@pytest.mark.parametrize("mode", ["L", "I;16", "F"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_upright(orientation: int, mode: str, tmp_path: Path) -> None:
    """Cameras save what their sensor saw, and beside it how the camera was held."""
    held = [(), ("f",), ("r", "r"), ("f", "r", "r"), ("r", "f"), ("r",), ("r", "r", "r", "f"), ("r", "r", "r")]
    upright = RAMP + 0.3 * RAMP[:, :1] + np.linspace(0, 1, 96)[:, None] ** 2
    seen = upright / upright.max()
    for step in reversed(held[orientation - 1]):  # undone: a quarter turn to the left, or a flip
        seen = np.rot90(seen) if step == "r" else np.fliplr(seen)
    scale, dtype = {"L": (255, np.uint8), "I;16": (65535, np.uint16), "F": (1, np.float32)}[mode]
    picture = Image.fromarray(np.ascontiguousarray(seen * scale).astype(dtype))
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    name = "held.png" if mode == "L" else "held.tif"
    picture.save(tmp_path / name, exif=exif)
    photo = load_photo(tmp_path / name, 160).astype(float)
    assert photo.shape == (96, 160, 3)
    assert np.abs(photo.mean(2) - 255 * upright / upright.max()).max() < 3


def test_a_huge_jpeg_is_decoded_small_and_other_bombs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = grey().convert("RGB").resize((1600, 960))
    picture.save(tmp_path / "huge.jpg")
    picture.save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # Pillow warns of more, and refuses twice as much
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load_photo(tmp_path / "huge.jpg", 160).shape == (96, 160, 3)
        with pytest.raises(UsageError, match=r"huge.png' is not an image .* it has 1600x960 px, more than the 1000000"):
            load_photo(tmp_path / "huge.png", 160)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
        with pytest.raises(UsageError, match=r"huge.jpg' is not an image .*decompression bomb"):
            load_photo(tmp_path / "huge.jpg", 160)
    assert not caught


def test_files_of_photographs_are_closed(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    grey().save(tmp_path / "two.gif", save_all=True, append_images=[grey(100)])  # Pillow waits for the next frame
    load_photo(tmp_path / "two.gif", 160)
    gc.collect()
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize("name", ["L.png", "CMYK.jpg", "I;16B.tif", "F.tif", "RGB.webp", "NaN.tif", "empty.png"])
def test_a_damaged_photograph_is_one_line(name: str, tmp_path: Path, refused: Any) -> None:
    path = tmp_path / name
    if name in PICTURES:
        make, settings = PICTURES[name]
        make().save(path, **settings)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif name == "NaN.tif":
        Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(path)
    else:
        path.touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = refused("demo", str(path), "--out", str(tmp_path / "out.png"))
    assert f"IMAGE {str(path)!r} is not an image that can be read: " in said


@pytest.mark.parametrize("model", [(), ("--model", "PSPNet")])
def test_the_picture_never_replaces_the_photograph(
    model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "demo.png"  # what --out is by default
    grey().save(photo)
    before = photo.read_bytes()
    (tmp_path / "soft.png").symlink_to(photo)
    (tmp_path / "hard.png").hardlink_to(photo)
    (tmp_path / "folder.png").mkdir()
    for image, out in [
        ("demo.png", ()),
        (str(photo), ("--out", "demo.png")),
        ("demo.png", ("--out", "./folder.png/../demo.png")),
        ("demo.png", ("--out", "soft.png")),
        ("soft.png", ("--out", "demo.png")),
        ("demo.png", ("--out", "hard.png")),
    ]:
        assert "--out must not be IMAGE itself, got " in refused("demo", image, *model, *out)
    folder = refused("demo", "demo.png", *model, "--out", "folder.png")
    assert "--out must be a file, got the folder 'folder.png'" in folder
    assert photo.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_picture_that_cannot_be_written_is_one_line(small: None, tmp_path: Path, cli: Any) -> None:
    (tmp_path / "full.png").symlink_to("/dev/full")
    code, _, err = cli("demo", "--model", "Small", "--side", "64", "--out", str(tmp_path / "full.png"))
    assert code == 2 and "full.png' cannot be written: " in err and err.count("\n") == 1


HRNET: dict[str, Any] = {"modules": (1, 1, 1), "blocks": 1}


class Small(models.SPPNet):
    """A network of a moment."""

    published_size = (16, 24)

    def __init__(self, **settings: Any) -> None:
        super().__init__(width=2, hidden=4, classes=3, backend="reference", **settings)


class Narrow(models.HRNetPose):
    """Another."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(3, 4, backend="reference", **HRNET, **settings)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "networks", lambda: {"Small": Small})


def test_bench_counts_frames_of_a_network(small: None, cli: Any) -> None:
    code, out, _ = cli("bench", "--model", "all", "--device", "cpu")
    (row,) = [line.split() for line in out.splitlines() if line.startswith("Small")]
    assert code == 0 and row[1] == "16x24" and all(float(value) > 0 for value in row[2:7]) and "pyramid_pool:" in row


def test_bench_reports_no_network_whose_forms_differ(small: None, monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    right = SpatialPyramidPooling.fused_forward
    monkeypatch.setattr(SpatialPyramidPooling, "fused_forward", lambda self, x: 1.1 * right(self, x))
    code, out, err = cli("bench", "--model", "Small", "--device", "cpu")
    assert code == 1 and "gives another result" in err and "Small" not in out


def test_paths_of_modules_within_others() -> None:
    decoder = DeepLabV3PlusDecoder(8, 4, 8, (2,), low_width=6, low_index=0, dropout=0.0, separable=False).eval()
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 8, 8)]
    assert decoder.why_original(maps) is not None, "maps of one size leave nothing to mix before the upsampling"
    assert any("dilated_branches" in decision for decision in paths(decoder, maps))
    assert "fused_forward" not in vars(decoder) | vars(decoder.aspp[0])


@pytest.mark.parametrize("wrong", [False, True])
def test_demo_of_a_network(
    wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"Small": Small, "Narrow": Narrow}
    monkeypatch.setattr(models, "networks", lambda: kinds)
    right = HRFuse.fused_forward
    monkeypatch.setattr(HRFuse, "fused_forward", lambda self, x: [(1 + 0.1 * wrong) * y for y in right(self, x)])
    for name in kinds:
        picture = tmp_path / f"{name}.png"
        assert main(["demo", "--model", name, "--side", "64", "--out", str(picture)]) == (wrong and name == "Narrow")
        assert picture.stat().st_size > 10_000
    text = capsys.readouterr().out
    assert "outputs identical on" in text and "label maps identical on" in text
    assert "fused modules: pyramid_pool:" in text and "fused modules: upsample_merge:" in text
    assert main(["demo", "--model", "Narrow", "--side", "64", "--out", str(tmp_path / "x.doc")]) == 2


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if i % 3 else []) for i, n in enumerate(models.networks())]
)
def test_demo_gives_a_network_a_size_that_it_takes(name: str, monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    """Its whole form, at the default side, without the arithmetic."""

    def on_meta(name: str, x: torch.Tensor) -> None:
        with torch.device("meta"):
            pair(name, x.to("meta"))["unfused"](x.to("meta"))
        raise UsageError("both forms were made")

    monkeypatch.setattr(network, "pair", on_meta)
    assert "both forms were made" in cli("demo", "--model", name).err


def test_no_models_of_the_demo_differ_by_case_alone() -> None:
    names = [demo.TRAINED, *models.networks()]
    assert len({name.lower() for name in names}) == len(names)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("delay,shown", [(60.0, False), (0.02, True)])
def test_a_bar_comes_after_a_delay(delay: float, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(console, "DELAY", delay)
    for _ in console.progress(["first", "second"], "waiting"):
        time.sleep(0.05)
    assert ("waiting" in terminal.getvalue() and "second" in terminal.getvalue()) == shown
    assert shown or not terminal.getvalue()
