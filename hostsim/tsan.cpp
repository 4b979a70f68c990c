// What kernels compiled with -fsanitize=thread call, linked without the sanitizer's own library: the race build.
#include "hostsim/engine.h"

namespace {

[[gnu::always_inline]] inline void read(const void* memory, size_t bytes) {
    hostsim::accessing_code = __builtin_return_address(0);
    hostsim::note_read(memory, bytes, hostsim::Site());
}
[[gnu::always_inline]] inline void write(const void* memory, size_t bytes) {
    hostsim::accessing_code = __builtin_return_address(0);
    hostsim::note_write(memory, bytes, hostsim::Site());
}

}  // namespace

extern "C" {

void __tsan_init() { hostsim::racing = true; }
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_read_range(void* memory, size_t bytes) { read(memory, bytes); }
void __tsan_write_range(void* memory, size_t bytes) { write(memory, bytes); }

#define HOSTSIM_ACCESS(bytes)                                                 \
    void __tsan_read##bytes(void* memory) { read(memory, bytes); }            \
    void __tsan_write##bytes(void* memory) { write(memory, bytes); }          \
    void __tsan_volatile_read##bytes(void* memory) { read(memory, bytes); }   \
    void __tsan_volatile_write##bytes(void* memory) { write(memory, bytes); } \
    void __tsan_unaligned_read##bytes(void* memory) { read(memory, bytes); }  \
    void __tsan_unaligned_write##bytes(void* memory) { write(memory, bytes); }
HOSTSIM_ACCESS(1)
HOSTSIM_ACCESS(2)
HOSTSIM_ACCESS(4)
HOSTSIM_ACCESS(8)
HOSTSIM_ACCESS(16)
#undef HOSTSIM_ACCESS
}
