// Launcher of upsample_argmax.
#include "common/launch.cuh"
#include "upsample_argmax/upsample_argmax.h"
#include "upsample_argmax/upsample_argmax_fwd.cuh"

namespace pk {

Status launch_upsample_argmax_fwd(const UpsampleArgmaxParams& params, Queue queue) {
    PK_CHECK(is_label_type(params.type), "the label type must be 0 to 3, got ", static_cast<int>(params.type));
    return visit_dtype(params.logits.dtype, [&]<class T>(Type<T>) {
        Upsampled m;
        PK_TRY(upsampled_of(params.logits, sizeof(T), m));
        unsigned blocks = 0;
        PK_TRY(column_blocks<T>(m, blocks));
        return launch("upsample_argmax_fwd_kernel", params.logits.dtype, upsample_argmax::upsample_argmax_fwd_kernel<T>,
                      Shape{dim3(blocks), dim3(column_threads)}, queue, m, params.labels, params.type);
    });
}

}  // namespace pk
