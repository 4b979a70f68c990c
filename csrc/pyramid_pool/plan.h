// How pyramid_pool cuts a map into rectangles and shares them out among blocks: host functions of sizes alone.
//
// The edges of all levels' windows cut each axis into intervals that no window crosses. Every pixel belongs to one
// rectangle (an interval of rows x one of columns), so a forward pass reduces each rectangle once and a backward pass
// has one value per rectangle.
#pragma once

#include <cstdint>

#include "pyramid_pool/pyramid_pool.h"

namespace pk::pool {

inline constexpr int warps = 8, threads = 32 * warps;
inline constexpr int slab_bytes = 128;         // channels that a block takes of every pixel, channels innermost
inline constexpr int stage_bytes = 16384;      // pixels that a block holds at a time, NCHW
inline constexpr int max_stage_row = 2048;     // the widest row, in elements, that is staged
inline constexpr int max_planes = 32;          // planes per block, NCHW
inline constexpr int max_edges = 840;          // per axis, of 16 bits; a plan is a kernel's parameter
inline constexpr int slab_rectangles = 128;    // whose partial results a block may keep, channels innermost
inline constexpr int plane_rectangles = 4096;  // and NCHW

/// Intervals [at(i), at(i + 1)) for i < count. Two bytes hold an edge where the axis is shorter than 65,536.
struct Edges {
    int count;
    bool wide;
    union {
        unsigned short narrow_at[max_edges];
        int wide_at[max_edges / 2];
    };

    PK_HD int at(int i) const { return wide ? wide_at[i] : narrow_at[i]; }
    int most() const { return wide ? max_edges / 2 : max_edges; }
};

struct Plan {
    int n, c, h, w;
    int levels, cells;
    Axis rows[PyramidPoolBins::max_levels], cols[PyramidPoolBins::max_levels];
    Edges y, x;
    bool inner;  // a block owns one image and a slab of channels; else it owns whole planes
    int slab;    // channels per block
    int planes;  // planes per block
    int staged;  // planes held at a time; 1 where not all rows of one are
    int bands;   // blocks that share the rows of an image or plane
    bool split;  // partial results go to global memory and a second launch combines them

    int64_t groups() const {  // of channels or planes
        return inner ? int64_t{n} * ceil_div(c, slab) : ceil_div(int64_t{n} * c, int64_t{planes});
    }
};

enum class Pass { forward, backward };

/// `sc`, `sw`: strides of channels and columns, which say what is innermost.
Status make_plan(Plan& plan, const int64_t (&size)[4], int64_t sc, int64_t sw, const PyramidPoolBins& pyramid,
                 int itemsize, int processors, Pass pass);

}  // namespace pk::pool
