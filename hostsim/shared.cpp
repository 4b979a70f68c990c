// A block's shared memory: a window of 256 KB whose offsets are shared addresses. Dynamic shared memory lies in it,
// between canaries. Static shared memory is thread-local storage of this module, at the addresses behind: its variables
// are found by name in the module's symbol table.
#include <elf.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>

#include "hostsim/engine.h"
#include "hostsim/ptx.h"

extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void* address, size_t size);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* address, size_t size);
__attribute__((weak)) void* __asan_region_is_poisoned(void* address, size_t size);
}

namespace hostsim {

namespace {

constexpr size_t canary_bytes = 1024;
constexpr unsigned char poison = 0xFF, canary = 0xA5;  // every float of poison bytes is a NaN

thread_local unsigned char hostsim_anchor = 0;

struct Range {
    ptrdiff_t begin, end;  // from the anchor
    std::string symbol;
};

/// The file that this code was loaded from.
std::string module_file() {
    struct Search {
        uintptr_t address;
        std::string file;
    } search{reinterpret_cast<uintptr_t>(&engine), {}};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto& search = *static_cast<Search*>(data);
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const auto& part = info->dlpi_phdr[i];
                const uintptr_t begin = info->dlpi_addr + part.p_vaddr;
                if (part.p_type != PT_LOAD || search.address < begin || search.address >= begin + part.p_memsz)
                    continue;
                search.file = *info->dlpi_name ? info->dlpi_name : "/proc/self/exe";
                return 1;
            }
            return 0;
        },
        &search);
    return search.file;
}

/// The static locals of functions in namespace pk and of kernels: what `__shared__` declares.
bool is_shared_variable(const std::string& symbol) {
    return symbol.starts_with("_ZZ") && (symbol.starts_with("_ZZN2pk") || symbol.find("_kernel") != std::string::npos);
}

std::vector<Range> find_variables() {
    std::ifstream file(module_file(), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    std::vector<Range> found;
    if (bytes.size() < sizeof(ElfW(Ehdr))) return found;
    const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes.data());
    const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(bytes.data() + header->e_shoff);
    ptrdiff_t anchor = 0;
    for (int i = 0; i < header->e_shnum; ++i) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(bytes.data() + sections[i].sh_offset);
        const char* names = bytes.data() + sections[sections[i].sh_link].sh_offset;
        for (size_t j = 0; j < sections[i].sh_size / sizeof(*symbols); ++j) {
            if (ELF64_ST_TYPE(symbols[j].st_info) != STT_TLS || symbols[j].st_shndx == SHN_UNDEF) continue;
            const std::string name = names + symbols[j].st_name;
            const auto begin = static_cast<ptrdiff_t>(symbols[j].st_value);
            if (name.find("hostsim_anchor") != std::string::npos) anchor = begin;
            if (is_shared_variable(name))
                found.push_back({begin, begin + static_cast<ptrdiff_t>(symbols[j].st_size), name});
        }
    }
    for (Range& range : found) {
        range.begin -= anchor;
        range.end -= anchor;
    }
    std::sort(found.begin(), found.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    return found;
}

const std::vector<Range>& all_variables() {
    static const std::vector<Range> all = find_variables();
    return all;
}

/// The variables that a kernel of this name can use: its instantiations' own, and those of functions it may call.
const std::vector<Range>& variables_of(const std::string& kernel) {
    static std::map<std::string, std::vector<Range>> of_kernel;
    auto [entry, is_new] = of_kernel.try_emplace(kernel);
    if (is_new)
        for (const Range& range : all_variables())
            if (range.symbol.find(kernel) != std::string::npos || range.symbol.find("_kernel") == std::string::npos)
                entry->second.push_back(range);
    return entry->second;
}

unsigned char* window_of(unsigned rank) {
    // Aligned to their size, so that a pointer's low bits are its shared address.
    static unsigned char* const windows = [] {
        const size_t bytes = 9 * window_bytes;
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        const auto start = reinterpret_cast<uintptr_t>(memory);
        return reinterpret_cast<unsigned char*>((start + window_bytes - 1) / window_bytes * window_bytes);
    }();
    return windows + rank * window_bytes;
}

}  // namespace

void prepare_shared(Block& block) {
    block.window = window_of(block.rank);
    unsigned char* dynamic = block.window + engine.shared_start;
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(block.window, window_bytes);
    std::memset(dynamic - canary_bytes, canary, canary_bytes);
    std::memset(dynamic, poison, engine.shared);
    std::memset(dynamic + engine.shared, canary, canary_bytes);
    if (__asan_poison_memory_region) {
        __asan_poison_memory_region(block.window, engine.shared_start);
        __asan_poison_memory_region(dynamic + engine.shared, window_bytes - engine.shared_start - engine.shared);
    }
    const auto& all = all_variables();
    if (!all.empty()) {
        engine.static_base = &hostsim_anchor + all[0].begin;
        engine.static_bytes = static_cast<size_t>(all.back().end - all[0].begin);
    }
    const auto& variables = variables_of(engine.name);
    size_t bytes = 0;
    for (const Range& range : variables) {
        if (block.rank == 0)
            std::memset(&hostsim_anchor + range.begin, poison, static_cast<size_t>(range.end - range.begin));
        bytes += static_cast<size_t>(range.end - range.begin);
    }
    block.static_copy.assign(engine.blocks.size() > 1 ? bytes : 0, poison);
}

std::string check_shared(const Block& block) {
    const unsigned char* dynamic = block.window + engine.shared_start;
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(block.window, window_bytes);
    for (size_t i = 0; i < canary_bytes; ++i) {
        if (dynamic[engine.shared + i] != canary)
            return text("a write ", i, " bytes past the ", engine.shared, " of dynamic shared memory");
        if (dynamic[-1 - static_cast<ptrdiff_t>(i)] != canary)
            return text("a write ", i + 1, " bytes before the dynamic shared memory");
    }
    return {};
}

Block& block_of(uint32_t address) {
    const uint32_t rank = address >> 24;
    return rank ? engine.blocks[rank - 1] : *engine.current->block;
}

bool is_dynamic(uint32_t address) {
    const uint32_t offset = offset_of(address);
    return engine.shared_start <= offset && offset < engine.shared_start + engine.shared;
}

unsigned char* shared_pointer(uint32_t address, size_t bytes, const char* what, const Site& site) {
    const uint32_t offset = offset_of(address);
    Block& block = block_of(address);
    if (is_dynamic(offset) && offset + bytes <= engine.shared_start + engine.shared) return block.window + offset;
    size_t at = 0;
    for (const Range& range : variables_of(engine.name)) {
        const ptrdiff_t begin =
            &hostsim_anchor + range.begin - engine.static_base + static_cast<ptrdiff_t>(window_bytes);
        const ptrdiff_t inside = static_cast<ptrdiff_t>(offset) - begin;
        if (inside >= 0 && inside + static_cast<ptrdiff_t>(bytes) <= range.end - range.begin)
            return &block == engine.current->block ? &hostsim_anchor + range.begin + inside
                                                   : block.static_copy.data() + at + inside;
        at += static_cast<size_t>(range.end - range.begin);
    }
    stop(text(what, " at ", place(site), ": ", bytes, " bytes at shared address ", offset,
              " are not the block's shared memory"));
}

uint32_t shared_address(const void* pointer, Site site) {
    uint32_t offset;
    if (!find_shared(pointer, offset)) stop(text("at ", place(site), ": a shared address of other memory"));
    return offset;
}

void check_global(const void* pointer, size_t bytes, const char* what, const Site& site) {
    if (engine.early && !engine.current->waited)
        stop(text(what, " at ", place(site), ": this thread of an early launch has not waited for earlier grids"));
    if (!__asan_region_is_poisoned || !bytes) return;
    void* const bad = __asan_region_is_poisoned(const_cast<void*>(pointer), bytes);
    if (bad)
        stop(text(what, " at ", place(site), ": byte ", static_cast<char*>(bad) - static_cast<const char*>(pointer),
                  " of ", bytes, " lies outside its memory"));
}

void exchange_static(Block* from, Block* to) {
    if (to->static_copy.empty()) return;
    size_t at = 0;
    for (const Range& range : variables_of(engine.name)) {
        const auto bytes = static_cast<size_t>(range.end - range.begin);
        if (from) std::memcpy(from->static_copy.data() + at, &hostsim_anchor + range.begin, bytes);
        std::memcpy(&hostsim_anchor + range.begin, to->static_copy.data() + at, bytes);
        at += bytes;
    }
}

}  // namespace hostsim
