// Fibers run one after another, so the lanes of a warp never access memory together. Their traces are merged by
// Min(SP:PC): of the lanes' next events the deepest call and the lowest address go first, and all lanes at that event
// go together; a meeting waits for every lane. Basic blocks are events too, and lie in the order of the source
// (-fno-reorder-blocks), so a lane that leaves a loop early waits behind it for the others, as it does on hardware.
#include "hostsim/requests.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

namespace hostsim {

namespace {

constexpr int warp = 32;
constexpr uint64_t sector = 32, line = 128, widest = 16, alignment = 512;

struct Buffer {
    size_t name;  // in `names`
    uintptr_t begin, bytes;
    uint64_t at;  // where it would lie on a device
};

struct Request {
    uint32_t word = 0;
    uint32_t mask = 0;
    uint64_t bytes = 0, all_bytes = 0;  // of a lane, at most; of all
    size_t buffer = 0;                  // its name
    uint64_t address[warp];

    Event event() const { return static_cast<Event>(word & ((1u << event_bits) - 1)); }
    bool is_shared() const { return event() >= shared_read && event() <= shared_atomic; }
    bool is_atomic() const { return event() == global_atomic || event() == shared_atomic; }
    template <class Body>
    void each(Body&& body) const {
        for (uint32_t left = mask; left; left &= left - 1) body(__builtin_ctz(left));
    }
};

/// Successive requests of one instruction, each to the addresses behind those of the one before.
struct Run {
    Request first;
    uint64_t next[warp];
    uint64_t bytes = 0, requests = 0, cost = 0;
    Traffic* counts = nullptr;
};

enum : size_t { unnamed, shared_name };
std::vector<std::string> names{"?", "shared"};
std::vector<Buffer> buffers;
/// Per sector of all buffers, the block that last read it and the one that last wrote it.
std::vector<uint32_t> seen[2];
uint64_t device_end = alignment;

using Table = std::map<std::pair<size_t, uint32_t>, Traffic>;  // by name of the buffer and word
std::map<std::pair<std::string, uint32_t>, Table> tables;      // by kernel and body
Table* table = nullptr;                                        // of the running kernel
uint32_t first_block = 0, running_block = 0;
bool is_first_block = false;
std::unordered_map<uint32_t, Run> runs;
std::vector<Run*> open_runs;

/// Moves an address to where its buffer would lie on a device; the buffer's name.
size_t locate(uint64_t& address) {
    static size_t last = 0;
    for (size_t tried = 0; tried <= buffers.size(); ++tried) {
        const size_t i = tried ? tried - 1 : last;
        if (i >= buffers.size() || address - buffers[i].begin >= buffers[i].bytes) continue;
        address = buffers[i].at + (address - buffers[i].begin);
        last = i;
        return buffers[i].name;
    }
    return unnamed;
}

/// Distinct values, of a few that mostly are in order.
template <size_t N>
size_t distinct(uint64_t (&values)[N], size_t count) {
    if (!std::is_sorted(values, values + count)) std::sort(values, values + count);
    return static_cast<size_t>(std::unique(values, values + count) - values);
}

/// The pieces of `size` bytes that the lanes touch from `begin` on.
size_t pieces(const Request& r, uint64_t begin, uint64_t bytes, uint64_t size, uint64_t (&found)[2 * warp]) {
    size_t count = 0;
    r.each([&](int lane) {
        const uint64_t first = r.address[lane] + begin, last = first + bytes - 1;
        found[count++] = first / size;
        if (last / size != first / size) found[count++] = last / size;
    });
    return distinct(found, count);
}

struct Passes {
    uint64_t needed = 0, ideal = 0;
};

/// Passes over the 32 banks of 4 bytes: 32, 16 or 8 lanes at a time for 4, 8 or 16 bytes; a word is read once.
Passes passes(const Request& r, uint64_t begin, uint64_t bytes) {
    Passes total;
    const int together = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;
    for (int first = 0; first < warp; first += together) {
        uint64_t words[5 * warp];
        size_t count = 0;
        for (int lane = first; lane < first + together; ++lane) {
            if (!(r.mask >> lane & 1)) continue;
            const uint64_t address = r.address[lane] + begin;
            for (uint64_t word = address / 4; word <= (address + bytes - 1) / 4; ++word) words[count++] = word;
        }
        if (!count) continue;
        if (!r.is_atomic()) count = distinct(words, count);
        int per_bank[32] = {}, most = 0;
        for (size_t i = 0; i < count; ++i) most = std::max(most, ++per_bank[words[i] % 32]);
        total.needed += static_cast<uint64_t>(most);
        ++total.ideal;
    }
    return total;
}

uint64_t cost_of(const Request& r, uint64_t begin, uint64_t bytes) {
    uint64_t found[2 * warp];
    return r.is_shared() ? passes(r, begin, bytes).needed : pieces(r, begin, bytes, sector, found);
}

void end_run(Run& run) {
    for (size_t i = 0; i < run.counts->merged_requests.size(); ++i) {
        const uint64_t width = uint64_t{4} << i;
        bool fits = run.first.bytes < width && run.bytes % width == 0 && !run.first.is_atomic();
        run.first.each([&](int lane) { fits &= run.first.address[lane] % width == 0; });
        run.counts->merged_requests[i] += fits ? run.bytes / width : run.requests;
        if (!fits) run.counts->merged_cost[i] += run.cost;
        for (uint64_t at = 0; fits && at < run.bytes; at += width)
            run.counts->merged_cost[i] += cost_of(run.first, at, width);
    }
    run.requests = 0;
}

void add_to_run(const Request& r, uint64_t cost, Traffic& counts) {
    Run& run = runs[r.word];
    bool adjacent = run.requests && run.first.mask == r.mask && run.first.bytes == r.bytes && run.counts == &counts;
    if (adjacent) r.each([&](int lane) { adjacent &= r.address[lane] == run.next[lane]; });
    if (!adjacent) {
        if (run.requests) {
            end_run(run);
        } else {
            open_runs.push_back(&run);
        }
        run.first = r;
        run.bytes = run.cost = 0;
        run.counts = &counts;
    }
    ++run.requests;
    run.bytes += r.bytes;
    run.cost += cost;
    r.each([&](int lane) { run.next[lane] = r.address[lane] + r.bytes; });
}

/// Sectors and lines of at most 16 bytes per lane; the number of sectors.
uint64_t count_global(const Request& r, uint64_t begin, uint64_t bytes, Traffic& counts) {
    uint64_t found[2 * warp], starts[warp];
    size_t lanes = 0;
    counts.lines += pieces(r, begin, bytes, line, found);
    const size_t count = pieces(r, begin, bytes, sector, found);
    counts.sectors += count;
    r.each([&](int lane) { starts[lanes++] = r.address[lane] + begin; });
    counts.ideal_sectors += (distinct(starts, lanes) * bytes + sector - 1) / sector;
    auto& blocks = seen[r.event() != global_read];
    for (size_t i = 0; r.buffer != unnamed && i < count && found[i] < blocks.size(); ++i) {
        uint32_t& block = blocks[found[i]];
        counts.new_sectors += block < first_block;
        counts.block_sectors += block != running_block;
        block = running_block;
    }
    return count;
}

void count(const Request& r) {
    Traffic& counts = (*table)[{r.buffer, r.word}];
    ++counts.requests;
    counts.lanes += static_cast<uint64_t>(__builtin_popcount(r.mask));
    counts.bytes += r.all_bytes;
    counts.largest = std::max(counts.largest, r.bytes);
    uint64_t cost = 0;
    for (uint64_t at = 0; at < r.bytes; at += widest) {  // more bytes are several instructions
        const uint64_t bytes = std::min(r.bytes - at, widest);
        if (r.is_shared()) {
            const Passes needed = passes(r, at, bytes);
            counts.wavefronts += needed.needed;
            counts.ideal_wavefronts += needed.ideal;
            cost += needed.needed;
        } else {
            cost += count_global(r, at, bytes, counts);
        }
    }
    add_to_run(r, cost, counts);
}

/// Reads one lane's trace; `key` orders its next event among the lanes'.
class Reader {
  public:
    static constexpr uint64_t over = ~uint64_t{0}, waits = over - 1;

    void start(const Trace& trace) {
        at_ = trace.words.data();
        end_ = at_ + trace.words.size();
        depth_ = trace.depth;
    }
    int depth() const { return depth_; }
    uint64_t key() {
        for (; at_ != end_; ++at_) {
            const uint32_t event = *at_ & ((1u << event_bits) - 1);
            if (event == meeting) return waits;
            if (event != call && event != leave) return uint64_t{255u - static_cast<uint8_t>(depth_)} << 32 | *at_;
            depth_ += event == call ? 1 : -1;
        }
        return over;
    }
    /// Past the event; its address and bytes where it is an access.
    uint64_t take(bool is_access) {
        const uint64_t operand = is_access ? uint64_t{at_[2]} << 32 | at_[1] : 0;
        at_ += is_access ? 3 : 1;
        return operand;
    }

  private:
    const uint32_t *at_, *end_;
    int depth_;
};

}  // namespace

void forget_counts() {
    tables.clear();
    names.resize(2);
    forget_buffers();
    table = nullptr;
    first_block = running_block = 0;
}

void forget_buffers() {
    buffers.clear();
    for (auto& blocks : seen) blocks.clear();
    device_end = alignment;
}

void add_buffer(const char* name, const void* memory, size_t bytes) {
    const auto known = std::find(names.begin(), names.end(), name);
    const auto index = static_cast<size_t>(known - names.begin());
    if (known == names.end()) names.emplace_back(name);
    buffers.push_back({index, reinterpret_cast<uintptr_t>(memory), bytes, device_end});
    device_end += (bytes + 2 * alignment - 1) / alignment * alignment;
    for (auto& blocks : seen) blocks.resize(device_end / sector);
}

void begin_kernel(const char* name, uint32_t body) {
    table = &tables[{name, body}];
    runs.clear();
    is_first_block = true;
}

std::vector<Row> counted() {
    std::vector<Row> rows;
    for (const auto& [kernel, by_code] : tables)
        for (const auto& [key, counts] : by_code)
            rows.push_back({kernel.first, kernel.second, key.second >> event_bits,
                            static_cast<Event>(key.second & ((1u << event_bits) - 1)), names[key.first], counts});
    return rows;
}

void replay(Trace* traces, int lanes, uint32_t block) {
    running_block = block;
    if (std::exchange(is_first_block, false)) first_block = block;
    Reader readers[warp];
    uint64_t keys[warp];
    std::fill(keys, keys + warp, Reader::over);
    for (int lane = 0; lane < lanes; ++lane) {
        readers[lane].start(traces[lane]);
        keys[lane] = readers[lane].key();
    }
    for (;;) {
        const uint64_t next = *std::min_element(keys, keys + warp);
        if (next == Reader::over) break;
        Request request;
        for (int lane = 0; lane < warp; ++lane) request.mask |= static_cast<uint32_t>(keys[lane] == next) << lane;
        request.word = static_cast<uint32_t>(next);
        const bool is_access = next != Reader::waits && request.event() != block_entry;
        request.each([&](int lane) {
            const uint64_t operand = readers[lane].take(is_access);
            keys[lane] = readers[lane].key();
            request.address[lane] = operand & ((uint64_t{1} << address_bits) - 1);
            request.bytes = std::max(request.bytes, operand >> address_bits);
            request.all_bytes += operand >> address_bits;
        });
        if (!is_access) continue;
        if (request.is_shared()) {
            request.buffer = shared_name;
        } else {
            request.each([&](int lane) { request.buffer = locate(request.address[lane]); });
        }
        count(request);
    }
    for (Run* run : open_runs) end_run(*run);
    open_runs.clear();
    for (int lane = 0; lane < lanes; ++lane) {
        traces[lane].words.clear();
        traces[lane].depth = readers[lane].depth();
    }
}

}  // namespace hostsim
