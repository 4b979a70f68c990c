"""Fused models leave PyTorch by ONNX: the same results, no operator of ours, fewer multiply-adds."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from tests import layouts

onnx = pytest.importorskip("onnx", reason="needs onnx")
runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

#: SegFormer-B0's maps of a 512x512 image, those of an HRNet-W18, and a ResNet-18's beside 64 channels a level.
SEGFORMER = [(32, 128), (64, 64), (160, 32), (256, 16)]
HRNET = [(18, 64), (36, 32), (72, 16), (144, 8)]
UPERNET = [(64, 64), (128, 32), (256, 16), (512, 8)]


def maps(shapes: list[tuple[int, int]]) -> list[Tensor]:
    return [torch.randn(1, c, side, side) for c, side in shapes]


def exported(model: Any, inputs: tuple[Any, ...], folder: Path) -> tuple[Any, Any]:
    """The ONNX model, and what runs it in onnxruntime, on one thread."""
    path = folder / "model.onnx"
    torch.onnx.export(model, inputs, path, dynamo=True, verbose=False)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = runtime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    leaves = torch.utils._pytree.tree_leaves(inputs)
    feeds = {given.name: t.numpy() for given, t in zip(session.get_inputs(), leaves, strict=True)}
    return onnx.shape_inference.infer_shapes(onnx.load(path)), lambda: torch.from_numpy(session.run(None, feeds)[0])


def multiply_adds(model: Any) -> int:
    """Of convolutions and matrix products, from the shapes that the model says."""
    graph = model.graph
    shapes = {i.name: list(i.dims) for i in graph.initializer}
    for v in (*graph.value_info, *graph.input, *graph.output):
        shapes[v.name] = [d.dim_value for d in v.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total


def head(cls: Any, *args: Any) -> nn.Module:
    torch.manual_seed(0)
    return cls(*args).eval()


#: Heads, their inputs, and how many times fewer multiply-adds the fused export has at least.
HEADS = {
    "segformer": (lambda: head(pk.nn.SegFormerHead, [c for c, _ in SEGFORMER], 256, 19), SEGFORMER, 8),
    "hrnetv2": (lambda: head(pk.nn.HRNetV2Head, [c for c, _ in HRNET], 19), HRNET, 2),
    "upernet": (lambda: head(pk.nn.UPerHead, [c for c, _ in UPERNET], 64, 19), UPERNET, 1.2),
}


#: Modules of no known class, fused as exported programs.
LAYOUTS = {
    "token-head": (lambda: head(layouts.TokenHead, (32, 64, 160, 256), 256), lambda: (maps(SEGFORMER),), 8),
    "low-second": (
        lambda: head(layouts.LowSecond, 256, 64), lambda: (*maps([(256, 16)]), *maps([(64, 64)])), 4
    ),
}  # fmt: skip


QUICK = ("segformer", "low-second")


@torch.no_grad()
def exports(name: str, folder: Path) -> tuple[Tensor, list[tuple[Any, Any]]]:
    """What the head or layout gives, and its exports, unfused and fused."""
    if name in HEADS:
        fused, shapes, _ = HEADS[name]
        ours, inputs = fused(), (maps(shapes),)
        module = ours.to_reference()
    else:
        make, given, _ = LAYOUTS[name]
        module, inputs = make(), given()
        ours = torch.export.export(module, inputs).module()
        pk.fuse_graph(ours, backend="composed")
    return module(*inputs), [exported(copy.deepcopy(m), inputs, folder) for m in (module, ours)]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in (*HEADS, *LAYOUTS)]
)
def test_fused_modules_export_smaller(name: str, tmp_path: Path) -> None:
    expected, ((plain, unfused), (model, ours)) = exports(name, tmp_path)
    for run in (unfused, ours):
        torch.testing.assert_close(run(), expected, rtol=1e-5, atol=1e-5)
    assert all(node.domain in ("", "ai.onnx") for node in model.graph.node)
    *_, times = HEADS.get(name) or LAYOUTS[name]
    assert multiply_adds(plain) >= times * multiply_adds(model)
