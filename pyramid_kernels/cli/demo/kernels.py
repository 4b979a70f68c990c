"""The demo's proof of the kernels: a crop of the photograph's own features through every one of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ... import testing
from ...backends import BackendError
from ...console import progress, table
from ...nn import ASPP, PPM

CROP, CHANNELS, WIDTH = 17, 32, 32


def prove_kernels(model: nn.Module, x: Tensor, device: str) -> list[float]:
    """Print, and return, the error over limit of the Triton kernels' outputs and gradients on the crop."""
    features = _crop(model, x)
    where = "in Triton's interpreter" if device == "cpu" else "on the GPU"
    torch.manual_seed(1)
    aspp = ASPP(CHANNELS, (2, 6, 12), WIDTH, dropout=0.0, backend="triton")
    ppm = PPM(CHANNELS, WIDTH, (1, 2, 3, 6), backend="triton")
    jobs: list[tuple[str, nn.Module, bool]] = [("ASPP, training", aspp, True), ("ASPP, inference", aspp, False)]
    jobs.append(("pooling, projection, merge (PPM)", ppm, False))
    rows, worst = [], []
    try:
        for name, module, training in progress(jobs, "kernels", lambda job: job[0]):
            module.to(device).train(training)
            # With two images its statistics would hold two values, and its true gradient would be zero.
            aspp.convs[-1][2].eval()  # type: ignore[index]
            outputs, gradients, launches = _prove(module, features)
            rows.append([name, str(launches), f"{outputs:.2f}", f"{gradients:.2f}"])
            worst += [outputs, gradients]
    except BackendError as error:
        print(f"the kernels are not proven here: {error}")
        return []
    print(table([f"kernels {where}, {CROP}x{CROP} crop", "launches", "output error/limit", "worst gradient"], rows))
    return worst


def _crop(model: nn.Module, x: Tensor) -> Tensor:
    """(2, CHANNELS, 17, 17): early features from the middle of the photograph, and of its mirror image."""
    with torch.no_grad():
        features = model.eval().backbone[:5](x)[:, :CHANNELS]  # type: ignore[index,operator]
    top, left = (max(0, (size - CROP) // 2) for size in features.shape[2:])
    return features[:, :, top : top + CROP, left : left + CROP].contiguous(memory_format=torch.channels_last)


def _prove(module: Any, features: Tensor) -> tuple[float, float, int]:
    """Worst error over limit of the output and of everything else, and the kernels launched."""
    with testing.count_launches() as launches:
        ratios = testing.module_error_ratios(module, module.to_reference(), features)
    return ratios.pop("y"), max(ratios.values()), launches.total()
