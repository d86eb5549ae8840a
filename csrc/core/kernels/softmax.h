// Softmax of rows. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

struct SoftmaxArgs {  // rows of x (M,N)
  DType dtype;
  int64_t M, N;
  const void* x;
  void* out;
};
struct SoftmaxBackwardArgs {  // dx = out * (dout - sum(dout * out))
  DType dtype;
  int64_t M, N;
  const void* dout;
  const void* out;
  void* dx;
};

}  // namespace llmcore
