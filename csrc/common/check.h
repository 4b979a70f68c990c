// What a launcher answers: empty, or one line that says what is wrong.
#pragma once

#include <sstream>
#include <string>

namespace pk {

struct Status {
    std::string error;
    bool ok() const { return error.empty(); }
};

template <class... Parts>
Status fail(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    return {text.str()};
}

}  // namespace pk

/// Return an error made of the further arguments unless `condition` holds.
#define PK_CHECK(condition, ...)                          \
    do {                                                  \
        if (!(condition)) return ::pk::fail(__VA_ARGS__); \
    } while (0)

/// Return the status of `call` unless it is ok.
#define PK_TRY(call)                                                      \
    do {                                                                  \
        if (::pk::Status status_ = (call); !status_.ok()) return status_; \
    } while (0)
