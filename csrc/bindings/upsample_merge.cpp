// Python's way to upsample_merge.
#include "upsample_merge/upsample_merge.h"

#include <utility>

#include "bindings/arguments.h"

namespace pk::bindings {

namespace {

/// shape (n, c, h, w) of the output; maps: address, c, h, w, first output channel and four strides each.
UpsampleMergeProblem upsample_merge_problem(int dtype, const Ints& shape, bool channels_last, int how, bool sum,
                                            const std::vector<Ints>& maps) {
    UpsampleMergeProblem p{dtype_of(dtype), 0, 0, 0, 0, channels_last, static_cast<Resample>(how), sum, 0, {}};
    int sizes[4];
    fill(sizes, shape, "sizes");
    p.n = sizes[0], p.c = sizes[1], p.h = sizes[2], p.w = sizes[3];
    if (maps.size() > upsample_merge_maps)
        throw std::invalid_argument("at most " + std::to_string(upsample_merge_maps) + " maps, got " +
                                    std::to_string(maps.size()));
    for (const Ints& m : maps) {
        UpsampleMergeMap& map = p.maps[p.count++];
        map = {at(m.at(0)),
               static_cast<int>(m.at(1)),
               static_cast<int>(m.at(2)),
               static_cast<int>(m.at(3)),
               static_cast<int>(m.at(4)),
               {m.at(5), m.at(6), m.at(7), m.at(8)}};
    }
    return p;
}

}  // namespace

void bind_upsample_merge(py::module_& m) {
    m.def("upsample_merge_fwd", [](int dtype, int device, Address stream, const Ints& shape, bool channels_last,
                                   int how, bool sum, const std::vector<Ints>& maps, Address scale, bool scale_is_t,
                                   Address shift, bool shift_is_t, bool relu, Address y) {
        const UpsampleMergeFwdParams params{upsample_merge_problem(dtype, shape, channels_last, how, sum, maps),
                                            at(scale),
                                            at(shift),
                                            scale_is_t,
                                            shift_is_t,
                                            relu,
                                            at(y)};
        raise_unless_ok(launch_upsample_merge_fwd(params, LaunchOn(device, stream)));
    });
    m.def("upsample_merge_bwd_dmaps", [](int dtype, int device, Address stream, const Ints& shape, bool channels_last,
                                         int how, bool sum, const std::vector<Ints>& dmaps, Address dy, Address y,
                                         Address scale, bool scale_is_t) {
        const UpsampleMergeBwdMapsParams params{upsample_merge_problem(dtype, shape, channels_last, how, sum, dmaps),
                                                at(dy), at(y), at(scale), scale_is_t};
        raise_unless_ok(launch_upsample_merge_bwd_dmaps(params, LaunchOn(device, stream)));
    });
    m.def("upsample_merge_bwd_affine",
          [](int dtype, int device, Address stream, const Ints& shape, bool channels_last, int how, bool sum,
             const std::vector<Ints>& maps, Address dy, Address y, int parts, Address part) {
              const UpsampleMergeBwdAffineParams params{
                  upsample_merge_problem(dtype, shape, channels_last, how, sum, maps), at(dy), at(y), parts, at(part)};
              raise_unless_ok(launch_upsample_merge_bwd_affine(params, LaunchOn(device, stream)));
          });
    m.def("upsample_merge_sums",
          [](int dtype, int device, Address stream, int rows, int parts, int c, Address part, Address sums) {
              const UpsampleMergeSumsParams params{dtype_of(dtype), rows, parts, c, at(part), at(sums)};
              raise_unless_ok(launch_upsample_merge_sums(params, LaunchOn(device, stream)));
          });
}

}  // namespace pk::bindings
