// Rows taken by index, scattered and summed, for mixtures of experts. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

struct TakeArgs {  // out (N,C) = x[ids]
  DType dtype;
  int64_t N, C;
  const void* x;       // (M,C)
  const int32_t* ids;  // (N), in [0, M)
  void* out;
};
struct ScatterArgs {  // dx[m] (M,C) = sum of dout[order[i]], offsets[m] <= i < offsets[m + 1], in that order
  DType dtype;
  int64_t M, C;
  const void* dout;        // (N,C)
  const int64_t* offsets;  // (M+1)
  const int64_t* order;    // (N)
  void* dx;
};
struct WeightedSumArgs {  // out[m] = sum over k of weight[m,k] * y[m,k]
  DType dtype;            // of y and out
  int64_t M, k, C;
  const void* y;        // (M,k,C)
  const float* weight;  // (M,k)
  void* out;            // (M,C)
};
struct WeightedSumBackwardArgs {  // dy = weight * dout, dweight = dout · y
  WeightedSumArgs forward;        // out is null
  const void* dout;               // (M,C)
  void* dy;                       // (M,k,C)
  float* dweight;                 // (M,k)
};

}  // namespace llmcore
