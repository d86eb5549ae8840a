// Layer norm and RMS norm. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

struct NormArgs {
  DType dtype;
  int64_t M, C;
  const void* x;        // (M,C)
  const float* weight;  // (C)
  const float* bias;    // (C); layer norm only, may be null
  void* out;            // (M,C)
  float* mean;          // (M); layer norm only; may be null
  float* rstd;          // (M); may be null
  float eps;
};

// Rows are cut into at most this many fixed pieces, whatever the number of threads.
constexpr int64_t kNormBackwardChunks = 32, kCudaNormBackwardChunks = 264;

struct NormBackwardArgs {
  DType dtype;
  int64_t M, C;
  const void* dout;
  const void* x;
  const float* weight;
  const float* mean;  // null for rms norm
  const float* rstd;
  const void* residual;  // (M,C), added to dx: the gradient of x from elsewhere; or null
  void* dx;
  float* dweight;    // (C), added to
  float* dbias;      // (C), added to; may be null
  float* workspace;  // 2 * C floats for each of the device's pieces
};

}  // namespace llmcore
