// Forward: sums per channel, all gates, then one pass that writes. A gate hangs on its whole image, so what writes
// waits for what sums. The products have a launch of their own: done again in every block that writes, they would read
// both weights hundreds of times.
#pragma once

#include "channel_gate/products.cuh"
#include "channel_gate/strip.cuh"
#include "common/block_sum.cuh"

namespace pk::channel_gate {

// part[n, part, c] = a channel's sum of x over one share of the pixels, or of x dy.
// Owns: NCHW a warp a share of a plane; channels_last a block a share of the pixels of `width` vectors of channels.
// Grid: x shares of all planes, eight to a block, or of all images; y slices of the channels, in channels_last.
// Shared bytes: channels_last 256 vectors of accumulators. Bound: reading x, and dy, once.
template <class T, bool ChannelsLast>
__global__ void __launch_bounds__(strip_threads, 2)
    channel_gate_sums_kernel(const __grid_constant__ Shares m, const __grid_constant__ View x,
                             const __grid_constant__ View dy, Acc<T>* g_part) {
    constexpr int V = vec_size<T>, K = vectors_deep;
    const Strip s = strip_of<T, ChannelsLast>(m);
    Acc<T> acc[V] = {};
    for (int p = s.first; p < s.last; p += K * s.step) {
        Vec<T> r_x[K], r_dy[K];
        load_strip<ChannelsLast>(x, s, m, p, r_x);
        if (dy.at) load_strip<ChannelsLast>(dy, s, m, p, r_dy);
#pragma unroll
        for (int k = 0; k < K; ++k) {
            if (p + k * s.step >= s.last) break;
#pragma unroll
            for (int v = 0; v < V; ++v) acc[v] += dy.at ? widen(r_x[k][v]) * widen(r_dy[k][v]) : widen(r_x[k][v]);
        }
    }
    Acc<T>* g_own = g_part + (static_cast<long long>(s.n) * m.parts + s.part) * m.c + s.c;
    if constexpr (ChannelsLast) {
        __shared__ Acc<T> s_part[V * strip_threads];
        sum_strided(acc, s_part, m.width);
#pragma unroll
        for (int v = 0; v < V; ++v)
            if (static_cast<int>(threadIdx.x) < m.width && v < s.channels) g_own[v] = acc[v];
    } else {
        Sum<Acc<T>> sum;
#pragma unroll
        for (int v = 0; v < V; ++v) sum.take(acc[v], v);
        join_lanes(sum, 1, 32);
        if (threadIdx.x % 32 == 0 && s.channels > 0) *g_own = sum.value;
    }
}

template <class A>
struct ForwardProducts {
    Layers layers;
    const A* part;            // (n, parts, c)
    A *mean, *hidden, *gate;  // (n, c), (n, k), (n, c)
};

// Means, hidden values and gates of one image.
// Owns: a block 32 gates of one image; between two convolutions it makes all hidden values itself, a warp per row.
// Grid: x images x slices of 32 channels; more than three CTAs an SM leave too few registers. Shared: (c + k)
// accumulators, and four a thread. Bound: reading weight1, and 32 rows of weight2.
template <class T>
__global__ void __launch_bounds__(product_threads, 2)
    channel_gate_fwd_gate_kernel(const __grid_constant__ ForwardProducts<Acc<T>> p) {
    using A = Acc<T>;
    const Layers& l = p.layers;
    A *s_mean = shared_memory<A>(), *s_hidden = s_mean + l.c;
    const int slices = ceil_div(l.c, owned), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const long long n = blockIdx.x / slices;
    const int first = blockIdx.x % slices * owned, last = smaller(first + owned, l.c);
    const bool leads = first == 0, two = l.weight2.at != nullptr;
    sum_parts(p.part + n * l.parts * l.c, l, s_mean);
    __syncthreads();
    for (int i = threadIdx.x; i < l.c; i += product_threads) {
        s_mean[i] = div_rn(s_mean[i], static_cast<A>(l.pixels));
        if (leads) p.mean[n * l.c + i] = s_mean[i];
    }
    __syncthreads();
    const int rows = two ? l.k : last;
    for (int j = (two ? 0 : first) + warp; j < rows; j += rows_deep * product_warps) {
        A z = row_products<T>(l.weight1, j, rows, s_mean, l.c);
        const int own = j + lane * product_warps;
        if (lane >= rows_deep || own >= rows) continue;
        z += vector_or<T>(l.bias1, own, 0);
        if (leads || !two) p.hidden[n * l.k + own] = z;
        const A value = hidden_value<T>(l, own, z);
        if (two) {
            s_hidden[own] = value;
        } else {
            p.gate[n * l.c + own] = gate_value(l, value);
        }
    }
    if (!two) return;
    __syncthreads();
    for (int o = first + warp; o < last; o += rows_deep * product_warps) {
        const A z = row_products<T>(l.weight2, o, last, s_hidden, l.k);
        const int own = o + lane * product_warps;
        if (lane < rows_deep && own < last) p.gate[n * l.c + own] = gate_value(l, z + vector_or<T>(l.bias2, own, 0));
    }
}

// y = x gate (+ x). Owns and grid: as the sums. Shared: none. Bound: reading x and writing y.
template <class T, bool ChannelsLast>
__global__ void __launch_bounds__(strip_threads)
    channel_gate_fwd_kernel(const __grid_constant__ Shares m, const __grid_constant__ View x, const Acc<T>* g_gate,
                            const __grid_constant__ View y, bool residual) {
    constexpr int V = vec_size<T>, K = vectors_deep;
    const Strip s = strip_of<T, ChannelsLast>(m);
    if (s.channels <= 0) return;
    Acc<T> gate[V];
    load_channels<ChannelsLast>(g_gate, s, m, gate);
    for (int p = s.first; p < s.last; p += K * s.step) {
        Vec<T> r_x[K];
        load_strip<ChannelsLast>(x, s, m, p, r_x);
        Acc<T> r_y[K][V];
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
            for (int v = 0; v < V; ++v) r_y[k][v] = weighed(widen(r_x[k][v]), gate[v], residual);
        store_strip<ChannelsLast, T>(y, s, m, p, r_y);
    }
}

}  // namespace pk::channel_gate
