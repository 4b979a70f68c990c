// Block barriers, warp shuffles and votes: a thread waits, as a fiber, until every thread named has arrived.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <source_location>

namespace hostsim {

using Site = std::source_location;

enum class Shuffle : int { index, up, down, exclusive_or };
enum class Vote : int { ballot, any, all };

/// Wait for all `threads` of barrier `id`; 0 threads: the whole block. Returns how many gave a true predicate.
int barrier(const char* what, int id, int threads, bool predicate, Site site);
void barrier_arrive(int id, int threads, Site site);
void warp_barrier(unsigned mask, Site site);
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int lane, int width, Site site);
unsigned vote(Vote kind, unsigned mask, bool predicate, Site site);

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
inline int __syncthreads_count(int predicate, HOSTSIM_HERE) {
    return hostsim::barrier("__syncthreads_count", 0, 0, predicate != 0, site);
}
inline int __syncthreads_or(int predicate, HOSTSIM_HERE) {
    return hostsim::barrier("__syncthreads_or", 0, 0, predicate != 0, site) > 0;
}
inline int __syncthreads_and(int predicate, HOSTSIM_HERE) {
    return hostsim::barrier("__syncthreads_and", 0, 0, predicate == 0, site) == 0;
}
inline void __syncwarp(unsigned mask = ~0u, HOSTSIM_HERE) { hostsim::warp_barrier(mask, site); }

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, HOSTSIM_HERE) {
    return hostsim::shuffle(hostsim::Shuffle::index, mask, value, lane, width, site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, HOSTSIM_HERE) {
    return hostsim::shuffle(hostsim::Shuffle::up, mask, value, static_cast<int>(delta), width, site);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, HOSTSIM_HERE) {
    return hostsim::shuffle(hostsim::Shuffle::down, mask, value, static_cast<int>(delta), width, site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, HOSTSIM_HERE) {
    return hostsim::shuffle(hostsim::Shuffle::exclusive_or, mask, value, lanes, width, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, HOSTSIM_HERE) {
    return hostsim::vote(hostsim::Vote::ballot, mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, HOSTSIM_HERE) {
    return static_cast<int>(hostsim::vote(hostsim::Vote::any, mask, predicate != 0, site));
}
inline int __all_sync(unsigned mask, int predicate, HOSTSIM_HERE) {
    return static_cast<int>(hostsim::vote(hostsim::Vote::all, mask, predicate != 0, site));
}
