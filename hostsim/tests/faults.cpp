// Faults planted in kernels: the simulator, a sanitizer or the race build must see each of them.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "common/launch.cuh"
#include "hostsim/race.h"
#include "hostsim/tests/check.h"
#include "hostsim/tests/faulty_kernels.cuh"

using namespace pk;
using namespace pk::test;

namespace {

constexpr int seeds = 8;

/// In how many orders a fault showed: `launched` returns the launch's status and says whether its result is right.
template <class Launched>
int in_all_orders(std::string& error, Launched launched) {
    int caught = 0;
    for (uint64_t seed = 0; seed < seeds; ++seed) {
        hostsim::set_seed(seed);
        Random random(seed);
        bool right = true;
        const Status status = launched(random, right);
        error += status.error + "\n";
        caught += !status.ok() || !right;
    }
    return caught;
}

template <Fault F>
int ring(std::string& error) {
    return in_all_orders(error, [](Random& random, bool& right) {
        constexpr int depth = steps * 64;
        Buffer<bf16> a(64 * depth), b(64 * depth);
        Buffer<float> d(64 * 64);
        a.fill_integers(random);
        b.fill_integers(random);
        TensorMap maps[2];
        for (int i = 0; i < 2; ++i)
            CHECK_OK(encode_tensor_map(
                {(i ? b : a).data(), Dtype::bf16, 2, {depth, 64}, {1, depth}, {64, 64}, Swizzle::b128}, maps[i]));
        const Status status =
            launch("ring_kernel", Dtype::bf16, ring_kernel<F>,
                   {{1}, {160}, stages * 2 * tile_bytes + 1024 + 128, {1, 1, 1}, true}, {}, maps[0], maps[1], d.data());
        const std::vector<double> want = product(a, b, 64, 64);
        for (size_t i = 0; i < want.size(); ++i) right &= is_equal(d[i], want[i]);
        return status;
    });
}

template <Fault F>
int transpose(std::string& error) {
    return in_all_orders(error, [](Random& random, bool& right) {
        Buffer<half> x(64 * 64), y(64 * 64);
        x.fill(random);
        TensorMap map;
        CHECK_OK(encode_tensor_map({y.data(), Dtype::f16, 2, {512, 8}, {1, 512}, {8, 8}, Swizzle::none}, map));
        const Status status =
            launch("transpose_kernel", Dtype::f16, transpose_kernel<F>, {{1}, {64}, 64 * 128 + 112}, {}, map, x.data());
        for (int m = 0; m < 64; ++m)
            for (int i = 0; i < 8; ++i)
                for (int j = 0; j < 8; ++j)
                    right &= is_equal(double{y[i * 512 + m * 8 + j]}, double{x[m * 64 + j * 8 + i]});
        return status;
    });
}

template <Fault F>
int panel(std::string& error) {
    return in_all_orders(error, [](Random& random, bool& right) {
        Buffer<int> x(steps * 64), y(steps * 64);
        for (size_t i = 0; i < x.size(); ++i) x[i] = random.integer(0, 1 << 20);
        TensorMap map;
        CHECK_OK(encode_tensor_map({y.data(), Dtype::f32, 2, {8, 8 * steps}, {1, 8}, {8, 8}, Swizzle::none}, map));
        const Status status =
            launch("panel_kernel", Dtype::f32, panel_kernel<F>, {{1}, {64}, 256 + 112}, {}, map, x.data());
        for (size_t i = 0; i < x.size(); ++i) right &= y[i] == x[i];
        return status;
    });
}

template <Fault F>
int neighbour(std::string& error) {
    return in_all_orders(error, [](Random&, bool& right) {
        Buffer<int> x(32), y(32);
        for (int i = 0; i < 32; ++i) x[i] = i;
        const Status status =
            launch("neighbour_kernel", Dtype::f32, neighbour_kernel<F>, {{1}, {32}}, {}, x.data(), y.data());
        for (int i = 0; i < 32; ++i) right &= y[i] == (i ^ 1);
        return status;
    });
}

template <Fault F>
int hand_over(std::string& error) {
    uint64_t flag = 1;
    int y[2] = {};
    hostsim::capture();
    const Status status = launch("flag_kernel", Dtype::f32, flag_kernel<F>, {{2}, {1}}, {}, &flag, uint64_t{9}, y);
    error += status.error + hostsim::replay();
    return !status.ok() || y[1] != 7 ? seeds : 0;
}

/// What a sanitizer prints when `body` runs in a process of its own; empty where it ends well.
[[maybe_unused]] std::string dying_words(const std::function<void()>& body) {
    int ends[2];
    if (pipe(ends)) return "no pipe";
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        body();
        _exit(0);
    }
    close(ends[1]);
    std::string words;
    char part[4096];
    for (ssize_t n; (n = read(ends[0], part, sizeof(part))) > 0;) words.append(part, static_cast<size_t>(n));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : words;
}

template <int (*Run)(std::string&)>
void must_show(const char* fault, const char* report) {
    std::string error;
    const int caught = Run(error);
    std::printf("%-20s %d of %d\n", fault, caught, seeds);
    CHECK(caught > 0, fault, " went unseen");
    CHECK(error.find(report) != std::string::npos, fault, " was reported as: ", error);
}

void check_plain() {
    std::string error;
    CHECK(ring<Fault::none>(error) == 0, error);
    CHECK(transpose<Fault::none>(error) == 0, error);
    CHECK(panel<Fault::none>(error) == 0, error);
    CHECK(neighbour<Fault::none>(error) == 0, error);
    CHECK(hand_over<Fault::none>(error) == 0, error);
}

void check_ring() {
    must_show<ring<Fault::swizzle>>("swizzle", "");
    must_show<ring<Fault::misaligned_tile>>("misaligned tile", "is not 1024-byte aligned");
    must_show<ring<Fault::k_advance>>("k advance", "");
    must_show<ring<Fault::stride>>("stride", "");
    must_show<ring<Fault::few_bytes>>("few bytes", "");
    must_show<ring<Fault::many_bytes>>("many bytes", "deadlock: ");
    must_show<ring<Fault::early_release>>("early release", "");
    must_show<ring<Fault::no_empty_wait>>("no empty wait", "");
    must_show<ring<Fault::no_full_wait>>("no full wait", "");
    must_show<ring<Fault::stuck_parity>>("stuck parity", "");
    must_show<ring<Fault::arrive_count>>("arrive count", "misses 1 of 5 arrivals");
    must_show<ring<Fault::no_wgmma_fence>>("no wgmma fence", "without a wgmma.fence");
    must_show<ring<Fault::no_wgmma_wait>>("no wgmma wait", "without waiting for wgmma");
    must_show<ring<Fault::early_read>>("early read", "");
    must_show<ring<Fault::no_init_barrier>>("no init barrier", "");
    must_show<ring<Fault::no_grid_wait>>("no grid wait", "has not waited for earlier grids");
}

void check_transpose() {
    must_show<transpose<Fault::no_barrier>>("no barrier", "");
    must_show<transpose<Fault::divergent_barrier>>("divergent barrier", "divergent barrier: ");
    must_show<transpose<Fault::past_the_end>>("past the end",
                                              hostsim::racing ? "race" : "are not the block's shared memory");
    must_show<transpose<Fault::unwritten>>("unwritten", "");
    must_show<transpose<Fault::no_copy_wait>>("no copy wait", "");
    must_show<transpose<Fault::untransposed>>("untransposed", "");
    must_show<transpose<Fault::missing_lane>>("missing lane", "deadlock: ");
    must_show<panel<Fault::no_store_wait>>("no store wait", "");
    must_show<panel<Fault::no_panel_barrier>>("no panel barrier", "");
    must_show<neighbour<Fault::no_syncwarp>>("no syncwarp", "");
    must_show<hand_over<Fault::flag_left_up>>("flag left up", "is never lowered");
}

/// What only the order of accesses shows.
void check_races() {
    must_show<ring<Fault::no_init_fence>>("no init fence", "race on shared address");
    must_show<ring<Fault::early_release>>("early release", "race on shared address");
    must_show<transpose<Fault::no_proxy_fence>>("no proxy fence", "(a barrier and fence.proxy.async)");
    must_show<panel<Fault::no_store_wait>>("no store wait", "race on shared address");
    must_show<panel<Fault::no_panel_barrier>>("no panel barrier", "race on shared address");
    must_show<panel<Fault::no_panel_fence>>("no panel fence", "(a barrier and fence.proxy.async)");
    must_show<neighbour<Fault::no_syncwarp>>("no syncwarp", "race on shared address");
}

}  // namespace

int main() {
    const DeviceGuard device(0);
    check_plain();
    check_ring();
    check_transpose();
    if (hostsim::racing) check_races();
#if defined(__SANITIZE_ADDRESS__)
    must_show<transpose<Fault::out_of_bounds>>("out of bounds", "lies outside its memory");
    const std::string words = dying_words([] {
        const std::vector<int> x(31);
        std::vector<int> y(32);
        (void)launch("neighbour_kernel", Dtype::f32, neighbour_kernel<Fault::none>, {{1}, {32}}, {}, x.data(),
                     y.data());
    });
    CHECK(
        words.find("heap-buffer-overflow") != std::string::npos && words.find("neighbour_kernel") != std::string::npos,
        "a read past the end: ", words);
#endif
    return finish();
}
