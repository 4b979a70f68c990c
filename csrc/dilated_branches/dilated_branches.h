// dilated_branches: parallel same-padded 1x1 and dilated 3x3 convolutions of one map, never multiplying padding.
// Strides are in elements. Sums run in float; dtypes are float16, bfloat16 and float32.
#pragma once

#include <cstdint>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/norm.h"
#include "common/queue.h"
#include "dilated_branches/schedule.h"

namespace pk {

/// Bytes of scratch that one block of the forward needs: a tile of partial sums and a flag.
inline constexpr std::int64_t branches_scratch_bytes = 128 * 256 * 4 + 8;

/// Pixels whose sums dz's kernel keeps together.
inline constexpr int dz_pixels = 64;

/// One convolution.
struct Branch {
    BranchShape shape;
    int first;     // its first channel in the concat of all branches
    void* weight;  // [O, k * k, C], channels contiguous; written as the weight's gradient by bwd_dw alone
    std::int64_t w_o, w_c, w_tap;
    Norm norm;  // [O] each
};

/// What all kernels share. `channels` is the sum of the branches' outputs.
struct Branches {
    Dtype dtype;
    bool tf32;  // float32 products in TF32; else as IEEE says
    int arch;   // compute capability times ten
    Extent map;
    int c, channels, count;
    Branch branch[MAX_BRANCHES];
};

struct DilatedBranchesFwdParams {
    Branches branches;
    const void* x;  // [N, C, H, W], channels contiguous
    std::int64_t x_n, x_h, x_w;
    const void* image_bias;  // [N, O, k * k], contiguous, beside one branch; or null
    void* y;                 // [N, sum O, H, W] ([N, O, H, W] for a sum); or null
    std::int64_t y_n, y_c, y_h, y_w;
    void* z;      // [N, H, W, sum O], what comes before the norms; or null
    float* part;  // [pixel tiles, 3, sum O], counts, means and squared deviations of z by tile; or null
    bool relu, sum;
    void* scratch;  // branches_scratch_bytes per block
    int blocks;     // at most this many: one for each multiprocessor
    // Set by the launcher.
    Extent tile;
    std::uint64_t epoch;
    Schedule schedule;
};

struct DilatedBranchesBwdDzParams {
    Branches branches;
    const void* dy;  // [N, sum O, H, W] ([N, O, H, W] for a sum)
    std::int64_t dy_n, dy_c, dy_h, dy_w;
    const void* saved;  // what came before the norms if `kept` ([N, sum O, H, W]), else the output; or null
    std::int64_t s_n, s_c, s_h, s_w;
    const float* sums;  // [2, sum O], the totals below, where the norms are the batch's own; or null
    void* dz;           // [N, H, W, sum O]; or null
    float* part;        // [tiles of dz_pixels pixels, 2, sum O], sums of g * normalised z and of g; or null
    bool relu, sum, kept;
    int first_block[MAX_BRANCHES];  // set by the launcher
};

struct DilatedBranchesSumsParams {
    const float* part;  // [tiles, length]
    float* sums;        // [length]
    int tiles, length;
};

struct DilatedBranchesBwdDimageParams {
    Dtype dtype;
    Extent map;
    BranchShape shape;
    const void* dz;  // [N, O, H, W], channels contiguous
    std::int64_t dz_n, dz_h, dz_w;
    void* dimage;  // [N, O, k * k], contiguous
};

struct DilatedBranchesBwdDxParams {
    Branches branches;
    const void* dz;  // [N, sum O, H, W], channels contiguous
    std::int64_t dz_n, dz_h, dz_w;
    void* dx;  // [N, C, H, W]
    std::int64_t dx_n, dx_c, dx_h, dx_w;
    int blocks;   // one for each multiprocessor
    Extent tile;  // set by the launcher
};

struct DilatedBranchesBwdDwParams {
    Branches branches;  // whose weights are the gradients to write
    const void* dz;     // [N, sum O, H, W], channels contiguous
    std::int64_t dz_n, dz_h, dz_w;
    const void* x;  // [N, C, H, W], channels contiguous
    std::int64_t x_n, x_h, x_w;
    float* part;  // [splits, elements of all weights] where splits > 1
    int splits;
    int blocks;  // one for each multiprocessor
    // Set by the launcher.
    int first_block[MAX_BRANCHES];
    std::int64_t first_element[MAX_BRANCHES], elements;
};

/// What a forward's launcher decides, for reports: no launch.
struct BranchesPlan {
    bool sm90;                  // the Hopper body
    Extent tile;                // pixels of a tile
    int cols;                   // its output channels
    int pair;                   // tiles whose blocks share weights
    int workers;                // shares of the steps
    std::int64_t steps, dense;  // steps multiplied, and those of all taps, each of rows x cols x depth
    int largest;                // the longest share
    int cuts;                   // units finished by more than one worker
    int depth;                  // input channels of a step
};
Status plan_dilated_branches_fwd(const DilatedBranchesFwdParams& params, BranchesPlan& plan);

/// Whether a forward runs the body for compute capability 9.0: half precision, and boxes that the copy engine takes.
bool takes_sm90_body(const DilatedBranchesFwdParams& params);
/// How many tiles of pixels a forward writes statistics for.
int branches_pixel_tiles(const Branches& branches);

Status plan_dilated_branches_fwd_sm90(const DilatedBranchesFwdParams& params, BranchesPlan& plan);

Status launch_dilated_branches_fwd(const DilatedBranchesFwdParams& params, Queue queue);
Status launch_dilated_branches_fwd_sm90(const DilatedBranchesFwdParams& params, Queue queue);
/// Whether a backward runs the bodies for compute capability 9.0: half precision, and operands that TMA loads take.
bool takes_sm90_body(const DilatedBranchesBwdDxParams& params);
bool takes_sm90_body(const DilatedBranchesBwdDwParams& params);

Status launch_dilated_branches_bwd_dx_sm90(const DilatedBranchesBwdDxParams& params, Queue queue);
/// Leaves the splits to be added where there are several.
Status launch_dilated_branches_bwd_dw_sm90(const DilatedBranchesBwdDwParams& params, Queue queue);
Status launch_dilated_branches_bwd_dz(const DilatedBranchesBwdDzParams& params, Queue queue);
Status launch_dilated_branches_bwd_sums(const DilatedBranchesSumsParams& params, Queue queue);
Status launch_dilated_branches_bwd_dimage(const DilatedBranchesBwdDimageParams& params, Queue queue);
Status launch_dilated_branches_bwd_dx(const DilatedBranchesBwdDxParams& params, Queue queue);
/// Also adds the splits, in a second launch, where there are several.
Status launch_dilated_branches_bwd_dw(const DilatedBranchesBwdDwParams& params, Queue queue);

}  // namespace pk
