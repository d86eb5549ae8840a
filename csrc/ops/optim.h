// Parameter updates. All tensors float32.
#pragma once
#include <vector>

#include "core/tensor.h"
#include "ops/linear.h"

namespace llmcore {

struct AdamWStep {
  float lr, beta1, beta2, eps, weight_decay;
  int64_t step;      // 1 for the first update
  float grad_scale;  // gradients are multiplied by this first (clipping, accumulation)
};
// In place on param and the moments m, v (Loshchilov & Hutter 2019), and on panels that were packed from param.
void adamw(Tensor& param, const Tensor& grad, Tensor& m, Tensor& v, const AdamWStep& step,
           const std::vector<Panels>& panels);

// sqrt of the sum of squares over all tensors, summed in float64 in a fixed order.
double global_norm(const std::vector<Tensor>& tensors);

}  // namespace llmcore
