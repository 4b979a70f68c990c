// run(): blocks one after another, the blocks of a cluster together, their threads in an order drawn from the seed.
#include "hostsim/engine.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace hostsim {

Engine engine;

namespace {

std::mutex launching;

uint64_t first_seed() {
    const char* value = std::getenv("PYRAMID_KERNELS_HOSTSIM_SEED");
    return value ? std::strtoull(value, nullptr, 10) : 0;
}

uint64_t seed = first_seed();

std::string deadlock() {
    std::map<std::string, int> waiting;
    for (const Block& block : engine.blocks)
        for (const Thread& thread : block.threads)
            if (!thread.done) ++waiting[text(thread.what, " at ", place(thread.site))];
    std::string report = "deadlock:";
    for (const auto& [where, count] : waiting)
        report += text(waiting.begin()->first == where ? " " : ", ", count, count == 1 ? " thread" : " threads", " in ",
                       where);
    for (const Block& block : engine.blocks)
        for (const MBarrier& barrier : block.mbarriers)
            if (!barrier.waiting.empty())
                report += text("; mbarrier ", barrier.offset, " of block ", block.rank, " in phase ", barrier.phase,
                               " misses ", barrier.pending, " of ", barrier.expected, " arrivals and ", barrier.bytes,
                               " bytes");
    return report;
}

[[noreturn]] void leave_for_good() {
    static Stack abandoned;
    switch_stack(&abandoned, caller_stack(), true);
    std::abort();  // not reached
}

void make_current(Thread* thread) {
    if (!engine.current || engine.current->block != thread->block) {
        exchange_static(engine.current ? engine.current->block : nullptr, thread->block);
        dynamic_base = thread->block->window + engine.shared_start;
        blockIdx = thread->block->index;
    }
    engine.current = thread;
    threadIdx = thread->index;
}

Thread* pick_runnable() {
    Block* block = engine.current ? engine.current->block : &engine.blocks[0];
    if (engine.blocks.size() > 1 && (block->runnable.empty() || engine.random.below(16) == 0)) {
        const unsigned first = engine.random.below(engine.blocks.size());
        for (unsigned i = 0; i < engine.blocks.size(); ++i) {
            Block& candidate = engine.blocks[(first + i) % engine.blocks.size()];
            if (candidate.runnable.empty()) continue;
            block = &candidate;
            break;
        }
    }
    WaitList& runnable = block->runnable;
    if (runnable.empty()) return nullptr;
    unsigned chosen = engine.random.below(runnable.size());
    for (int draw = 0; engine.by_warp && draw < 7; ++draw) {
        const unsigned other = engine.random.below(runnable.size());
        if (block->warps[runnable[other]->warp].priority > block->warps[runnable[chosen]->warp].priority)
            chosen = other;
    }
    Thread* thread = runnable[chosen];
    runnable[chosen] = runnable.back();
    runnable.pop_back();
    return thread;
}

/// The next thread to run, taken from its block's list; null where none can.
Thread* pick() {
    if (!engine.pending.empty() && engine.async == Engine::Async::random && engine.random.below(4) == 0) step_pending();
    for (;;) {
        Thread* thread = pick_runnable();
        if (thread || !step_pending()) return thread;
    }
}

void returned(Thread& thread) {
    Block& block = *thread.block;
    thread.done = true;
    thread.stack = nullptr;
    --block.living;
    const Barrier& whole = block.barriers[0];
    if (whole.arrived && whole.expected == static_cast<int>(block.threads.size()))
        stop(text("divergent barrier: this thread returned while ", whole.arrived, " wait at ", place(whole.site)));
    lane_returned(thread);
    leave_cluster_barrier();
}

std::string ended() {
    for (const Block& block : engine.blocks)
        if (block.living) return deadlock();
    return {};
}

/// Runs threads on one stack for as long as the next has none of its own.
void run_threads() {
    entered_stack();
    for (;;) {
        Stack* stack = engine.current->stack;
        (*engine.body)();
        returned(*engine.current);
        Thread* next = pick();
        if (!next) {
            engine.error = ended();
            release_stack(stack);
            switch_stack(stack, caller_stack(), true);
        }
        make_current(next);
        if (next->stack) {
            release_stack(stack);
            switch_stack(stack, next->stack, true);
        }
        next->stack = stack;
    }
}

void leave_for(Thread* next) {
    Stack* from = engine.current->stack;
    make_current(next);
    if (!next->stack) next->stack = acquire_stack(run_threads);
    if (next->stack != from) switch_stack(from, next->stack, false);
}

void prepare_block(Block& block, uint3 index, unsigned rank) {
    block.index = index;
    block.rank = rank;
    const dim3 size = blockDim;
    const int threads = static_cast<int>(size.x * size.y * size.z);
    block.living = threads;
    block.threads.resize(threads);
    block.warps.resize((threads + warp_lanes - 1) / warp_lanes);
    for (Warp& warp : block.warps) {
        warp.living = 0;
        warp.pending.clear();
        warp.priority = static_cast<int>(engine.random.below(4));
    }
    block.runnable.clear();
    for (int id = 0; id < threads; ++id) {
        const auto i = static_cast<unsigned>(id);
        Thread& thread = block.threads[id];
        thread.done = false;
        thread.stack = nullptr;
        thread.copies.clear();
        thread.copy_groups.clear();
        thread.stores.clear();
        thread.store_groups.clear();
        thread.in_cluster_barrier = false;
        thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        thread.id = id;
        thread.warp = id / warp_lanes;
        thread.lane = id % warp_lanes;
        thread.block = &block;
        block.warps[thread.warp].living |= 1u << thread.lane;
        block.runnable.push_back(&thread);
    }
    for (Barrier& barrier : block.barriers) {
        barrier.arrived = barrier.predicates = 0;
        barrier.waiting.clear();
    }
    block.mbarriers.clear();
    block.warpgroups.clear();
    prepare_shared(block);
}

std::string run_cluster() {
    engine.current = nullptr;
    engine.pending.clear();
    engine.cluster = {};
    engine.yields = 0;
    if (racing) begin_clocks();
    Thread* first = pick();
    make_current(first);
    first->stack = acquire_stack(run_threads);
    switch_stack(caller_stack(), first->stack, false);
    for (const Block& block : engine.blocks) {
        if (!engine.error.empty()) break;
        blockIdx = block.index;
        engine.error = check_warpgroups(block);
        if (engine.error.empty()) engine.error = check_shared(block);
    }
    return engine.error;
}

std::string refuse(dim3 grid, dim3 block, dim3 cluster, size_t shared) {
    const size_t threads = size_t{block.x} * block.y * block.z;
    if (threads < 1 || threads > 1024 || block.z > 64) return text("a block cannot have ", threads, " threads");
    if (grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535)
        return text("a grid cannot be (", grid.x, ", ", grid.y, ", ", grid.z, ")");
    if (cluster.x * cluster.y * cluster.z < 1 || cluster.x * cluster.y * cluster.z > 8 || grid.x % cluster.x ||
        grid.y % cluster.y || grid.z % cluster.z)
        return text("clusters of (", cluster.x, ", ", cluster.y, ", ", cluster.z, ") do not divide the grid");
    if (shared > shared_limit) return text(shared, " bytes of shared memory are more than ", shared_limit);
    return {};
}

}  // namespace

bool run_now() {
    return engine.async == Engine::Async::eager ||
           (engine.async == Engine::Async::random && engine.random.below(2) == 0);
}

void queue(std::unique_ptr<Pending> operation) {
    if (engine.async == Engine::Async::eager) {
        while (!operation->step()) {
        }
    } else {
        engine.pending.push_back(std::move(operation));
    }
}

bool step_pending() {
    if (engine.pending.empty()) return false;
    const unsigned chosen = engine.random.below(engine.pending.size());
    if (engine.pending[chosen]->step()) engine.pending.erase(engine.pending.begin() + chosen);
    return true;
}

void set_seed(uint64_t value) {
    std::lock_guard lock(launching);
    seed = value;
}

std::string place(const Site& site) {
    const char* slash = std::strrchr(site.file_name(), '/');
    return text(slash ? slash + 1 : site.file_name(), ':', site.line());
}

void stop(const std::string& message) {
    engine.error = text("thread (", threadIdx.x, ", ", threadIdx.y, ", ", threadIdx.z, "): ", message);
    leave_for_good();
}

void suspend(const char* what, const Site& site) {
    engine.current->what = what;
    engine.current->site = site;
    Thread* next = pick();
    if (next) return leave_for(next);
    engine.error = deadlock();
    leave_for_good();
}

void wait_in(WaitList& list, const char* what, const Site& site) {
    list.push_back(engine.current);
    suspend(what, site);
}

void yield(const char* what, const Site& site) {
    if (++engine.yields > 1 << 20) stop(text(what, " at ", place(site), " never came true"));
    if (engine.random.below(2) == 0) step_pending();
    engine.current->block->runnable.push_back(engine.current);
    suspend(what, site);
}

void wake(WaitList& list) {
    for (Thread* thread : list) thread->block->runnable.push_back(thread);
    list.clear();
}

std::string run(const char* name, dim3 grid, dim3 block, dim3 cluster, size_t shared,
                const std::function<void()>& body) {
    std::lock_guard lock(launching);
    std::string error = refuse(grid, block, cluster, shared);
    if (!error.empty()) return text(name, ": ", error);
    engine.name = name;
    engine.body = &body;
    engine.shared = shared;
    engine.error.clear();
    engine.random = Random(seed);
    engine.by_warp = engine.random.below(2) == 0;
    engine.async = static_cast<Engine::Async>(engine.random.below(3));
    constexpr size_t starts[] = {1024, 1024 + 16, 1024 + 528};
    engine.shared_start = starts[engine.random.below(3)];
    blockDim = block;
    gridDim = grid;
    engine.blocks.resize(cluster.x * cluster.y * cluster.z);
    for (unsigned z = 0; z < grid.z; z += cluster.z)
        for (unsigned y = 0; y < grid.y; y += cluster.y)
            for (unsigned x = 0; x < grid.x; x += cluster.x) {
                for (unsigned rank = 0; rank < engine.blocks.size(); ++rank)
                    prepare_block(
                        engine.blocks[rank],
                        {x + rank % cluster.x, y + rank / cluster.x % cluster.y, z + rank / (cluster.x * cluster.y)},
                        rank);
                if (run_cluster().empty()) continue;
                error = text(name, ", block (", blockIdx.x, ", ", blockIdx.y, ", ", blockIdx.z, "): ", engine.error);
                release_all_stacks();
                return error;
            }
    return {};
}

}  // namespace hostsim
