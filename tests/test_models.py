"""The networks fused and in plain PyTorch: shapes, results, gradients, launches; images they refuse."""

import functools
import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import pyramid_kernels as pk
from pyramid_kernels.cli.demo.model import load_photo
from pyramid_kernels.models import Network, Segmenter, networks
from pyramid_kernels.models.base import library
from pyramid_kernels.nn import PPM
from pyramid_kernels.nn.base import Fused
from pyramid_kernels.ops import all_ops
from tests.agreement import assert_agrees, count_fused, fair_
from tests.kernels import DEVICE, QUICKEST

for name in ("torchvision", "timm"):
    pytest.importorskip(name, reason=f"needs {name}")

DILATED = {"classes": 3, "backbone": "test_resnet"}
HRNET = {"width": 4, "modules": (1, 1, 1), "blocks": 1}
#: Arguments of a narrow form of every network, and the backend on which its fused forward differs from its own. A
#: second form of one is named behind a dash.
TINY: dict[str, tuple[dict[str, Any], str]] = {
    "SPPNet": ({"width": 4, "hidden": 8, "classes": 5}, "reference"),
    "DeepLabV1": ({"classes": 3, "backbone": "vgg11", "hidden": 8, "rate": 2, "dropout": 0.0}, "reference"),
    "DeepLabV2": (DILATED | {"rates": (1, 2)}, "reference"),
    "DeepLabV2-vgg": ({"classes": 3, "backbone": "vgg11", "rates": (1, 2), "hidden": 8}, "reference"),
    "DeepLabV3": (DILATED | {"width": 8, "dropout": 0.0}, "reference"),
    "DeepLabV3Plus": (DILATED | {"width": 8, "low_width": 6, "dropout": 0.0}, "composed"),
    "PSPNet": (DILATED | {"hidden": 8, "dropout": 0.0}, "composed"),
    "SPEED": ({"width": 4, "bins": (1, 2, 1, 2)}, "reference"),
    "BiSeNet": ({"classes": 3, "backbone": "test_resnet", "width": 4}, "composed"),
    "HRNetPose": (HRNET | {"joints": 3}, "reference"),
    "HRNet": (HRNET | {"classes": 3}, "composed"),
}


@functools.cache
def photograph() -> Tensor:
    """Eight crops of 32 px of scikit-image's cup of coffee."""
    pytest.importorskip("skimage", reason="needs scikit-image")
    photo = torch.from_numpy(load_photo(None, 160).copy()).permute(2, 0, 1).float() / 127.5 - 1
    crops = photo.unfold(1, 32, 32).unfold(2, 32, 32).flatten(1, 2)
    return crops.transpose(0, 1)[:8].contiguous()


def tiny(name: str, **form: Any) -> Network:
    """A narrow network with random weights."""
    return networks()[name.partition("-")[0]](**TINY[name][0] | form)


def noise() -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def pair(name: str, backend: str) -> tuple[Network, Network]:
    """A narrow network, fused and plain, of the same weights."""
    plain = fair_(tiny(name, fused=False), noise())
    fused = tiny(name, backend=backend)
    fused.load_state_dict(plain.state_dict())
    return fused, plain


#: Steps of these take seconds.
LONG_STEPS = ("DeepLabV1", "DeepLabV2-vgg", "HRNet")


def tiers(quick: Any, *arguments: Any) -> Any:
    """The product of ``arguments``, all but what ``quick`` picks of it marked slow."""
    every = itertools.product(*arguments)
    return [pytest.param(*values, marks=[] if quick(*values) else [pytest.mark.slow]) for values in every]


@pytest.mark.parametrize(
    ("name", "mode", "image"),
    tiers(
        lambda name, mode, image: name not in LONG_STEPS and (mode, image) == ("train", noise),
        TINY, ("train", "eval"), (photograph, noise),
    ),
)  # fmt: skip
def test_fused_agrees_with_plain(name: str, mode: str, image: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fused, plain = pair(name, TINY[name][1])
    kinds = {type(m) for m in fused.modules() if isinstance(m, Fused)}
    runs = {kind: count_fused(kind, monkeypatch) for kind in kinds}
    assert any(isinstance(m, Fused) for m in fused.modules()) and not any(isinstance(m, Fused) for m in plain.modules())
    draws = 2 if name in ("DeepLabV1", "DeepLabV2-vgg") else 8  # a step of a VGG takes as long as ten of the others
    assert_agrees(fused.train(mode == "train"), plain.train(mode == "train"), image(), draws)
    # A PSPHead runs the pyramid inside it itself.
    assert {kind for kind in kinds if not runs[kind]} == {PPM} & kinds


@pytest.mark.parametrize("name", TINY)
def test_the_fused_network_launches_its_ops(name: str) -> None:
    fused, plain = pair(name, QUICKEST)
    side = max(16, fused.stride)
    x = noise()[:1, :, :side, :side].to(DEVICE)
    with torch.no_grad(), pk.testing.count_launches() as launches:
        y = fused.eval().to(DEVICE)(x)
    kernels = {kernel for kernel, _ in launches}
    assert [op for op in fused.ops if not any(kernel.startswith(f"{op}_") for kernel in kernels)] == []
    with torch.no_grad(), pk.testing.count_launches() as launches:
        torch.testing.assert_close(plain.eval().to(DEVICE)(x), y, rtol=1e-3, atol=1e-3)
    assert not launches


@pytest.mark.parametrize("name", ["HRNetPose", "SPPNet"])
def test_a_training_step_through_the_kernels(name: str) -> None:
    fused, plain = (net.to(DEVICE) for net in pair(name, QUICKEST))
    with pk.testing.count_launches() as launches:
        assert_agrees(fused, plain, noise()[:2].to(DEVICE), draws=4)
    assert any("_bwd" in kernel for kernel, _ in launches)


@pytest.mark.parametrize("name", TINY)
def test_fuse_makes_of_the_plain_network_what_the_fused_one_is(name: str) -> None:
    fused, plain = pair(name, "auto")
    pk.fuse_(plain)
    kinds = [[type(m) for m in net.modules() if isinstance(m, Fused)] for net in (fused, plain)]
    assert kinds[0] == kinds[1] != []


@pytest.mark.parametrize("name", networks())
def test_what_a_network_says_of_itself(name: str) -> None:
    cls = networks()[name]
    assert cls.ops and set(cls.ops) <= set(all_ops()) and list(cls.ops) == sorted(cls.ops)
    assert len(cls.published_size) == 2 and all(part in (cls.__doc__ or "") for part in ("Args:", "Raises:", "Source:"))


#: The network, the shape of its image, of its result, and of what a child of it gives.
SHAPES: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...], str, tuple[int, ...]]] = {
    "sppnet": ("SPPNet", {}, (2, 3, 224, 224), (2, 1000), "spp", (2, 10752)),
    "sppnet-smallest": ("SPPNet", {}, (2, 3, 8, 9), (2, 1000), "conv4", (2, 512, 1, 1)),
    "deeplab-v1": ("DeepLabV1", {}, (1, 3, 321, 321), (1, 21, 41, 41), "features", (1, 512, 41, 41)),
    "deeplab-v1-even": ("DeepLabV1", {}, (1, 3, 320, 328), (1, 21, 41, 42), "features", (1, 512, 41, 42)),
    "deeplab-v1-16": ("DeepLabV1", {}, (1, 3, 16, 15), (1, 21, 3, 3), "features", (1, 512, 3, 3)),
    "deeplab-v2": ("DeepLabV2", {}, (1, 3, 321, 321), (1, 21, 41, 41), "backbone.layer4", (1, 2048, 41, 41)),
    "deeplab-v2-vgg": (
        "DeepLabV2", {"backbone": "vgg16"}, (4, 3, 224, 224), (4, 21, 28, 28), "backbone", (4, 512, 28, 28),
    ),
    "deeplab-v3": ("DeepLabV3", {}, (2, 3, 513, 513), (2, 21, 513, 513), "classifier.0", (2, 256, 33, 33)),
    "deeplab-v3-os8": (
        "DeepLabV3", {"output_stride": 8}, (2, 3, 513, 513), (2, 21, 513, 513), "classifier.0", (2, 256, 65, 65),
    ),
    "deeplab-v3plus": ("DeepLabV3Plus", {}, (2, 3, 513, 513), (2, 21, 513, 513), "decoder", (2, 256, 129, 129)),
    "pspnet": ("PSPNet", {}, (2, 3, 473, 473), (2, 19, 473, 473), "head", (2, 19, 60, 60)),
    "speed": ("SPEED", {}, (16, 3, 192, 256), (16, 1, 48, 64), "dspp", (16, 1024, 12, 16)),
    "hrnet-pose": ("HRNetPose", {}, (2, 3, 256, 192), (2, 17, 64, 48), "final_layer", (2, 17, 64, 48)),
    "hrnet-pose-w48": ("HRNetPose", {"width": 48}, (1, 3, 256, 192), (1, 17, 64, 48), "final_layer", (1, 17, 64, 48)),
    "hrnet-segmentation": (
        "HRNet", {}, (1, 3, 512, 1024), (1, 19, 128, 256), "last_layer", (1, 19, 128, 256),
    ),
    "hrnet-segmentation-w18": (
        "HRNet", {"width": 18}, (1, 3, 512, 1024), (1, 19, 128, 256), "last_layer", (1, 19, 128, 256),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", tiers(lambda case: case[-4:] not in ("-w48", "-w18"), SHAPES))
def test_shapes_of_the_whole_networks(case: str) -> None:
    name, settings, image, result, path, inner = SHAPES[case]
    seen = []
    with torch.device("meta"):
        network = networks()[name](fused=False, **settings)
        network.get_submodule(path).register_forward_hook(lambda m, x, y: seen.append(tuple(y.shape)))
        y = network(torch.empty(image))
    assert (tuple(y.shape), seen) == (result, [inner])


@pytest.mark.parametrize("name", [name for name, cls in networks().items() if issubclass(cls, Segmenter)])
def test_predict_takes_the_logits_before_they_are_resized(name: str) -> None:
    _, network = pair(name, "auto")
    x = noise()[:2]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", "predict builds logits of full size")
        assert torch.equal(pk.predict(network.eval(), x, backend="reference"), network(x).argmax(1))
    with pytest.raises(ValueError, match="x must be images of at least"):
        pk.predict(network, x[:, :, :4])


@pytest.mark.parametrize(
    "name,settings,corners",
    [
        ("DeepLabV1", {}, True),
        ("DeepLabV2", {}, True),
        ("DeepLabV2-vgg", {}, False),
        ("HRNet", {}, False),
        ("HRNet", {"align_corners": True}, True),
    ],
)
def test_predict_resizes_the_logits_of_networks_that_do_not(name: str, settings: Any, corners: bool) -> None:
    """Also under a hook, which makes others run whole; this one gives every class its share."""
    network = tiny(name, **settings).eval()
    x = noise()[:2]
    network.register_forward_hook(lambda m, x, y: y - y.mean((0, 2, 3), keepdim=True))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", "predict builds logits of full size")
        low = network(x)
        right, wrong = (
            torch.nn.functional.interpolate(low, x.shape[2:], mode="bilinear", align_corners=aligned).argmax(1)
            for aligned in (corners, not corners)
        )
        assert torch.equal(pk.predict(network, x, backend="reference"), right) and not torch.equal(right, wrong)


def test_sppnet_on_the_sizes_that_ceil_windows_refuse() -> None:
    network = networks()["SPPNet"](width=2, hidden=4, classes=3, windows="ceil", backend="reference").eval()
    assert network(torch.zeros(1, 3, 20, 20)).shape == (1, 3)
    for size in (16, 17, 24, 25):
        with pytest.raises(ValueError, match="bin 4 on a map of size"):
            network(torch.zeros(1, 3, size, size))


@pytest.mark.parametrize("name", TINY)
def test_images_smaller_than_the_stride(name: str) -> None:
    network = tiny(name).eval()
    side, name = network.stride, type(network).__name__
    network(torch.zeros(1, 3, side, side))
    got = f"got {side - 1}x{side}; resize or pad them"
    with pytest.raises(ValueError, match=f"x must be images of at least {side}x{side} px, the stride of {name}, {got}"):
        network(torch.zeros(1, 3, side - 1, side))


def test_deeplab_v3_has_torchvisions_keys() -> None:
    with torch.device("meta"):
        theirs = library("torchvision").models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)
        ours = networks()["DeepLabV3"](backbone="resnet50", output_stride=8)
    shapes = [{key: tuple(t.shape) for key, t in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == {key: shape for key, shape in shapes[1].items() if not key.startswith("aux_classifier")}


@pytest.mark.parametrize(("name", "channels"), [("resnet18", (256, 512)), ("resnet101", (1024, 2048))])
def test_bisenet_of_the_original(name: str, channels: tuple[int, ...]) -> None:
    """Three maps of the image's size in training, one in evaluation; norms that are never called are in the state."""
    with torch.device("meta"):
        network = networks()["BiSeNet"](10, name, fused=False)
        x = torch.empty(16, 3, 512, 512)
        sizes = [tuple(y.shape) for y in network(x)]
        context = [tuple(m.shape[1:]) for m in network.context_path(x)]
        scores = [tuple(y.shape[2:]) for y in network.scores(x)]
        assert network.eval()(x).shape == (16, 10, 512, 512)
    assert sizes == [(16, 10, 512, 512)] * 3 and scores == [(64, 64)] * 3
    assert context == [(channels[0], 32, 32), (channels[1], 16, 16)]
    assert network.feature_fusion_module.convblk.conv.weight.shape == (10, 256 + sum(channels), 3, 3)
    assert {"conv.bias", "bn.running_mean"} <= network.attention_refinement_module1.state_dict().keys()


def test_bisenet_is_the_published_chain() -> None:
    """Classifiers behind the upsampling, context maps upsampled and concatenated ahead of the fusion."""
    network = networks()["BiSeNet"](3, "test_resnet", width=4, fused=False).double().train()
    x = noise().double()
    found = network(x)
    detail, (fine, coarse) = network.spatial_path(x), network.context_path(x)
    tail = coarse.mean((2, 3), keepdim=True)
    fine, coarse = (
        torch.nn.functional.interpolate(m, detail.shape[2:], mode="bilinear")
        for m in (network.attention_refinement_module1(fine), network.attention_refinement_module2(coarse) * tail)
    )
    joined = network.feature_fusion_module(detail, torch.cat([fine, coarse], 1))
    size = x.shape[2:]
    aux = [network.supervision1(fine), network.supervision2(coarse)]
    expected = [network.conv(torch.nn.functional.interpolate(joined, scale_factor=8, mode="bilinear"))]
    expected += [torch.nn.functional.interpolate(m, size, mode="bilinear") for m in aux]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_bisenet_learns_from_its_scores_as_from_its_maps() -> None:
    """The sum of its three losses without a map of full size, and every gradient, against ``F.cross_entropy``."""
    network = networks()["BiSeNet"](3, "test_resnet", width=4, fused=False).double().train()
    x = noise()[:2].double()
    target = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(1))
    target[:, :5] = 255
    ours = pk.nn.UpsampleCrossEntropyLoss(ignore_index=255).multi(network.scores(x), target)
    theirs = sum(torch.nn.functional.cross_entropy(y, target, ignore_index=255) for y in network(x))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    learned = dict(network.named_parameters())  # norms that are never called have no gradient
    gradients = [torch.autograd.grad(loss, learned.values(), allow_unused=True) for loss in (ours, theirs)]
    for name, mine, other in zip(learned, *gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("width", tiers(lambda width: width == 18, (18, 32, 48)))
def test_hrnet_has_timms_keys(width: int) -> None:
    with torch.device("meta"):
        theirs = library("timm").create_model(f"hrnet_w{width}", features_only=True, feature_location="")
        ours = networks()["HRNet"](width=width).backbone
    assert {k: t.shape for k, t in ours.state_dict().items()} == {k: t.shape for k, t in theirs.state_dict().items()}
