"""Fuse torchvision's DeepLab v3 and check it: needs torchvision."""

import torch
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

import pyramid_kernels as pk

torch.manual_seed(0)
model = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
x = torch.randn(1, 3, 129, 129)
with torch.no_grad():
    before = model(x)["out"]
    print(pk.fuse_(model, example_input=x))
    after = model(x)["out"]
print(f"largest difference {(after - before).abs().max():.1e} on logits up to {before.abs().max():.1e}")
print("undone:", ", ".join(pk.unfuse_(model)))
