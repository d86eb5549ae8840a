// Token embeddings.
#pragma once
#include "core/tensor.h"

namespace llmcore {

// table (V,C) float32, ids (...) -> (..., C) in dtype
Tensor embedding(const Tensor& table, const Tensor& ids, DType dtype);
void embedding_backward(const Tensor& dout, const Tensor& ids, Tensor& dtable);

}  // namespace llmcore
