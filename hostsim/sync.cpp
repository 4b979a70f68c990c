// Where threads meet: barriers of a block, operations of a warp.
#include "hostsim/sync.h"

#include "hostsim/engine.h"

namespace hostsim {

namespace {

bool same_file(const Site& a, const Site& b) {
    return a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0;
}

Barrier& arrive(const char* what, int id, int threads, const Site& site) {
    Block& block = *engine.current->block;
    const int all = static_cast<int>(block.threads.size());
    if (id < 0 || id > 15) stop(text("barrier ", id, " at ", place(site), ": there are 16"));
    const int expected = threads ? threads : all;
    if (expected % warp_lanes && expected != all)
        stop(text("barrier ", id, " at ", place(site), ": ", expected, " threads are not whole warps"));
    Barrier& barrier = block.barriers[id];
    if (barrier.arrived == 0) {
        barrier.expected = expected;
        barrier.site = site;
    }
    const bool same_line = barrier.site.line() == site.line() && same_file(barrier.site, site);
    // Threads that meet in a barrier of the whole block must meet in the same one of the source.
    if (barrier.expected != expected || (!threads && !same_line))
        stop(text("divergent barrier: ", what, " at ", place(site), " while ", barrier.arrived, " wait at ",
                  place(barrier.site)));
    if (!threads && block.living != all)
        stop(text("divergent barrier: ", what, " at ", place(site), " after ", all - block.living, " returned"));
    ++barrier.arrived;
    release(barrier.clock);
    return barrier;
}

bool complete(Barrier& barrier) {
    if (barrier.arrived < barrier.expected) return false;
    barrier.arrived = 0;
    publish(barrier.clock);
    wake(barrier.waiting);
    return true;
}

/// Execute the operation for the lanes that arrived, and wake them; `self` need not be woken.
void execute(Block& block, int warp_index, size_t which, const Thread& self) {
    auto& pending = block.warps[warp_index].pending;
    Lanes lanes = pending[which].lanes;
    const WarpOperation operation = pending[which].execute;
    pending.erase(pending.begin() + static_cast<std::ptrdiff_t>(which));
    lanes.mask = lanes.arrived;
    operation(lanes);
    for (int lane = 0; lane < warp_lanes; ++lane) {
        if (!(lanes.mask >> lane & 1)) continue;
        Thread& thread = block.threads[warp_index * warp_lanes + lane];
        thread.result = lanes.result[lane];
        if (&thread != &self) block.runnable.add(&thread);
    }
}

void shuffle_lanes(Lanes& lanes) {
    for (int lane = 0; lane < warp_lanes; ++lane) {
        if (!(lanes.mask >> lane & 1)) continue;
        const int kind = lanes.argument[lane] >> 16 & 3, width = lanes.argument[lane] >> 8 & 63;
        const int by = lanes.argument[lane] & 255, first = lane & ~(width - 1);
        int source = first | (by & (width - 1));
        if (static_cast<Shuffle>(kind) == Shuffle::exclusive_or)
            source = (lane ^ by) >= first + width ? lane : lane ^ by;
        // The value of a lane outside the mask is undefined: a NaN shows it.
        lanes.result[lane] = lanes.mask >> source & 1 ? lanes.value[source] : ~uint64_t{0};
    }
}

void meet(Lanes& lanes) { meet_lanes(lanes.mask); }

}  // namespace

void barrier(const char* what, int id, int threads, bool, Site site) {
    if (profiler) profiler->meet();
    Barrier& meeting = arrive(what, id, threads, site);
    if (!complete(meeting)) wait_in(meeting.waiting, what, site);
    acquire(meeting.clock);
}

void barrier_arrive(int id, int threads, Site site) { complete(arrive("barrier arrive", id, threads, site)); }

uint64_t warp_operation(const char* what, WarpOperation operation, unsigned mask, uint64_t value, int argument,
                        const Site& site) {
    if (profiler && mask == ~0u) profiler->meet();
    Thread& self = *engine.current;
    Warp& warp = self.block->warps[self.warp];
    const unsigned own = 1u << self.lane;
    if (!(mask & own)) stop(text(what, " at ", place(site), ": lane ", self.lane, " is not in its own mask"));
    size_t which = 0;
    for (; which < warp.pending.size(); ++which) {
        const PendingOperation& pending = warp.pending[which];
        if (pending.execute == operation && pending.lanes.mask == mask && !(pending.lanes.arrived & own)) break;
    }
    if (which == warp.pending.size()) {
        warp.pending.push_back({operation, {}});
        warp.pending.back().lanes.mask = mask;
    }
    PendingOperation& pending = warp.pending[which];
    pending.lanes.arrived |= own;
    pending.lanes.value[self.lane] = value;
    pending.lanes.argument[self.lane] = argument;
    if (pending.lanes.arrived == (mask & warp.living)) {
        execute(*self.block, self.warp, which, self);
    } else {
        suspend(what, site);
    }
    return self.result;
}

void lane_returned(Thread& thread) {
    Warp& warp = thread.block->warps[thread.warp];
    warp.living &= ~(1u << thread.lane);
    for (size_t i = 0; i < warp.pending.size();) {
        const Lanes& lanes = warp.pending[i].lanes;
        if (lanes.arrived == (lanes.mask & warp.living)) {
            execute(*thread.block, thread.warp, i, thread);
        } else {
            ++i;
        }
    }
}

void warp_barrier(unsigned mask, Site site) { warp_operation("__syncwarp", meet, mask, 0, 0, site); }

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int lane, int width, Site site) {
    if (width < 1 || width > 32 || width & (width - 1))
        stop(text("shuffle at ", place(site), ": width ", width, " is not a power of two up to 32"));
    // An index is taken modulo the width; a distance of 32 or more leads nowhere.
    const int by = kind == Shuffle::index ? lane & 31 : std::min(static_cast<unsigned>(lane), 255u);
    const int argument = static_cast<int>(kind) << 16 | width << 8 | by;
    return warp_operation("shuffle", shuffle_lanes, mask, value, argument, site);
}

}  // namespace hostsim
