"""The modules as drop-ins, an op called by itself, and the reasons behind its backend."""

import torch

import pyramid_kernels as pk

x = torch.randn(2, 64, 33, 33).to(memory_format=torch.channels_last)

aspp = pk.nn.ASPP(64, (12, 24, 36), 32)
print("ASPP", tuple(aspp(x).shape))
ppm = pk.nn.PPM(64, 16, bins=(1, 2, 3, 6))
print("PPM", tuple(ppm(x).shape))

bins = (1, 2, 3, 6)
pooled = pk.functional.pyramid_pool(x, bins)
print("cells", tuple(pooled.shape), "grids", pk.functional.pyramid_grids(bins, (33, 33)))
pk.explain(pk.functional.pyramid_pool, x, bins)
