"""What heads do beside the contract of every module."""

import copy

import pytest
import torch
from torch import nn

from pyramid_kernels.nn import DeepLabV3PlusDecoder, HRNetV2Head, PSPHead
from pyramid_kernels.nn.mixing import HeadForward
from tests.agreement import assert_agrees, fair_
from tests.kernels import DEVICE
from tests.modules import DECODER, MODULES, WIDTHS, build, given, maps_of
from tests.third_party import SemsegPSPNet

HEADS = [n for n in MODULES if isinstance(build(n), HeadForward) and not n.startswith("ffm")]


@pytest.mark.skipif(DEVICE != "cpu", reason="decides on a CPU")
@pytest.mark.parametrize("name", HEADS)
def test_on_a_cpu_automatic_follows_the_convolution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen, why in (("reference", "the unfused chain is what auto takes"), ("composed", None)):
        head, x = build(name, torch.float32, backend="auto"), given(maps_of(name, torch.float32))
        monkeypatch.setattr("pyramid_kernels.nn.base.select", lambda *_, chosen=chosen: chosen)
        if any(unit.depthwise is not None for unit in head.units(head)):
            why = "depthwise"
        found = head.why_original(x)
        assert found is None if why is None else why in found


def test_psp_head_has_semsegs_keys_and_results() -> None:
    semseg = fair_(SemsegPSPNet(6 * 4, 3), x := torch.randn(8, 24, 7, 5))
    head = PSPHead(24, 3, hidden_dim=16, dropout=0.0, backend="reference")
    head.load_state_dict(semseg.state_dict())
    assert_agrees(head.train(), copy.deepcopy(semseg), x)
    again = PSPHead.from_reference(semseg.eval(), backend="reference")
    assert torch.equal(again(x), PSPHead.from_reference(again.to_reference(), backend="reference")(x))
    assert_agrees(again, semseg, x)


def test_the_head_of_hrnet_takes_the_concat_of_its_maps() -> None:
    """Its own forward joins the maps first, and a concat promotes them."""
    head, (*rest, last) = build("hrnetv2").eval(), maps_of("hrnetv2")
    unfused, mixed = head.to_reference(), [*rest, last.float()]
    assert "float32" in head.why_original(mixed) and torch.equal(head(mixed), unfused(mixed))
    joined = unfused._joined([*rest, last])
    assert "not a list" in head.why_original(joined) and torch.equal(head(joined), unfused(joined))


def test_a_separable_decoder_stays_as_it_is_where_its_maps_are_near_in_size() -> None:
    """One dense 3x3 at full size would take seven times the work of a depthwise one and a 1x1, on a GPU too."""
    head = DeepLabV3PlusDecoder(8, 4, 8, (2, 3), **DECODER)
    for side, why in ((8, "too near in size"), (4, "the unfused chain is what auto takes")):
        maps = [torch.empty(1, 4, 16, 16, device="meta"), torch.empty(1, 8, side, side, device="meta")]
        assert why in (head.why_slower(maps) or "")


def test_a_slice_of_hrnets_head_is_a_sequential() -> None:
    head = HRNetV2Head(WIDTHS, 3)
    assert type(head[:-1]) is nn.Sequential and list(head[:-1]) == list(head)[:-1] and head[0] is next(iter(head))
