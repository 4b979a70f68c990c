"""transformers: SegFormer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.segformer import modeling_segformer as segformer

from ...nn.segformer import SegFormerForward
from ..registry import adapters


class FusedSegformerDecodeHead(SegFormerForward, segformer.SegformerDecodeHead):
    """SegformerDecodeHead with its forward fused."""

    original = segformer.SegformerDecodeHead

    def forward(self, encoder_hidden_states: Any, **kwargs: Any) -> Tensor:
        return super().forward(encoder_hidden_states)

    def level_format(self, x: Tensor) -> torch.memory_format:
        # Of one image, its reshape leaves strides that PyTorch does not take for channels_last.
        return torch.channels_last if len(x) > 1 else torch.contiguous_format

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        for i, level in enumerate(module.linear_projections):
            if type(level) is not segformer.SegformerMLP:
                return f"linear_projections.{i} is a {type(level).__name__}, not SegformerMLP"
        return super().why_not(module)


adapters[segformer.SegformerDecodeHead] = FusedSegformerDecodeHead
