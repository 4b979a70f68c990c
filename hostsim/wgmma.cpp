// wgmma: a warpgroup's 128 threads issue, the product runs some time before it is waited for, and until then the
// accumulators hold NaN.
#include <cstring>

#include "hostsim/engine.h"
#include "hostsim/ptx.h"

namespace hostsim {

namespace {

constexpr int group_threads = 128;

/// One instruction of a warpgroup, while its threads issue it and until all have waited for it.
struct Product {
    Wgmma instruction;
    bool accumulate = false;
    Site site;
    int arrived = 0, released = 0;  // threads that issued it, and that have read its result
    bool done = false;
    std::shared_ptr<Product> before;  // the product in flight whose accumulators it takes over, until it runs
    bool takes_over = false;
    int takers = 0;  // products that take over these and have not run
    WaitList waiting;
    float* registers[group_threads] = {};  // each thread's accumulators
    std::vector<float> d;                  // (64, n)
    AsyncClock clock;
    unsigned char* window = nullptr;
};

using ProductPointer = std::shared_ptr<Product>;

}  // namespace

struct Warpgroup {
    std::vector<ProductPointer> products;  // in order of issue
    struct Member {
        size_t issued = 0, waited = 0;
        std::vector<size_t> groups;  // products issued before each commit
        bool fenced = false;
    } members[group_threads];
};

namespace {

Warpgroup& own_group(const char* what, const Site& site) {
    Block& block = *engine.current->block;
    const size_t groups = block.threads.size() / group_threads;
    const auto own = static_cast<size_t>(engine.current->id / group_threads);
    if (own >= groups) stop(text(what, " at ", place(site), ": this thread is in no whole warpgroup"));
    if (block.warpgroups.size() < groups) block.warpgroups.resize(groups);
    if (!block.warpgroups[own]) block.warpgroups[own] = std::make_shared<Warpgroup>();
    return *block.warpgroups[own];
}

int member() { return engine.current->id % group_threads; }

/// Where the running thread's accumulator i lies in a product's d.
size_t place_of(const Wgmma& instruction, int i) {
    const At at = wgmma_d(member(), i);
    return static_cast<size_t>(at.row * instruction.n + at.column);
}

/// An operand's start and strides as a tile laid out for this instruction must have them.
void check_operand(const Product& product, uint64_t bits, bool mn_major, int size) {
    const Operand operand = decode_operand(bits);
    const auto refuse = [&](const auto&... why) { stop(text("wgmma at ", place(product.site), ": ", why...)); };
    if (operand.base_offset) refuse("base offset ", operand.base_offset, "; tiles begin where the swizzle does");
    if (operand.span > 16 && (operand.start >> 7 & static_cast<uint32_t>(operand.span / 16 - 1)))
        refuse("an operand starts at shared address ", operand.start, ", inside its swizzle's pattern");
    const Block& block = *engine.current->block;
    for (int mn = 0; mn < size; mn += mn_major ? 8 : 1)
        for (int k = 0; k < 16; k += mn_major ? 1 : 8) {
            const uint32_t address = chunk_address(operand, mn_major, mn, k);
            if (address > 0x3FFFF || !is_dynamic(address) || !is_dynamic(address + 15))
                refuse("an operand reads shared address ", address, ", outside the dynamic shared memory");
            note_async(product.clock, block, address, 16, false, product.site);
        }
}

void free_when_unneeded(Product& product) {
    if (product.released == group_threads && product.takers == 0) product.d = {};
}

/// Run it after those issued before.
void execute(Warpgroup& group, const Product& last) {
    for (const ProductPointer& next : group.products) {
        if (!next->done) {
            if (next->before) {
                next->d = next->before->d;
                --next->before->takers;
                free_when_unneeded(*next->before);
                next->before.reset();
            }
            wgmma_m64k16(next->instruction, next->window, next->accumulate, next->d.data());
            next->done = true;
            wake(next->waiting);
        }
        if (next.get() == &last) return;
    }
}

class Queued final : public Pending {
  public:
    Queued(std::shared_ptr<Warpgroup> group, ProductPointer product)
        : group_(std::move(group)), product_(std::move(product)) {}
    std::string describe() const override { return text("wgmma from ", place(product_->site)); }
    bool step() override {
        execute(*group_, *product_);
        return true;
    }

  private:
    std::shared_ptr<Warpgroup> group_;
    ProductPointer product_;
};

}  // namespace

void wgmma_fence(Site site) { own_group("wgmma.fence", site).members[member()].fenced = true; }

void wgmma(const Wgmma& instruction, float* d, bool accumulate, Site site) {
    Warpgroup& group = own_group("wgmma", site);
    Warpgroup::Member& self = group.members[member()];
    if (!self.fenced) stop(text("wgmma at ", place(site), " without a wgmma.fence since the registers were used"));
    if (self.issued == group.products.size()) {
        auto product = std::make_shared<Product>();
        product->instruction = instruction;
        product->accumulate = accumulate;
        product->site = site;
        product->d.resize(static_cast<size_t>(64 * instruction.n));
        product->window = engine.current->block->window;
        issue_async(product->clock);
        for (size_t i = self.waited; i < self.issued; ++i)
            if (group.products[i]->registers[member()] == d) product->before = group.products[i];
        product->takes_over = product->before != nullptr;
        if (product->takes_over) ++product->before->takers;
        group.products.push_back(product);
    }
    Product& product = *group.products[self.issued];
    const Wgmma& other = product.instruction;
    if (other.a != instruction.a || other.b != instruction.b || other.n != instruction.n ||
        product.accumulate != accumulate || product.site.line() != site.line())
        stop(text("wgmma at ", place(site), ": the threads of a warpgroup disagree about it"));
    product.registers[member()] = d;
    join_async(product.clock);
    if (!product.takes_over) {
        for (int i = 0; accumulate && i < instruction.n / 2; ++i) product.d[place_of(instruction, i)] = d[i];
        std::memset(d, 0xFF, sizeof(float) * static_cast<size_t>(instruction.n / 2));
    }
    ++self.issued;
    ++counts.wgmma;
    if (++product.arrived < group_threads) return;
    check_operand(product, instruction.a, instruction.a_m_major, 64);
    check_operand(product, instruction.b, instruction.b_n_major, instruction.n);
    queue(std::make_unique<Queued>(engine.current->block->warpgroups[engine.current->id / group_threads],
                                   group.products[self.issued - 1]));
}

void wgmma_commit(Site site) {
    // All of wgmma is warp-wide; the simulator lets lanes drift apart until here.
    warp_operation("wgmma.commit_group", [](Lanes&) {}, ~0u, 0, 0, site);
    Warpgroup::Member& self = own_group("wgmma.commit_group", site).members[member()];
    self.groups.push_back(self.issued);
}

void wgmma_wait(int groups, Site site) {
    Warpgroup& group = own_group("wgmma.wait_group", site);
    Warpgroup::Member& self = group.members[member()];
    if (self.groups.size() <= static_cast<size_t>(groups)) return;
    const size_t complete = self.groups.size() - static_cast<size_t>(groups), end = self.groups[complete - 1];
    for (size_t i = self.waited; i < end; ++i) {
        Product& product = *group.products[i];
        while (!product.done) wait_in(product.waiting, "wgmma.wait_group", site);
        complete_async(product.clock);
        // Registers that a later product still changes stay unreadable.
        bool last = true;
        for (size_t j = i + 1; j < self.issued; ++j)
            last &= group.products[j]->registers[member()] != product.registers[member()];
        for (int j = 0; last && j < product.instruction.n / 2; ++j)
            product.registers[member()][j] = product.d[place_of(product.instruction, j)];
        ++product.released;
        free_when_unneeded(product);
    }
    self.waited = end;
    self.groups.erase(self.groups.begin(), self.groups.begin() + static_cast<std::ptrdiff_t>(complete));
    if (self.waited == self.issued) self.fenced = false;
}

std::string check_in_flight(const Block& block) {
    for (const auto& group : block.warpgroups)
        for (int i = 0; group && i < group_threads; ++i)
            if (group->members[i].waited < group->products.size())
                return text("a thread returned without waiting for wgmma at ",
                            place(group->products[group->members[i].waited]->site));
    if (engine.pending.empty()) return {};
    return text(engine.pending[0]->describe(), " was in flight when its block ended");
}

}  // namespace hostsim
