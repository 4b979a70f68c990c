// run(): blocks one after another, the blocks of a cluster together, their threads in an order drawn from the seed.
#include "hostsim/engine.h"

#include <cstdlib>
#include <cstring>
#include <mutex>

namespace hostsim {

Engine engine;

namespace {

std::mutex launching;
bool capturing = false;
std::vector<Launch> captured;

uint64_t first_seed() {
    const char* value = std::getenv("PYRAMID_KERNELS_HOSTSIM_SEED");
    return value ? std::strtoull(value, nullptr, 10) : 0;
}

uint64_t seed = first_seed();

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
    }
    block.runnable.clear();
    int priority = 0;
    for (int id = 0; id < threads; ++id) {
        if (id % warp_lanes == 0 && engine.by_warp) priority = static_cast<int>(engine.random.below(priorities));
        const auto i = static_cast<unsigned>(id);
        Thread& thread = block.threads[id];
        thread.done = thread.waited = false;
        thread.stack = nullptr;
        thread.copies = {};
        thread.stores = {};
        thread.in_cluster_barrier = false;
        thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        thread.id = id;
        thread.warp = id / warp_lanes;
        thread.lane = id % warp_lanes;
        thread.priority = priority;
        thread.block = &block;
        block.warps[thread.warp].living |= 1u << thread.lane;
        block.runnable.add(&thread);
    }
    for (Barrier& barrier : block.barriers) {
        barrier.arrived = 0;
        barrier.waiting.clear();
        barrier.clock = {};
    }
    block.mbarriers.clear();
    block.warpgroups.clear();
    prepare_shared(block);
}

std::string run_cluster() {
    engine.pending.clear();
    engine.cluster = {};
    engine.yields = 0;
    if (racing) begin_clocks();
    if (profiler) profiler->begin();
    run_all_threads();
    if (profiler) profiler->end();
    for (const Block& block : engine.blocks) {
        if (!engine.error.empty()) break;
        blockIdx = block.index;
        engine.error = check_in_flight(block);
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

/// Empty, or the flag that the launch has left raised.
std::string check_flags() {
    for (const Flag& flag : engine.raised)
        if (*flag.at == flag.value)
            return text("the flag raised at ", place(flag.site),
                        " is never lowered: a replay would take it for its own");
    return {};
}

/// Each launch of a suite has an order of its own, and the same one whenever it is repeated.
uint64_t seed_of(const Launch& launch) {
    uint64_t mixed = seed;
    for (uint64_t part : {std::hash<std::string_view>{}(launch.name), uint64_t{launch.grid.x}, uint64_t{launch.grid.y},
                          uint64_t{launch.shared}})
        mixed = Random(mixed ^ part).next();
    return mixed;
}

std::string execute(const Launch& launch) {
    const auto& [name, kernel, grid, block, cluster, shared, early, body] = launch;
    std::string error = refuse(grid, block, cluster, shared);
    if (!error.empty()) return text(name, ": ", error);
    engine.name = name;
    engine.kernel = kernel;
    engine.body = &body;
    engine.shared = shared;
    engine.early = early;
    engine.raised.clear();
    engine.error.clear();
    engine.random = Random(seed_of(launch));
    engine.by_warp = engine.random.below(3) > 0;
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
    error = check_flags();
    return error.empty() ? error : text(name, ": ", error);
}

}  // namespace

void set_seed(uint64_t value) {
    std::lock_guard lock(launching);
    seed = value;
}

std::string place(const Site& site) {
    const char* slash = std::strrchr(site.file_name(), '/');
    return text(slash ? slash + 1 : site.file_name(), ':', site.line());
}

std::string run(Launch launch) {
    std::lock_guard lock(launching);
    const std::string error = execute(launch);
    if (capturing) captured.push_back(std::move(launch));
    return error;
}

void capture() {
    std::lock_guard lock(launching);
    captured.clear();
    capturing = true;
}

std::string replay() {
    std::lock_guard lock(launching);
    capturing = false;
    for (const Launch& launch : captured)
        if (std::string error = execute(launch); !error.empty()) return error;
    return {};
}

}  // namespace hostsim
