// Gradient of the logits: every block owns a strip of one source row in a few classes and gathers from the output rows
// that read it. A thread owns one output column: it blends the three source rows around its own once, and for every
// output row computes the probabilities again and adds up what they bring the source row. Columns are added at the end,
// so that an output pixel is computed twice in all, once per source row. No atomics, one write each, a fixed order.
//
// grid:   x images x source rows x strips x blocks of classes, those of one strip side by side
// block:  a thread per output column that the strip reaches; more columns than threads are taken in turns
// shared: a sum per thread and class; the strip's own sums
#pragma once

#include "upsample_cross_entropy/pixel.cuh"

namespace pk::upsample_cross_entropy {

/// Source columns of a strip at most.
inline constexpr int strip_columns = 64;

template <class T>
struct Gradient {
    Loss<Acc<T>> loss;
    const Acc<T>* dy;      // (n, rows, cols), or () where factor is given
    const Acc<T>* factor;  // (1,) or null
    const Acc<T>* lse;     // (n, rows, cols)
    T* dlogits;            // (n, c, h, w)
    int64_t strides[4];
    int strip;  // source columns of a block
};

/// The first of a block's source columns and classes, its source row and image.
struct Strip {
    int n, i, j, first;
};
template <class T>
__device__ __forceinline__ Strip strip_of(const Gradient<T>& p) {
    const Upsampled& m = p.loss.logits;
    const int chunks = ceil_div(m.c, classes_at_once), strips = ceil_div(m.x.size, p.strip);
    int u = blockIdx.x;
    const int chunk = u % chunks;
    u /= chunks;
    return {u / (strips * m.y.size), u / strips % m.y.size, u % strips * p.strip, chunk * classes_at_once};
}

/// acc[k] += what the gradient of class `first` + k at output pixel `i`, whose logits are v, brings a source of
/// `share`.
template <class T, int K>
__device__ __forceinline__ void add_pixel(const Gradient<T>& p, long long i, int first, const Acc<T> (&v)[K],
                                          Acc<T> share, Acc<T> whole, Acc<T> (&acc)[K]) {
    using A = Acc<T>;
    const Pixel<A> pixel = pixel_at(p.loss, i);
    const A incoming = p.factor != nullptr ? *p.dy * *p.factor : p.dy[i];
    const A scale = pixel.live ? share * incoming : A(0);
    const A hit = p.loss.hit * pixel.share * scale, smooth = p.loss.smooth * scale;
    // Without smoothing there is no such term: zero times an infinite gradient is NaN.
    const A total = p.loss.smooth > A(0) ? hit + smooth * whole : hit, lse = p.lse[i];
#pragma unroll
    for (int k = 0; k < K; ++k) acc[k] += total * exponential(v[k] - lse);
    if (const int64_t own = pixel.label - first; 0 <= own && own < K) {
#pragma unroll
        for (int k = 0; k < K; ++k) acc[k] -= k == static_cast<int>(own) ? hit : A(0);
    }
    if (p.loss.smooth > A(0)) {
#pragma unroll
        for (int k = 0; k < K; ++k)
            if (first + k < p.loss.logits.c)
                acc[k] -= smooth * (p.loss.weight != nullptr ? p.loss.weight[first + k] : A(1));
    }
}

/// acc[k] = what output column x brings source row `at.i`, from all rows that read it.
template <class T, int K>
__device__ __forceinline__ void add_rows(const Gradient<T>& p, const Strip& at, int x, Acc<T> whole, Acc<T> (&acc)[K]) {
    using A = Acc<T>;
    const Upsampled& m = p.loss.logits;
    const T* g_first = static_cast<const T*>(m.data) + at.n * m.strides[0] + at.first * m.strides[1];
    const Taps<A> right = m.x.source<A>(x);
    A rows[3][K];  // above, own, below
#pragma unroll
    for (int r = 0; r < 3; ++r) {
        const int i = smaller(larger(at.i + r - 1, 0), m.y.size - 1);
        blend_columns(m, g_first + i * m.strides[2], right, m.c - at.first, rows[r]);
    }
    const Span span = m.y.reached<A>(at.i);
    for (int y = span.first; y <= span.last; ++y) {
        const Taps<A> down = m.y.source<A>(y);
        A v[K];
        if (down.low == down.high) {
            blend_rows(m, rows[1], rows[1], down.above, v);
        } else if (down.low == at.i) {
            blend_rows(m, rows[1], rows[2], down.above, v);
        } else {
            blend_rows(m, rows[0], rows[1], down.above, v);
        }
        const long long i = (static_cast<long long>(at.n) * m.y.full + y) * m.x.full + x;
        add_pixel<T>(p, i, at.first, v, m.y.weight<A>(y, at.i), whole, acc);
    }
}

template <class T>
__global__ void __launch_bounds__(column_threads, sizeof(T) == 8 ? 2 : 4)
    upsample_cross_entropy_bwd_dlogits_kernel(const __grid_constant__ Gradient<T> p) {
    using A = Acc<T>;
    constexpr int K = classes_at_once;
    __shared__ A s_columns[K][column_threads + 1], s_sums[strip_columns * K];
    const Upsampled& m = p.loss.logits;
    const Strip at = strip_of(p);
    const int t = threadIdx.x, columns = smaller(p.strip, m.x.size - at.j), classes = smaller(K, m.c - at.first);
    const A all = p.loss.smooth > A(0) ? whole(p.loss) : A(0);
    const int last = m.x.support(at.j + columns - 1).last;
    for (int o = t; o < columns * K; o += column_threads) s_sums[o] = 0;
    for (int start = m.x.support(at.j).first; start <= last; start += column_threads) {
        A acc[K] = {};
        if (start + t <= last) add_rows<T>(p, at, start + t, all, acc);
#pragma unroll
        for (int k = 0; k < K; ++k) s_columns[k][t] = acc[k];
        __syncthreads();
        for (int o = t; o < columns * K; o += column_threads) {
            const int j = at.j + o / K;
            const Span span = m.x.reached<A>(j);
            const int to = smaller(span.last, start + column_threads - 1);
            for (int x = larger(span.first, start); x <= to; ++x)
                s_sums[o] += m.x.weight<A>(x, j) * s_columns[o % K][x - start];
        }
        __syncthreads();
    }
    T* g_row = p.dlogits + at.n * p.strides[0] + at.i * p.strides[2];
    for (int o = t; o < columns * K; o += column_threads)  // written by the thread that added it up
        if (o % K < classes)
            g_row[(at.first + o % K) * p.strides[1] + (at.j + o / K) * p.strides[3]] = narrow<T>(s_sums[o]);
}

}  // namespace pk::upsample_cross_entropy
