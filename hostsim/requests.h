// From what each lane did to what its warp asks of memory: lanes merged into requests, requests counted.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace hostsim {

/// What a word of a trace is, in its low four bits; the code's offset in its file lies above. An address and its number
/// of bytes follow an access, in two more words.
enum Event : uint32_t {
    block_entry,
    global_read,
    global_write,
    global_atomic,
    shared_read,
    shared_write,
    shared_atomic,
    call,
    leave,
    meeting
};
constexpr int event_bits = 4, address_bits = 48;

/// What a lane did since its warp was last replayed.
struct Trace {
    std::vector<uint32_t> words;
    int depth = 0;  // of calls, where the words begin
};

/// What requests came to.
struct Traffic {
    uint64_t requests = 0, lanes = 0, bytes = 0, largest = 0;  // bytes asked for by all lanes; by one, at most
    uint64_t sectors = 0, ideal_sectors = 0, lines = 0;
    uint64_t block_sectors = 0, new_sectors = 0;  // new to the block; to the kernel
    uint64_t wavefronts = 0, ideal_wavefronts = 0;
    // What runs of accesses to adjacent addresses would be as accesses of 4, 8 and 16 bytes: a compiler may merge them.
    std::array<uint64_t, 3> merged_requests = {}, merged_cost = {};
};

/// What one instruction did to one buffer.
struct Row {
    std::string kernel;
    uint32_t body;  // offset in its file of the kernel, one of those of that name
    uint32_t code;  // offset in its file of the instruction behind it
    Event event;
    std::string buffer;  // "shared"; "?" where none was named
    Traffic counts;
};

void forget_counts();
std::vector<Row> counted();

void forget_buffers();
/// A tensor's memory, which a device allocates at a multiple of 512 bytes: addresses are taken from its start.
void add_buffer(const char* name, const void* memory, size_t bytes);

/// What is counted from here on belongs to a launch of this kernel; `body`: its offset in its file.
void begin_kernel(const char* name, uint32_t body);
/// Merge the traces of a warp's `lanes` lanes, count their requests and drop them. `block`: a number of its own.
void replay(Trace* traces, int lanes, uint32_t block);

}  // namespace hostsim
