"""The command line: exit codes, one line per error, and what each command prints."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pyramid_kernels import models, progress
from pyramid_kernels.backends import BACKENDS
from pyramid_kernels.cli import COMMANDS, demo, demo_network, main
from pyramid_kernels.cli.common import UsageError
from pyramid_kernels.cli.networks import pair, paths
from pyramid_kernels.nn import DeepLabV3PlusDecoder, HRFuse, SpatialPyramidPooling
from pyramid_kernels.ops import all_ops

needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyramid_kernels", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[1])


BAD = {
    (): "a command is missing",
    ("verfy",): "did you mean 'verify'?",
    ("verify", "--op", "pyramid_pol"): "did you mean 'pyramid_pool'?",
    ("verify", "--backend", "tritn"): "did you mean 'triton'?",
    ("verify", "--op", "upsample_merge", "--backend", "composed"): "upsample_merge has no composed form",
    ("info", "--jsn"): "unrecognized arguments: --jsn",
    ("bench", "--op", "pyramid_pol"): "did you mean 'pyramid_pool'?",
    ("bench", "--model", "PSPNt"): "did you mean 'PSPNet'?",
    ("bench", "--mode", "sideways"): "invalid choice: 'sideways'",
    ("demo", "missing.jpg"): "IMAGE 'missing.jpg' is not a file",
    ("demo", "pyproject.toml"): "is not an image that can be read",
    ("demo", "--model", "deeplabv3"): "did you mean 'deeplabv3-narrow'?",
    ("demo", "--out", "picture.doc"): "--out must end in one of",
    ("demo", "--out", "no/such/folder/picture.png"): "does not exist",
    ("demo", "--steps", "0"): "--steps at least 1",
}


@pytest.mark.parametrize("argv", BAD, ids=lambda argv: " ".join(argv) or "nothing")
def test_bad_input_is_one_line_and_exit_code_2(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert BAD[argv] in err
    assert err.count("\n") == 1 and out == ""


@needs_cpu
@pytest.mark.parametrize("argv", [("tune",), ("bench", "--device", "cuda")], ids=" ".join)
def test_gpu_commands_say_so_without_one(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "PyTorch sees no" in (err := capsys.readouterr().err) and err.count("\n") == 1


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


def test_info_lists_every_op_and_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] == torch.__version__
    assert set(facts["ops"]) == set(all_ops())
    for found in facts["ops"].values():
        assert set(found) == set(BACKENDS)
        assert found["reference"] == "available"
    assert "no composed form" in facts["ops"]["upsample_merge"]["composed"]
    assert facts["cuda core"].startswith(("compiled for ", "this installation has no CUDA core"))


def test_info_check_runs_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json", "--check"]) == 0
    rows = json.loads(capsys.readouterr().out)["check"]
    triton = [row for row in rows if row["backend"] == "triton"]
    assert {row["op"] for row in triton} == {"pyramid_pool", "dilated_branches"}
    assert all(row["launches"] > 0 and row["error"] <= 1 for row in triton)


def test_info_check_fails_on_a_wrong_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyramid_kernels.ops.pyramid_pool import composed

    right = composed.pyramid_pool
    monkeypatch.setattr(composed, "pyramid_pool", lambda *args, **kwargs: right(*args, **kwargs) * 1.001)
    assert main(["info", "--check"]) == 1
    assert "pyramid_pool" in capsys.readouterr().out
    assert main(["verify", "--op", "pyramid_pool", "--backend", "composed"]) == 1
    assert "error over limit" in capsys.readouterr().err


@needs_cpu
def test_verify_in_a_fresh_process_interprets_the_kernels() -> None:
    done = run("verify", "--op", "pyramid_project", "--backend", "triton")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("pyramid_project")]
    assert {row[2] for row in rows} == {"float32", "float16"}
    assert all(int(row[4]) > 0 and float(row[5]) <= 1 for row in rows)
    assert "nothing is recorded" in done.stdout


def test_demo_writes_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from skimage import data, io

    photo, picture = tmp_path / "photo.png", tmp_path / "out.png"
    io.imsave(photo, data.astronaut())
    assert main(["demo", str(photo), "--side", "64", "--steps", "2", "--out", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "label maps identical on" in text
    assert ("same path" in text) != ("time unfused / fused" in text)
    assert "kernels in" in text or "kernels on" in text
    assert io.imread(picture).shape[1] > 1000


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


def test_bench_counts_frames_of_a_network(small: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", "all", "--device", "cpu"]) == 0
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("Small")]
    assert row[1] == "16x24" and all(float(value) > 0 for value in row[2:7]) and "pyramid_pool:" in row


def test_bench_reports_no_network_whose_forms_differ(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = SpatialPyramidPooling.fused_forward
    monkeypatch.setattr(SpatialPyramidPooling, "fused_forward", lambda self, x: 1.1 * right(self, x))
    assert main(["bench", "--model", "Small", "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert "gives another result" in err and "Small" not in out


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


@pytest.mark.parametrize("name", models.networks())
def test_demo_gives_a_network_a_size_that_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its whole form, at the default side, without the arithmetic."""

    def on_meta(name: str, x: torch.Tensor) -> None:
        with torch.device("meta"):
            pair(name, x.to("meta"))["unfused"](x.to("meta"))
        raise UsageError("both forms were made")

    monkeypatch.setattr(demo_network, "pair", on_meta)
    assert main(["demo", "--model", name]) == 2
    assert "both forms were made" in capsys.readouterr().err


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
    monkeypatch.setattr(progress, "DELAY", delay)
    for _ in progress.progress(["first", "second"], "waiting"):
        time.sleep(0.05)
    assert ("waiting" in terminal.getvalue() and "second" in terminal.getvalue()) == shown
    assert shown or not terminal.getvalue()
