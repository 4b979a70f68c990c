#include "hostsim/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// Present where the kernels, not this file, are compiled with AddressSanitizer.
extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* save, const void** bottom, size_t* size);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* address, size_t size);
}

namespace hostsim {

namespace {

constexpr size_t stack_bytes = 256 * 1024;

// Stacks start at different offsets of a page, or every fiber's frames would fall into the same sets of the cache.
constexpr size_t colours = 32, colour_bytes = 128;

struct Pool {
    std::vector<std::unique_ptr<Stack>> all;
    std::vector<Stack*> free;
};

Pool pool;
Stack caller;
Stack* left = nullptr;  // the stack just switched away from

Stack* map_stack() {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* memory =
        mmap(nullptr, stack_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, page, PROT_NONE);  // a kernel that recurses too deep stops here
    auto stack = std::make_unique<Stack>();
    stack->bottom = static_cast<unsigned char*>(memory) + page;
    stack->size = stack_bytes - pool.all.size() % colours * colour_bytes;
    pool.all.push_back(std::move(stack));
    return pool.all.back().get();
}

}  // namespace

#if defined(__x86_64__)

// System V: rbx, rbp, r12-r15 and the stack pointer are all that a call keeps.
asm(R"(
    .text
    .p2align 4
    .hidden hostsim_switch
    .globl hostsim_switch
    .type hostsim_switch, @function
hostsim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size hostsim_switch, .-hostsim_switch
)");
extern "C" void hostsim_switch(void** save, void* resume);

namespace {

void prepare(Stack* stack, void (*entry)()) {
    // Six registers, the entry as return address, and a null one so that backtraces end.
    auto* top = reinterpret_cast<void**>(stack->bottom + stack->size);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack->saved = top;
}

void jump(Stack* from, Stack* to) { hostsim_switch(&from->saved, to->saved); }

}  // namespace

#else

namespace {

ucontext_t& context(Stack* stack) {
    if (!stack->saved) stack->saved = new ucontext_t;
    return *static_cast<ucontext_t*>(stack->saved);
}

void prepare(Stack* stack, void (*entry)()) {
    ucontext_t& start = context(stack);
    getcontext(&start);
    start.uc_stack.ss_sp = stack->bottom;
    start.uc_stack.ss_size = stack->size;
    start.uc_link = nullptr;
    makecontext(&start, entry, 0);
}

void jump(Stack* from, Stack* to) { swapcontext(&context(from), &context(to)); }

}  // namespace

#endif

Stack* acquire_stack(void (*entry)()) {
    Stack* stack;
    if (pool.free.empty()) {
        stack = map_stack();
    } else {
        stack = pool.free.back();
        pool.free.pop_back();
    }
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(stack->bottom, stack->size);
    prepare(stack, entry);
    return stack;
}

void release_stack(Stack* stack) { pool.free.push_back(stack); }

void release_all_stacks() {
    pool.free.clear();
    for (const auto& stack : pool.all) pool.free.push_back(stack.get());
}

void entered_stack() {
    if (!__sanitizer_finish_switch_fiber) return;
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (left == &caller) {
        caller.bottom = static_cast<unsigned char*>(const_cast<void*>(bottom));
        caller.size = size;
    }
}

void switch_stack(Stack* from, Stack* to, bool last) {
    left = from;
    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(last ? nullptr : &from->shadow, to->bottom, to->size);
    jump(from, to);
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from->shadow, nullptr, nullptr);
}

Stack* caller_stack() { return &caller; }

}  // namespace hostsim
