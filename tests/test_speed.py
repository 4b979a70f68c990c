"""SPEED: its size, and weights from Keras's files."""

import importlib.util
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyramid_kernels.models import SPEED, keras
from tests.processes import python

NARROW: dict[str, Any] = {"width": 4, "bins": (1, 2, 3, 4)}


def test_parameters_and_running_statistics() -> None:
    counts = [t.numel() for key, t in SPEED().state_dict().items() if not key.endswith("num_batches_tracked")]
    assert sum(counts) == 2_671_313


@pytest.mark.slow
@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("keras", "h5py"))), reason="needs keras and h5py")
def test_a_file_that_keras_wrote(tmp_path: Path) -> None:
    """The source's own graph in Keras, random weights, in every form that Keras saves: the same depths."""
    done = python("-m", "tests.speed_keras", tmp_path)
    assert done.returncode == 0, done.stderr
    x, expected = (torch.from_numpy(np.load(tmp_path / "speed.npz")[key]).permute(0, 3, 1, 2) for key in "xy")
    assert expected.std() > 1
    for name in ("speed.h5", "speed.keras", "speed.weights.h5"):
        network = SPEED(backend="reference")
        assert network.load_keras(tmp_path / name) is network
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(x), expected, rtol=0, atol=1e-4)


def arrays(network: SPEED, first: int = 0) -> Any:
    """(layer, its names, its place among the layer's weights, Keras's array) of every tensor, the pyramid's numbered
    from ``first``."""
    levels = {f"separable_conv2d_{first + i}": level for i, level in enumerate(network.dspp.levels)}
    if not first:
        levels["separable_conv2d"] = levels.pop("separable_conv2d_0")
    for name, layer in (network._keras_layers() | levels).items():
        for i, (target, names, order) in enumerate(keras._expected(layer)):
            yield name, names, i, target.detach().permute([order.index(j) for j in range(len(order))])


def written(path: Path, network: SPEED, named: str = "", depthwise: str = "kernel", first: int = 0) -> Path:
    """A file of ``network`` as some Keras names things: what follows a weight's name, and where it starts to count."""
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    with h5py.File(path, "w") as file:
        for name, names, _, value in arrays(network, first):
            key = depthwise if names == ("depthwise_kernel", "kernel") else names[0]
            file[f"model_weights/{name}/{name}/{key}{named}"] = value.numpy()
    return path


def written_alone(path: Path, network: SPEED, convert: Any = np.asarray, **attributes: str) -> Path:
    """The weights of ``network`` as Keras 3 saves them alone: layers and weights by number, names beside them."""
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    with h5py.File(path, "w") as file:
        file["optimizer/vars/0"] = np.int32(1)
        for number, (name, _, i, value) in enumerate(arrays(network)):
            group = file.require_group(f"layers/layer_{number - i}/vars")
            group.attrs["name"] = name
            group[str(i)] = convert(value.numpy())
            group[str(i)].attrs.update(attributes)
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


def test_dtypes_of_keras(tmp_path: Path) -> None:
    network = random(SPEED(**NARROW))
    dtypes = {"float32": np.float32, "float16": np.float16, "float64": np.float64, "big-endian": np.dtype(">f4")}
    for name, dtype in dtypes.items():
        path = written_alone(tmp_path / "a.weights.h5", network, partial(np.asarray, dtype=dtype))
        loaded = SPEED(**NARROW).load_keras(path)
        for key, t in state(network).items():
            torch.testing.assert_close(loaded.state_dict()[key], t, rtol=1e-3 * (name == "float16"), atol=1e-6)
    path = tmp_path / "b.weights.h5"

    def opaque(t: Any) -> Any:  # as h5py stores bfloat16
        return torch.from_numpy(np.array(t)).bfloat16().view(torch.int16).numpy().view("V2")

    loaded = SPEED(**NARROW).load_keras(written_alone(path, network, opaque, dtype="bfloat16"))
    for key, t in loaded.state_dict().items():
        expected = state(network)[key]
        assert torch.equal(t, expected.bfloat16().float() if t.is_floating_point() else expected)
    with pytest.raises(ValueError, match="of layer 'conv1' must be float16, bfloat16, float32 or float64, got |V2"):
        network.load_keras(written_alone(path, network, opaque))


KERNEL = "model_weights/conv1/conv1/kernel"


def put(change: Any, key: str = KERNEL) -> Any:
    """Replace the array at ``key`` by what ``change`` makes of it."""

    def changed(file: Any) -> None:
        old = file[key][()]
        del file[key]
        file[key] = change(old)

    return changed


def new(key: str, value: Any) -> Any:
    """Replace what is at ``key`` by ``value(file, h5py)``, or add it."""

    def changed(file: Any) -> None:
        import h5py

        made = value(file, h5py) if callable(value) else value
        if key in file:
            del file[key]
        if made is not None:
            file[key] = made

    return changed


def in_other_files(virtual: bool) -> Any:
    def changed(file: Any) -> None:
        import h5py

        shape = file[KERNEL].shape
        del file[KERNEL]
        if virtual:
            layout = h5py.VirtualLayout(shape, "f4")
            layout[...] = h5py.VirtualSource("other.h5", "kernel", shape, "f4")
            file.create_virtual_dataset(KERNEL, layout)
        else:
            file.create_dataset(KERNEL, shape, "f4", external=[("other.bin", 0, h5py.h5f.UNLIMITED)])

    return changed


GOT = "must be a group or an array of its own, got a link to another"
FLOATS = "must be float16, bfloat16, float32 or float64, got"
EXTRA = "must have no weights but the network's, got"
DAMAGED: dict[str, tuple[Any, str]] = {
    "no layer": (new("model_weights/up3_sep_conv", None), "it must have a layer 'up3_sep_conv', got ['conv1', 'conv1_"),
    "no weight": (
        new("model_weights/conv_dw_2/conv_dw_2/kernel", None),
        "it must have a layer 'conv_dw_2', got ['conv1', 'conv1_bn',",
    ),
    "no bias": (
        new("model_weights/convDepthF/convDepthF/bias", None),
        "layer 'convDepthF' must have bias, got ['kernel']",
    ),
    "another shape": (put(lambda t: t[..., 1:]), "kernel of layer 'conv1' must be (3, 3, 3, 4), got (3, 3, 3, 3)"),
    "a level less": (new("model_weights/separable_conv2d_2", None), "it must have 4 layers named separable_conv2d, "),
    "a bias more": (new("model_weights/conv1/conv1/bias:0", np.ones(4)), f"layer 'conv1' {EXTRA} ['bias'] as well"),
    "a layer more": (new("model_weights/conv14/conv14/kernel", np.ones(4)), f"it {EXTRA} those of layers ['conv14']"),
    "a weight twice": (new("model_weights/conv1/other/kernel", np.ones(4)), "layer 'conv1' must have one kernel, got "),
    "NaN": (put(lambda t: t * np.nan), "kernel of layer 'conv1' must be finite in torch.float32"),
    "overflow": (put(lambda t: t.astype(float) + 1e300), "kernel of layer 'conv1' must be finite in torch.float32"),
    "int8": (put(lambda t: t.astype(np.int8)), f"kernel of layer 'conv1' {FLOATS} int8"),
    "bool": (put(lambda t: t > 0), f"kernel of layer 'conv1' {FLOATS} bool"),
    "complex": (put(lambda t: t + 0j), f"kernel of layer 'conv1' {FLOATS} complex64"),
    "text": (put(lambda t: np.full(t.shape, b"1", object)), f"kernel of layer 'conv1' {FLOATS} object"),
    "nothing": (new(KERNEL, lambda _, h5py: h5py.Empty("f4")), "kernel of layer 'conv1' must be (3, 3, 3, 4), got N"),
    "external link": (new(KERNEL, lambda _, h5py: h5py.ExternalLink("good.h5", KERNEL)), f"'/{KERNEL}' {GOT}"),
    "external group": (
        new("model_weights", lambda _, h5py: h5py.ExternalLink("good.h5", "model_weights")),
        f"'/model_weights' {GOT}",
    ),
    "soft link": (new(KERNEL, lambda _, h5py: h5py.SoftLink("/model_weights/up1_upconv")), f"'/{KERNEL}' {GOT}"),
    "soft loop": (new("model_weights/conv1/a", lambda _, h5py: h5py.SoftLink("/model_weights/conv1")), GOT),
    "hard cycle": (new("model_weights/conv1/a", lambda file, _: file["model_weights"]), GOT),
    "cycle to the root": (new("model_weights/conv1/a", lambda file, _: file["/"]), GOT),
    "virtual": (in_other_files(True), "kernel of layer 'conv1' must lie in the file itself"),
    "external": (in_other_files(False), "kernel of layer 'conv1' must lie in the file itself"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_files_that_do_not_fit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused in one line with the file's name, and nothing is changed; the good file beside it is not read instead."""
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    monkeypatch.chdir(tmp_path)  # where relative names of other files would be looked for
    network, (change, message) = random(SPEED(**NARROW)), DAMAGED[name]
    good = written(tmp_path / "good.h5", random(SPEED(**NARROW)))
    with h5py.File("other.h5", "w") as file:
        file["kernel"] = np.ones((3, 3, 3, 4), np.float32)
    Path("other.bin").write_bytes(bytes(4 * 3 * 3 * 3 * 4))
    (bad := tmp_path / "bad.h5").write_bytes(good.read_bytes())
    with h5py.File(bad, "r+") as file:
        change(file)
    refused(network, bad, message)


def refused(network: SPEED, path: Path, message: str, error: type[Exception] = ValueError) -> None:
    before = state(network)
    with pytest.raises(error) as caught:
        network.load_keras(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(t, before[key]) for key, t in network.state_dict().items())


def test_files_that_are_not_keras(tmp_path: Path) -> None:
    network = random(SPEED(**NARROW))
    whole = written(tmp_path / "speed.h5", network).read_bytes()
    refused(network, tmp_path / "missing.h5", "path must be a file that Keras saved, got ", FileNotFoundError)
    refused(network, tmp_path, "path must be a file that Keras saved, got ", FileNotFoundError)
    files = {
        "text.h5": (b"not HDF5", "must hold the network's weights as Keras saves them: "),
        "empty.h5": (b"", "must hold the network's weights as Keras saves them: "),
        "cut.h5": (whole[: len(whole) // 2], "truncated file"),
        "cut.keras": (b"PK\3\4" + whole, "not a zip file"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        refused(network, tmp_path / name, message)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("model.txt", "")
    refused(network, tmp_path / "other.zip", "no item named 'model.weights.h5'")
    with pytest.raises(TypeError, match="path must be a str or os.PathLike, got int"):
        network.load_keras(0)  # type: ignore[arg-type]


def test_damaged_files_are_refused_whole(tmp_path: Path) -> None:
    """Whatever bytes are wrong: the file's name in one line, and no tensor changed; or the values that stand there."""
    network = random(SPEED(**NARROW))
    whole = written(tmp_path / "speed.h5", network).read_bytes()
    generator, path, errors = np.random.default_rng(0), tmp_path / "damaged.h5", 0
    for _ in range(30):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[generator.integers(0, 20_000, 20)] = generator.integers(0, 256, 20)  # where the groups are
        path.write_bytes(damaged.tobytes())
        before = state(network)
        try:
            network.load_keras(path)
        except ValueError as error:
            errors += 1
            assert str(path) in str(error) and "\n" not in str(error)
            assert all(torch.equal(t, before[key]) for key, t in network.state_dict().items())
    assert errors > 5


def test_weights_alone_whose_layers_have_no_names(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    network = random(SPEED(**NARROW))
    path = written_alone(tmp_path / "speed.weights.h5", network)
    with h5py.File(path, "r+") as file:
        del file["layers/layer_0/vars"].attrs["name"]
    refused(network, path, "it must name its layers, got '/layers/layer_0/vars/0' without a name")


def test_without_h5py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        ImportError, match=r"speed.h5: reading Keras files needs h5py; pip install 'pyramid_kernels\[keras\]'"
    ):
        SPEED(**NARROW).load_keras("speed.h5")


def test_images_and_widths_that_it_refuses() -> None:
    with pytest.raises(ValueError, match="sides that are multiples of 32 px, got 192x250; resize them"):
        SPEED(backend="reference")(torch.zeros(1, 3, 192, 250))
    with pytest.raises(ValueError, match="width must be a power of two of at least 4, got 24"):
        SPEED(width=24)
