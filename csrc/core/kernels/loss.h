// Cross entropy. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

struct CrossEntropyArgs {  // rows whose target is negative are ignored: loss 0
  DType dtype;
  int64_t M, V;
  int64_t ld;             // row stride of logits
  const void* logits;     // (M,V)
  const int32_t* target;  // (M)
  float* loss;            // (M) = lse - logits[target]
  float* lse;             // (M)
};
struct CrossEntropyBackwardArgs {  // dlogits = (softmax(logits) - onehot(target)) * dloss[m]
  DType dtype;                     // of logits
  int64_t M, V, ld;
  const void* logits;
  const int32_t* target;
  const float* lse;
  const float* dloss;  // (M)
  void* dlogits;       // (M,V), row stride ld_out; may be logits when the dtypes agree
  int64_t ld_out;
  DType out_dtype;
};

}  // namespace llmcore
