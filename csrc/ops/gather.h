// Rows gathered and summed: the building blocks of a mixture of experts.
#pragma once
#include <utility>

#include "core/tensor.h"

namespace llmcore {

// x (M,C), ids (N) in [0, M) -> (N,C)
Tensor take(const Tensor& x, const Tensor& ids);
// dout (N,C), ids (N) -> (rows,C): the sum of the rows with each id, in their order.
Tensor take_backward(const Tensor& dout, const Tensor& ids, int64_t rows);

// y (M,k,C), weight (M,k) float32 -> (M,C)
Tensor weighted_sum(const Tensor& y, const Tensor& weight);
// Gradients of y and weight.
std::pair<Tensor, Tensor> weighted_sum_backward(const Tensor& dout, const Tensor& y, const Tensor& weight);

}  // namespace llmcore
