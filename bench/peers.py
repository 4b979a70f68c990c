"""``python -m bench.peers``: what the libraries underneath reach on this device, asked before anything is tuned.

Does the convolution library skip the taps of a dilated convolution that fall into padding? What bandwidth do resizing,
pooling, log_softmax and argmax reach? What does torch.compile make of upsampling followed by the cross-entropy?
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_kernels.benchmark import timing
from pyramid_kernels.benchmark.rows import device_name, device_slug, recordable
from pyramid_kernels.benchmark.run import DTYPES
from pyramid_kernels.benchmark.subjects import can_compile, compile_call
from pyramid_kernels.console import UsageError, commit, table

COLUMNS = ("question", "case", "best_ms", "rate", "unit", "note")
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="Measure the libraries underneath.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write a CSV there; without it nothing is written")
    args = parser.parse_args(argv)
    if args.out:
        try:
            recordable(args.out)
        except UsageError as error:
            parser.error(str(error))
    dtype = DTYPES[args.dtype or ("float32" if args.device == "cpu" else "bfloat16")]
    torch.backends.cudnn.benchmark = True
    rows: list[Row] = []
    for question in (convolution, bandwidth, loss):
        found = list(question(args.device, dtype))
        print(table(COLUMNS, [[row[key] for key in COLUMNS] for row in found]), "\n", flush=True)
        rows += found
    if args.out:
        _write(args.out / f"peers-{device_slug(args.device)}.csv", rows, args.device, dtype)
    return 0


def convolution(device: str, dtype: torch.dtype) -> Iterator[Row]:
    """One 3x3 at rates that leave 1, 0.67, 0.39, 0.2 of the taps useful; half of the input zero; gradients apart."""
    n, c, o, size = (8, 2048, 256, 32) if device != "cpu" else (1, 256, 128, 32)
    flop = 2 * n * c * o * 9 * size * size
    for layout in (torch.channels_last, torch.contiguous_format):
        calls: dict[str, timing.Call] = {}
        shares = {}
        for rate in (1, 6, 12, 18):
            for data in ("random", "half zero") if rate in (1, 18) else ("random",):
                x = torch.randn(n, c, size, size, device=device)
                if data == "half zero":
                    x[:, ::2] = 0
                x = x.to(dtype).contiguous(memory_format=layout)
                w = (torch.randn(o, c, 3, 3, device=device) / 48).to(dtype).contiguous(memory_format=layout)
                for part, call in _passes(x, w, rate).items():
                    name = f"{'NHWC' if layout == torch.channels_last else 'NCHW'} {part} rate {rate} {data}"
                    calls[name], shares[name] = call, ((size + 2 * max(0, size - rate)) / (3 * size)) ** 2
        yield from _rows("does it skip padding taps", calls, device, flop, "dense TFLOP/s", shares)


def _passes(x: Tensor, w: Tensor, rate: int) -> dict[str, timing.Call]:
    settings = ([0], [1, 1], [rate, rate], [rate, rate], False, [0, 0], 1)
    dy = torch.randn_like(F.conv2d(x, w, padding=rate, dilation=rate))

    def backward(mask: list[bool]) -> timing.Call:
        return lambda: torch.ops.aten.convolution_backward(dy, x, w, *settings, mask)

    return {
        "forward": lambda: F.conv2d(x, w, padding=rate, dilation=rate),
        "dgrad": backward([True, False, False]),
        "wgrad": backward([False, True, False]),
    }


def bandwidth(device: str, dtype: torch.dtype) -> Iterator[Row]:
    """Bytes that each must read and write, over its time."""
    n = 8 if device != "cpu" else 1
    logits = torch.randn(n, 19, 128, 256, device=device).to(dtype)
    full = torch.randn(n, 19, 512, 1024, device=device).to(dtype)
    features = torch.randn(n, 512, 64, 128, device=device).to(dtype)
    cases: dict[str, tuple[Callable[[], Tensor], int]] = {
        "copy": (full.clone, 2 * full.numel()),
        "bilinear x4": (lambda: _resize(logits, (512, 1024)), logits.numel() + full.numel()),
        "bilinear x4 backward": (_backward(_resize, logits, (512, 1024)), logits.numel() + full.numel()),
        "adaptive_avg_pool 6": (lambda: F.adaptive_avg_pool2d(features, 6), features.numel()),
        "adaptive_avg_pool 6 backward": (_backward(F.adaptive_avg_pool2d, features, 6), features.numel()),
        "log_softmax": (lambda: F.log_softmax(full, 1), 2 * full.numel()),
        "argmax": (lambda: full.argmax(1), full.numel() + 8 * full.numel() // (19 * dtype.itemsize)),
    }
    for name, (call, elements) in cases.items():
        yield from _rows("bandwidth", {name: call}, device, elements * dtype.itemsize, "GB/s")


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _backward(fn: Callable[..., Tensor], x: Tensor, *args: Any) -> Callable[[], Tensor]:
    leaf = x.detach().requires_grad_()
    y = fn(leaf, *args)
    dy = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, leaf, dy, retain_graph=True)[0]


def loss(device: str, dtype: torch.dtype) -> Iterator[Row]:
    """Upsampling and cross-entropy, forward and backward: eager and compiled, time and peak memory."""
    n = 8 if device != "cpu" else 1
    logits = torch.randn(n, 19, 128, 256, device=device).to(dtype).requires_grad_()
    target = torch.randint(0, 19, (n, 512, 1024), device=device)

    def chain() -> Tensor:
        return F.cross_entropy(_resize(logits, (512, 1024)).float(), target)

    forms: dict[str, Callable[[], Tensor]] = {"eager": chain}
    if can_compile(device):
        forms["compile"] = compile_call(chain, device)
    calls: dict[str, timing.Call] = {name: partial(_gradient, form, logits) for name, form in forms.items()}
    full = n * 19 * 512 * 1024 * 4
    for row in _rows("upsample + cross-entropy", calls, device, full, "GB/s of fp32 logits"):
        peak = timing.peak_memory(calls[row["case"]], device)
        yield row | {"note": f"peak {peak / 1e6:.0f} MB, the full-size fp32 logits are {full / 1e6:.0f} MB"}


def _gradient(form: Callable[[], Tensor], leaf: Tensor) -> Tensor:
    return torch.autograd.grad(form(), leaf)[0]


def _rows(
    question: str,
    calls: dict[str, timing.Call],
    device: str,
    work: int,
    unit: str,
    shares: dict[str, float] | None = None,
) -> Iterator[Row]:
    samples = timing.interleaved(calls, device, 20, 2.0 * len(calls), cold=device != "cpu")
    scale = 1e12 if "FLOP" in unit else 1e9
    for name, values in samples.items():
        best = min(values)
        note = f"useful taps {shares[name]:.2f}" if shares else ""
        yield {
            "question": question,
            "case": name,
            "best_ms": f"{1e3 * best:.4g}",
            "rate": f"{work / best / scale:.3g}",
            "unit": unit,
            "note": note,
        }


def _write(path: Path, rows: list[Row], device: str, dtype: torch.dtype) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    common = {"commit": commit(), "torch": torch.__version__, "device": device_name(device), "dtype": str(dtype)}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*common, *COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(common | row for row in rows)
    print(f"Rows are in {path}.")


if __name__ == "__main__":
    raise SystemExit(main())
