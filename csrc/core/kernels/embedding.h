// Token embeddings. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

struct EmbeddingArgs {  // out (M,C) = table[ids]; the op has checked the ids
  DType dtype;          // of out
  int64_t M, C;
  const float* table;  // (V,C) float32 master weights
  const int32_t* ids;  // (M)
  void* out;
};
struct EmbeddingBackwardArgs {  // dtable[ids[m]] += dout[m], in an order that only the ids decide
  DType dtype;
  int64_t M, C;
  const void* dout;
  const int32_t* ids;
  float* dtable;  // (V,C)
  int64_t V;
  void* workspace;  // embedding_backward_workspace() bytes, 16-byte aligned; null if there is no such entry
};

}  // namespace llmcore
