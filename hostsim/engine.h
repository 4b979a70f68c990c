// The simulator's own state, seen by its parts only: threads, warps and blocks of the running launch, and the
// scheduler.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "hostsim/fiber.h"
#include "hostsim/hostsim.h"
#include "hostsim/profile.h"
#include "hostsim/race.h"

namespace hostsim {

constexpr int warp_lanes = 32, priorities = 4;
constexpr size_t window_bytes = 256 * 1024;  // of shared addresses before those of static shared memory
constexpr size_t shared_limit = 232448;      // bytes a block may have on the largest GPU

struct Block;

/// Operations that a thread has issued, committed in groups, the oldest first.
template <class T>
class Groups {
  public:
    void issue(T operation) { issued_.push_back(std::move(operation)); }
    void commit() { ends_.push_back(issued_.size()); }
    /// Complete all but the newest `left` groups.
    template <class Complete>
    void wait(int left, Complete complete) {
        const size_t groups = ends_.size() - std::min(ends_.size(), static_cast<size_t>(left));
        if (!groups) return;
        const auto end = static_cast<std::ptrdiff_t>(ends_[groups - 1]);
        std::for_each(issued_.begin(), issued_.begin() + end, complete);
        issued_.erase(issued_.begin(), issued_.begin() + end);
        ends_.erase(ends_.begin(), ends_.begin() + static_cast<std::ptrdiff_t>(groups));
        for (size_t& other : ends_) other -= static_cast<size_t>(end);
    }

  private:
    std::vector<T> issued_;
    std::vector<size_t> ends_;
};

/// A cp.async that has been issued.
struct Copy {
    unsigned char* to;
    const unsigned char* from;
    int bytes, valid;
};

/// A bulk store that has been issued.
struct BulkStore {
    bool done = false;
    AsyncClock clock;
};

struct Thread {
    uint3 index;
    int id, warp, lane;
    int priority = 0;  // of its warp
    Block* block;
    Stack* stack = nullptr;  // none before its first step and after its last
    bool done = false;
    bool waited = false;  // for earlier grids
    uint64_t result = 0;  // of the warp operation it last took part in
    // What it waits for, where it does.
    const char* what = nullptr;
    Site site;
    Groups<Copy> copies;
    Groups<std::shared_ptr<BulkStore>> stores;
    bool in_cluster_barrier = false;
    uint64_t cluster_phase = 0;  // that it waits for
};

using WaitList = std::vector<Thread*>;

/// What the lanes of a warp bring to one operation, and get back.
struct Lanes {
    unsigned mask = 0, arrived = 0;
    uint64_t value[warp_lanes];
    int argument[warp_lanes];
    uint64_t result[warp_lanes];
};
using WarpOperation = void (*)(Lanes&);

struct PendingOperation {
    WarpOperation execute;
    Lanes lanes;
};

struct Warp {
    unsigned living = 0;
    std::vector<PendingOperation> pending;
};

struct Barrier {
    int expected = 0, arrived = 0;
    Site site;  // of the first to arrive
    WaitList waiting;
    Clock clock;
};

struct MBarrier {
    uint32_t offset = 0;
    int expected = 0, pending = 0;
    int64_t bytes = 0;  // announced and not yet come; negative where they came first
    uint64_t phase = 0;
    WaitList waiting;
    Clock clock;
};

/// An asynchronous operation that has been issued.
class Pending {
  public:
    virtual ~Pending() = default;
    /// Do some of it; true once all is done.
    virtual bool step() = 0;
    virtual std::string describe() const = 0;
};

struct Warpgroup;

class Random {
  public:
    explicit Random(uint64_t seed = 0) : state_(seed) {}
    uint64_t next() {
        uint64_t z = state_ += 0x9E3779B97F4A7C15;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
        z = (z ^ z >> 27) * 0x94D049BB133111EB;
        return z ^ z >> 31;
    }
    unsigned below(size_t n) { return static_cast<unsigned>((next() >> 32) * n >> 32); }

  private:
    uint64_t state_;
};

/// The threads of a block that can run. Those of a higher priority mostly run first, within one in any order.
class Runnable {
  public:
    void clear() {
        for (WaitList& level : levels_) level.clear();
        count_ = 0;
    }
    void add(Thread* thread) {
        levels_[thread->priority].push_back(thread);
        ++count_;
    }
    bool empty() const { return count_ == 0; }
    /// One of them, taken out; null where there is none.
    Thread* take(Random& random);

  private:
    WaitList levels_[priorities];
    size_t count_ = 0;
};

struct Block {
    uint3 index;
    unsigned rank = 0;  // in its cluster
    int living = 0;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Runnable runnable;
    Barrier barriers[16];
    std::list<MBarrier> mbarriers;
    std::vector<std::shared_ptr<Warpgroup>> warpgroups;
    unsigned char* window = nullptr;         // its shared memory: address 0 of it
    std::vector<unsigned char> static_copy;  // its static shared memory while another block of the cluster runs
};

/// A flag in global memory that a thread has raised.
struct Flag {
    const uint64_t* at;
    uint64_t value;
    Site site;
};

struct Engine {
    const char* name = "";
    const void* kernel = nullptr;
    const std::function<void()>* body = nullptr;
    size_t shared = 0;                     // bytes of dynamic shared memory
    size_t shared_start = 0;               // where it begins in a block's window
    unsigned char* static_base = nullptr;  // static shared memory of the whole module
    size_t static_bytes = 0;
    std::vector<Block> blocks;  // of the running cluster
    bool early = false;
    std::vector<Flag> raised;
    Thread* current = nullptr;
    Random random;
    bool by_warp = false;  // warps have priorities, else threads run in uniform order
    enum class Async { eager, lazy, random } async = Async::eager;
    std::vector<std::unique_ptr<Pending>> pending;
    int yields = 0;
    struct {
        size_t arrived = 0;
        uint64_t phase = 0;
        WaitList waiting;
        Clock clock;
    } cluster;
    std::string error;
};

extern Engine engine;

/// Have the launch return this message, unless it has one, and go on.
void fail(const std::string& message);

/// Stop the launch with this message and never come back to the running thread.
[[noreturn]] void stop(const std::string& message);

template <class... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

/// "file.cuh:12", without folders.
std::string place(const Site& site);

/// Run the threads of the cluster until all have returned or one has stopped the launch.
void run_all_threads();
/// Let others run until someone makes this thread runnable again.
void suspend(const char* what, const Site& site);
/// suspend() in a list that wake() empties.
void wait_in(WaitList& list, const char* what, const Site& site);
void wake(WaitList& list);

/// Arrive at an operation of the lanes in `mask`; the last executes it for all. Returns this lane's result.
uint64_t warp_operation(const char* what, WarpOperation execute, unsigned mask, uint64_t value, int argument,
                        const Site& site);
/// Complete what waited only for lanes that have now returned.
void lane_returned(Thread& thread);

/// Whether an asynchronous operation just issued runs at once, by the seed.
bool run_now();
void queue(std::unique_ptr<Pending> operation);
/// Do some of what is pending; false where nothing is.
bool step_pending();
/// Let others run first.
void yield(const char* what, const Site& site);

/// The running thread has returned.
void leave_cluster_barrier();
/// Empty, or what the running block's threads left in flight.
std::string check_in_flight(const Block& block);

/// A window of shared memory per block of a cluster, poisoned; the pointer is its address 0.
void prepare_shared(Block& block);
/// Empty, or what was written outside the dynamic shared memory of `block`.
std::string check_shared(const Block& block);
// A shared address is an offset in a block's memory, with 1 + the block's rank in the top byte where mapa put it.
Block& block_of(uint32_t address);
inline uint32_t offset_of(uint32_t address) { return address & 0xFFFFFF; }
bool is_dynamic(uint32_t address);
/// The memory at a shared address; stops the launch unless all `bytes` belong to the block.
unsigned char* shared_pointer(uint32_t address, size_t bytes, const char* what, const Site& site);
/// Its offset in the running block's shared memory; false for other memory.
inline bool find_shared(const void* pointer, uint32_t& offset) {
    const auto* bytes = static_cast<const unsigned char*>(pointer);
    const auto in_window = static_cast<size_t>(bytes - engine.current->block->window);
    const auto in_static = static_cast<size_t>(bytes - engine.static_base);
    if (in_window >= window_bytes && in_static >= engine.static_bytes) return false;
    offset = static_cast<uint32_t>(in_window < window_bytes ? in_window : window_bytes + in_static);
    return true;
}
/// Stop the launch where these bytes of global memory may not be touched: a sanitizer knows it, or what an earlier grid
/// writes there may still be missing.
void check_global(const void* pointer, size_t bytes, const char* what, const Site& site);

/// Let static shared memory hold `to`'s values, and keep those of `from`.
void exchange_static(Block* from, Block* to);

}  // namespace hostsim
