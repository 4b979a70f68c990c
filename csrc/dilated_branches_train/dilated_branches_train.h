// dilated_branches_train: what stands around the convolutions where the norms take the batch's own statistics.
#pragma once

#include "dilated_branches/dilated_branches.h"

namespace pk {

struct DilatedBranchesStatsParams {
    const float* part;  // [tiles, 3, channels]: counts, means and squared deviations
    float* mean;        // [channels]
    float* var;         // [channels], biased
    int tiles, channels;
};

struct DilatedBranchesNormaliseParams {
    Branches branches;  // whose norms hold the batch's mean and variance
    const void* z;      // [N, H, W, sum O]
    void* y;            // [N, sum O, H, W]
    std::int64_t y_n, y_c, y_h, y_w;
    bool relu;
    int first_block[MAX_BRANCHES];  // set by the launcher
};

Status launch_dilated_branches_train_stats(const DilatedBranchesStatsParams& params, Dtype dtype, Queue queue);
Status launch_dilated_branches_train_normalise(const DilatedBranchesNormaliseParams& params, Queue queue);

}  // namespace pk
