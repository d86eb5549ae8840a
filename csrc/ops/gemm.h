// Matrix products. Weights are packed into panels once per update (Panels) and used by every product until the next.
#pragma once
#include <optional>
#include <utility>

#include "core/kernel_table.h"
#include "core/tensor.h"

namespace llmcore {

// A right-hand matrix (K, N) in kernel layout, packed from one stored as (N, K) when transposed.
struct Panels {
  Tensor data;
  int64_t K = 0, N = 0;
  DType dtype = DType::kF32;
  bool transposed = false;
  bool paired = false;  // for swiglu: see PackArgs
};

// w is (N, K) when transposed (the layout of a linear layer's weight), else (K, N). The memory of `reuse` is used again
// if it fits. paired (transposed only, N even): for linear with kSwiGLU, in the column order that its kernel needs.
Panels pack(const Tensor& w, DType dtype, bool transposed, const Panels* reuse = nullptr, bool paired = false);

// Returns the same matrix for products in the other direction, if one copy serves both (on CUDA).
Panels other_direction(const Panels& p);

struct LinearResult {
  Tensor out, pre_activation;  // pre_activation only on request
};

// out (..., N) = residual + act(x (..., K) · w + bias (N)). x.dtype == w.dtype; out_dtype float32 or that dtype.
// kSwiGLU and kGeGLU: out (..., N/2). Runs as one kernel if there is a fused one (kGelu, kSwiGLU with paired w), else
// as two.
LinearResult linear(const Tensor& x, const Panels& w, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& residual, Activation act, bool keep_pre_activation, DType out_dtype);

// dw (N, K) float32 += dy (..., N)^T · x (..., K); returns dw, which is created if not given.
Tensor linear_weight_grad(const Tensor& dy, const Tensor& x, const std::optional<Tensor>& dw);

// db (N) float32 += column sums of dy (..., N)
void linear_bias_grad(const Tensor& dy, Tensor& db);

// (*batch, M, K) · (*batch, K, N) or (..., K) · (K, N), either factor stored transposed in its last two dimensions.
Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b);

}  // namespace llmcore
