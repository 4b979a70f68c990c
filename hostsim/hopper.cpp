// mbarriers, bulk copies and clusters.
#include <cstring>

#include "hostsim/engine.h"
#include "hostsim/ptx.h"
#include "hostsim/tensor_map.h"

namespace hostsim {

namespace {

constexpr uint64_t live_barrier = 0x6D62617272696572;  // what an initialised barrier's bytes hold
constexpr int64_t most_bytes = (1 << 20) - 1;          // a phase can announce

MBarrier* find(Block& block, uint32_t offset) {
    for (MBarrier& barrier : block.mbarriers)
        if (barrier.offset == offset) return &barrier;
    return nullptr;
}

MBarrier& existing(uint32_t address, const char* what, const Site& site) {
    const unsigned char* memory = shared_pointer(address, 8, what, site);
    MBarrier* barrier = find(block_of(address), offset_of(address));
    uint64_t bytes;
    std::memcpy(&bytes, memory, 8);
    if (!barrier) stop(text(what, " at ", place(site), ": no mbarrier was initialised at shared address ", address));
    if (bytes != live_barrier) stop(text(what, " at ", place(site), ": the mbarrier was overwritten"));
    return *barrier;
}

/// Stop where a sanitizer knows that a row of the box may not be touched.
void check_box_row(const TensorMap& map, const int* coordinates, int64_t row, const char* what, const Site& site) {
    int64_t bytes = 0;
    if (const void* memory = box_row(map, coordinates, row, bytes))
        check_global(memory, static_cast<size_t>(bytes), what, site);
}

/// Begin the next phase if nothing is missing from this one.
void advance(MBarrier& barrier) {
    if (barrier.pending != 0 || barrier.bytes != 0) return;
    ++barrier.phase;
    barrier.pending = barrier.expected;
    publish(barrier.clock);
    wake(barrier.waiting);
}

bool completed(const MBarrier& barrier, uint32_t parity) { return (barrier.phase & 1) != (parity & 1); }

void complete_bytes(MBarrier& barrier, int64_t bytes) {
    barrier.bytes -= bytes;
    advance(barrier);
}

/// A box between global memory and shared memory at `offset`, moved row by row.
class Bulk : public Pending {
  protected:
    Bulk(const TensorMap& map, const int* coordinates, uint32_t offset, const Site& site)
        : map_(map), offset_(offset), site_(site) {
        std::copy(coordinates, coordinates + map.rank, coordinates_);
        issue_async(clock_);
    }

    TensorMap map_;
    int coordinates_[5];
    uint32_t offset_;
    Site site_;
    int64_t row_ = 0;
    AsyncClock clock_;
};

class Load final : public Bulk {
  public:
    Load(const TensorMap& map, const int* coordinates, uint32_t offset, uint32_t barrier, uint32_t blocks,
         const Site& site)
        : Bulk(map, coordinates, offset, site), barrier_(barrier), blocks_(blocks) {
        for (const Block& block : engine.blocks)
            if (blocks_ >> block.rank & 1) note_async(clock_, block, barrier_, 8, false, site_);
    }
    std::string describe() const override { return text("a bulk load from ", place(site_)); }

    bool step() override {
        // Some rows now, the others later: a reader that does not wait sees part of the box.
        const int64_t end = std::min(row_count(map_), row_ + 1 + static_cast<int64_t>(engine.random.below(32)));
        const int bytes = row_bytes(map_);
        unsigned char row[4096];
        const int64_t moved = (end - row_) * bytes;
        for (; row_ < end; ++row_) {
            read_box_row(map_, coordinates_, row_, row);
            for (unsigned rank = 0; rank < engine.blocks.size(); ++rank)
                if (blocks_ >> rank & 1) store(engine.blocks[rank], row, bytes);
        }
        for (unsigned rank = 0; rank < engine.blocks.size(); ++rank) {
            if (!(blocks_ >> rank & 1)) continue;
            Block& block = engine.blocks[rank];
            if (!block.living) stop(text(describe(), " reaches a block of the cluster that has returned"));
            MBarrier* barrier = find(block, barrier_);
            if (!barrier) stop(text(describe(), " finds no mbarrier in block ", rank, " of the cluster"));
            complete_async(clock_, barrier->clock);
            complete_bytes(*barrier, moved);
        }
        return row_ == row_count(map_);
    }

  private:
    void store(Block& block, const unsigned char* row, int bytes) {
        for (int at = 0; at < bytes; at += 16) {
            const uint32_t to = box_address(map_, offset_, row_, at);
            note_async(clock_, block, to, 16, true, site_);
            std::memcpy(block.window + to, row + at, 16);
        }
    }

    uint32_t barrier_, blocks_;
};

class Store final : public Bulk {
  public:
    Store(const TensorMap& map, const int* coordinates, const Block& block, uint32_t offset,
          std::shared_ptr<BulkStore> store, const Site& site)
        : Bulk(map, coordinates, offset, site), block_(block), store_(std::move(store)) {
        store_->clock = clock_;
    }
    std::string describe() const override { return text("a bulk store from ", place(site_)); }

    bool step() override {
        if (!block_.living) stop(text(describe(), " reads a block that has returned"));
        unsigned char row[4096];
        for (int at = 0; at < row_bytes(map_); at += 16) {
            const uint32_t from = box_address(map_, offset_, row_, at);
            note_async(clock_, block_, from, 16, false, site_);
            std::memcpy(row + at, block_.window + from, 16);
        }
        write_box_row(map_, coordinates_, row_, row);
        store_->done = ++row_ == row_count(map_);
        return store_->done;
    }

  private:
    const Block& block_;
    std::shared_ptr<BulkStore> store_;
};

const TensorMap& checked_map(const void* map, int rank, uint32_t address, const char* what, const Site& site) {
    if (reinterpret_cast<uintptr_t>(map) % 64)
        stop(text(what, " at ", place(site), ": the tensor map is not 64-byte aligned"));
    const auto& tensor = *static_cast<const TensorMap*>(map);
    if (tensor.rank != rank)
        stop(text(what, " at ", place(site), ": ", rank, " coordinates for a map of ", tensor.rank, " dimensions"));
    const uint32_t repeats = tensor.span == 16 ? 128 : static_cast<uint32_t>(tensor.span) * 8;
    if (offset_of(address) % repeats)
        stop(text(what, " at ", place(site), ": shared address ", address, " is not ", repeats, "-byte aligned"));
    return tensor;
}

}  // namespace

void mbarrier_init(uint32_t address, uint32_t count, Site site) {
    unsigned char* memory = shared_pointer(address, 8, "mbarrier.init", site);
    if (address % 8) stop(text("mbarrier.init at ", place(site), ": address ", address, " is not 8-byte aligned"));
    if (count < 1 || count > most_bytes) stop(text("mbarrier.init at ", place(site), ": ", count, " arrivals"));
    std::memcpy(memory, &live_barrier, 8);
    note_write(memory, 8, site);
    Block& block = block_of(address);
    MBarrier* barrier = find(block, offset_of(address));
    if (!barrier) barrier = &block.mbarriers.emplace_back();
    *barrier = {};
    barrier->offset = offset_of(address);
    barrier->expected = barrier->pending = static_cast<int>(count);
}

void mbarrier_invalidate(uint32_t address, Site site) {
    const MBarrier& barrier = existing(address, "mbarrier.inval", site);
    if (!barrier.waiting.empty()) stop(text("mbarrier.inval at ", place(site), " while threads wait"));
    const uint64_t dead = ~uint64_t{0};
    std::memcpy(shared_pointer(address, 8, "mbarrier.inval", site), &dead, 8);
    block_of(address).mbarriers.remove_if([&](const MBarrier& other) { return &other == &barrier; });
}

void mbarrier_arrive(uint32_t address, Site site) {
    MBarrier& barrier = existing(address, "mbarrier.arrive", site);
    if (!block_of(address).living) stop(text("mbarrier.arrive at ", place(site), ": that block has returned"));
    note_read(shared_pointer(address, 8, "mbarrier.arrive", site), 8, site);
    if (barrier.pending == 0)
        stop(text("mbarrier.arrive at ", place(site), ": more than the ", barrier.expected, " arrivals of a phase"));
    release(barrier.clock);
    --barrier.pending;
    advance(barrier);
}

void mbarrier_expect(uint32_t address, uint32_t bytes, Site site) {
    MBarrier& barrier = existing(address, "mbarrier.expect_tx", site);
    note_read(shared_pointer(address, 8, "mbarrier.expect_tx", site), 8, site);
    barrier.bytes += bytes;
    if (barrier.bytes > most_bytes) stop(text("mbarrier.expect_tx at ", place(site), ": ", barrier.bytes, " bytes"));
}

bool mbarrier_test(uint32_t address, uint32_t parity, Site site) {
    MBarrier& barrier = existing(address, "mbarrier.test_wait", site);
    note_read(shared_pointer(address, 8, "mbarrier.test_wait", site), 8, site);
    if (!completed(barrier, parity)) {
        yield("mbarrier.test_wait", site);
        return false;
    }
    acquire(barrier.clock);
    return true;
}

void mbarrier_wait(uint32_t address, uint32_t parity, Site site) {
    MBarrier& barrier = existing(address, "mbarrier wait", site);
    note_read(shared_pointer(address, 8, "mbarrier wait", site), 8, site);
    while (!completed(barrier, parity)) wait_in(barrier.waiting, "mbarrier wait", site);
    acquire(barrier.clock);
}

void tma_load(uint32_t to, const void* map, uint32_t barrier, int rank, const int* coordinates, uint32_t blocks,
              Site site) {
    ++counts.tma_loads;
    const TensorMap& tensor = checked_map(map, rank, to, "bulk load", site);
    const auto bytes = static_cast<size_t>(row_count(tensor) * row_bytes(tensor));
    existing(barrier, "bulk load", site);
    if (blocks >> engine.blocks.size())
        stop(text("bulk load at ", place(site), ": block mask ", blocks, " in a cluster of ", engine.blocks.size()));
    if (!blocks) blocks = 1u << block_of(to).rank;
    if (!is_dynamic(to)) stop(text("bulk load at ", place(site), ": boxes go to dynamic shared memory here"));
    for (unsigned block = 0; block < engine.blocks.size(); ++block)
        if (blocks >> block & 1)
            std::memset(shared_pointer(map_to_block(offset_of(to), block, site), bytes, "bulk load", site), 0xFF,
                        bytes);
    for (int64_t row = 0; row < row_count(tensor); ++row) check_box_row(tensor, coordinates, row, "bulk load", site);
    queue(std::make_unique<Load>(tensor, coordinates, offset_of(to), offset_of(barrier), blocks, site));
}

void tma_store(const void* map, uint32_t from, int rank, const int* coordinates, Site site) {
    const TensorMap& tensor = checked_map(map, rank, from, "bulk store", site);
    shared_pointer(from, static_cast<size_t>(row_count(tensor) * row_bytes(tensor)), "bulk store", site);
    if (!is_dynamic(from)) stop(text("bulk store at ", place(site), ": boxes leave dynamic shared memory here"));
    for (int64_t row = 0; row < row_count(tensor); ++row) check_box_row(tensor, coordinates, row, "bulk store", site);
    auto store = std::make_shared<BulkStore>();
    engine.current->stores.issue(store);
    queue(std::make_unique<Store>(tensor, coordinates, *engine.current->block, offset_of(from), store, site));
}

void tma_store_commit() { engine.current->stores.commit(); }

void tma_store_wait(int groups) {
    engine.current->stores.wait(groups, [](const std::shared_ptr<BulkStore>& store) {
        while (!store->done) step_pending();
        complete_async(store->clock);  // its reads of shared memory come before what follows
    });
}

uint32_t cluster_rank() { return engine.current->block->rank; }
uint32_t cluster_blocks() { return static_cast<uint32_t>(engine.blocks.size()); }

uint32_t map_to_block(uint32_t address, uint32_t rank, Site site) {
    if (rank >= engine.blocks.size())
        stop(text("mapa at ", place(site), ": block ", rank, " in a cluster of ", engine.blocks.size()));
    return offset_of(address) | (rank + 1) << 24;
}

void wait_for_earlier_grids() { engine.current->waited = true; }

void leave_cluster_barrier() {
    int living = 0;
    for (const Block& block : engine.blocks) living += block.living;
    if (engine.cluster.arrived == 0 || engine.cluster.arrived < static_cast<size_t>(living)) return;
    engine.cluster.arrived = 0;
    ++engine.cluster.phase;
    publish(engine.cluster.clock);
    wake(engine.cluster.waiting);
}

void cluster_arrive(Site site) {
    Thread& self = *engine.current;
    if (self.in_cluster_barrier)
        stop(text("cluster arrive at ", place(site), ": this thread arrived and did not wait"));
    release(engine.cluster.clock);
    self.in_cluster_barrier = true;
    self.cluster_phase = engine.cluster.phase + 1;
    ++engine.cluster.arrived;
    leave_cluster_barrier();
}

void cluster_wait(Site site) {
    Thread& self = *engine.current;
    if (!self.in_cluster_barrier) stop(text("cluster wait at ", place(site), " without an arrive"));
    self.in_cluster_barrier = false;
    while (self.cluster_phase > engine.cluster.phase) wait_in(engine.cluster.waiting, "cluster wait", site);
    acquire(engine.cluster.clock);
}

}  // namespace hostsim
