// Python bindings of upsample_merge.
#include "upsample_merge/upsample_merge.h"

#include "bindings/call.h"

namespace pk::bindings {

namespace {

using Firsts = std::vector<int>;

struct Merging {
    Resample how;
    bool sum, relu;
};

Merging merging_of(py::handle settings) {
    return {resample_of(settings), choice(settings, "merge", {"concat", "sum"}) == 1, field<bool>(settings, "relu")};
}

/// `full`: the output or its gradient; `firsts`: the first output channel of each of `maps`, or of their gradients.
UpsampleMergeProblem problem_of(const Merging& merging, bool channels_last, const Firsts& firsts,
                                const TensorRefs& maps, const char* name, const TensorRef& full) {
    UpsampleMergeProblem p{};
    take_map(name, full, p);
    p.dtype = dtype_of(name, full), p.channels_last = channels_last, p.how = merging.how, p.sum = merging.sum;
    if (maps.size() > upsample_merge_maps || maps.size() != firsts.size())
        throw std::invalid_argument("maps must be at most 16, each with its first channel");
    for (const TensorRef& map : maps) {
        UpsampleMergeMap& to = p.maps[p.count];
        take_map("maps", map, to);
        to.data = map.data, to.first = firsts[static_cast<std::size_t>(p.count++)];
    }
    return p;
}

Status fwd(Queue queue, const Merging& merging, const bool& channels_last, const Firsts& firsts, const TensorRefs& maps,
           const TensorRef& scale, const TensorRef& shift, const TensorRef& y) {
    const auto p = problem_of(merging, channels_last, firsts, maps, "y", y);
    const auto gain = vector_of("scale", scale, p.c, y), offset = vector_of("shift", shift, p.c, y);
    return launch_upsample_merge_fwd({p, gain.at, offset.at, gain.is_t, offset.is_t, merging.relu, y.data}, queue);
}

Status bwd_dmaps(Queue queue, const Merging& merging, const bool& channels_last, const Firsts& firsts,
                 const TensorRef& dy, const TensorRef& y, const TensorRef& scale, const TensorRefs& dmaps) {
    const auto p = problem_of(merging, channels_last, firsts, dmaps, "dy", dy);
    if (y.given) expect("y", y, {p.n, p.c, p.h, p.w});
    const auto gain = vector_of("scale", scale, p.c, dy);
    return launch_upsample_merge_bwd_dmaps({p, dy.data, y.data, gain.at, gain.is_t}, queue);
}

Status bwd_affine(Queue queue, const Merging& merging, const bool& channels_last, const Firsts& firsts,
                  const TensorRef& dy, const TensorRef& y, const TensorRefs& maps, const TensorRef& part) {
    const auto p = problem_of(merging, channels_last, firsts, maps, "dy", dy);
    if (y.given) expect("y", y, {p.n, p.c, p.h, p.w});
    return launch_upsample_merge_bwd_affine({p, dy.data, y.data, static_cast<int>(part.size[1]), part.data}, queue);
}

/// `dy`: that of the sums, for its type.
Status sums(Queue queue, const TensorRef& dy, const TensorRef& part, const TensorRef& sums) {
    int size[3];
    for (int i = 0; i < 3; ++i) size[i] = static_cast<int>(part.size[i]);
    return launch_upsample_merge_sums({dtype_of("dy", dy), size[0], size[1], size[2], part.data, sums.data}, queue);
}

const Binding binding([](py::module_& m) {
    m.def("upsample_merge_fwd", prepared(merging_of, fwd));
    m.def("upsample_merge_bwd_dmaps", prepared(merging_of, bwd_dmaps));
    m.def("upsample_merge_bwd_affine", prepared(merging_of, bwd_affine));
    m.def("upsample_merge_sums", prepared(sums));
});

}  // namespace

}  // namespace pk::bindings
