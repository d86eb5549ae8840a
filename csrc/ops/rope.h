// Rotary positions.
#pragma once
#include <optional>

#include "core/tensor.h"

namespace llmcore {

// Checked rotation tables and token positions: cos, sin (P, R/2), positions (B,T) int32 in [0, P), or none for T <= P
// tokens at positions 0, 1, ...
struct Rotation {
  Tensor cos, sin, positions;
};
Rotation checked_rotation(const char* op, const Tensor& cos, const Tensor& sin, const std::optional<Tensor>& positions,
                          int64_t B, int64_t T, int64_t D, Device device);

// x (B,T,H,D): in the first `heads` (all by default), the first R dimensions are rotated by position; cos, sin (P,
// R/2); positions (B,T) or none.
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const std::optional<Tensor>& positions,
            std::optional<int64_t> heads, bool inverse);

}  // namespace llmcore
