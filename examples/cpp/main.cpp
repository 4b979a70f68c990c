// Averages a map over a pyramid of 1x1 and 2x2 bins on the GPU, without Python or PyTorch.
#include <cuda_runtime.h>

#include <cstdio>

#include "pyramid_pool/pyramid_pool.h"

int main() {
    constexpr int c = 2, h = 4, w = 6, cells = 1 + 4;
    float *x = nullptr, *y = nullptr;  // [1, c, h, w] and [1, c, cells]
    cudaMallocManaged(&x, sizeof(float) * c * h * w);
    if (cudaMallocManaged(&y, sizeof(float) * c * cells) != cudaSuccess) return std::puts("no usable GPU"), 1;
    for (int i = 0; i < c * h * w; ++i) x[i] = static_cast<float>(i);
    pk::PyramidPoolFwdParams p{};
    p.x = x, p.n = 1, p.c = c, p.h = h, p.w = w, p.sn = c * h * w, p.sc = h * w, p.sh = w, p.sw = 1;
    p.y = y, p.yn = c * cells, p.yc = cells, p.ys = 1;
    p.pyramid = {2, {{1, 1}, {2, 2}}, pk::Windows::adaptive, false};
    p.dtype = pk::Dtype::f32, p.processors = 1;
    const pk::Status status = pk::launch_pyramid_pool_fwd(p, {});
    cudaDeviceSynchronize();
    if (!status.ok()) return std::puts(status.error.c_str()), 1;
    for (int i = 0; i < c * cells; ++i) std::printf("%g%c", y[i], i % cells == cells - 1 ? '\n' : ' ');
}
