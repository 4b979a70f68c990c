// Block barriers and warp shuffles: a thread waits, as a fiber, until every thread named has arrived.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <source_location>

namespace hostsim {

using Site = std::source_location;

enum class Shuffle : int { index, exclusive_or };

/// Wait for all `threads` of barrier `id`; 0 threads: the whole block. No kernel asks for the predicates.
void barrier(const char* what, int id, int threads, bool predicate, Site site);
void barrier_arrive(int id, int threads, Site site);
void warp_barrier(unsigned mask, Site site);
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int lane, int width, Site site);

template <class T>
T shuffle(Shuffle kind, unsigned mask, T value, int lane, int width, Site site) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = shuffle(kind, mask, bits, lane, width, site);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace hostsim

#define HOSTSIM_HERE hostsim::Site site = hostsim::Site::current()

inline void __syncthreads(HOSTSIM_HERE) { hostsim::barrier("__syncthreads", 0, 0, false, site); }
inline void __syncwarp(unsigned mask = ~0u, HOSTSIM_HERE) { hostsim::warp_barrier(mask, site); }

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, HOSTSIM_HERE) {
    return hostsim::shuffle(hostsim::Shuffle::index, mask, value, lane, width, site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, HOSTSIM_HERE) {
    return hostsim::shuffle(hostsim::Shuffle::exclusive_or, mask, value, lanes, width, site);
}
