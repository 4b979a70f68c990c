// Backward: sums of x dy per channel (channel_gate_sums_kernel), the small gradients behind them, dx in one pass, and
// the layers' gradients from what the small products saved.
#pragma once

#include "channel_gate/products.cuh"
#include "channel_gate/strip.cuh"

namespace pk::channel_gate {

template <class A>
struct BackwardProducts {
    Layers layers;
    const A* part;            // (n, parts, c)
    const A *hidden, *gate;   // (n, k), (n, c)
    A *dz, *dhidden, *dmean;  // (n, c), (n, k), (n, c)
};

// Of one image: dz of the sigmoid's input, dhidden of the first affine's result, and what each pixel gains by its mean.
// Owns: a block 32 channels of one image; between two convolutions it makes all hidden gradients itself, 32 at a time.
// Grid: x images x slices of 32 channels. Shared: (c + k + 256) accumulators. Bound: reading weight2, and 32 columns of
// weight1.
template <class T>
__global__ void __launch_bounds__(product_threads)
    channel_gate_bwd_gate_kernel(const __grid_constant__ BackwardProducts<Acc<T>> p) {
    using A = Acc<T>;
    const Layers& l = p.layers;
    A *s_part = shared_memory<A>(), *s_dz = s_part + product_threads, *s_d = s_dz + l.c;
    const int slices = ceil_div(l.c, owned), t = threadIdx.x;
    const long long n = blockIdx.x / slices;
    const int first = blockIdx.x % slices * owned;
    const bool leads = first == 0;
    sum_parts(p.part + n * l.parts * l.c, l, s_dz);
    __syncthreads();
    for (int i = t; i < l.c; i += product_threads) {
        s_dz[i] = gate_gradient(l, p.gate[n * l.c + i], s_dz[i]);
        if (leads) p.dz[n * l.c + i] = s_dz[i];
    }
    __syncthreads();
    if (l.weight2.at) {
        const T* g_w = static_cast<const T*>(l.weight2.at);
        for (int j = 0; j < l.k; j += 32) {
            const A d = column_product(g_w + j * l.weight2.columns, l.weight2.rows, l.weight2.columns, l.k - j, s_dz,
                                       l.c, s_part);
            if (t < 32 && j + t < l.k) s_d[j + t] = d;
        }
        __syncthreads();
    } else {
        s_d = s_dz;
    }
    for (int j = t; j < l.k; j += product_threads) {
        const A d = hidden_gradient<T>(l, j, p.hidden[n * l.k + j], s_d[j]);
        if (leads) p.dhidden[n * l.k + j] = d;
        s_d[j] = d * gain<T>(l.norm1, j);
    }
    __syncthreads();
    const T* g_w = static_cast<const T*>(l.weight1.at) + first * l.weight1.columns;
    const A dmean = column_product(g_w, l.weight1.rows, l.weight1.columns, l.c - first, s_d, l.k, s_part);
    if (t < 32 && first + t < l.c) p.dmean[n * l.c + first + t] = div_rn(dmean, static_cast<A>(l.pixels));
}

// dx = dy gate (+ dy) + dmean. Owns and grid: as the sums. Shared: none. Bound: reading dy and writing dx.
template <class T, bool ChannelsLast>
__global__ void __launch_bounds__(strip_threads)
    channel_gate_bwd_dx_kernel(const __grid_constant__ Shares m, const __grid_constant__ View dy, const Acc<T>* g_gate,
                               const Acc<T>* g_dmean, const __grid_constant__ View dx, bool residual) {
    constexpr int V = vec_size<T>, K = vectors_deep;
    const Strip s = strip_of<T, ChannelsLast>(m);
    if (s.channels <= 0) return;
    Acc<T> gate[V], mean[V];
    load_channels<ChannelsLast>(g_gate, s, m, gate);
    load_channels<ChannelsLast>(g_dmean, s, m, mean);
    for (int p = s.first; p < s.last; p += K * s.step) {
        Vec<T> r_dy[K];
        load_strip<ChannelsLast>(dy, s, m, p, r_dy);
        Acc<T> r_dx[K][V];
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
            for (int v = 0; v < V; ++v) r_dx[k][v] = weighed(widen(r_dy[k][v]), gate[v], residual) + mean[v];
        store_strip<ChannelsLast, T>(dx, s, m, p, r_dx);
    }
}

template <class A>
struct LayerGradients {
    Layers layers;
    int images;
    const A *mean, *hidden, *dz, *dhidden;  // (n, c), (n, k), (n, c), (n, k)
    ChannelGateWeight dweight1, dweight2;
    A* dvectors;  // dbias1, dgain1, dshift1 (k,) each, and dbias2 (c,) with a second weight
};

/// Element `i` of the vectors' gradients: of the first layer's three at once, or of bias2.
template <class T>
__device__ __forceinline__ void vector_gradient(const LayerGradients<Acc<T>>& p, int i) {
    using A = Acc<T>;
    const Layers& l = p.layers;
    const int o = i - l.k;
    const A mean = o < 0 ? vector_or<T>(l.norm1.mean, i, 0) : 0, inverse = o < 0 ? inverse_deviation<T>(l.norm1, i) : 1;
    A shift = 0, scale = 0;
    for (long long n = 0; n < p.images; ++n) {
        const A d = o < 0 ? p.dhidden[n * l.k + i] : p.dz[n * l.c + o];
        shift += d;
        if (o < 0) scale += d * ((p.hidden[n * l.k + i] - mean) * inverse);
    }
    if (o >= 0) {
        p.dvectors[3 * l.k + o] = shift;
    } else {
        p.dvectors[i] = shift * vector_or<T>(l.norm1.gain, i, 1) * inverse;
        p.dvectors[l.k + i] = scale;
        p.dvectors[2 * l.k + i] = shift;
    }
}

// Gradients of the weights and of the vectors beside them, images in order.
// Owns: a thread one element of dweight1, then of dweight2, then of the vectors.
// Grid: x 256 elements each; more than three CTAs an SM leave too few registers. Shared: none.
// Bound: writing gradients of the weights' size.
template <class T>
__global__ void __launch_bounds__(product_threads, 3)
    channel_gate_bwd_dweights_kernel(const __grid_constant__ LayerGradients<Acc<T>> p) {
    using A = Acc<T>;
    const Layers& l = p.layers;
    const bool two = l.weight2.at != nullptr;
    const long long size = static_cast<long long>(l.k) * l.c;
    long long e = static_cast<long long>(blockIdx.x) * product_threads + threadIdx.x;
    A sum = 0;
    if (e < size) {
        const int j = static_cast<int>(e / l.c), i = static_cast<int>(e % l.c);
        const A factor = gain<T>(l.norm1, j);
        for (long long n = 0; n < p.images; ++n) sum += p.dhidden[n * l.k + j] * factor * p.mean[n * l.c + i];
        static_cast<T*>(p.dweight1.at)[j * p.dweight1.rows + i * p.dweight1.columns] = narrow<T>(sum);
        return;
    }
    e -= size;
    if (two && e < size) {
        const int o = static_cast<int>(e / l.k), j = static_cast<int>(e % l.k);
        for (long long n = 0; n < p.images; ++n)
            sum += p.dz[n * l.c + o] * hidden_value<T>(l, j, p.hidden[n * l.k + j]);
        static_cast<T*>(p.dweight2.at)[o * p.dweight2.rows + j * p.dweight2.columns] = narrow<T>(sum);
        return;
    }
    if (two) e -= size;
    if (e < l.k + (two ? l.c : 0)) vector_gradient<T>(p, static_cast<int>(e));
}

}  // namespace pk::channel_gate
