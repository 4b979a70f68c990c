"""Heads of libraries and repositories that cannot be installed beside the tests: what is fused, and how it agrees."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import pyramid_kernels as pk
from pyramid_kernels.nn import HRNetV2Head
from tests import third_party as user
from tests import third_party_mmseg as like
from tests.agreement import assert_agrees, count_fused, fair_
from tests.repositories import HEADS, MAPS, WIDTHS, Segmentor, X, under_their_own_names, why_skipped

__all__ = ["under_their_own_names"]


@pytest.fixture(params=list(HEADS))
def head(request: pytest.FixtureRequest) -> Any:
    return HEADS[request.param]()


@pytest.fixture
def model(head: Any) -> Any:
    return fair_(Segmentor(head), X, "decode_head")


@pytest.mark.parametrize("backend", ["reference", "composed"])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_agrees(model: Any, train: bool, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unfused = model.train(train)
    ours = copy.deepcopy(unfused)
    report = pk.fuse_(ours, backend=backend, only="decode_head", example_input=X)
    assert [e.path for e in report.fused] == ["decode_head"]
    runs = count_fused(type(ours.decode_head), monkeypatch)
    assert_agrees(ours, unfused, X)
    assert len(runs) == 1


def test_swaps_and_undoes_exactly(model: Any) -> None:
    model.eval()
    cls, keys, expected = type(model.decode_head), list(model.state_dict()), model(X)
    parameters = [(p, p.clone(), p.stride()) for p in model.parameters()]
    assert pk.fuse_(model, backend="reference", only="decode_head").fused
    assert isinstance(model.decode_head, cls) and list(model.state_dict()) == keys
    assert all(p.stride() == stride and torch.equal(p, value) for p, value, stride in parameters)
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other.decode_head) is type(model.decode_head)
        torch.testing.assert_close(other(X), expected, rtol=1e-4, atol=1e-4)
    assert pk.unfuse_(model) == ["decode_head"] and type(model.decode_head) is cls
    assert torch.equal(model(X), expected)


def test_one_optimiser_step_on_the_composed_form(model: Any) -> None:
    unfused = model.double()
    ours = copy.deepcopy(unfused)
    assert pk.fuse_(ours, only="decode_head", backend="composed").fused
    for m in (unfused, ours):
        optimiser = torch.optim.AdamW(m.parameters(), lr=1e-3, fused=True)
        m(X.double()).square().mean().backward()
        optimiser.step()
    pk.unfuse_(ours)
    for (name, a), b in zip(ours.state_dict().items(), unfused.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_sync_batch_norm_as_mmsegmentation_configures_it(model: Any) -> None:
    unfused = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    ours = copy.deepcopy(unfused)
    assert pk.fuse_(ours, backend="reference", only="decode_head").fused
    assert_agrees(ours, unfused, X, draws=4)


def test_distributed_sync_batch_norm_is_called_itself(head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads' norms take statistics from other ranks as ever: only what stands in front of them is fused."""
    head = nn.SyncBatchNorm.convert_sync_batchnorm(head)
    assert pk.fuse_(head, backend="reference", only="").fused
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    x = {"low_level": MAPS[0], "out": MAPS[-1]} if isinstance(head, user.DeepLabHeadV3Plus) else MAPS
    assert head.train().why_original(x) is None


def test_more_maps_than_the_check_has_sizes_for() -> None:
    """A fifth map at a stride of 64 is smaller than a pixel of the images on which fuse_ checks a swap."""
    widths = [*WIDTHS, 8]
    head = like.UPerHead(in_channels=widths, in_index=list(range(5)), channels=8)
    assert pk.fuse_(head, backend="reference", only="").fused


def test_norms_folded_into_convolutions() -> None:
    head = HEADS["uper"]().eval()
    for module in head.modules():
        if isinstance(module, like.ConvModule):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    expected = head(MAPS)
    assert pk.fuse_(head, backend="reference").fused and head.why_original(MAPS) is None
    torch.testing.assert_close(head(MAPS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["uper", "uper.psp_modules", "psp.psp_modules", "hrnetv2", "segformer"])
def test_align_corners_is_read_on_every_call(path: str) -> None:
    name, _, owner = path.partition(".")
    head = HEADS[name]().eval()
    pk.fuse_(head, backend="reference")
    before = head(MAPS)
    head.get_submodule(owner).align_corners = True
    unfused = copy.deepcopy(head)
    pk.unfuse_(unfused)
    torch.testing.assert_close(head(MAPS), unfused(MAPS), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(head(MAPS), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["psp", "uper", "segformer", "fcn-3x3", "vainf"])
def test_dropout_draws_the_same_mask(name: str) -> None:
    model = Segmentor(HEADS[name]())
    unfused = copy.deepcopy(model)
    pk.fuse_(model, backend="composed", only="decode_head")
    results = []
    for m in (model, unfused):
        torch.manual_seed(3)
        results.append(m(X))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_an_argument_by_the_name_it_has_there(monkeypatch: pytest.MonkeyPatch) -> None:
    head = HEADS["vainf"]().eval()
    feature = {"low_level": MAPS[0], "out": MAPS[-1]}
    expected = head(feature=feature)
    assert pk.fuse_(head, backend="reference", example_input={"feature": feature}).fused
    runs = count_fused(type(head), monkeypatch)
    torch.testing.assert_close(head(feature=feature), expected, rtol=1e-4, atol=1e-4)
    assert len(runs) == 1


def test_the_pyramid_inside_a_vainf_head_has_its_own_forward() -> None:
    report = pk.fuse_(HEADS["vainf"](), backend="reference")
    assert [e.path for e in report.fused] == ["", "aspp"]


# The official HRNet repository.


def test_official_hrnet_takes_the_heads_in_place_of_its_layers() -> None:
    model: Any = fair_(user.HighResolutionNet((4, 5, 6), 3), X)
    assert "put nn.HRNetV2Head in the place of aux_head and of conv3x3_ocr" in why_skipped(model)
    ours = copy.deepcopy(model)
    for name in ("aux_head", "conv3x3_ocr"):
        layers = HRNetV2Head.from_reference(getattr(ours, name), (4, 5, 6), align_corners=True, backend="reference")
        setattr(ours, name, layers)
    ours.load_state_dict(model.state_dict())
    assert list(ours.state_dict()) == list(model.state_dict())
    for train in (True, False):
        for edited in (False, True):  # before the edit of the model's forward, the heads take the concat
            ours.joined = not edited
            got, expected = copy.deepcopy(ours).train(train)(X), copy.deepcopy(model).train(train)(X)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="0 takes 15 channels, and the maps have 16"):
        HRNetV2Head.from_reference(model.aux_head, (4, 5, 7))
