"""Two gloo processes on the CPU: gradients of one process on the joint batch, and a sharded training step."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.nn.functional import all_reduce
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from pyramid_kernels.nn import ASPP, AttentionRefinementModule
from tests.agreement import count_fused
from tests.modules import IMAGES, LEARNED, build, loss, maps_of

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")

RANKS = 2
#: Those whose ops cannot leave a norm's statistics to the norm: SyncBatchNorm runs in their own forward.
OWN_STATISTICS = (ASPP, AttentionRefinementModule)


def gradients(module: nn.Module, maps: list[Tensor]) -> dict[str, Tensor | None]:
    loss(module, maps).backward()
    return {name.removeprefix("module."): p.grad for name, p in module.named_parameters()}


def synchronised(norm: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """PyTorch's SyncBatchNorm refuses tensors of a CPU: the same statistics, added up through gloo."""
    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    count = torch.full((x.shape[1],), x.numel() / x.shape[1], dtype=x.dtype)
    total, squares, n = all_reduce(torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count]))
    mean, var = total / n, squares / n - (total / n) ** 2
    gain = norm.weight * (var + norm.eps).rsqrt()
    return x * gain[:, None, None] + (norm.bias - mean * gain)[:, None, None]


def on_every_rank(check: Callable[..., None], folder: Path, *args: Any) -> None:
    torch.multiprocessing.spawn(_rank, (check, str(folder / "rendezvous"), *args), nprocs=RANKS)


def _rank(rank: int, check: Callable[..., None], path: str, *args: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=RANKS)
    nn.SyncBatchNorm.forward = synchronised  # type: ignore[method-assign]
    DistributedDataParallel._passing_sync_batchnorm_handle = lambda *_: None  # which asks for a GPU likewise
    try:
        check(slice(rank * IMAGES // RANKS, (rank + 1) * IMAGES // RANKS), *args)
        dist.barrier()  # a rank that leaves closes connections that the other may still read from
    finally:
        dist.destroy_process_group()
    os._exit(0)  # threads of PyTorch's that are still there when the interpreter ends abort it now and then


def data_parallel(share: slice, names: list[str]) -> None:
    for name in names:
        module, whole = build(name), maps_of(name)
        expected = gradients(module.to_reference(), whole)
        maps = [m[share] for m in whole]
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        reason = module.why_original(maps[0] if len(maps) == 1 else maps)
        assert reason is None or isinstance(module, OWN_STATISTICS), f"{name}: {reason}"
        parallel = DistributedDataParallel(module, find_unused_parameters=True)
        for key, grad in gradients(parallel, maps).items():
            # Variances as a difference of sums lose some digits where values are few.
            assert_close(grad, expected[key], rtol=1e-6, atol=1e-9, msg=lambda m, at=(name, key): f"{at}: {m}")


def sharded(share: slice, names: list[str]) -> None:
    for name in names:
        module, maps = build(name), [m[share] for m in maps_of(name)]
        module.eval()  # statistics of the batch are not what is sharded
        with pytest.MonkeyPatch.context() as patch:
            ran = count_fused(type(module), patch)
            ours = _step(module, maps)
        assert ran, f"{name}: its own forward ran"
        plain = _step(build(name).eval().to_reference(), maps)
        for key in plain:
            assert_close(ours[key], plain[key], rtol=1e-9, atol=1e-9)


def _step(module: Any, maps: list[Tensor]) -> dict[str, Tensor]:
    """Every parameter, gathered, after a step of the sharded module."""
    fully_shard(module)
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    loss(module, maps).backward()
    optimiser.step()
    assert all(isinstance(p, DTensor) for p in module.parameters())
    return {name: p.detach().full_tensor() for name, p in module.named_parameters()}


#: A module of every family, and in the slow tier all.
NAMES = [
    pytest.param(["aspp", "ppm", "aspp-v2-hidden", "sppf", "dspp", "hrfuse", "segformer", "arm", "ffm"], id="some"),
    pytest.param(LEARNED, id="all", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("names", NAMES)
def test_data_parallel_gradients_are_those_of_the_joint_batch(names: list[str], tmp_path: Path) -> None:
    on_every_rank(data_parallel, tmp_path, names)


@pytest.mark.parametrize("names", NAMES)
def test_fully_sharded_step(names: list[str], tmp_path: Path) -> None:
    on_every_rank(sharded, tmp_path, names)
