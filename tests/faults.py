"""One-line faults planted in copies of the Triton kernels, each of which the oracle must find.

Those of the CUDA kernels are in tests/cuda_faults.py.

``python -m tests.faults PLACE`` plants fault number PLACE in a copy of the package and prints what found it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GATE_TILES, GATE_BWD = "channel_gate/triton_tiles.py", "channel_gate/triton_bwd.py"
TILES, BWD = "dilated_branches/triton_tiles.py", "dilated_branches/triton_bwd.py"


class Fault(NamedTuple):
    """``line``, which occurs in ``file``, becomes ``patch``; ``case`` is looked at first."""

    op: str
    case: str
    what: str
    file: str
    line: str
    patch: str
    dtype: str = "float32"


def _fault(op: str, case: str, what: str, line: str, patch: str, file: str = "") -> Fault:
    return Fault(op, case, what, file or f"{op}/triton.py", line, patch)


FAULTS = [
    _fault("pyramid_pool", "pairs-13x17", "pooling reads one column short",
           "    width = x1 - x0\n", "    width = tl.maximum(x1 - x0 - 1, 1)\n"),
    _fault("pyramid_pool", "one-pixel", "channels beyond the map are stored",
           "tl.store(p_part + out, tl.sum(acc, 0), channel < c)", "tl.store(p_part + out, tl.sum(acc, 0))"),
    _fault("pyramid_pool", "ceil-spp", "the average divides by a row too many",
           "area = step_h * step_w if WINDOWS", "area = (step_h + 1) * step_w if WINDOWS"),
    _fault("pyramid_pool", "max-more-bins", "maximum starts at zero, not at minus infinity",
           'acc = accumulator(p_x, BP, BC, float("-inf") if MAX else 0.0)', "acc = accumulator(p_x, BP, BC, 0.0)"),
    _fault("pyramid_pool", "max-more-bins", "a gradient goes to every pixel of the window",
           "tl.load(p_index + offset, m, -1) == p[:, None]", "tl.load(p_index + offset, m, -1) >= 0"),
    _fault("pyramid_pool", "more-bins-than-pixels", "the last window that holds a pixel is missed",
           "last = ((p + 1) * den - 1 - lead) // step", "last = (p * den - 1 - lead) // step"),
    _fault("pyramid_pool", "more-bins-than-pixels", "all levels gather from the first level's cells",
           "                s = base + i * cols + j\n", "                s = i * cols + j\n"),
    _fault("max_pool_pyramid", "one-column", "a window's first row is left out",
           "m_row = m & (y + i >= k // 2) & (y + i - k // 2 < shape[1])\n        for j in range(0, k):\n"
           "            inside = m_row & (x + j >=",
           "m_row = m & (y + i >= k // 2) & (y + i - k // 2 < shape[1]) & (i > 0)\n        for j in range(0, k):\n"
           "            inside = m_row & (x + j >="),
    _fault("max_pool_pyramid", "distinct", "a pixel beyond the right border is taken from the next row",
           "inside = m_row & (x + j >= k // 2) & (x + j - k // 2 < shape[2])", "inside = m_row & (x + j >= k // 2)"),
    _fault("max_pool_pyramid", "one-column", "the last of equal maxima takes the gradient",
           "((v > best) |", "((v >= best) |"),
    _fault("max_pool_pyramid", "many-channels", "every level pools the first size",
           "        k = tl.where(level == i, SIZES[i], k)\n", "        k = tl.where(level == i, SIZES[0], k)\n"),
    _fault("max_pool_pyramid", "cascade-descending", "every pool of a cascade reads x",
           "source = maps[level] if level else x", "source = x"),
    _fault("max_pool_pyramid", "descending-13x17", "the concat ascends whatever the order",
           "[:: -1 if order == \"descending\" else 1]", "[::1]"),
    _fault("max_pool_pyramid", "many-channels", "pixels beyond the map are stored",
           "tl.store(p_dx + at(n, channel, y, x, dx_strides), acc.to(p_dx.dtype.element_ty), m)",
           "tl.store(p_dx + at(n, channel, y, x, dx_strides), acc.to(p_dx.dtype.element_ty), channel < shape[0])"),
    _fault("max_pool_pyramid", "one-column", "a window's gradient goes to the pixel opposite the chosen one",
           "mine = inside & (place == i * k + j)", "mine = inside & (place == (k - 1 - i) * k + j)"),
    _fault("max_pool_pyramid", "many-channels", "every level's windows bring the first level's gradient",
           "        p_dy += dy_step\n", ""),
    _fault("max_pool_pyramid", "cascade-descending", "x's own slice of the gradient is left out of a cascade",
           "_gather(dys[level], gradient, kept", "_gather(dys[level or 1], gradient, kept"),
    _fault("upsample_merge", "one-pixel", "the right neighbour is not clamped at the border",
           "return i, tl.minimum(i + step, size - 1), position - i.to(ACC)", "return i, i + step, position - i.to(ACC)",
           "_shared/resample.py"),
    _fault("upsample_merge", "ppm-corners-13x17", "corners are mapped as half pixels",
           "quotient(size - 1, tl.maximum(full - 1, 1), ACC)", "quotient(size, full, ACC)", "_shared/resample.py"),
    _fault("upsample_merge", "fpn-add", "the half-pixel position is not clamped at zero",
           "            position = tl.where(position < 0, 0.0, position)\n", "", "_shared/resample.py"),
    _fault("upsample_merge", "hrnet-row-relu", "one is added before the affine",
           "level, shapes, strides, full, SUM, MODES, ACC)\n    channel",
           "level, shapes, strides, full, SUM, MODES, ACC) + 1\n    channel"),
    _fault("upsample_merge", "fpn-add", "the gradient's support ends early",
           "tl.minimum(high + 1, full - 1)", "tl.minimum(high - 1, full - 1)", "_shared/resample.py"),
    _fault("upsample_merge", "hrnet-row-relu", "the ReLU's mask is left out of the gradient of maps",
           "b_dy = tl.where(tl.load(p_y + at, m, 0.0) <= 0, 0.0, b_dy)", "b_dy = b_dy", "_shared/resample.py"),
    _fault("upsample_merge", "smaller-corners-scale", "the gradient of maps is not scaled",
           "        b_dmap *= tl.load(p_scale", "        tl.load(p_scale", "_shared/resample.py"),
    _fault("upsample_merge", "concat-33x47-relu", "the last pixel tile stores beyond the map",
           "    tl.store(p_y + out, acc.to(p_y.dtype.element_ty), m)\n",
           "    tl.store(p_y + out, acc.to(p_y.dtype.element_ty), channel < total)\n"),
    _fault("pyramid_project", "matrices", "the second level reads the first level's cells",
           "p_x + before(cells, i) * x_strides[2], p_weights", "p_x, p_weights"),
    _fault("pyramid_project", "primes-37-to-13-17", "depth beyond the channels is multiplied",
           "m_r[:, None] & m_k[None, :], 0.0)\n        b_b", "m_r[:, None], 0.0)\n        b_b"),
    _fault("pyramid_project", "matrices", "cells that a level does not have are not zero",
           "tl.where(beyond, 0.0, acc)", "tl.where(beyond, 1.0, acc)"),
    _fault("pyramid_project", "affine-relu", "the gain is left out of dz",
           "(b_dy * gain * inverse)", "(b_dy * inverse)"),
    _fault("pyramid_project", "matrices", "the weight's gradient starts at the second row",
           "n, s, m_k = rows(start, images, cells[i], BK)", "n, s, m_k = rows(start + 1, images, cells[i], BK)"),
    _fault("separable_pyramid", "mdspp-5x4-remainder", "a neighbour right of the grid is the next row's first",
           "(row * cols < cells) & (col >= 0) & (col < cols)", "(row * cols < cells) & (col >= 0)"),
    _fault("separable_pyramid", "dspp-4x6", "a neighbour below the grid is the next level's",
           "(row >= 0) & (row * cols < cells)", "(row >= 0)"),
    _fault("separable_pyramid", "dspp-4x6", "the gradient of cells takes the kernels as they are",
           "8 - t if TURNED else t", "t"),
    _fault("separable_pyramid", "dspp-4x6", "every kernel's gradient is summed over the first level's cells",
           "first = before(cells, i) * strides[2]", "first = before(cells, 0) * strides[2]"),
    _fault("separable_pyramid", "dspp-4x6", "rows and columns of a kernel's gradient are exchanged",
           "down, right = tap // 3 - 1, tap % 3 - 1", "right, down = tap // 3 - 1, tap % 3 - 1"),
    _fault("separable_pyramid", "dspp-4x6", "the levels take the gradient of x's channels",
           "initial=first", "initial=0", "separable_pyramid/chain.py"),
    _fault("dilated_branches", "bias-relu", "a tap left of the map reads the row above",
           "m_a = m_row & (y + dy >= 0) & (y + dy < h) & (x + dx >= 0) & (x + dx < w)",
           "m_a = m_row & (y + dy >= 0) & (y + dy < h) & (x + dx < w)", TILES),
    _fault("dilated_branches", "many-images", "live taps at the tile's lower edge are skipped",
           "(first_y + BH - 1 + dy >= 0)", "(first_y + dy >= 0)", TILES),
    _fault("dilated_branches", "one-pixel", "eps is left out of the deviation",
           "tl.sqrt_rn(var + eps[B])", "tl.sqrt_rn(var)", TILES),
    _fault("dilated_branches", "scale-shift", "a sum's channel offset is used for a concat",
           "out = first * (0 if SUM else 1) + o", "out = first * 0 + o"),
    _fault("dilated_branches", "image-bias-3x3", "taps outside the map still add their image bias",
           "m = m_row & (y + dy >= 0) & (y + dy < h) & (x + dx >= 0) & (x + dx < w)", "m = m_row"),
    _fault("dilated_branches", "bias-relu", "the input's gradient shifts taps the wrong way",
           "branches[6 * B + 1], -branches[6 * B + 2], BH", "branches[6 * B + 1], branches[6 * B + 2], BH", BWD),
    _fault("dilated_branches", "bias-relu", "the weight's gradient starts at the wrong row",
           "y0, x0 = tl.maximum(0, -dy), tl.maximum(0, -dx)", "y0, x0 = tl.maximum(0, dy), tl.maximum(0, -dx)", BWD),
    _fault("dilated_branches", "scale-shift", "the multiplier is left out of dz",
           "dz = g * (multiplier * deviation)[None, :]", "dz = g * deviation[None, :]", BWD),
    _fault("dilated_branches", "bias-relu", "the ReLU's mask is inverted at dz",
           "g = tl.where(top <= 0, 0.0, g)", "g = tl.where(top > 0, 0.0, g)", BWD),
    _fault("dilated_branches", "image-bias-3x3", "the image bias's gradient counts pixels outside the map",
           "    rows, cols = tl.maximum(h - tl.abs(dy), 0), tl.maximum(w - tl.abs(dx), 0)\n    acc",
           "    rows, cols = tl.maximum(h - tl.abs(dy), 0), w\n    acc", BWD),
    _fault("dilated_branches_train", "no-affine", "pixels beyond the map enter the tile's mean",
           "tl.sum(tl.where(m, acc, 0.0), 0) / count", "tl.sum(tl.where(m, acc, 0.0), 0) / BM",
           "dilated_branches/triton.py"),
    _fault("dilated_branches_train", "many-tiles-33x47", "Chan's merge forgets the distance between means",
           "squares += tl.load(p + 2 * channels, m, 0.0) + tl.load(p, m, 0.0) * away * away",
           "squares += tl.load(p + 2 * channels, m, 0.0)"),
    _fault("dilated_branches_train", "no-affine", "the mean gradient is not taken off",
           "g = g - mean_g[None, :] - normal * share[None, :]", "g = g - normal * share[None, :]", BWD),
    _fault("pyramid_conv", "psp-7x9", "a tap left of the map reads the row above",
           "m = m & (y >= 0) & (y < full[0]) & (x >= 0) & (x < full[1])", "m = m & (y >= 0) & (y < full[0])"),
    _fault("pyramid_conv", "scale-2-bias", "a tap below the map is clamped to the last row",
           "    m = m & (y >= 0) & (y < full[0])", "    y = tl.minimum(y, full[0] - 1)\n    m = m & (y >= 0)"),
    _fault("pyramid_conv", "scale-2-bias", "rows and columns of the taps are exchanged",
           "p // full[1] + t // K - K // 2, p % full[1] + t % K - K // 2",
           "p // full[1] + t % K - K // 2, p % full[1] + t // K - K // 2"),
    _fault("pyramid_conv", "scale-4-and-8-nearest", "every tap takes the first tap's products",
           "channel + t * total, m_t", "channel, m_t"),
    _fault("pyramid_conv", "two-whole-nearest-1x1", "what is convolved at full size is left out",
           "        acc += tl.load(p_base + out, m, 0.0).to(ACC)\n", "        acc += 0\n"),
    _fault("pyramid_conv", "segformer-1x1", "depth beyond a map's channels is multiplied",
           "b_x = tl.load(p_x, (b_k < depth) & (p < full[2]), 0.0)", "b_x = tl.load(p_x, p < full[2], 0.0)"),
    _fault("pyramid_conv", "hrnet-1x1-corners", "the product inside takes every image's first",
           "p_x += n * x_strides[0] + b_k", "p_x += b_k"),
    _fault("pyramid_conv", "no-map-at-size", "the value kept for scale's gradient is one too large",
           "p_z + out, acc.to(p_z", "p_z + out, (acc + 1).to(p_z"),
    _fault("pyramid_conv", "primes-7x11", "the gradient of a tap is shifted the wrong way",
           "(y - down) * full[1] + x - right", "(y + down) * full[1] + x + right", "_shared/resample.py"),
    _fault("pyramid_conv", "scale-2-bias", "the gradient counts outputs beyond the right border",
           "(x - right >= 0) & (x - right < full[1])", "(x - right >= 0)", "_shared/resample.py"),
    _fault("pyramid_conv", "scale-3-corners", "the last output row of a tap above is left out",
           "tl.minimum(y_high, full[0] - 1 + down) + 1)", "tl.minimum(y_high, full[0] - 2 + down) + 1)",
           "_shared/resample.py"),
    _fault("pyramid_conv", "scale-2-bias", "all taps' gradients are stored as the first's",
           "(t * shape[0] + b_channel).to(tl.int64)", "b_channel.to(tl.int64)", "_shared/resample.py"),
    _fault("upsample_cross_entropy", "scale-8", "the running sum is not scaled to the new maximum",
           "total = total * tl.exp(before - safe) +", "total = total +"),
    _fault("upsample_cross_entropy", "smooth-weighted-none", "smoothing leaves out the classes' weights",
           "mean += tl.sum(tl.where(m, w * v, 0.0), axis)", "mean += tl.sum(tl.where(m, v, 0.0), axis)"),
    _fault("upsample_cross_entropy", "smooth", "ignored pixels have a loss",
           "    loss = tl.where(live, loss, 0.0)\n", ""),
    _fault("upsample_cross_entropy", "corners-weighted", "the mean divides by pixels, not by weights",
           "tl.sum(share, 0))", "tl.sum(tl.where(live, 1.0, 0.0), 0))"),
    _fault("upsample_cross_entropy", "primes-5x7-to-13x17", "the label's own class keeps its gradient",
           "tl.expand_dims(hit, axis), 0.0)", "0.0, 0.0)"),
    _fault("upsample_cross_entropy", "scale-8", "the gradient of a mean is not divided",
           "tl.load(p_dy) * tl.load(p_factor)", "tl.load(p_dy)"),
    _fault("upsample_cross_entropy", "one-pixel-far", "a strip's last output column is left out",
           "tl.where(taken & (b_x <= x_high)", "tl.where(taken & (b_x < x_high)"),
    _fault("upsample_cross_entropy", "rows-only", "output rows count alike, whatever they take",
           "acc += tl.where(m, share * g, 0.0)", "acc += tl.where(m, g, 0.0)"),
    _fault("upsample_argmax", "scale-2-ties", "the last of equal classes wins",
           "better = (b_top > top)", "better = (b_top >= top)"),
    _fault("upsample_argmax", "primes-13x17-to-33x47", "labels beyond the map are stored",
           "label.to(p_labels.dtype.element_ty), pixel < full[2])", "label.to(p_labels.dtype.element_ty))"),
    _fault("upsample_argmax", "many-classes", "only the last block of classes is looked at",
           "top, first = tl.where(better, b_top, top), tl.where(better, b_first, first)",
           "top, first = b_top, b_first"),
    _fault("channel_gate", "arm-norm-33x47-split", "every share sums the first pixels",
           "range(part * steps, (part + 1) * steps)", "range(0, steps)", GATE_TILES),
    _fault("channel_gate", "arm-norm-33x47-split", "shares that do not exist are added",
           "m = (part < parts) & (i < c)[None, :]", "m = (part <= parts) & (i < c)[None, :]", GATE_TILES),
    _fault("channel_gate", "ffm-norms", "the backward sums x, not x dy",
           "    if p_dy is not None:", "    if False:", GATE_TILES),
    _fault("channel_gate", "one-channel-17x19", "sums of channels beyond the map are stored",
           "0 if CHANNELS_LAST else 1), own < c)", "0 if CHANNELS_LAST else 1))", GATE_TILES),
    _fault("channel_gate", "se", "hidden values before the ReLU go on",
           '    if ACTIVATION == "relu":\n        z = ', "    if False:\n        z = ", GATE_TILES),
    _fault("channel_gate", "wide-hidden", "only the first block of hidden values is multiplied",
           "for start in range(0, k, BK):", "for start in range(0, BK, BK):"),
    _fault("channel_gate", "wide-67", "the second block of channels has the first one's means",
           "i = start + tl.arange(0, BI)\n        mean", "i = tl.arange(0, BI)\n        mean"),
    _fault("channel_gate", "ffm", "x is left out", "    if RESIDUAL:", "    if False:"),
    _fault("channel_gate", "arm-bias", "the sigmoid of negative values is one over its divisor",
           "tl.where(z < 0, t, 1.0)", "tl.where(z < 0, 1.0, 1.0)", GATE_TILES),
    _fault("channel_gate", "se-hard-clipped", "a hard gate has no upper end", "tl.where(g > 6, 6.0, g)", "g"),
    _fault("channel_gate", "se-hard-clipped", "a closed gate has a slope", "(g > 0) & (g < 1)", "g < 1", GATE_BWD),
    _fault("channel_gate", "se-silu-norm", "the slope of SiLU is a sigmoid's value",
           "sigmoid(z) * (1 + z * (1 - sigmoid(z)))", "sigmoid(z)", GATE_BWD),
    _fault("channel_gate", "arm-bias", "the slope of the sigmoid takes the gate's square",
           "dz *= g * (1 - g)", "dz *= g * (1 - g * g)", GATE_BWD),
    _fault("channel_gate", "ffm-norms", "the ReLU's mask looks at the value before the affine",
           "z = normed(tl.load(p_hidden + n * k + j, j < k, 0.0), j, j < k, affine, EPS, ACC)",
           "z = tl.load(p_hidden + n * k + j, j < k, 0.0)", GATE_BWD),
    _fault("channel_gate", "wide-67", "the gradient of the means is not scaled",
           " * inverse_deviation(affine[3], j, j < k, EPS, ACC)\n        p_w", "\n        p_w", GATE_BWD),
    _fault("channel_gate", "se", "the gradient of the means is that of their sums",
           "divided(dmean, pixels)", "dmean", GATE_BWD),
    _fault("channel_gate", "ffm", "the weights' gradients leave out the last image",
           "for n in range(images):", "for n in range(images - 1):", GATE_BWD),
]  # fmt: skip


def planted(fault: Fault, folder: Path) -> str | None:
    """Copy the package into ``folder`` with ``fault`` in it; what is wrong where that cannot be done."""
    shutil.copytree(ROOT / "pyramid_kernels", folder / "pyramid_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "pyramid_kernels" / "ops" / fault.file
    text = path.read_text()
    if fault.line not in text:
        return f"the line is no longer in {fault.file}: {fault.line.strip()}"
    path.write_text(text.replace(fault.line, fault.patch, 1))
    return None


def found_by(fault: Fault) -> tuple[bool, str]:
    """Whether the oracle finds ``fault``, and its first complaint."""
    with tempfile.TemporaryDirectory(prefix="fault_") as folder:
        if problem := planted(fault, Path(folder)):
            return False, problem
        return found_in(fault, "triton", {"PYTHONPATH": folder, "TRITON_INTERPRET": "1"})


def found_in(fault: Fault, backend: str, environment: dict[str, str]) -> tuple[bool, str]:
    """What the oracle says in a process with ``environment``."""
    command = [sys.executable, __file__, fault.op, fault.case, backend, fault.dtype]
    # A fault may overrun buffers: a crash is a find as well.
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, cwd=environment["PYTHONPATH"], env=environment, capture_output=True, text=True,
                          timeout=300)  # fmt: skip
    if done.returncode == 3:
        return True, done.stdout.strip().splitlines()[0]
    if done.returncode < 0:
        return True, f"ended by signal {-done.returncode}"
    return False, done.stdout + done.stderr


def look(op: str, first: str, backend: str, dtype: str) -> str | None:
    """The oracle's first complaint about ``op``, looking at case ``first`` before the others."""
    import torch

    from pyramid_kernels.verification import oracle

    for case in sorted(oracle.spec(op).CASES, key=lambda c: c.id != first):
        for channels_last in (False, True):
            # What is read beyond an argument is NaN only around slices; elsewhere it may be a harmless number.
            for how in ({"exact": True}, {}, {"sliced": True})[0 if case.exact else 1 :]:
                try:
                    report = oracle.check(op, case, backend, getattr(torch, dtype), channels_last, **how)
                except RuntimeError as error:  # the simulator's own report
                    return f"{case.id}: {error}"
                if report.failures():
                    return f"{case.id}: {report.failures()[0]}"
    return None


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(found_by(FAULTS[int(sys.argv[1])]))
    else:
        complaint = look(*sys.argv[1:])
        print(complaint or "nothing found")
        sys.exit(3 if complaint else 0)
