// Rotary positions.
#pragma once
#include <optional>

#include "core/tensor.h"

namespace llmcore {

// Tables of a rotation and where tokens stand, checked: cos, sin (P, R/2), positions (B,T) int32 in [0, P), or none for
// T <= P tokens that stand at 0, 1, ...
struct Rotation {
  Tensor cos, sin, positions;
};
Rotation checked_rotation(const char* op, const Tensor& cos, const Tensor& sin, const std::optional<Tensor>& positions,
                          int64_t B, int64_t T, int64_t D, Device device);

// x (B,T,H,D): of the first `heads` (all by default), the first R dimensions are turned by their position; cos, sin
// (P, R/2); positions (B,T) or none.
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const std::optional<Tensor>& positions,
            std::optional<int64_t> heads, bool inverse);

}  // namespace llmcore
