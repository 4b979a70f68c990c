"""``predict`` on models of the three libraries: their own label maps, without their full-size logits."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyramid_kernels as pk
from tests.label_maps import CLASSES, MODELS, SMALL, assert_same_labels, build, full_logits, smp
from tests.modes import Seen

FULL = "predict builds logits of full size"


@pytest.fixture(autouse=True)
def _full_size_is_an_error() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", FULL)
        yield


@pytest.mark.parametrize("name", list(MODELS))
def test_labels_are_the_librarys(name: str) -> None:
    model, image = build(name)
    expected = full_logits(model, image)
    with Seen() as shapes:
        labels = pk.predict(model, image, backend="composed")
    assert labels.dtype == torch.uint8
    assert_same_labels(labels, expected)
    assert shapes.builds(CLASSES, *image.shape[2:]) == (name == "smp-unet")  # which has nothing to upsample
    assert torch.equal(pk.predict(model, image[0], backend="composed"), labels[0])


def test_shapes_see_what_a_library_builds() -> None:
    """The check above can fail: it does on the model's own forward."""
    model, image = build("deeplabv3")
    with Seen() as shapes:
        full_logits(model, image)
    assert shapes.builds(CLASSES, *image.shape[2:])


@pytest.mark.parametrize("name", ["deeplabv3", "smp-fpn", "segformer"])
def test_another_size_in_one_step(name: str) -> None:
    model, image = build(name)
    low = {
        "deeplabv3": lambda: model.classifier(model.backbone(image)["out"]),
        "smp-fpn": lambda: model.segmentation_head[0](model.decoder(model.encoder(image))),
        "segformer": lambda: model(image).logits,
    }
    with torch.no_grad():
        expected = F.interpolate(low[name](), (71, 45), mode="bilinear", align_corners=name == "smp-fpn")
    assert_same_labels(pk.predict(model, image, size=(71, 45)), expected)


#: Of which nothing is fused.
UNFUSED = ("fcn", "lraspp", "smp-fpn", "smp-unet")


@pytest.mark.parametrize("name", list(MODELS))
def test_a_fused_model_predicts_the_same(name: str) -> None:
    """From low-resolution logits as before, and without a warning, which the fixture makes an error."""
    model, image = build(name)
    expected = full_logits(model, image)
    with pk.fused(model, strict=name not in UNFUSED), Seen() as shapes:
        labels = pk.predict(model, image, backend="composed")
    assert_same_labels(labels, expected)
    assert shapes.builds(CLASSES, *image.shape[2:]) == (name == "smp-unet")


def test_a_fused_decoder_with_another_forward_answers_itself() -> None:
    """Its class has the fused forward; what the instance takes is said by its own."""
    model, image = build("smp-pspnet")
    expected = full_logits(model, image)
    with pk.fused(model, strict=True):
        one_by_one(model)
        with pytest.warns(UserWarning, match=f"{FULL}: its decoder takes maps one by one"):
            assert_same_labels(pk.predict(model, image), expected)
        del model.decoder.forward


def test_more_than_256_classes_and_half_precision() -> None:
    class Wide(nn.Module):
        def forward(self, image: Tensor) -> Any:
            return {"out": image.repeat(1, 100, 1, 1).cumsum(1)}

    image = torch.randn(1, 3, 8, 9).half()
    with pytest.warns(UserWarning, match=f"{FULL}: it does not know how Wide upsamples them"):
        labels = pk.predict(Wide(), image)
    assert labels.dtype == torch.int16
    assert torch.equal(labels.long(), Wide()(image)["out"].float().argmax(1))


def test_mode_statistics_and_gradients_are_left_alone() -> None:
    model, image = build("deeplabv3")
    model.train()
    model.backbone.eval()
    modes = {name: m.training for name, m in model.named_modules()}
    state = {name: t.clone() for name, t in model.state_dict().items()}
    expected = pk.predict(model.eval(), image)
    for name, m in model.named_modules():
        m.training = modes[name]
    assert torch.equal(pk.predict(model, image.requires_grad_()), expected)
    with pytest.raises(RuntimeError):
        pk.predict(model, image[:, :2])
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


def test_hooks_run_or_the_model_itself_does() -> None:
    model, image = build("deeplabv3")
    expected, calls = pk.predict(model, image), []
    for path, plain in (("classifier", False), ("backbone.0", False), ("", True), ("aux_classifier.0", True)):
        handle = model.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.append(path))
        if plain:
            with pytest.warns(UserWarning, match=f"{FULL}: hooks are set on the model"):
                labels = pk.predict(model, image)
        else:
            labels = pk.predict(model, image)
        handle.remove()
        assert calls.pop() == path and not calls
        assert torch.equal(labels, expected)


def negated(model: Any) -> None:
    forward = model.forward
    model.forward = lambda image: {"out": -forward(image)["out"]}


def subclassed(model: Any) -> None:
    class Negated(type(model)):  # type: ignore[misc]
        def forward(self, image: Tensor) -> Any:
            return {"out": -super().forward(image)["out"]}

    model.__class__ = Negated


def head(i: int, layer: nn.Module) -> Any:
    return lambda model: model.segmentation_head.__setitem__(i, layer)


def wrapped(model: Any) -> None:
    up = model.segmentation_head[1]
    forward = up.forward
    up.forward = lambda x: -forward(x)


def one_by_one(model: Any) -> None:
    forward = model.decoder.forward
    model.decoder.forward = lambda *features: forward(*features)


CHANGED: list[tuple[str, Any, str]] = [
    ("deeplabv3", negated, "DeepLabV3 has another forward than _SimpleSegmentationModel"),
    ("deeplabv3", subclassed, "Negated has another forward than _SimpleSegmentationModel"),
    ("smp-fpn", head(2, nn.Softmax(1)), "Softmax follows the upsampling"),
    ("smp-fpn", head(2, nn.Sequential(nn.Tanh())), "Sequential follows the upsampling"),
    ("smp-fpn", head(1, nn.Upsample(scale_factor=4)), r"its head upsamples by Upsample\(scale_factor=4.*nearest"),
    ("smp-fpn", wrapped, "its head has another forward"),
    ("smp-fpn", lambda m: setattr(m, "segmentation_head", nn.Sequential(*m.segmentation_head)), "head is a Sequential"),
    ("smp-fpn", one_by_one, "its decoder takes maps one by one, as before segmentation_models_pytorch 0.5"),
]


@pytest.mark.parametrize("name,change,reason", CHANGED, ids=range(len(CHANGED)))
def test_a_changed_model_answers_itself(name: str, change: Any, reason: str) -> None:
    model, image = build(name)
    change(model)
    with pytest.warns(UserWarning, match=f"{FULL}: .*{reason}"):
        labels = pk.predict(model, image)
    assert torch.equal(labels.long(), full_logits(model, image).argmax(1))


@pytest.mark.parametrize("align_corners", [True, False])
def test_heads_that_upsample_otherwise_than_by_default(align_corners: bool) -> None:
    model, image = build("smp-fpn")
    model.segmentation_head[1] = nn.Upsample(scale_factor=4.0, mode="bilinear", align_corners=align_corners)
    assert_same_labels(pk.predict(model, image), full_logits(model, image))


class Returns(nn.Module):
    """Its output, whatever the image."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, image: Tensor) -> Any:
        return self.output


X, MAPS = torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 8, 8)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": len}, TypeError, "model must be a torch.nn.Module, got builtin_function_or_method"),
    ({"image": [X]}, TypeError, "image must be a torch.Tensor, got list"),
    ({"image": X.byte()}, TypeError, "image must be float16, bfloat16, float32 or float64, got torch.uint8; convert it "
     "with image.float() and scale it: an image to 0..1, then normalised with the mean and std that the model was "),
    ({"image": X[0, 0]}, ValueError, "image must be 4-D (N, C, H, W), got 2-D (8, 8)"),
    ({"size": 8}, TypeError, "size must be (H, W), got 8"),
    ({"backend": "fast"}, ValueError, "backend must be one of 'auto', "),
    ({"stride": 4}, ValueError, "stride needs crop, got stride=4 alone"),
    ({"crop": 0}, ValueError, "crop must be a positive int or (H, W) of them, got 0"),
    ({"crop": (4, 4, 4)}, ValueError, "crop must be a positive int or (H, W) of them, got (4, 4, 4)"),
    ({"crop": 4, "stride": 2.0}, ValueError, "stride must be a positive int or (H, W) of them, got 2.0"),
    ({"crop": (4, 6), "stride": 5}, ValueError, "stride must be at most crop, or pixels lie in no window, got (5, 5)"),
    ({"crop": 4, "size": (4, 4)}, ValueError, "size must be None with crop"),
    ({"model": Returns(None)}, TypeError, "model must return logits: a tensor, the first of a tuple, "),
    ({"model": Returns(())}, TypeError, "model must return logits: "),
    ({"model": Returns({"masks": MAPS})}, TypeError, "model must return logits: "),
    ({"model": Returns(MAPS[:, :, ::2])}, ValueError, "model must return logits of the image's size, got (4, 8) for"),
    ({"model": Returns(MAPS[:, :1])}, ValueError, "model must have at least 2 classes, got 1"),
    ({"model": Returns(MAPS.long())}, TypeError, "the model's logits must be float16, "),
]  # fmt: skip


@pytest.mark.parametrize("change,error,message", BAD, ids=range(len(BAD)))
def test_message(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        pk.predict(**{"model": Returns(MAPS), "image": X} | change)
    assert str(caught.value).startswith(message)


def test_sizes_that_only_the_author_can_explain() -> None:
    """A head of smp that leaves the logits smaller than the image, as ``upsampling=2`` does here."""
    model = smp.FPN(**SMALL, upsampling=2).eval()
    with pytest.raises(ValueError, match=r"logits of the image's size, got \(32, 48\) for \(64, 96\)"):
        pk.predict(model, torch.zeros(1, 3, 64, 96))


def test_an_image_that_the_model_refuses_is_refused_by_the_model() -> None:
    with pytest.raises(RuntimeError, match="divisible by 32"):
        pk.predict(smp.FPN(**SMALL), torch.zeros(1, 3, 65, 96))


def test_inference_mode() -> None:
    model, image = build("segformer")
    with torch.inference_mode():
        assert_same_labels(pk.predict(model, image), full_logits(model, image))


@pytest.mark.parametrize("name", ["segformer", "deeplabv3"])
def test_half_precision_logits_are_upsampled_in_float32(name: str) -> None:
    model, image = build(name)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        low = model(image).logits if name == "segformer" else model.classifier(model.backbone(image)["out"])
        labels = pk.predict(model, image)
    assert low.dtype == torch.bfloat16
    assert_same_labels(labels, F.interpolate(low.float(), image.shape[2:], mode="bilinear"))


def test_no_modules_own_train_is_called() -> None:
    """A module may do more there than change its mode: adapters merge their weights into the layer's."""

    class Merging(nn.Conv2d):
        def train(self, mode: bool = True) -> nn.Module:
            with torch.no_grad():
                self.weight += 1
            return super().train(mode)

    model = nn.Sequential(Merging(3, 4, 1), nn.Dropout())
    before = model[0].weight.clone()
    with pytest.warns(UserWarning, match=FULL):
        pk.predict(model, torch.zeros(1, 3, 4, 4))
    assert torch.equal(model[0].weight, before) and all(m.training for m in model.modules())


def test_small_logits_of_another_librarys_output_are_refused() -> None:
    """Only transformers' post-processing says how such logits are upsampled."""

    class Named(nn.Module):
        def forward(self, image: Tensor) -> Any:
            return SimpleNamespace(logits=image[:, :, ::2, ::2])

    with pytest.raises(ValueError, match="model must return logits of the image's size"):
        pk.predict(Named(), torch.zeros(1, 3, 4, 4))
