// Which accesses to shared memory are ordered, by vector clocks. Only in the race build, whose kernels the compiler has
// instrumented; everywhere else these functions return at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hostsim/sync.h"

namespace hostsim {

struct Block;

/// Per thread, and per thread's asynchronous operations behind them, the number of the last step known to be over.
/// `fenced`: those steps whose ordinary writes the asynchronous proxy sees too.
struct Knowledge {
    std::vector<uint32_t> seen, fenced;
};

/// What a barrier passes on: gathered from those who arrive, published when its phase completes.
struct Clock {
    Knowledge gathered, published;
};

/// An asynchronous operation: what its issuer knew, and its own place in the order.
struct AsyncClock {
    Knowledge known;
    uint32_t component = 0, tick = 0;
};

extern bool racing;
extern void* accessing_code;  // where an instrumented access returns to

void begin_clocks();
/// The running thread's past becomes part of what the barrier will publish.
void release(Clock& clock);
void publish(Clock& clock);
void acquire(const Clock& clock);
/// The lanes of the running warp in `mask` have met in a __syncwarp.
void meet_lanes(unsigned mask);

/// An ordinary access by the running thread.
void note_read(const void* memory, size_t bytes, const Site& site);
void note_write(const void* memory, size_t bytes, const Site& site);

void issue_async(AsyncClock& clock);
/// Further threads take part in issuing it.
void join_async(AsyncClock& clock);
void note_async(const AsyncClock& clock, const Block& block, uint32_t offset, size_t bytes, bool writes,
                const Site& site);
/// Whoever acquires `to` knows that the operation is over.
void complete_async(const AsyncClock& clock, Clock& to);
/// The running thread knows it.
void complete_async(const AsyncClock& clock);

}  // namespace hostsim
