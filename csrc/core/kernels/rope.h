// Rotary positions. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

struct RopeArgs {
  // Rotate-half: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), halves of the first R of D dimensions; the first
  // `rotated` of H heads are rotated, everything else is copied. cos, sin: (P, R/2). inverse rotates in the other
  // direction (the backward pass).
  DType dtype;
  int64_t B, T, H, D, R, rotated;
  const void* x;  // (B,T,H,D) contiguous
  void* out;
  const float* cos;
  const float* sin;
  const int32_t* positions;  // (B,T), or null for 0..T-1
  bool inverse;
};

}  // namespace llmcore
