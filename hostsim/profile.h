// What the profile build takes down besides what the compiler tells of: see docs/hostsim.md. Null in other builds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hostsim {

enum class Access : uint8_t { read, write, atomic };

class Profiler {
  public:
    virtual ~Profiler() = default;
    /// The threads of a cluster begin, and have all returned.
    virtual void begin() = 0;
    virtual void end() = 0;
    /// The running thread is where all lanes of its warp meet.
    virtual void meet() = 0;
    /// An instruction that the compiler does not see; `code` is where the kernel called its wrapper.
    virtual void access(const void* memory, size_t bytes, Access how, const void* code) = 0;
};

inline Profiler* profiler = nullptr;

}  // namespace hostsim
