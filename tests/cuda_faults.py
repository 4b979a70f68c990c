"""One-line faults planted in copies of the CUDA kernels: the oracle must find each in the simulator, or the compiler.

``python -m tests.cuda_faults PLACE`` plants fault number PLACE and prints what found it.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import hostsim
from tests.faults import Fault, found_in
from tests.processes import ROOT

BRANCHES = "dilated_branches/dilated_branches"
CONV = "pyramid_conv/pyramid_conv"
GATE = "channel_gate"
POOLS = "max_pool_pyramid/max_pool_pyramid"
HOPPER = "dilated_branches/hopper.cuh"
LOSS = "upsample_cross_entropy/upsample_cross_entropy"


def _fault(op: str, case: str, what: str, file: str, line: str, patch: str, dtype: str = "float32") -> Fault:
    """``file`` is under csrc/."""
    return Fault(op, case, what, file, line, patch, dtype)


FAULTS: list[Fault] = [
    _fault("pyramid_pool", "pairs-13x17", "each lane sums all columns of an interval",
           "pyramid_pool/pyramid_pool_fwd.cuh", "x = low + lane % lanes; x < high", "x = low; x < high"),
    _fault("pyramid_pool", "pairs-13x17", "planes that start between 16-byte pieces are staged from the piece's start",
           "pyramid_pool/pyramid_pool_fwd.cuh", "s[shift + i] = g_x[i]", "s[i] = g_x[i]"),
    _fault("pyramid_pool", "psp-12x18", "a cell's rectangles are joined from half of the lanes",
           "pyramid_pool/cells.cuh", "join_lanes(r, 8, 32);", "join_lanes(r, 8, 16);"),
    _fault("pyramid_pool", "psp-12x18", "staged rows are summed before all threads have staged them",
           "pyramid_pool/pyramid_pool_fwd.cuh", "__syncthreads();\n            for (int job", "for (int job"),
    _fault("pyramid_pool", "global-33x47-split", "the bands leave out the rows that do not divide",
           "pyramid_pool/cells.cuh", "part + smaller(part, count % parts)", "part"),
    _fault("pyramid_pool", "global-33x47-split", "the last warp of the second launch stores beyond the cells",
           "pyramid_pool/pyramid_pool_merge.cuh", "if (lane < 8 && valid) pool", "if (lane < 8) pool"),
    _fault("pyramid_pool", "max-spp", "a maximum starts at zero, not at minus infinity",
           "common/reduce.cuh", "A value = -INFINITY;", "A value = 0;"),
    _fault("pyramid_pool", "more-bins-than-pixels", "the last window that holds a pixel is missed",
           "common/windows.h", "((p + 1) * den - 1 - lead) / step", "(p * den - 1 - lead) / step"),
    _fault("pyramid_pool", "psp-12x18", "the gradient of an average is not divided",
           "pyramid_pool/pyramid_pool_bwd.cuh", "div_rn(widen(v[i]), static_cast<Acc<T>>(area))", "widen(v[i])"),
    _fault("pyramid_pool", "max-spp", "zeros are written over the winners' gradients",
           "pyramid_pool/pyramid_pool_bwd.cuh", "        __syncthreads();  // zeros lie below what follows\n", ""),
    _fault("pyramid_pool", "max-more-bins", "a pixel that wins several cells takes the gradient of one",
           "pyramid_pool/pyramid_pool_bwd.cuh", "sum += widen(g_dy[other", "sum = widen(g_dy[other"),
    _fault("max_pool_pyramid", "spp-7x5", "the last of equal maxima takes the gradient",
           f"{POOLS}_fwd.cuh", "value > best[k] ||", "value >= best[k] ||"),
    _fault("max_pool_pyramid", "spp-7x5", "a window ends a column early",
           f"{POOLS}_fwd.cuh", "high = smaller(radius, t.w - 1 - x)", "high = smaller(radius - 1, t.w - 1 - x)"),
    _fault("max_pool_pyramid", "sppf-13x11", "a cascade pools x again",
           f"{POOLS}_fwd.cuh", "            if (onward) s_x[slot] = v;\n", ""),
    _fault("max_pool_pyramid", "sppf-13x11", "no barrier between rows and columns of maxima",
           f"{POOLS}_fwd.cuh", "            __syncthreads();\n            pool_columns", "            pool_columns"),
    _fault("max_pool_pyramid", "cascade-tiles-3x67", "a cascade's levels stop at the tile's border",
           f"{POOLS}_fwd.cuh", "const int around = t.pools.cascade ? ahead : 0;", "const int around = 0;"),
    _fault("max_pool_pyramid", "tiles-70x3", "rows of maxima that the tile's windows reach are left out",
           f"{POOLS}_fwd.cuh", "pool_rows(own.grown(target, radius, 0), radius)", "pool_rows(target, radius)"),
    _fault("max_pool_pyramid", "many-channels", "channels beyond the last are written",
           "max_pool_pyramid/tiles.cuh", "store_vec(g, v, count, is", "store_vec(g, v, V, is"),
    _fault("max_pool_pyramid", "descending-13x17", "the concat ascends whatever the order",
           "max_pool_pyramid/tiles.cuh", "pools.descending ? pools.levels - level : level", "level"),
    _fault("max_pool_pyramid", "spp-7x5", "windows that chose a later row of the column count",
           f"{POOLS}_bwd.cuh", "if (at < size)", "if (static_cast<int>(at) >= 0)"),
    _fault("max_pool_pyramid", "spp-7x5", "each level's sum replaces that of the one before",
           f"{POOLS}_bwd.cuh", "sums = !t.pools.cascade && level < t.pools.levels", "sums = false"),
    _fault("max_pool_pyramid", "sppf-13x11", "a cascade's gradient is read anew at every level",
           f"{POOLS}_bwd.cuh", "if (!given) s_dy", "s_dy"),
    _fault("max_pool_pyramid", "spp-7x5", "no barrier before the gradient goes to columns",
           f"{POOLS}_bwd.cuh", "__syncthreads();\n            gather_columns", "gather_columns"),
    _fault("upsample_merge", "one-pixel", "the right neighbour is not clamped at the border",
           "common/resample.h", "smaller(size == full ? i : i + 1, size - 1), position", "i + 1, position"),
    _fault("upsample_merge", "fpn-add", "the half-pixel position is not clamped at zero",
           "common/resample.h", "step, A(-0.5)), A(0))", "step, A(-0.5)), A(-1))"),
    _fault("upsample_merge", "ppm-12x18", "the weights of rows and columns are exchanged",
           "upsample_merge/merged.cuh", "shares[0][i] * shares[1][j]", "shares[0][j] * shares[1][i]"),
    _fault("upsample_merge", "ppm-12x18", "every map of a concat is written to the first slice",
           "upsample_merge/merged.cuh", "m.maps[i].first + start}", "start}"),
    _fault("upsample_merge", "concat-33x47-relu", "a vector of pixels is stored beyond the map",
           "upsample_merge/upsample_merge_fwd.cuh", "r, pixels - at, p.aligned, 1)", "r, V, p.aligned, 1)"),
    _fault("upsample_merge", "fpn-add", "the last output that a pixel reaches is left out",
           "common/resample.h", "!reads<A>(span.last, i)", "weight<A>(span.last, i) < A(0.3)"),
    _fault("upsample_merge", "concat-33x47-relu", "every warp of a team adds all rows",
           "upsample_merge/upsample_merge_bwd.cuh", "y = rows.first + member / lanes;", "y = rows.first;"),
    _fault("upsample_merge", "concat-33x47-relu", "half of a channels_last team is not added",
           "common/block_sum.cuh", "half >= stride", "half > stride"),
    _fault("upsample_merge", "hrnet-row-relu", "no barrier between the steps of a sum",
           "common/block_sum.cuh", "        __syncthreads();\n        if", "        if"),
    _fault("upsample_merge", "hrnet-row-relu", "the ReLU's mask is left out",
           "upsample_merge/incoming.cuh", "widen(y[k][v]) <= Acc<T>(0) ? zero", "false ? zero"),
    _fault("upsample_merge", "smaller-corners-scale", "the gradient of maps is not scaled",
           "upsample_merge/upsample_merge_bwd.cuh", "value * element<T>(p.scale, p.scale_is_t, channel) : value",
           "value : value"),
    _fault("upsample_merge", "hrnet-row-relu", "dscale multiplies by one channel's value",
           "upsample_merge/upsample_merge_bwd_affine.cuh", "scale[k] += d * acc[k][v]", "scale[k] += d * acc[0][v]"),
    _fault("upsample_merge", "hrnet-row-relu", "the first shares of a sum are skipped",
           "upsample_merge/upsample_merge_bwd_affine.cuh", "int i = t / sums_channels;",
           "int i = t / sums_channels + 1;"),
    _fault("pyramid_conv", "psp-7x9", "a tap above or left of the map reads the first cells",
           f"{CONV}_fwd.cuh", "if (d < 0 || d >= axis.full)", "if (d >= axis.full)"),
    _fault("pyramid_conv", "scale-2-bias", "a tap below or right of the map reads the last cells",
           f"{CONV}_fwd.cuh", "if (d < 0 || d >= axis.full)", "if (d < 0)"),
    _fault("pyramid_conv", "scale-2-bias", "the columns of a row of taps are shifted the wrong way",
           f"{CONV}_fwd.cuh", "x + d - K / 2);", "x - d + K / 2);"),
    _fault("pyramid_conv", "no-map-at-size", "no barrier after the rows of cells are found",
           f"{CONV}_fwd.cuh", "    __syncthreads();\n    if (x >= p.w || count <= 0) return;\n",
           "    if (x >= p.w || count <= 0) return;\n"),
    _fault("pyramid_conv", "scale-2-bias", "the gradient counts outputs beyond the last row and column",
           f"{CONV}_bwd.cuh", "return 0 <= d && d < axis.full ?", "return 0 <= d ?"),
    _fault("pyramid_conv", "wide-140", "columns are added up before all threads have summed their rows",
           f"{CONV}_bwd.cuh", "        __syncthreads();\n        if (live) add", "        if (live) add"),
    _fault("pyramid_conv", "wide-140", "a cell's shares start from zero in every chunk of columns",
           f"{CONV}_bwd.cuh", "move_before<K>(share, axis, first, j);", "for (A& s : share) s = A(0);"),
    _fault("pyramid_conv", "product-inside-48", "the last channels are left out of the product inside",
           "pyramid_conv/product.cuh", "slice < smaller(4,", "slice < smaller(2,"),
    _fault("pyramid_conv", "product-inside-48", "depth beyond a map's channels is multiplied",
           "pyramid_conv/product.cuh", "left[k] = g_line ? count - depth : 0", "left[k] = g_line ? N : 0", "float16"),
    _fault("pyramid_conv", "product-inside-48", "a panel is multiplied before all threads have filled it",
           "pyramid_conv/product.cuh", "        __syncthreads();\n        for (int slice", "        for (int slice"),
    _fault("pyramid_conv", "scale-4-and-8-nearest", "every row of taps takes the first row's products",
           f"{CONV}_fwd.cuh", "g_level + t * K * tap + row", "g_level + row"),
    _fault("pyramid_conv", "segformer-1x1", "the last row of cells is left out",
           f"{CONV}_fwd.cuh", "row <= s_rows[last].high", "row < s_rows[last].high"),
    _fault("pyramid_conv", "two-whole-nearest-1x1", "what is convolved at full size is left out",
           f"{CONV}_fwd.cuh", "else if (p.base != nullptr)", "else if (false)"),
    _fault("pyramid_conv", "no-map-at-size", "the value kept for scale's gradient is scaled already",
           f"{CONV}_fwd.cuh", "    if (p.z != nullptr) write_strip<T>(p.z, s, aligned, acc);\n    each(p.scale, "
           "p.scale_is_t, [](A& sum, A value) { sum *= value; });\n", "    each(p.scale, "
           "p.scale_is_t, [](A& sum, A value) { sum *= value; });\n    if (p.z != nullptr) "
           "write_strip<T>(p.z, s, aligned, acc);\n"),
    _fault("pyramid_conv", "primes-7x11", "rows beyond the map are stored",
           f"{CONV}_fwd.cuh", "        if (v >= s.rows) break;\n", ""),
    _fault("pyramid_conv", "wide-140", "a chunk of columns is summed over the one that is being read",
           f"{CONV}_bwd.cuh", "cols, s_sums, acc);\n        __syncthreads();\n", "cols, s_sums, acc);\n"),
    _fault("pyramid_conv", "scale-3-corners", "the outputs that only a tap beside a cell reaches are left out",
           f"{CONV}_bwd.cuh", ".last + K / 2, axis.full - 1)}", ".last, axis.full - 1)}"),
    _fault("pyramid_conv", "scale-2-bias", "all rows of taps get the first row's gradient",
           f"{CONV}_bwd.cuh", "narrow<T>(acc[t / K][t % K][c])", "narrow<T>(acc[0][t % K][c])"),
    _fault("pyramid_project", "matrices", "the second level reads the first level's cells",
           "pyramid_project/pyramid_project_fwd.cuh", "(p.pooled) + level.first_cell * p.x_s", "(p.pooled)"),
    _fault("pyramid_project", "affine-relu", "cells that a level does not have are not zero",
           "pyramid_project/pyramid_project_fwd.cuh", "beyond ? 0 : activated", "activated"),
    _fault("pyramid_project", "psp-norm-relu", "depth beyond the channels is copied and multiplied",
           "common/gemm_tile.cuh", "larger(0, smaller(V, inner.count - inner0 - i))", "V"),
    _fault("pyramid_project", "deep-130", "a step is multiplied before it has arrived",
           "common/ring.cuh", "cp_async_wait<2>", "cp_async_wait<3>"),
    _fault("pyramid_project", "deep-130", "a step is copied over the one that is being read",
           "common/ring.cuh", "ahead(step + stages - 1)", "ahead(step + stages)"),
    _fault("pyramid_project", "deep-130", "the last warp's share of the depth is not added",
           "common/gemm_tile.cuh", "w < G::WARPS; ++w", "w < G::WARPS - 1; ++w"),
    _fault("pyramid_project", "matrices", "a fragment holds its lower depths twice",
           "common/gemm_product.cuh", "j % 2 * 8, k + j / 2 * 4)", "j % 2 * 8, k)"),
    _fault("pyramid_project", "affine-relu", "the gain is left out of dz",
           "pyramid_project/pyramid_project_bwd.cuh", "narrow<T>(dy * gain * inverse)", "narrow<T>(dy * inverse)"),
    _fault("pyramid_project", "affine-relu", "the last rows are left out of the sums",
           "pyramid_project/pyramid_project_bwd.cuh", "i < SLOTS; ++i", "i < SLOTS - 1; ++i"),
    _fault("pyramid_project", "oblong-grids", "the last tile of rows stores beyond the level's cells",
           "pyramid_project/pyramid_project_bwd.cuh", "row0 + row < out.count && count > 0", "count > 0"),
    _fault("pyramid_project", "matrices", "the weight's gradient starts at the second row",
           "pyramid_project/pyramid_project_bwd.cuh", "(p.pooled) + level", "(p.pooled) + p.x_s + level"),
    _fault("separable_pyramid", "mdspp-5x4-remainder", "a neighbour right of the grid is the next row's first",
           "separable_pyramid/separable_pyramid_fwd.cuh", "col + right < 0 || col + right >= level.cols",
           "col + right < 0"),
    _fault("separable_pyramid", "dspp-4x6", "a level's first cell is filtered by the level before",
           "separable_pyramid/separable_pyramid_fwd.cuh", "s >= pyramid.level[l + 1]", "s > pyramid.level[l + 1]"),
    _fault("separable_pyramid", "dspp-4x6", "the gradient of cells turns the columns of kernels alone",
           "separable_pyramid/separable_pyramid_fwd.cuh", "p.turned ? 1 - down : 1 + down", "1 + down"),
    _fault("separable_pyramid", "dspp-4x6", "one row of sixteen is left out of a kernel's gradient",
           "separable_pyramid/separable_pyramid_bwd.cuh", "int i = 0; i < SLOTS", "int i = 1; i < SLOTS"),
    _fault("separable_pyramid", "dspp-4x6", "a kernel's gradient takes in the next level's first row",
           "separable_pyramid/separable_pyramid_bwd.cuh", "y < 0 || y >= level.rows || x < 0", "y < 0 || x < 0"),
    _fault("separable_pyramid", "dspp-4x6", "a kernel's sums are added before all threads have theirs",
           "separable_pyramid/separable_pyramid_bwd.cuh", "    __syncthreads();\n", ""),
    _fault("dilated_branches", "boxes-9x20", "operands are read with another swizzle than they were written",
           HOPPER, "1024, Swizzle::b128);", "1024, Swizzle::b64);", "float16"),
    _fault("dilated_branches", "boxes-9x20", "no fence between registers and products",
           HOPPER, "        wgmma_fence();\n", "", "float16"),
    _fault("dilated_branches", "boxes-9x20", "a stage is released while it is multiplied",
           HOPPER, "wgmma_wait<1>();\n            ring.release(before);", "ring.release(ring.stage);", "float16"),
    _fault("dilated_branches", "boxes-9x20", "fewer bytes are announced than come",
           HOPPER, "8 * stage, G::STAGE_BYTES)", "8 * stage, G::STAGE_BYTES - 16)", "float16"),
    _fault("dilated_branches", "boxes-9x20", "both blocks of a pair ask for the same half of the weights",
           f"{BRANCHES}_fwd_sm90.cuh", "share.rank * (G::COLS / 2)", "0 * share.rank", "float16"),
    _fault("dilated_branches", "boxes-9x20", "a block leaves while the other still delivers to it",
           HOPPER, "    cluster_wait();  // the other CTA", "    // the other CTA", "float16"),
    _fault("dilated_branches", "boxes-9x20", "boxes are asked for while the launch ahead still writes x",
           HOPPER, "    wait_for_earlier_grids();", "", "float16"),
    _fault("dilated_branches", "boxes-9x20", "the warpgroups ask for more registers than their block has",
           HOPPER, "RegisterSplit<56, G::GROUP, 224,", "RegisterSplit<56, G::GROUP, 256,", "float16"),
    _fault("dilated_branches", "boxes-9x20", "kernel parameters pass 4,096 bytes",
           f"{BRANCHES}_fwd_sm90.cuh", "    TensorMap x; ", "    TensorMap spare, x; ", "float16"),
    _fault("dilated_branches", "boxes-9x20", "tensor maps are encoded by a thread without a context",
           f"{BRANCHES}_fwd_sm90.cu", "    const DeviceGuard guard(queue.device);\n    PK_TRY(guard.status(name));"
           "\n", "", "float16"),
    _fault("dilated_branches", "boxes-9x20", "an MN-major operand advances as one that is K-major",
           HOPPER, "MN ? 16 * 128 : 32", "32", "float16"),
    _fault("dilated_branches", "boxes-9x20", "spans of 64 lines are read too close together",
           HOPPER, "MN ? BOX_BYTES : 16", "MN ? 1024 : 16", "float16"),
    _fault("dilated_branches", "boxes-9x20", "both CTAs of a pair load the same half of the operand that they share",
           HOPPER, "box / (G::B_BOXES / 2) == rank", "box / (G::B_BOXES / 2) == 0", "float16"),
    _fault("dilated_branches", "boxes-wide", "a panel is written while it still leaves",
           HOPPER, "        if (leads) tma_store_wait_read<1>();\n", "", "float16"),
    _fault("dilated_branches", "boxes-9x20", "a panel is written without the swizzle that its store undoes",
           HOPPER, " ^ (row % 8)) * 16", ") * 16", "float16"),
    _fault("dilated_branches", "boxes-wide", "shared memory goes before the last panels have left",
           HOPPER, "if (G::worker() % G::GROUP == 0) tma_store_wait<0>();", "", "float16"),
    _fault("dilated_branches", "boxes-9x20", "weights are multiplied as if their input channels were the depth",
           f"{BRANCHES}_bwd_sm90.cuh", "HopperCta<T, COLS, false, true>",
           "HopperCta<T, COLS, false, false>", "float16"),
    _fault("dilated_branches", "boxes-9x20", "Hopper's dx takes the tap itself, not the opposite one",
           f"{BRANCHES}_bwd_sm90.cuh", "8 - tap.number", "tap.number", "float16"),
    _fault("dilated_branches", "boxes-9x20", "both halves of a tile's pixels are stored as the first",
           f"{BRANCHES}_bwd_sm90.cuh", "half_image(place.image, half));", "place.image);", "float16"),
    _fault("dilated_branches", "boxes-9x20", "dx outside the map is stored where its channels are not innermost",
           f"{BRANCHES}_bwd_sm90.cuh", "                if (!px.exists) return;\n", "", "float16"),
    _fault("dilated_branches", "boxes-9x20", "dw multiplies x where dz is, not where the tap lies",
           f"{BRANCHES}_bwd_sm90.cuh", "at.x + tile.boxes.area.dx", "at.x", "float16"),
    _fault("dilated_branches", "boxes-9x20", "a tap that meets no pixel is taken for one that does",
           f"{BRANCHES}_bwd_sm90.cuh", "if (tile.begin < tile.end)", "if (tile.begin <= tile.end)", "float16"),
    _fault("dilated_branches", "boxes-split", "every split of Hopper's dw begins at the first box",
           f"{BRANCHES}_bwd_sm90.cuh", "smaller(split * share,", "smaller(0 * share,", "float16"),
    _fault("dilated_branches", "boxes-9x20", "boxes of dw begin at the map's first column, not the tap's",
           "dilated_branches/units.h", "area.x0 + i % across", "i % across", "float16"),
    _fault("dilated_branches", "deep-input", "a flag is left raised, which a replayed graph would take for its own",
           "dilated_branches/epilogue.cuh", "            *g_flag = 0;\n", ""),
    _fault("dilated_branches", "plain-13x17", "a tap that only just meets the tile is skipped",
           "dilated_branches/schedule.h", "(last - branch.dilation >= 0", "(last - branch.dilation > 0"),
    _fault("dilated_branches", "aspp-norm-9x11", "shares end one step early",
           "dilated_branches/epilogue.cuh", "end(boundary(s, worker + 1))", "end(boundary(s, worker + 1) - 1)"),
    _fault("dilated_branches", "deep-input", "a partial sum is added twice",
           "dilated_branches/epilogue.cuh", "r_acc[i] += __ldcg", "r_acc[i] += 2 * __ldcg"),
    _fault("dilated_branches", "deep-input", "a step is multiplied before it has arrived",
           "common/ring.cuh", "cp_async_wait<2>", "cp_async_wait<3>"),
    _fault("dilated_branches", "bias-relu", "pixels beyond the map's right edge are read",
           f"{BRANCHES}_fwd.cuh", "0 <= x && x < map.w;", "0 <= x;"),
    _fault("dilated_branches", "bias-relu", "the input's gradient takes the tap itself, not the opposite one",
           f"{BRANCHES}_bwd.cuh", "8 - tap.number", "tap.number"),
    _fault("dilated_branches", "bias-relu", "a weight gradient's rectangle starts at the wrong row",
           "dilated_branches/schedule.h", "y0(larger(0, -dy))", "y0(larger(0, dy))"),
    _fault("dilated_branches", "scale-shift", "the multiplier is left out of dz",
           f"{BRANCHES}_dz.cuh", "narrow<T>(g * (gain * deviation))", "narrow<T>(g * deviation)"),
    _fault("dilated_branches", "image-bias-3x3", "the image bias's gradient counts pixels outside the map",
           f"{BRANCHES}_dz.cuh", "if (y >= area.rows) break;", "if (y >= p.map.h) break;"),
    _fault("dilated_branches_train", "boxes-9x20", "pixels beyond the map enter the tile's mean",
           "dilated_branches/epilogue.cuh", ".exists) sum +=", ".image >= 0) sum +="),
    _fault("dilated_branches_train", "many-tiles-33x47", "Chan's merge forgets the distance between means",
           "dilated_branches_train/dilated_branches_train.cuh", "return q + n * (m - mean) * (m - mean);", "return q;"),
    _fault("dilated_branches_train", "no-affine", "the mean gradient is not taken off",
           f"{BRANCHES}_dz.cuh", "g = g - s_mean_g[c] - normal", "g = g - normal"),
    _fault("upsample_cross_entropy", "scale-8", "the running sum is not scaled to the new maximum",
           f"{LOSS}_fwd.cuh", "        total *= exponential(before - from);\n", ""),
    _fault("upsample_cross_entropy", "smooth-weighted-none", "smoothing leaves out the classes' weights",
           f"{LOSS}_fwd.cuh", "(p.weight != nullptr ? p.weight[first + k] : A(1)) * v[k]", "v[k]"),
    _fault("upsample_cross_entropy", "smooth", "ignored pixels have a loss",
           f"{LOSS}_fwd.cuh", "    if (!pixel.live) return A(0);\n", ""),
    _fault("upsample_cross_entropy", "scale-8", "blended source rows outlive their output rows",
           "common/upsampled.cuh", "if (down.low != row) {", "if (row < 0) {"),
    _fault("upsample_cross_entropy", "scale-8", "the lower source row is blended once",
           "common/upsampled.cuh", "if (down.high != next) {", "if (next < 0) {"),
    _fault("upsample_cross_entropy", "smooth-weighted-none", "classes beyond the last take part in the softmax",
           "common/upsampled.cuh", "v[k] = A(-INFINITY);", "v[k] = A(0);"),
    _fault("upsample_cross_entropy", "primes-5x7-to-13x17", "the label's own class keeps its gradient",
           f"{LOSS}_bwd.cuh", "acc[k] -= k == static_cast<int>(own) ? hit : A(0);", "acc[k] -= A(0);"),
    _fault("upsample_cross_entropy", "scale-8", "output rows above the source row are blended from those below",
           f"{LOSS}_bwd.cuh", "if (down.low == at.i) {", "if (down.low >= 0) {"),
    _fault("upsample_cross_entropy", "one-pixel-far", "a turn's last output column is left out",
           f"{LOSS}_bwd.cuh", "start + column_threads - 1);", "start + column_threads - 2);"),
    _fault("upsample_cross_entropy", "scale-8", "columns are added before all threads have theirs",
           f"{LOSS}_bwd.cuh", "        __syncthreads();\n        for (int o", "        for (int o"),
    _fault("upsample_argmax", "scale-2-ties", "the last of equal classes wins",
           "upsample_argmax/upsample_argmax_fwd.cuh", "v[k] > top[r]", "v[k] >= top[r]"),
    _fault("upsample_argmax", "primes-13x17-to-33x47", "labels beyond the map are stored",
           "upsample_argmax/upsample_argmax_fwd.cuh", "        if (at.y + r >= m.y.full) break;\n", ""),
    _fault("channel_gate", "arm-norm-33x47-split", "every share begins at the first pixel",
           f"{GATE}/strip.cuh", "s.part * m.length + t % 32 * V", "t % 32 * V"),
    _fault("channel_gate", "one-channel-17x19", "the last vector of a plane is read and written whole",
           f"{GATE}/strip.cuh", "!ChannelsLast ? s.last - p :", "!ChannelsLast ? vec_size<float> :"),
    _fault("channel_gate", "arm-norm-33x47-split", "rows with gaps are read as if they had none",
           f"{GATE}/channel_gate.cu", "p.h == 1 || strides[2] == p.w * strides[3]", "true"),
    _fault("channel_gate", "arm-norm-33x47-split", "the last share is not added",
           f"{GATE}/products.cuh", "part + k * rows >= p.parts", "part + k * rows >= p.parts - 1"),
    _fault("channel_gate", "wide-67", "a row is summed over half of the lanes",
           f"{GATE}/products.cuh", "join_lanes(sum[k], 1, 32);", "join_lanes(sum[k], 1, 16);"),
    _fault("channel_gate", "wide-67", "a column is summed over half of the warps",
           f"{GATE}/products.cuh", "other < product_warps; ++other", "other < product_warps / 2; ++other"),
    _fault("channel_gate", "ffm", "no barrier between the means and the first product",
           f"{GATE}/{GATE}_fwd.cuh", "    __syncthreads();\n    const int rows", "    const int rows"),
    _fault("channel_gate", "se", "no barrier between the hidden values and the second product",
           f"{GATE}/{GATE}_fwd.cuh", "    if (!two) return;\n    __syncthreads();\n", "    if (!two) return;\n"),
    _fault("channel_gate", "wide-67", "a block makes the hidden values of its own rows alone",
           f"{GATE}/{GATE}_fwd.cuh", "const int rows = two ? l.k : last;\n    for (int j = (two ? 0 : first) + warp",
           "const int rows = last;\n    for (int j = first + warp"),
    _fault("channel_gate", "arm-bias", "x is added unasked",
           f"{GATE}/{GATE}_fwd.cuh", "gate[v], residual);", "gate[v], true);"),
    _fault("channel_gate", "ffm-norms", "the mask of the ReLU is inverted",
           f"{GATE}/products.cuh", "z <= 0 ? 0 : d", "z > 0 ? 0 : d"),
    _fault("channel_gate", "se-silu-norm", "the slope of SiLU is a sigmoid's value",
           f"{GATE}/products.cuh", "d * sigmoid(z) * (1 + z * (1 - sigmoid(z)))", "d * sigmoid(z)"),
    _fault("channel_gate", "se-hard-clipped", "a hard gate has no upper end",
           f"{GATE}/products.cuh", "z > 6 ? A(6) : z", "z"),
    _fault("channel_gate", "se-hard-clipped", "a closed gate has a slope",
           f"{GATE}/products.cuh", "g > 0 && g < 1", "g < 1"),
    _fault("channel_gate", "wide-hidden", "hidden gradients of the first 32 only",
           f"{GATE}/{GATE}_bwd.cuh", "for (int j = 0; j < l.k; j += 32)", "for (int j = 0; j < 32; j += 32)"),
    _fault("channel_gate", "arm-bias", "a pixel gains nothing by its mean",
           f"{GATE}/{GATE}_bwd.cuh", "residual) + mean[v];", "residual);"),
    _fault("channel_gate", "se", "dweight2 takes hidden values before their ReLU",
           f"{GATE}/{GATE}_bwd.cuh", "* hidden_value<T>(l, j, p.hidden[n * l.k + j])",
           "* activated<T>(l.norm1, j, p.hidden[n * l.k + j], false)"),
]  # fmt: skip


def found_by(fault: Fault) -> tuple[bool, str]:
    """Whether the oracle finds ``fault`` in the simulator, and its first complaint."""
    with tempfile.TemporaryDirectory(prefix="fault_") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "csrc", folder / "csrc")
        path = folder / "csrc" / fault.file
        text = path.read_text()
        if fault.line not in text:
            return False, f"the line is no longer in {fault.file}: {fault.line.strip()}"
        path.write_text(text.replace(fault.line, fault.patch, 1))
        try:
            module = linked(folder, [compiled(folder, unit) for unit in _units(fault)])
        except RuntimeError as error:  # a fault that must not compile; any other is planted wrongly
            return "static assertion failed" in str(error), str(error)
        return found_in(fault, "cuda", {"PYTHONPATH": str(ROOT), hostsim.SIMULATOR: str(module)})


def _units(fault: Fault) -> list[Path]:
    """The sources of the op, or of the one it builds on, that include the fault's file."""
    units = sorted(unit for unit in (ROOT / "csrc").glob("*/*.cu") if unit.parent.name in fault.op)
    compiler = hostsim.compiler() or "c++"
    include = f"-I{ROOT / 'csrc'}", f"-I{ROOT}"

    def reads(unit: Path) -> bool:
        command = [compiler, "-x", "c++", "-std=c++20", "-MM", *include, str(unit)]
        return fault.file in subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return [unit for unit in units if reads(unit)]


def compiled(folder: Path, unit: Path, flavour: str = "host") -> Path:
    """The object of ``unit`` with the sources in ``folder``, by the simulator's command; "host" without optimising."""
    command = next(c["command"] for c in _commands() if c["file"] == str(unit) and f"kernels_{flavour}." in c["output"])
    target = folder / f"{unit.stem}.o"
    arguments = shlex.split(command.replace(str(ROOT / "csrc"), str(folder / "csrc")))
    arguments[arguments.index("-o") + 1] = str(target)
    _run([*arguments, *(["-O0"] if flavour == "host" else [])])
    return target


def linked(folder: Path, objects: list[Path], flavour: str = "host") -> Path:
    """A copy of the simulator's module in which ``objects`` come before their like in the library of kernels."""
    module = folder / hostsim.MODULE.name
    bindings = [hostsim.BUILD / c["output"] for c in _commands() if "_hostsim.dir" in c["output"]]
    names = [f"kernels_{flavour}", *(["callbacks_profile"] if flavour == "profile" else []), "hostsim"]
    libraries = [next(hostsim.BUILD.glob(f"**/lib{name}.a")) for name in names]
    compiler = hostsim.compiler() or "c++"
    _run([compiler, "-shared", "-o", str(module), *map(str, [*bindings, *objects, *libraries])])
    return module


def _commands() -> list[dict[str, str]]:
    """How the simulator's build compiles each of its sources."""
    commands: list[dict[str, str]] = json.loads((hostsim.BUILD / "compile_commands.json").read_text())
    return commands


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=hostsim.BUILD, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    os.environ.pop(hostsim.SIMULATOR, None)
    hostsim.build()
    print(found_by(FAULTS[int(sys.argv[1])]))
