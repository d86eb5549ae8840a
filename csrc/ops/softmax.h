// Softmax of rows.
#pragma once
#include "core/tensor.h"

namespace llmcore {

Tensor softmax(const Tensor& x);  // over the last dimension
Tensor softmax_backward(const Tensor& dout, const Tensor& out);

}  // namespace llmcore
