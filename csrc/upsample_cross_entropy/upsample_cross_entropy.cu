// Launchers of upsample_cross_entropy: checks and grids.
#include <algorithm>

#include "common/launch.cuh"
#include "upsample_cross_entropy/upsample_cross_entropy.h"
#include "upsample_cross_entropy/upsample_cross_entropy_bwd.cuh"
#include "upsample_cross_entropy/upsample_cross_entropy_fwd.cuh"

namespace pk {

namespace {

using namespace upsample_cross_entropy;

template <class T>
Status loss_of(const UpsampleCrossEntropyProblem& p, Loss<Acc<T>>& loss) {
    using A = Acc<T>;
    PK_CHECK(is_label_type(p.type), "the label type must be 0 to 3, got ", static_cast<int>(p.type));
    PK_CHECK(0 <= p.smoothing && p.smoothing <= 1, "smoothing must be 0 to 1, got ", p.smoothing);
    PK_TRY(upsampled_of(p.logits, sizeof(T), loss.logits));
    loss.target = p.target, loss.type = p.type, loss.ignore = p.ignore;
    loss.weight = static_cast<const A*>(p.weight);
    loss.hit = static_cast<A>(1 - p.smoothing), loss.smooth = static_cast<A>(p.smoothing / p.logits.c);
    return {};
}

/// Source columns of a strip: those whose outputs, about (columns + 1) full / size + 4, are a thread each.
int strip_of(const ResizedAxis& x) {
    const long long columns = static_cast<long long>(column_threads - 4) * x.size / x.full - 1;
    return static_cast<int>(std::clamp<long long>(columns, 1, std::min(strip_columns, x.size)));
}

}  // namespace

int upsample_cross_entropy_parts(const UpsampledProblem& logits) {
    unsigned blocks = 0;
    const Status status = visit_dtype(logits.dtype, [&]<class T>(Type<T>) {
        Upsampled m;
        PK_TRY(upsampled_of(logits, sizeof(T), m));
        return column_blocks<T>(m, blocks);
    });
    return status.ok() ? static_cast<int>(blocks) : -1;
}

Status launch_upsample_cross_entropy_fwd(const UpsampleCrossEntropyFwdParams& params, Queue queue) {
    const Dtype dtype = params.problem.logits.dtype;
    return visit_dtype(dtype, [&]<class T>(Type<T>) {
        using A = Acc<T>;
        Loss<A> loss;
        PK_TRY(loss_of<T>(params.problem, loss));
        unsigned blocks = 0;
        PK_TRY(column_blocks<T>(loss.logits, blocks));
        return launch("upsample_cross_entropy_fwd_kernel", dtype, upsample_cross_entropy_fwd_kernel<T>,
                      Shape{dim3(blocks), dim3(column_threads)}, queue, loss, static_cast<A*>(params.y),
                      static_cast<A*>(params.lse), static_cast<A*>(params.part));
    });
}

Status launch_upsample_cross_entropy_sums(const UpsampleCrossEntropySumsParams& params, Queue queue) {
    PK_CHECK(params.parts >= 0, "parts must not be negative, got ", params.parts);
    return visit_dtype(params.dtype, [&]<class T>(Type<T>) {
        using A = Acc<T>;
        return launch("upsample_cross_entropy_sums_kernel", params.dtype, upsample_cross_entropy_sums_kernel<A>,
                      Shape{dim3(1), dim3(sums_threads)}, queue, static_cast<const A*>(params.part),
                      static_cast<A*>(params.y), static_cast<A*>(params.factor), params.parts, params.mean);
    });
}

Status launch_upsample_cross_entropy_bwd_dlogits(const UpsampleCrossEntropyBwdParams& params, Queue queue) {
    const Dtype dtype = params.problem.logits.dtype;
    return visit_dtype(dtype, [&]<class T>(Type<T>) {
        using A = Acc<T>;
        Gradient<T> g{{},
                      static_cast<const A*>(params.dy),
                      static_cast<const A*>(params.factor),
                      static_cast<const A*>(params.lse),
                      static_cast<T*>(params.dlogits),
                      {},
                      0};
        PK_TRY(loss_of<T>(params.problem, g.loss));
        const Upsampled& m = g.loss.logits;
        std::copy_n(params.strides, 4, g.strides);
        g.strip = strip_of(m.x);
        const long long blocks =
            static_cast<long long>(m.n) * m.y.size * ceil_div(m.x.size, g.strip) * ceil_div(m.c, classes_at_once);
        PK_CHECK(blocks < (1LL << 31), "the gradient is too large for one launch");
        return launch("upsample_cross_entropy_bwd_dlogits_kernel", dtype, upsample_cross_entropy_bwd_dlogits_kernel<T>,
                      Shape{dim3(blocks), dim3(column_threads)}, queue, g);
    });
}

}  // namespace pk
