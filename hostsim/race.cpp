// The race checker: a step of a thread is ordered before another's where a barrier passed that knowledge on.
#include "hostsim/race.h"

#include <dlfcn.h>

#include <algorithm>

#include "hostsim/engine.h"
#include "hostsim/ptx.h"

namespace hostsim {

bool racing = false;
void* accessing_code = nullptr;

namespace {

/// The last accesses to one byte of shared memory, if they were in this launch's current cluster.
struct Shadow {
    uint32_t cluster = 0;
    uint32_t writer_tick = 0, reader_tick = 0;
    uint16_t writer = 0, reader = 0;
    int32_t more_readers = -1;  // in the list of lists
};

using Steps = std::vector<std::pair<uint32_t, uint32_t>>;  // component, tick

uint32_t cluster = 0;  // how many have run
uint32_t threads = 0;  // in the cluster; components from there on are their asynchronous operations
std::vector<Knowledge> known;
std::vector<std::vector<Shadow>> shadows;  // per block of the cluster
std::vector<Steps> readers;
std::vector<uint32_t> issued;  // asynchronous operations of each thread

uint32_t self() {
    const Block& block = *engine.current->block;
    return block.rank * static_cast<uint32_t>(block.threads.size()) + static_cast<uint32_t>(engine.current->id);
}

void join(std::vector<uint32_t>& into, const std::vector<uint32_t>& from) {
    if (into.size() < from.size()) into.resize(from.size());
    for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

void join(Knowledge& into, const Knowledge& from) {
    join(into.seen, from.seen);
    join(into.fenced, from.fenced);
}

bool is_known(const std::vector<uint32_t>& steps, uint32_t component, uint32_t tick) {
    return tick == 0 || (component < steps.size() && steps[component] >= tick);
}

std::string who(uint32_t component) {
    const bool asynchronous = component >= threads;
    const auto size = static_cast<uint32_t>(engine.blocks[0].threads.size());
    const uint32_t thread = component % threads;
    return text(asynchronous ? "an asynchronous operation of thread " : "thread ", thread % size,
                engine.blocks.size() > 1 ? text(" of block ", thread / size) : std::string());
}

/// The line, or the code's offset in its file where only that is known: addr2line finds the line.
std::string where(const Site& site) {
    if (site.line()) return place(site);
    Dl_info info;
    if (!dladdr(accessing_code, &info)) return "unknown code";
    return text(info.dli_fname, "+0x", std::hex,
                static_cast<char*>(accessing_code) - static_cast<char*>(info.dli_fbase));
}

struct Access {
    const Knowledge& knowledge;
    uint32_t component, tick;
    bool writes;
};

void check(const Access& access, Shadow& byte, uint32_t offset, const Site& site) {
    const bool asynchronous = access.component >= threads;
    // A thread's own steps are in order, its asynchronous operations are not.
    const auto same = [&](uint32_t component, uint32_t tick) {
        return component == access.component && (!asynchronous || tick == access.tick);
    };
    const auto conflict = [&](uint32_t other, const char* did) {
        const std::string race =
            text("race on shared address ", offset, ": ", access.writes ? "written" : "read", " at ", where(site),
                 " by ", who(access.component), ", ", did, " by ", who(other), " with nothing between",
                 asynchronous && other < threads ? " (a barrier and fence.proxy.async)" : "");
        // Instrumented code is compiled as if its own accesses could not throw.
        site.line() ? stop(race) : fail(race);
    };
    // Ordinary writes must have been fenced for the asynchronous proxy; everything else needs only order.
    const auto& writes = asynchronous && byte.writer < threads ? access.knowledge.fenced : access.knowledge.seen;
    if (!same(byte.writer, byte.writer_tick) && !is_known(writes, byte.writer, byte.writer_tick))
        conflict(byte.writer, "written");
    if (!access.writes) {
        const bool follows =
            byte.reader == access.component || is_known(access.knowledge.seen, byte.reader, byte.reader_tick);
        if (!follows) {
            if (byte.more_readers < 0) {
                byte.more_readers = static_cast<int32_t>(readers.size());
                readers.emplace_back();
            }
            readers[byte.more_readers].emplace_back(byte.reader, byte.reader_tick);
        }
        byte.reader = static_cast<uint16_t>(access.component);
        byte.reader_tick = access.tick;
        return;
    }
    const auto check_reader = [&](uint32_t component, uint32_t tick) {
        if (!same(component, tick) && !is_known(access.knowledge.seen, component, tick)) conflict(component, "read");
    };
    check_reader(byte.reader, byte.reader_tick);
    if (byte.more_readers >= 0)
        for (const auto& [component, tick] : readers[byte.more_readers]) check_reader(component, tick);
    byte = {cluster, access.tick, 0, static_cast<uint16_t>(access.component), 0, -1};
}

Shadow& current(Shadow& byte) {
    if (byte.cluster != cluster) {
        byte = {};
        byte.cluster = cluster;
    }
    return byte;
}

void note(const Access& access, uint32_t rank, uint32_t offset, size_t bytes, const Site& site) {
    auto& shadow = shadows[rank];
    for (size_t i = 0; i < bytes && offset + i < shadow.size(); ++i)
        check(access, current(shadow[offset + i]), offset + static_cast<uint32_t>(i), site);
}

void note_own(const void* memory, size_t bytes, bool writes, const Site& site) {
    uint32_t offset;
    if (!engine.current || !find_shared(memory, offset)) return;
    const uint32_t component = self();
    note({known[component], component, known[component].seen[component], writes}, engine.current->block->rank, offset,
         bytes, site);
}

}  // namespace

void begin_clocks() {
    threads = static_cast<uint32_t>(engine.blocks.size() * engine.blocks[0].threads.size());
    known.assign(threads, {});
    for (uint32_t i = 0; i < threads; ++i) {
        known[i].seen.assign(2 * threads, 0);
        known[i].fenced.assign(2 * threads, 0);
        known[i].seen[i] = 1;
    }
    ++cluster;
    shadows.resize(engine.blocks.size());
    for (auto& shadow : shadows) shadow.resize(window_bytes + engine.static_bytes);
    readers.clear();
    issued.assign(threads, 0);
}

void release(Clock& clock) {
    if (!racing) return;
    const uint32_t own = self();
    join(clock.gathered, known[own]);
    ++known[own].seen[own];
}

void publish(Clock& clock) {
    if (!racing) return;
    join(clock.published, clock.gathered);
    clock.gathered = {};
}

void acquire(const Clock& clock) {
    if (racing) join(known[self()], clock.published);
}

void meet_lanes(unsigned mask) {
    if (!racing) return;
    const Thread& any = *engine.current;
    const uint32_t first = self() - static_cast<uint32_t>(any.lane);
    Knowledge all;
    for (uint32_t lane = 0; lane < warp_lanes; ++lane)
        if (mask >> lane & 1) join(all, known[first + lane]);
    for (uint32_t lane = 0; lane < warp_lanes; ++lane) {
        if (!(mask >> lane & 1)) continue;
        known[first + lane] = all;
        ++known[first + lane].seen[first + lane];
    }
}

void note_read(const void* memory, size_t bytes, const Site& site) {
    if (racing) note_own(memory, bytes, false, site);
}

void note_write(const void* memory, size_t bytes, const Site& site) {
    if (racing) note_own(memory, bytes, true, site);
}

void issue_async(AsyncClock& clock) {
    if (!racing) return;
    clock.known = known[self()];
    clock.component = threads + self();
    clock.tick = ++issued[self()];
}

void join_async(AsyncClock& clock) {
    if (racing) join(clock.known, known[self()]);
}

void note_async(const AsyncClock& clock, const Block& block, uint32_t offset, size_t bytes, bool writes,
                const Site& site) {
    if (racing) note({clock.known, clock.component, clock.tick, writes}, block.rank, offset, bytes, site);
}

void complete_async(const AsyncClock& clock, Clock& to) {
    if (!racing) return;
    auto& seen = to.gathered.seen;
    if (seen.size() <= clock.component) seen.resize(2 * threads);
    seen[clock.component] = std::max(seen[clock.component], clock.tick);
}

void complete_async(const AsyncClock& clock) {
    if (!racing) return;
    auto& seen = known[self()].seen;
    seen[clock.component] = std::max(seen[clock.component], clock.tick);
}

void fence_proxy_async() {
    if (racing) join(known[self()].fenced, known[self()].seen);
}

void fence_mbarrier_init() { fence_proxy_async(); }

}  // namespace hostsim
