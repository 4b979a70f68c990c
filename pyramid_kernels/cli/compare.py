"""``compare``: a model by its name, whole and module by module: unfused, fused, and under torch.compile."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..benchmark import named
from ..benchmark.compare import compare
from ..benchmark.pairs import settle
from ..benchmark.run import DTYPES
from ..console import UsageError, check_file, check_picture
from ..fuse import FuseError
from ..fuse.check import run as run_once

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = f"{', '.join(f'{library}:NAME' for library in named.LIBRARIES)}, or MODULE:FUNCTION, which makes a model"
    parser.add_argument("model", metavar="MODEL", help=f"{names}; smp:NAME/ENCODER")
    sizes = f"of the images (default: what the library says, else {named.SIDE} {named.SIDE})"
    parser.add_argument("--size", type=_count, nargs=2, metavar=("H", "W"), help=sizes)
    parser.add_argument("--batch", type=_count, help="images (default: 1, in training 2)")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--layout", choices=LAYOUTS, default="contiguous", help="default: contiguous")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU if there is one")
    parser.add_argument("--training", action="store_true", help="forward and backward, in training mode")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="draw the times here")


def run(args: argparse.Namespace) -> int:
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    if args.json:
        check_file("--json", args.json)
    if args.out:
        check_picture("--out", args.out, "compare --out")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 0
    model, x = _subject(args, device)
    try:
        result = compare(model, x, training=args.training, compiled=not args.no_compile)
        result = replace(result, model=args.model)
    except FuseError as error:
        print(f"{args.model}: {error}", file=sys.stderr)
        return 1
    print(result)
    if args.json:
        result.to_json(args.json)
    if args.out:
        result.plot(args.out)
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a number from 1, got {text!r}")
    return int(text)


def _subject(args: argparse.Namespace, device: str) -> tuple[nn.Module, torch.Tensor]:
    """The model and its random images, after a run of one on the other."""
    torch.manual_seed(0)
    model = named.build(args.model).to(device)
    channels, *usual = named.image(args.model, model)
    rows, cols = args.size or usual
    x = torch.randn(args.batch or (2 if args.training else 1), channels, rows, cols, device=device)
    dtype = DTYPES[args.dtype or ("float32" if device == "cpu" else "bfloat16")]
    try:
        settle(model, x, max(rows, cols))
        model.to(dtype=dtype, memory_format=LAYOUTS[args.layout]).train(args.training)  # type: ignore[call-overload]
        x = x.to(dtype, memory_format=LAYOUTS[args.layout])
        run_once(model, x)
    except Exception as error:  # the model's own, whatever it is
        shape = "x".join(map(str, x.shape))
        raise UsageError(f"{args.model} fails on {shape} images: {named.one_line(error)}") from None
    return model, x
