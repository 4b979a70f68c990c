// Which thread runs next, and what happens where none can.
#include <map>

#include "hostsim/engine.h"

namespace hostsim {

namespace {

std::string deadlock() {
    std::map<std::string, int> waiting;
    for (const Block& block : engine.blocks)
        for (const Thread& thread : block.threads)
            if (!thread.done) ++waiting[text(thread.what, " at ", place(thread.site))];
    std::string report = "deadlock:";
    for (const auto& [where, count] : waiting)
        report += text(waiting.begin()->first == where ? " " : ", ", count, count == 1 ? " thread" : " threads", " in ",
                       where);
    for (const Block& block : engine.blocks)
        for (const MBarrier& barrier : block.mbarriers)
            if (!barrier.waiting.empty())
                report += text("; mbarrier ", barrier.offset, " of block ", block.rank, " in phase ", barrier.phase,
                               " misses ", barrier.pending, " of ", barrier.expected, " arrivals and ", barrier.bytes,
                               " bytes");
    return report;
}

void make_current(Thread* thread) {
    if (!engine.current || engine.current->block != thread->block) {
        exchange_static(engine.current ? engine.current->block : nullptr, thread->block);
        dynamic_base = thread->block->window + engine.shared_start;
        blockIdx = thread->block->index;
    }
    engine.current = thread;
    threadIdx = thread->index;
}

Thread* pick_runnable() {
    Block* block = engine.current ? engine.current->block : &engine.blocks[0];
    if (engine.blocks.size() > 1 && (block->runnable.empty() || engine.random.below(16) == 0)) {
        const unsigned first = engine.random.below(engine.blocks.size());
        for (unsigned i = 0; i < engine.blocks.size(); ++i) {
            Block& candidate = engine.blocks[(first + i) % engine.blocks.size()];
            if (candidate.runnable.empty()) continue;
            block = &candidate;
            break;
        }
    }
    return block->runnable.take(engine.random);
}

/// The next thread to run, taken from its block's list; null where none can.
Thread* pick() {
    if (!engine.pending.empty() && engine.async == Engine::Async::random && engine.random.below(4) == 0) step_pending();
    for (;;) {
        Thread* thread = pick_runnable();
        if (thread || !step_pending()) return thread;
    }
}

void returned(Thread& thread) {
    Block& block = *thread.block;
    thread.done = true;
    thread.stack = nullptr;
    --block.living;
    const Barrier& whole = block.barriers[0];
    if (whole.arrived && whole.expected == static_cast<int>(block.threads.size()))
        stop(text("divergent barrier: this thread returned while ", whole.arrived, " wait at ", place(whole.site)));
    lane_returned(thread);
    leave_cluster_barrier();
}

std::string ended() {
    for (const Block& block : engine.blocks)
        if (block.living) return deadlock();
    return {};
}

/// What stop() throws: the kernel's frames end as frames do, though those of other threads are only dropped.
struct Stopped {};

/// Run the current thread to its end; the next one, or null where all is over.
Thread* finish_thread() {
    try {
        (*engine.body)();
        returned(*engine.current);
        Thread* next = pick();
        if (!next && engine.error.empty()) engine.error = ended();
        return next;
    } catch (const Stopped&) {
        return nullptr;
    }
}

/// Runs threads on one stack for as long as the next has none of its own.
void run_threads() {
    entered_stack();
    for (;;) {
        Stack* stack = engine.current->stack;
        Thread* next = finish_thread();
        if (!next) {
            release_stack(stack);
            switch_stack(stack, caller_stack(), true);
        }
        make_current(next);
        if (next->stack) {
            release_stack(stack);
            switch_stack(stack, next->stack, true);
        }
        next->stack = stack;
    }
}

void leave_for(Thread* next) {
    Stack* from = engine.current->stack;
    make_current(next);
    if (!next->stack) next->stack = acquire_stack(run_threads);
    if (next->stack != from) switch_stack(from, next->stack, false);
}

}  // namespace

Thread* Runnable::take(Random& random) {
    uint64_t bits = random.next();
    const uint64_t draw = bits >> 32;
    size_t below = count_;
    for (int i = priorities - 1; i >= 0; --i) {
        WaitList& level = levels_[i];
        below -= level.size();
        // Now and then a lower priority has its turn, or those who wait for it in a loop would wait for ever.
        const bool pass = level.empty() || (below > 0 && bits % 64 == 0);
        bits /= 64;
        if (pass) continue;
        Thread*& place = level[draw * level.size() >> 32];
        Thread* thread = place;
        place = level.back();
        level.pop_back();
        --count_;
        return thread;
    }
    return nullptr;
}

void fail(const std::string& message) {
    if (engine.error.empty())
        engine.error = text("thread (", threadIdx.x, ", ", threadIdx.y, ", ", threadIdx.z, "): ", message);
}

void stop(const std::string& message) {
    fail(message);
    throw Stopped();
}

void suspend(const char* what, const Site& site) {
    engine.current->what = what;
    engine.current->site = site;
    Thread* next = pick();
    if (next) return leave_for(next);
    if (engine.error.empty()) engine.error = deadlock();
    throw Stopped();
}

void wait_in(WaitList& list, const char* what, const Site& site) {
    list.push_back(engine.current);
    suspend(what, site);
}

void yield(const char* what, const Site& site) {
    if (++engine.yields > 1 << 20) stop(text(what, " at ", place(site), " never came true"));
    if (engine.random.below(2) == 0) step_pending();
    engine.current->block->runnable.add(engine.current);
    suspend(what, site);
}

void wake(WaitList& list) {
    for (Thread* thread : list) thread->block->runnable.add(thread);
    list.clear();
}

bool run_now() {
    return engine.async == Engine::Async::eager ||
           (engine.async == Engine::Async::random && engine.random.below(2) == 0);
}

void queue(std::unique_ptr<Pending> operation) {
    if (engine.async == Engine::Async::eager) {
        while (!operation->step()) {
        }
    } else {
        engine.pending.push_back(std::move(operation));
    }
}

bool step_pending() {
    if (engine.pending.empty()) return false;
    const unsigned chosen = engine.random.below(engine.pending.size());
    if (engine.pending[chosen]->step()) engine.pending.erase(engine.pending.begin() + chosen);
    return true;
}

void run_all_threads() {
    engine.current = nullptr;
    Thread* first = pick();
    make_current(first);
    first->stack = acquire_stack(run_threads);
    switch_stack(caller_stack(), first->stack, false);
    engine.current = nullptr;
}

}  // namespace hostsim
