"""SPEED: its size, and weights from Keras's files."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyramid_kernels.models import SPEED, keras

ROOT = Path(__file__).parents[1]
NARROW: dict[str, Any] = {"width": 4, "bins": (1, 2, 3, 4)}


def test_parameters_and_running_statistics() -> None:
    counts = [t.numel() for key, t in SPEED().state_dict().items() if not key.endswith("num_batches_tracked")]
    assert sum(counts) == 2_671_313


@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("keras", "h5py"))), reason="needs keras and h5py")
def test_a_file_that_keras_wrote(tmp_path: Path) -> None:
    """The source's own graph in Keras, random weights: the same depths."""
    model, data = tmp_path / "speed.h5", tmp_path / "speed.npz"
    command = [sys.executable, "-m", "tests.speed_keras", str(model), str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    x, expected = (torch.from_numpy(np.load(data)[key]).permute(0, 3, 1, 2) for key in "xy")
    assert expected.std() > 1
    network = SPEED(backend="reference")
    assert network.load_keras(model) is network
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), expected, rtol=0, atol=1e-4)


def written(path: Path, network: SPEED, named: str = "", depthwise: str = "kernel", first: int = 0) -> Path:
    """A file of ``network`` as some Keras names things: what follows a weight's name, and where it starts to count."""
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    levels = {f"separable_conv2d_{first + i}": level for i, level in enumerate(network.dspp.levels)}
    if not first:
        levels["separable_conv2d"] = levels.pop("separable_conv2d_0")
    with h5py.File(path, "w") as file:
        for name, layer in (network._keras_layers() | levels).items():
            for target, names, order in keras._expected(layer):
                key = depthwise if names == ("depthwise_kernel", "kernel") else names[0]
                back = [order.index(i) for i in range(len(order))]
                file[f"model_weights/{name}/{name}/{key}{named}"] = target.detach().permute(back).numpy()
    return path


def random(network: SPEED) -> SPEED:
    for t in network.state_dict().values():
        t.copy_(torch.rand_like(t) if t.is_floating_point() else t)
    return network


def state(network: nn.Module) -> dict[str, Tensor]:
    return {key: t.clone() for key, t in network.state_dict().items()}


@pytest.mark.parametrize(
    "named,depthwise,first", [("", "kernel", 0), (":0", "depthwise_kernel", 0), (":0", "depthwise_kernel", 8)]
)
def test_names_of_keras_versions(tmp_path: Path, named: str, depthwise: str, first: int) -> None:
    network = random(SPEED(**NARROW))
    path = written(tmp_path / "speed.h5", network, named, depthwise, first)
    loaded = SPEED(fused=False, **NARROW).load_keras(path)
    for key, t in state(network).items():
        torch.testing.assert_close(loaded.state_dict()[key], t, rtol=0, atol=0, msg=key)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    network = random(SPEED(**NARROW))
    path = written(tmp_path / "speed.h5", network)
    before = state(network)
    h5py = pytest.importorskip("h5py", reason="needs h5py")

    def refused(layer: str, weight: str, change: Any, message: str) -> None:
        broken = tmp_path / "broken.h5"
        broken.write_bytes(path.read_bytes())
        with h5py.File(broken, "r+") as file:
            group = file["model_weights"] if not weight else file[f"model_weights/{layer}/{layer}"]
            old = group[weight][()] if weight else None
            del group[weight or layer]
            if change is not None:
                group[weight] = change(old)
        with pytest.raises(ValueError, match=message):
            network.load_keras(broken)

    refused("up3_sep_conv", "", None, "broken.h5 must have a layer 'up3_sep_conv', got .'conv1', 'conv1_bn', ")
    refused("conv_dw_2", "kernel", None, "layer 'conv_dw_2' of .* must have depthwise_kernel or kernel, got ..$")
    shapes = r"must be \(3, 3, 3, 4\), got \(3, 3, 3, 3\)"
    refused("conv1", "kernel", lambda t: t[..., 1:], f"kernel of layer 'conv1' of .*broken.h5 {shapes}")
    refused("separable_conv2d_2", "", None, "must have 4 layers named separable_conv2d, separable_conv2d_1 and so on")
    after = state(network)
    assert all(torch.equal(t, after[key]) for key, t in before.items())


def test_without_h5py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"reading Keras files needs h5py; pip install 'pyramid_kernels\[keras\]'"):
        SPEED(**NARROW).load_keras("speed.h5")


def test_images_and_widths_that_it_refuses() -> None:
    with pytest.raises(ValueError, match="sides that are multiples of 32 px, got 192x250; resize them"):
        SPEED(backend="reference")(torch.zeros(1, 3, 192, 250))
    with pytest.raises(ValueError, match="width must be a power of two of at least 4, got 24"):
        SPEED(width=24)
