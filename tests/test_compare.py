"""``pk.compare`` and its command: what is timed, that the model stays as it was, and models by name."""

import copy
import dataclasses
import functools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.benchmark import forms, named
from pyramid_kernels.benchmark.compare import Row
from pyramid_kernels.console import UsageError
from pyramid_kernels.nn import ASPP, ReferenceASPP
from tests.kernels import DEVICE

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE)


class Gate(nn.Module):
    """Of no library, and it writes to what it is given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x, inplace=True)
        return x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


@dataclasses.dataclass
class Output:
    logits: Tensor
    labels: Any = None


class Net(nn.Module):
    """A pyramid that is known, one that is found in the graph, and all that a run can change."""

    def __init__(self, gate: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.gate = Gate(8) if gate else nn.Identity()
        self.aspp = ReferenceASPP(8, (2, 3), 6, dropout=0.5)
        self.register_buffer("runs", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, size: Any = None) -> Output:
        self.runs += 1
        y = self.aspp(self.gate(self.stem(x)))
        return Output(F.interpolate(y, size or x.shape[2:], mode="bilinear"))


def net() -> nn.Module:
    """For the command, which takes a module and a function."""
    return Net()


@pytest.fixture
def model() -> nn.Module:
    return Net().to(DEVICE)


def compare(model: Any, x: Any, **settings: Any) -> pk.Comparison:
    """In the least time; every module is fused with a backend that is named."""
    with mock.patch.multiple(forms, ROUNDS=1, SECONDS=0.0):
        return pk.compare(model, x, **{"compiled": False, "backend": "reference"} | settings)


@pytest.fixture(scope="module")
def result() -> pk.Comparison:
    return compare(Net(gate=True).to(DEVICE), X)


def paths(result: pk.Comparison) -> list[str]:
    return [row.path for row in result.rows]


def test_a_row_for_the_model_and_for_every_fused_module(result: pk.Comparison) -> None:
    assert paths(result) == ["", "aspp", "gate"]
    assert [row.cls for row in result.rows] == ["Net", "ReferenceASPP", "Gate"]
    assert result.rows[2].runs.startswith("through its graph; channel_gate: reference")
    for row in result.rows:
        assert row.unfused_ms > 0 and row.fused_ms and row.fused_ratio and row.fused_ratio > 0
        assert row.unfused_mb > 0 and row.fused_mb and row.compiled_ms is row.compiled_mb is row.compiled_ratio is None
    text = str(result)
    assert text.startswith("Net, forward in evaluation: 2x3x32x32, float32, ") and result.verdict() in text
    lines = text.splitlines()
    assert lines[2].startswith("module ") and "unfused / fused" in lines[2] and "torch.compile" not in lines[2]
    assert [line.split()[0] for line in lines[4:7]] == ["whole", "aspp", "gate"]
    assert text.endswith(result.report) and "aspp" in result.report


def test_the_verdict_says_which_is_faster(result: pk.Comparison) -> None:
    for ratio, said in (2.0, "is 2.00 times as fast"), (1.001, "is not faster here: unfused / fused is 1.00."):
        row = dataclasses.replace(result.rows[0], fused_ratio=ratio)
        assert said in dataclasses.replace(result, rows=[row]).verdict()


def test_training_times_a_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, grad = [], torch.autograd.grad

    def counted(results: Any, leaves: Any, *rest: Any, **settings: Any) -> Any:
        calls.append(len(leaves))
        return grad(results, leaves, *rest, **settings)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    model = Net(gate=True).to(DEVICE)
    model.stem.requires_grad_(False)
    result = compare(model, X, training=True)
    assert paths(result) == ["", "aspp", "gate"] and "forward and backward in training" in result.caption()
    gate, aspp = (len(list(m.parameters())) for m in (model.gate, model.aspp))
    assert {gate + aspp, gate, aspp + 1} <= set(calls), "the gate's input needs no gradient, the pyramid's does"


def test_modes_that_the_model_stands_in_are_kept(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Net, "train", lambda self, mode=True: seen.append(mode) or nn.Module.train(self, mode))
    compare(model, X, training=True)
    assert not seen
    nn.Module.train(model, False)
    compare(model, X, training=True)
    assert seen == [True, True], "both copies"


@pytest.mark.parametrize("training", [False, True])
def test_the_model_stays_as_it_was(training: bool, model: nn.Module) -> None:
    model.stem[1].eval()
    model.aspp.weight_of_no_gradient = nn.Parameter(torch.ones(1, device=DEVICE), requires_grad=False)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before, x = copy.deepcopy(model), X.clone()
    identities = [(id(p), id(p.grad)) for p in model.parameters()]
    random = torch.get_rng_state()
    compare(model, X, training=training)
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(X, x)
    assert [(id(p), id(p.grad)) for p in model.parameters()] == identities
    for (name, ours), theirs in zip(model.named_modules(), before.modules(), strict=True):
        assert type(ours) is type(theirs) and ours.training == theirs.training, name
        assert not ours._forward_hooks and not ours._forward_pre_hooks and ours._compiled_call_impl is None
    state = before.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())


def test_what_is_fused_already_is_compared_with_its_plain_form() -> None:
    class Native(nn.Sequential):
        pass

    model = Native(ASPP(3, (2, 3), 6), nn.Conv2d(6, 3, 1), ReferenceASPP(3, (2, 3), 6)).to(DEVICE)
    pk.fuse_(model)
    result = compare(model, X)
    assert paths(result) == ["", "0", "2"]
    assert [row.cls for row in result.rows[1:]] == ["ReferenceASPP", "ReferenceASPP"]
    assert isinstance(model[0], ASPP) and pk.unfuse_(model) == ["2"]


def test_every_call_of_a_shared_module_counts() -> None:
    class Twice(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[0](x) + self[0](x.flip(3)[..., :16]).mean()

    result = compare(Twice(ReferenceASPP(3, (2, 3), 6)).to(DEVICE), X)
    assert paths(result) == ["", "0"]


@pytest.mark.parametrize("x", [X, (X, (16, 16)), {"x": X, "size": (16, 16)}], ids=["tensor", "tuple", "dict"])
def test_inputs_by_position_and_by_name(x: Any, model: nn.Module) -> None:
    assert "2x3x32x32" in compare(model, x).input


def test_layouts_are_named(model: nn.Module) -> None:
    result = compare(model, X.contiguous(memory_format=torch.channels_last))
    assert result.input == "2x3x32x32 channels_last"


def test_nothing_fused_says_why() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).to(DEVICE)
    result = compare(plain, X)
    assert paths(result) == [""] and result.rows[0].fused_ms is result.rows[0].fused_mb is None
    assert "Nothing was fused, for the reasons below." in str(result) and "no pyramid-pooling module found" in str(
        result
    )
    assert "fused ms" not in str(result).replace("unfused ms", "")


@pytest.mark.parametrize("training", [False, True])
def test_a_wrong_input_is_the_models_own_error(training: bool, model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError) as own:
        copy.deepcopy(model)(X[:, :2])
    with pytest.raises(RuntimeError) as error:
        compare(model, X[:, :2], training=training)
    assert str(error.value) == str(own.value)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_wrong_arguments(model: nn.Module) -> None:
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got int"):
        compare(3, X)
    with pytest.raises(ValueError, match="backend must be one of"):
        compare(model, X, backend="trition")
    with pytest.raises(ValueError, match="on the CPU or on one CUDA device, got .*meta"):
        compare(model, X.to("meta"))
    with pytest.raises(ValueError, match="training=True needs a result with a gradient"):
        compare(model.requires_grad_(False), X, training=True)


def test_a_form_that_differs_is_not_timed(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """``fuse_`` finds it in the whole model; what another run changes, each module's comparison finds."""
    right = ASPP.fused_forward
    monkeypatch.setattr(ASPP, "fused_forward", lambda self, x: 1.1 * right(self, x))
    monkeypatch.setattr(forms.timing, "interleaved", None)
    monkeypatch.setattr("pyramid_kernels.fuse.check.self_check", lambda *_: None)
    with pytest.raises(pk.FuseError, match="another result"):
        compare(model, X)
    monkeypatch.setattr(forms, "fuse_", lambda model, backend, example_input: pk.fuse_(model, backend=backend))
    with pytest.raises(pk.FuseError, match="the model gives another result when it is fused"):
        compare(model, X)


def test_torch_compile_beside_the_others(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(forms, "can_compile", lambda device: True)
    result = compare(model, X, compiled=True)
    assert all(row.compiled_ms and row.compiled_mb and row.compiled_ratio for row in result.rows)
    assert "unfused / torch.compile" in str(result) and not result.remarks


def test_why_torch_compile_is_missing(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such instruction\nat line 3")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=refusing))
    monkeypatch.setattr(forms, "can_compile", lambda device: True)
    result = compare(model, X, compiled=True)
    assert len(result.remarks) == 2 and "torch.compile failed on the whole model: " in str(result)
    assert all(row.compiled_ms is None for row in result.rows) and "line 3" not in str(result.remarks)
    monkeypatch.setattr(forms, "can_compile", lambda device: False)
    assert compare(model, X, compiled=True).remarks == ["torch.compile is left out: there is no C++ compiler here."]


def test_on_a_gpu_the_larger_of_two_times_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    seconds = {"cuda": {"unfused": [3.0], "fused": [1.0]}, "cpu": {"unfused": [2.0], "fused": [4.0]}}
    monkeypatch.setattr(forms.timing, "interleaved", lambda calls, device, *rest, **settings: seconds[device])
    measurement: Any = SimpleNamespace(device="cuda")
    calls = dict.fromkeys(("unfused", "fused"), lambda: None)
    assert forms._Forms._samples(measurement, calls) == {"unfused": [3.0], "fused": [4.0]}


def test_json_holds_every_field(result: pk.Comparison, tmp_path: Path) -> None:
    result.to_json(tmp_path / "c.json")
    read = json.loads((tmp_path / "c.json").read_text())
    rows = [Row(**row) for row in read.pop("rows")]
    assert pk.Comparison(rows=rows, **read) == result


def test_the_picture(result: pk.Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("matplotlib.image", reason="needs matplotlib")
    alone = dataclasses.replace(
        result, rows=[dataclasses.replace(result.rows[0], fused_ms=None, compiled_ms=1.0, compiled_ratio=0.5)]
    )
    for name, drawn in {"all.png": result, "alone.png": alone}.items():
        drawn.plot(tmp_path / name)
        pixels = image.imread(tmp_path / name)
        assert pixels.shape[1] > 1000 and len(set(map(tuple, pixels.reshape(-1, 4)[::7]))) > 20
    with pytest.raises(UsageError, match="cannot be written"):
        result.plot(tmp_path / "no" / "folder.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"a picture needs matplotlib; install it with: pip install .*\[demo\]"):
        result.plot(tmp_path / "x.png")


NAMES = {
    "torchvision:lraspp_mobilenet_v3_large": (3, 520, 520),
    "torchvision:resnet18": (3, 224, 224),
    "torchvision:ssdlite320_mobilenet_v3_large": (3, 512, 512),
    "smp:PSPNet/resnet18": (3, 512, 512),
    "timm:resnet18": (3, 224, 224),
    "transformers:SegformerForSemanticSegmentation": (3, 512, 512),
    "transformers:MobileViTModel": (3, 256, 256),
    "tests.test_compare:net": (3, 512, 512),
    "tests.test_compare:Net": (3, 512, 512),
}
WRONG_NAMES = {
    "resnet18": "must be LIBRARY:NAME or MODULE:FUNCTION",
    "torchvision:": "must be LIBRARY:NAME or MODULE:FUNCTION",
    "torchvision:resnet19": "Unknown model resnet19",
    "smp:PSPNt": "smp:PSPNt: Wrong architecture type",
    "timm:resnet19": "Unknown model",
    "transformers:Segformer": "has no attribute Segformer",
    "no_such_library:Net": "No module named 'no_such_library'",
    "tests.test_compare:no": "has no attribute 'no'",
    "tests.test_compare:Gate": "missing 1 required positional argument",
    "..tests:net": "package",
    "os:getcwd": "makes a str, not a torch.nn.Module",
}
REQUIRED = {
    "smp": "segmentation_models_pytorch",
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "transformers",
}


def needs_library(text: str) -> None:
    library = text.partition(":")[0]
    if library in REQUIRED:
        pytest.importorskip(REQUIRED[library], reason=f"needs {library}")


@pytest.mark.parametrize("text", NAMES)
def test_models_by_name(text: str) -> None:
    needs_library(text)
    with torch.device("meta") if text.startswith("torchvision") else torch.device("cpu"):
        model = named.build(text)
    assert isinstance(model, nn.Module) and named.image(text, model) == NAMES[text]


@pytest.mark.parametrize("text", WRONG_NAMES)
def test_wrong_names_are_one_line(text: str, refused: Any) -> None:
    needs_library(text)
    assert WRONG_NAMES[text] in refused("compare", text, "--device", "cpu")


SMALL = ("compare", "tests.test_compare:net", "--size", "32", "48", "--device", "cpu", "--no-compile")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "ROUNDS", 1)
    monkeypatch.setattr(forms, "SECONDS", 0.0)


def test_the_command(short: None, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    files = tmp_path / "c.json", tmp_path / "c.png"
    code, out, _ = cli(*SMALL, "--layout", "channels_last", "--json", str(files[0]), "--out", str(files[1]))
    assert code == 0 and out.startswith(
        "tests.test_compare:net, forward in evaluation: 1x3x32x48 channels_last, float32, "
    )
    assert json.loads(files[0].read_text())["rows"][0]["cls"] == "Net" and files[1].stat().st_size > 10_000
    monkeypatch.setattr(forms, "fuse_", functools.partial(pk.fuse_, prove=False))
    code, out, _ = cli(*SMALL, "--training", "--dtype", "bfloat16")
    assert code == 0 and out.startswith(
        "tests.test_compare:net, forward and backward in training: 2x3x32x48, bfloat16, "
    )


@pytest.mark.parametrize(
    "more,message",
    [
        (["--size", "32", "0"], "must be a number from 1, got '0'"),
        (["--batch", "-1"], "must be a number from 1"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--json", "no/such/folder/c.json"], "--json: the folder"),
        (["--out", "c.doc"], "--out must end in one of"),
        (["--training", "--batch", "1"], "fails on 1x3x32x48 images: Expected more than 1 value per channel"),
    ],
)
def test_the_command_refuses(more: list[str], message: str, refused: Any) -> None:
    assert message in refused(*SMALL, *more)


def test_the_command_fails_where_results_differ(monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    monkeypatch.setattr(forms, "difference", lambda *_: "a difference of 3")
    monkeypatch.setattr(forms, "fuse_", functools.partial(pk.fuse_, prove=False))  # whether it is faster here or not
    code, out, err = cli(*SMALL)
    assert code == 1 and not out and "gives another result when it is fused: a difference of 3" in err
