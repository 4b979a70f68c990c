// Stacks and the switch between them. A stack runs one thread after another and changes hands only where one waits.
#pragma once

#include <cstddef>

namespace hostsim {

struct Stack {
    void* saved = nullptr;            // where it was left
    unsigned char* bottom = nullptr;  // lowest byte that may be used
    size_t size = 0;
    void* shadow = nullptr;  // AddressSanitizer's own frames
};

/// A stack of the pool that will begin in `entry`, which never returns.
Stack* acquire_stack(void (*entry)());
void release_stack(Stack* stack);
/// Take back every stack that is out, whatever waits on it.
void release_all_stacks();

/// Leave `from` for `to`. `last`: nothing will come back to `from`.
void switch_stack(Stack* from, Stack* to, bool last);
/// What an entry function calls first.
void entered_stack();
/// The stack that run() was called on.
Stack* caller_stack();

}  // namespace hostsim
