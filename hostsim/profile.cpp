// What kernels compiled with -fsanitize=thread -fsanitize-coverage=trace-pc call in the profile build: every access and
// every basic block goes into the running lane's trace, which requests.cpp counts once its warp meets.
#include "hostsim/profile.h"

#include <link.h>
#include <pthread.h>

#include <stdexcept>

#include "hostsim/engine.h"
#include "hostsim/requests.h"

namespace hostsim {

namespace {

struct Range {
    uintptr_t begin = 0, bytes = 0;
    bool holds(uintptr_t address) const { return address - begin < bytes; }
};

/// Where this code, its constants and threadIdx lie.
Range module_range() {
    Range found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            uintptr_t low = ~uintptr_t{0}, high = 0;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const auto& part = info->dlpi_phdr[i];
                if (part.p_type != PT_LOAD) continue;
                low = std::min(low, info->dlpi_addr + part.p_vaddr);
                high = std::max(high, info->dlpi_addr + part.p_vaddr + part.p_memsz);
            }
            const Range range{low, high - low};
            if (!range.holds(reinterpret_cast<uintptr_t>(&engine))) return 0;
            *static_cast<Range*>(data) = range;
            return 1;
        },
        &found);
    return found;
}

Range stack_range() {
    pthread_attr_t attributes;
    void* memory = nullptr;
    size_t bytes = 0;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &memory, &bytes);
    pthread_attr_destroy(&attributes);
    return {reinterpret_cast<uintptr_t>(memory), bytes};
}

class Traces : public Profiler {
  public:
    void start() {
        forget_counts();
        module_ = module_range();
        if (module_.bytes >> (32 - event_bits)) throw std::length_error("a module's code must lie within 256 MB");
        stack_ = stack_range();
        blocks_ = 0;
        launches_.clear();
    }

    /// A line for each launch: kernel, body, blocks, threads in a block, bytes of dynamic shared memory.
    const std::string& launches() const { return launches_; }

    void begin() override {
        const uint3& first = engine.blocks[0].index;
        threads_ = engine.blocks[0].threads.size();
        if (first.x + first.y + first.z == 0) {
            const uint32_t body = offset(engine.kernel);
            begin_kernel(engine.name, body);
            launches_ += text(engine.name, '\t', body, '\t', size_t{gridDim.x} * gridDim.y * gridDim.z, '\t', threads_,
                              '\t', engine.shared, '\n');
        }
        traces_.resize(engine.blocks.size() * threads_);
        for (Trace& trace : traces_) {
            trace.words.clear();
            trace.depth = 0;
        }
    }

    void end() override {
        for (const Block& block : engine.blocks)
            for (int i = 0; i < static_cast<int>(block.warps.size()); ++i) replay_warp(block, i);
        blocks_ += static_cast<uint32_t>(engine.blocks.size());
    }

    void meet() override {
        const Thread& thread = *engine.current;
        add(meeting, nullptr);
        // What lies before a meeting that all living lanes have come to cannot be changed by what follows.
        const Trace* lanes = &own() - thread.lane;
        for (uint32_t left = thread.block->warps[thread.warp].living; left; left &= left - 1) {
            const auto& words = lanes[__builtin_ctz(left)].words;
            if (words.empty() || words.back() != meeting) return;
        }
        replay_warp(*thread.block, thread.warp);
    }

    void access(const void* memory, size_t bytes, Access how, const void* code) override {
        record(memory, bytes, how, code);
    }

    [[gnu::always_inline]] void record(const void* memory, size_t bytes, Access how, const void* code) {
        const auto address = reinterpret_cast<uintptr_t>(memory);
        const Stack& stack = *engine.current->stack;
        // A thread's locals and parameters are registers on a device.
        if (Range{reinterpret_cast<uintptr_t>(stack.bottom), stack.size}.holds(address)) return;
        uint32_t offset;
        if (find_shared(memory, offset)) {
            add_access(shared_read + static_cast<uint32_t>(how), offset, bytes, code);
        } else if (!module_.holds(address) && !stack_.holds(address)) {
            add_access(global_read + static_cast<uint32_t>(how), address, bytes, code);
        }
    }

    [[gnu::always_inline]] void add(uint32_t event, const void* code) { own().words.push_back(word(event, code)); }

  private:
    Trace& own() {
        const Thread& thread = *engine.current;
        return traces_[thread.block->rank * threads_ + static_cast<size_t>(thread.id)];
    }

    uint32_t offset(const void* code) const {
        return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(code) - module_.begin);
    }

    uint32_t word(uint32_t event, const void* code) const { return (code ? offset(code) : 0) << event_bits | event; }

    void add_access(uint32_t event, uint64_t address, size_t bytes, const void* code) {
        const uint64_t operand = uint64_t{bytes} << address_bits | address;
        auto& words = own().words;
        const size_t at = words.size();
        words.resize(at + 3);
        words[at] = word(event, code);
        words[at + 1] = static_cast<uint32_t>(operand);
        words[at + 2] = static_cast<uint32_t>(operand >> 32);
    }

    void replay_warp(const Block& block, int index) {
        const size_t first = static_cast<size_t>(index) * warp_lanes;
        const auto lanes = static_cast<int>(std::min(threads_ - first, size_t{warp_lanes}));
        replay(&traces_[block.rank * threads_ + first], lanes, blocks_ + 1 + block.rank);
    }

    Range module_, stack_;
    std::vector<Trace> traces_;  // of the cluster's threads
    size_t threads_ = 0;         // of a block
    uint32_t blocks_ = 0;        // that have run
    std::string launches_;
};

Traces traces;

bool watching() { return profiler && engine.current; }

/// A line per row: kernel, body, offset, event, buffer, counts.
std::string table_text() {
    constexpr const char* event_names[] = {"", "LDG", "STG", "ATOMG", "LDS", "STS", "ATOMS"};
    std::string lines;
    for (const Row& row : counted()) {
        const Traffic& c = row.counts;
        lines += text(row.kernel, '\t', row.body, '\t', row.code - 1, '\t', event_names[row.event], '\t', row.buffer);
        for (uint64_t value : {c.requests, c.lanes, c.bytes, c.largest, c.sectors, c.ideal_sectors, c.lines,
                               c.block_sectors, c.new_sectors, c.wavefronts, c.ideal_wavefronts})
            lines += text('\t', value);
        for (size_t i = 0; i < c.merged_cost.size(); ++i)
            lines += text('\t', c.merged_requests[i], '\t', c.merged_cost[i]);
        lines += '\n';
    }
    return lines;
}

}  // namespace

}  // namespace hostsim

#define HOSTSIM_VISIBLE __attribute__((visibility("default")))

extern "C" {

// For Python, by ctypes.
HOSTSIM_VISIBLE void hostsim_profile_start() {
    hostsim::traces.start();
    hostsim::profiler = &hostsim::traces;
}
HOSTSIM_VISIBLE const char* hostsim_profile_stop() {
    static std::string lines;
    hostsim::profiler = nullptr;
    lines = hostsim::table_text();
    return lines.c_str();
}
HOSTSIM_VISIBLE const char* hostsim_profile_launches() { return hostsim::traces.launches().c_str(); }
HOSTSIM_VISIBLE void hostsim_profile_forget_buffers() { hostsim::forget_buffers(); }
HOSTSIM_VISIBLE void hostsim_profile_buffer(const char* name, uintptr_t memory, size_t bytes) {
    hostsim::add_buffer(name, reinterpret_cast<const void*>(memory), bytes);
}

void __tsan_init() {}
void __tsan_func_entry(void*) {
    if (hostsim::watching()) hostsim::traces.add(hostsim::call, nullptr);
}
void __tsan_func_exit() {
    if (hostsim::watching()) hostsim::traces.add(hostsim::leave, nullptr);
}
void __sanitizer_cov_trace_pc() {
    if (hostsim::watching()) hostsim::traces.add(hostsim::block_entry, __builtin_return_address(0));
}

#define HOSTSIM_RECORD(name, bytes, how)                                                              \
    void __tsan_##name(void* memory) {                                                                \
        if (hostsim::watching())                                                                      \
            hostsim::traces.record(memory, bytes, hostsim::Access::how, __builtin_return_address(0)); \
    }
#define HOSTSIM_ACCESS(bytes)                           \
    HOSTSIM_RECORD(read##bytes, bytes, read)            \
    HOSTSIM_RECORD(write##bytes, bytes, write)          \
    HOSTSIM_RECORD(volatile_read##bytes, bytes, read)   \
    HOSTSIM_RECORD(volatile_write##bytes, bytes, write) \
    HOSTSIM_RECORD(unaligned_read##bytes, bytes, read)  \
    HOSTSIM_RECORD(unaligned_write##bytes, bytes, write)
HOSTSIM_ACCESS(1)
HOSTSIM_ACCESS(2)
HOSTSIM_ACCESS(4)
HOSTSIM_ACCESS(8)
HOSTSIM_ACCESS(16)
#undef HOSTSIM_ACCESS
#undef HOSTSIM_RECORD
void __tsan_read_range(void* memory, size_t bytes) {
    if (hostsim::watching()) hostsim::traces.record(memory, bytes, hostsim::Access::read, __builtin_return_address(0));
}
void __tsan_write_range(void* memory, size_t bytes) {
    if (hostsim::watching()) hostsim::traces.record(memory, bytes, hostsim::Access::write, __builtin_return_address(0));
}
}
