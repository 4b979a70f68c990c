"""mmsegmentation's own models from its stock configurations, fused: a program, ``python -m tests.mmseg_models``.

A process of its own: its OpenCV, its compiled operators and its tokenizer are stand-ins, and what it runs may start no
process and open no connection.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from bench.modules import define_detection_schemas
from tests.agreement import assert_agrees, fair_

FORBIDDEN = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "socket.connect", "urllib.Request")
#: The stock configurations, and the output strides of what their backbones give.
DILATED, PYRAMID = (4, 8, 8, 8), (4, 8, 16, 32)
MODELS = {
    "pspnet_r50-d8": DILATED,
    "deeplabv3_r50-d8": DILATED,
    "deeplabv3plus_r50-d8": DILATED,
    "upernet_r50": PYRAMID,
    "upernet_swin": PYRAMID,
    "segformer_mit-b0": PYRAMID,
    "fcn_hr18": PYRAMID,
}
DECLINED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("deeplabv3_r50-d8", lambda m: setattr(m, "aspp_modules", nn.Identity()), "aspp_modules is not a list"),
    ("deeplabv3_r50-d8", lambda m: setattr(m.image_pool[0], "output_size", 2), "image_pool.0 pools to 2, not 1"),
    ("deeplabv3_r50-d8", lambda m: setattr(m.aspp_modules[1].conv, "padding", (1, 1)), "1.conv has padding"),
    ("deeplabv3_r50-d8", lambda m: setattr(m.bottleneck.conv, "dilation", (2, 2)), "bottleneck.conv has padding"),
    ("deeplabv3_r50-d8", lambda m: setattr(m, "input_transform", "multiple_select"), "input_transform is"),
    ("deeplabv3plus_r50-d8", lambda m: setattr(m.aspp_modules[1], "pointwise_conv", None), "is a NoneType"),
    ("deeplabv3plus_r50-d8", lambda m: m.aspp_modules.append(nn.Identity()), "aspp_modules.4 is a Identity"),
    ("pspnet_r50-d8", lambda m: setattr(m.bottleneck, "bn", nn.GroupNorm(2, 16)), "a norm is a GroupNorm"),
]  # fmt: skip
X = torch.randn(8, 3, 64, 96, generator=torch.Generator().manual_seed(0))


class Fed(nn.Module):
    """A head behind one convolution for every map of its backbone."""

    def __init__(self, head: Any, widths: list[int], strides: tuple[int, ...]) -> None:
        super().__init__()
        stems = (nn.Conv2d(3, c, 3, s, 1) for c, s in zip(widths, strides, strict=True))
        self.backbone, self.decode_head = nn.ModuleList(stems), head

    def maps(self, x: Tensor) -> list[Tensor]:
        return [stem(x) for stem in self.backbone]

    def forward(self, x: Tensor) -> Tensor:
        return self.decode_head(self.maps(x))


def load() -> tuple[Callable[[str], Any], Callable[[Any], Any], Callable[[Any], Any]]:
    """What reads the model of a stock configuration, builds it, and makes BatchNorms of its SyncBatchNorms."""
    sys.modules |= {name: mock.MagicMock(__spec__=ModuleSpec(name, None)) for name in ("cv2", "mmcv._ext", "ftfy")}
    define_detection_schemas()
    sys.addaudithook(refuse)
    import mmseg.models  # type: ignore[import-not-found]
    from mmengine.config import Config  # type: ignore[import-not-found]
    from mmengine.model import revert_sync_batchnorm  # type: ignore[import-not-found]
    from mmengine.registry import DefaultScope  # type: ignore[import-not-found]

    DefaultScope.get_instance("mmseg", scope_name="mmseg")
    folder = Path(mmseg.__file__).parent / ".mim/configs/_base_/models"

    def read(name: str) -> Any:
        model = Config.fromfile(str(folder / f"{name}.py")).model
        model.pretrained = None
        return model

    return read, mmseg.registry.MODELS.build, revert_sync_batchnorm


def refuse(event: str, args: tuple[Any, ...]) -> None:
    if event in FORBIDDEN:
        raise PermissionError(f"an imported library asked for {event}{args}")


def head_of(config: Any, build: Callable[[Any], Any]) -> Any:
    """The configuration's head, narrow and with rates that fit small maps, where they can be given."""
    settings = copy.deepcopy(config.decode_head)
    if settings.get("input_transform") is None:
        settings.channels = 16
    if "dilations" in settings:
        settings.dilations = (1, 2, 3, 5)
    return build(settings)


def image(strides: tuple[int, ...]) -> Tensor:
    """Eight images whose coarsest maps have a few pixels."""
    return X[..., :40, :56].contiguous() if strides is DILATED else X


def fed(config: Any, build: Callable[[Any], Any], strides: tuple[int, ...]) -> Any:
    head, given = config.decode_head, config.decode_head.in_channels
    widths = [given] if isinstance(given, int) else list(given)
    widths = [head.get("c1_in_channels", 4), 4, 4, *widths][-4:]
    return fair_(Fed(head_of(config, build), widths, strides), image(strides), "decode_head")


def whole_model_agrees(model: Any) -> None:
    """Built as its configuration says, in eval mode."""
    x = X[:2, :, :, :64]
    with torch.no_grad():
        expected = model.eval()(x)
        report = pk.fuse_(model, backend="composed", strict=True, example_input=x)
        assert [row.path for row in report.fused] == ["decode_head"], report
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def head_agrees(unfused: Any, x: Tensor, train: bool, revert: Callable[[Any], Any]) -> None:
    """One step, and with its SyncBatchNorms turned into the BatchNorms for one process after fusing."""
    ours = copy.deepcopy(unfused.train(train))
    pk.fuse_(ours, backend="reference", only="decode_head", strict=True)
    assert ours.decode_head.why_original(ours.maps(x)) is None
    assert_agrees(ours, unfused, x, draws=4)
    reverted = revert(ours)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in reverted.modules())
    assert reverted.decode_head.why_original(reverted.maps(x)) is None


def main() -> None:
    read, build, revert = load()
    for name, strides in MODELS.items():
        torch.manual_seed(0)
        config = read(name)
        whole_model_agrees(build(config))
        model = fed(config, build, strides)
        for train in (False, True):
            head_agrees(copy.deepcopy(model), image(strides), train, revert)
        print(name, "agrees", flush=True)
    for name, change, reason in DECLINED:
        head = head_of(read(name), build)
        change(head)
        (row,) = pk.fuse_(head, only="").entries
        assert not row.fused and reason in row.detail, row


if __name__ == "__main__":
    main()
