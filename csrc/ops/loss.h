// Cross entropy, alone and fused with the output layer. Negative targets are ignored: loss 0, no gradient.
#pragma once
#include <optional>

#include "core/tensor.h"
#include "ops/gemm.h"

namespace llmcore {

struct CrossEntropyResult {
  Tensor loss, lse;  // (M) float32 each
};
// logits (..., V), targets (...) int in [-2^31, V)
CrossEntropyResult cross_entropy(const Tensor& logits, const Tensor& targets);
Tensor cross_entropy_backward(const Tensor& dloss, const Tensor& logits, const Tensor& targets, const Tensor& lse);

// Loss of x (..., C) against the output layer `forward` (C, V), in chunks: the logits of all rows never exist at once.
Tensor linear_cross_entropy(const Tensor& x, const Panels& forward, const Tensor& targets);

struct LinearCrossEntropyGrad {
  Tensor loss, dx;
  std::optional<Tensor> dw;  // (V, C) float32
};
// The same and its gradients in one sweep, for row weights dloss (M) known beforehand (Hsu et al. 2024, "Liger
// Kernel"). Without weight_grad (for a weight that is not trained), dw is empty.
LinearCrossEntropyGrad linear_cross_entropy_grad(const Tensor& x, const Panels& forward, const Panels& backward,
                                                 const Tensor& targets, const Tensor& dloss, bool weight_grad = true);

}  // namespace llmcore
