// cp.async, ldmatrix, mma.sync: what a warp of sm_80 does beyond plain CUDA.
#include <cstring>

#include "hostsim/engine.h"
#include "hostsim/ptx.h"

namespace hostsim {

namespace {

void execute(const Copy& copy) {
    std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.valid));
    std::memset(copy.to + copy.valid, 0, static_cast<size_t>(copy.bytes - copy.valid));
}

struct Fragments {
    float* d;
    const uint32_t *a, *b;
};

template <class Multiply>
void multiply_lanes(Lanes& lanes, Multiply multiply) {
    float d[warp_lanes][4];
    uint32_t a[warp_lanes][4], b[warp_lanes][2];
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& of = *reinterpret_cast<const Fragments*>(lanes.value[lane]);
        std::memcpy(d[lane], of.d, sizeof(d[lane]));
        std::memcpy(a[lane], of.a, sizeof(a[lane]));
        std::memcpy(b[lane], of.b, sizeof(b[lane]));
    }
    multiply(d, a, b);
    for (int lane = 0; lane < warp_lanes; ++lane)
        std::memcpy(reinterpret_cast<const Fragments*>(lanes.value[lane])->d, d[lane], sizeof(d[lane]));
}

void multiply_f16(Lanes& lanes) {
    multiply_lanes(lanes, [](auto d, auto a, auto b) { mma_m16n8k16(Element::f16, d, a, b); });
}
void multiply_bf16(Lanes& lanes) {
    multiply_lanes(lanes, [](auto d, auto a, auto b) { mma_m16n8k16(Element::bf16, d, a, b); });
}
void multiply_tf32(Lanes& lanes) {
    multiply_lanes(lanes, [](auto d, auto a, auto b) { mma_m16n8k8_tf32(d, a, b); });
}

struct Rows {
    unsigned char* row;
    uint32_t* r;
};

template <bool Store>
void move_matrices(Lanes& lanes) {
    unsigned char* rows[warp_lanes];
    uint32_t r[warp_lanes][4];
    const int count = lanes.argument[0] & 7;
    const bool transposed = lanes.argument[0] & 8;
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& of = *reinterpret_cast<const Rows*>(lanes.value[lane]);
        rows[lane] = of.row;
        if (Store) std::memcpy(r[lane], of.r, sizeof(uint32_t) * count);
    }
    if (Store) {
        stmatrix(rows, count, transposed, r);
        return;
    }
    ldmatrix(rows, count, transposed, r);
    for (int lane = 0; lane < warp_lanes; ++lane)
        std::memcpy(reinterpret_cast<const Rows*>(lanes.value[lane])->r, r[lane], sizeof(uint32_t) * count);
}

template <bool Store>
void matrices(const char* what, uint32_t* r, int count, bool transposed, uint32_t address, const Site& site,
              const void* code) {
    Rows own{nullptr, r};
    if (engine.current->lane < 8 * count) {
        if (address % 16) stop(text(what, " at ", place(site), ": row address ", address, " is not 16-byte aligned"));
        own.row = shared_pointer(address, 16, what, site);
        (Store ? note_write : note_read)(own.row, 16, site);
        if (profiler) profiler->access(own.row, 16, Store ? Access::write : Access::read, code);
    }
    warp_operation(what, move_matrices<Store>, ~0u, reinterpret_cast<uint64_t>(&own), count | transposed << 3, site);
}

void elect_lane(Lanes& lanes) {
    int chosen = static_cast<int>(engine.random.below(warp_lanes));
    while (!(lanes.mask >> chosen & 1)) chosen = (chosen + 1) % warp_lanes;
    for (int lane = 0; lane < warp_lanes; ++lane) lanes.result[lane] = lane == chosen;
}

}  // namespace

void cp_async(uint32_t to, const void* from, int bytes, int valid, Site site) {
    if (to % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
        stop(text("cp.async at ", place(site), ": an address is not ", bytes, "-byte aligned"));
    if (valid < 0 || valid > bytes) stop(text("cp.async at ", place(site), ": ", valid, " of ", bytes, " bytes"));
    const Copy copy{shared_pointer(to, bytes, "cp.async", site), static_cast<const unsigned char*>(from), bytes, valid};
    check_global(from, valid, "cp.async", site);
    note_write(copy.to, bytes, site);
    if (profiler) {
        profiler->access(copy.to, bytes, Access::write, __builtin_return_address(0));
        if (valid) profiler->access(copy.from, valid, Access::read, __builtin_return_address(0));
    }
    if (run_now()) {
        execute(copy);
    } else {
        std::memset(copy.to, 0xFF, bytes);
        engine.current->copies.issue(copy);
    }
}

void cp_async_commit() { engine.current->copies.commit(); }

void cp_async_wait(int groups) { engine.current->copies.wait(groups, execute); }

void ldmatrix(uint32_t* r, int count, bool transposed, uint32_t address, Site site) {
    matrices<false>("ldmatrix", r, count, transposed, address, site, __builtin_return_address(0));
}

void stmatrix(const uint32_t* r, int count, bool transposed, uint32_t address, Site site) {
    matrices<true>("stmatrix", const_cast<uint32_t*>(r), count, transposed, address, site, __builtin_return_address(0));
}

void raise_flag(uint64_t* flag, uint64_t value, Site site) {
    check_global(flag, sizeof(*flag), "a flag", site);
    engine.raised.push_back({flag, value, site});
    *flag = value;
}

void wait_for_flag(const uint64_t* flag, uint64_t value, Site site) {
    check_global(flag, sizeof(*flag), "a flag", site);
    if (*flag != value) stop(text("deadlock: the flag waited for at ", place(site), " is raised by no earlier block"));
}

void mma_m16n8k16(Element element, float* d, const uint32_t* a, const uint32_t* b, Site site) {
    ++counts.mma;
    const Fragments own{d, a, b};
    warp_operation("mma", element == Element::f16 ? multiply_f16 : multiply_bf16, ~0u, reinterpret_cast<uint64_t>(&own),
                   0, site);
}

void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b, Site site) {
    ++counts.mma;
    const Fragments own{d, a, b};
    warp_operation("mma", multiply_tf32, ~0u, reinterpret_cast<uint64_t>(&own), 0, site);
}

bool elect(Site site) { return warp_operation("elect", elect_lane, ~0u, 0, 0, site) != 0; }

}  // namespace hostsim
