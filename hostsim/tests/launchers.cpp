// What no op's result shows: the products that dilated_branches leaves out, and what launchers refuse.
#include "channel_gate/channel_gate.h"
#include "common/ptx/site.cuh"
#include "dilated_branches/dilated_branches.h"
#include "hostsim/tests/check.h"
#include "max_pool_pyramid/max_pool_pyramid.h"
#include "pyramid_conv/pyramid_conv.h"
#include "pyramid_pool/pyramid_pool.h"
#include "pyramid_project/pyramid_project.h"
#include "separable_pyramid/separable_pyramid.h"
#include "upsample_cross_entropy/upsample_cross_entropy.h"
#include "upsample_merge/upsample_merge.h"

using namespace pk;
using test::Buffer;

namespace {

/// Exactly the planned steps are multiplied and copied: a tap multiplied in vain changes no result.
void check_steps(int arch) {
    constexpr int n = 2, h = 9, w = 20, c = 136, o = 40, rate = 15, blocks = 6;
    Buffer<half> x(n * h * w * c), weight(o * 9 * c), y(n * h * w * o);
    Buffer<char> scratch(branches_scratch_bytes * blocks);
    DilatedBranchesFwdParams p{};
    p.branches = {Dtype::f16, false, arch, {n, h, w}, c, o, 1, {{{o, 3, rate}, 0, weight.data(), 9 * c, 1, c, {}}}};
    p.x = x.data(), p.x_n = h * w * c, p.x_h = w * c, p.x_w = c;
    p.y = y.data(), p.y_n = h * w * o, p.y_c = 1, p.y_h = w * o, p.y_w = o;
    p.scratch = scratch.data(), p.blocks = blocks;
    BranchesPlan plan{};
    CHECK_OK(plan_dilated_branches_fwd(p, plan));
    CHECK(plan.sm90 == (arch == 90) && plan.steps < plan.dense, plan.steps, " steps of ", plan.dense);
    hostsim::counts = {};
    CHECK_OK(launch_dilated_branches_fwd(p, {}));
    const auto& [mma, wgmma, loads] = hostsim::counts;
    CHECK(mma == (plan.sm90 ? 0 : plan.steps * 8 * 32 * (64 / 16) * (32 / 8) * 4), mma, " for ", plan.steps, " steps");
    CHECK(wgmma == (plan.sm90 ? plan.steps * 2 * 128 * 4 : 0), wgmma, " for ", plan.steps, " steps");
    CHECK(loads == (plan.sm90 ? plan.steps * 2 : 0), loads, " for ", plan.steps, " steps");
}

/// One launch of pyramid_pool or two is decided by sizes and multiprocessors alone.
void check_parts() {
    const auto parts = [](int64_t n, int64_t c, int64_t size, bool inner, int bins, int processors) {
        PyramidPoolFwdParams p{};
        p.n = n, p.c = c, p.h = p.w = size;
        p.sc = inner ? 1 : size * size, p.sw = inner ? c : 1;
        p.pyramid = {1, {{bins, bins}}, Windows::adaptive, false};
        p.processors = processors;
        int64_t found = -1;
        CHECK_OK(pyramid_pool_parts(p, found));
        return found;
    };
    for (bool inner : {false, true}) {
        CHECK(parts(8, 2048, 60, inner, 6, 132) == 0, "enough blocks");
        CHECK(parts(1, 4, 8, inner, 6, 132) == 0, "too little work for a second launch");
        CHECK(parts(1, 4, 512, inner, 6, 132) > 0, "four blocks would read it all");
        CHECK(parts(8, 2048, 200, inner, 64, 132) >= int64_t{8} * 2048 * 64 * 64, "too many rectangles");
    }
    CHECK(parts(1, 512, 128, true, 1, 8) == 0 && parts(1, 512, 128, true, 1, 9) > 0, "eight slabs");
}

void check_refused(const Status& status, const char* words) {
    CHECK(status.error.find(words) != std::string::npos, words, ": ", status.error);
}

void check_gate() {
    ChannelGateFwdParams p{};
    p.problem.n = p.problem.h = p.problem.w = p.problem.parts = 1, p.problem.c = 2, p.problem.k = 3;
    check_refused(launch_channel_gate_fwd(p, {}), "without a second weight k must be c, got 3 and 2");
    p.problem.c = p.problem.k = 5000;
    check_refused(launch_channel_gate_fwd(p, {}), "at most 8192 channels and hidden values together");
}

void check_pools() {
    const auto launched = [](int levels, int first, int second, bool cascade) {
        MaxPoolPyramidFwdParams p{};
        p.problem.n = p.problem.c = 1, p.problem.h = p.problem.w = 4, p.problem.processors = 4;
        p.problem.pools = {levels, {first, second}, cascade, false};
        return launch_max_pool_pyramid_fwd(p, {});
    };
    check_refused(launched(0, 0, 0, false), "1 to 8");
    for (const auto& [first, second] : {std::pair{5, 3}, {3, 4}, {3, 17}})
        check_refused(launched(2, first, second, false), "pools must be odd");
    check_refused(launched(2, 15, 15, true), "a cascade reaches at most 12");
}

void check_levels() {
    PyramidProjectFwdParams project{};
    project.pyramid.n = project.pyramid.c = project.pyramid.full = 1;
    SeparablePyramidDepthwiseParams separable{};
    separable.pyramid.n = separable.pyramid.c = 1;
    for (int levels : {0, 9, 1}) {
        project.pyramid.levels = separable.pyramid.levels = levels;
        const char* words = levels == 1 ? "level 0 has " : "levels must be 1 to 8, got ";
        check_refused(launch_pyramid_project_fwd(project, {}), words);
        check_refused(launch_separable_pyramid_depthwise(separable, {}), words);
    }
    separable.pyramid.level[0].rows = separable.pyramid.level[0].cols = 2;
    check_refused(launch_separable_pyramid_depthwise(separable, {}), "the grids have 4 cells, not 0");
}

void check_resampled() {
    PyramidConvMergeParams conv{};
    conv.problem = {Dtype::f32, 1, 1, 2, 2, false, Resample::nearest, 5, 0, {}};
    check_refused(launch_pyramid_conv_merge(conv, {}), "must be one of the compiled values, got 5");
    conv.problem.k = 3, conv.problem.how = Resample::taken;
    check_refused(launch_pyramid_conv_merge(conv, {}), "levels must be resized by");
    UpsampleMergeFwdParams merge{};
    merge.problem = {Dtype::f32, 1, 1, 2, 2, false, Resample::taken, false, 0, {}};
    check_refused(launch_upsample_merge_fwd(merge, {}), "maps must be resized by");
    merge.problem.how = Resample::nearest, merge.problem.count = 1, merge.problem.maps[0] = {nullptr, 1, 2, 2, 1, {}};
    check_refused(launch_upsample_merge_fwd(merge, {}), "map 0 of 1");
}

void check_labels() {
    float logits[2 * 4] = {}, y[4], lse[4];
    uint8_t target[4] = {0, 1, 2, 0};
    UpsampleCrossEntropyFwdParams p{
        {{Dtype::f32, logits, 1, 2, 2, 2, {8, 4, 2, 1}, 2, 2, false}, target, LabelType::u8, 255, nullptr, 0},
        y,
        lse,
        nullptr};
    check_refused(launch_upsample_cross_entropy_fwd(p, {}), "upsample_cross_entropy: every label");
    p.problem.smoothing = 1.5;
    check_refused(launch_upsample_cross_entropy_fwd(p, {}), "smoothing must be 0 to 1, got 1.5");
    p.problem.type = static_cast<LabelType>(4);
    check_refused(launch_upsample_cross_entropy_fwd(p, {}), "the label type must be 0 to 3, got 4");
}

}  // namespace

int main() {
    for (const int arch : {80, 90}) check_steps(arch);
    check_parts();
    check_gate();
    check_pools();
    check_levels();
    check_resampled();
    check_labels();
    return test::finish();
}
