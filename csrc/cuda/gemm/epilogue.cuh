// What is applied to each element of a product: bias, activation, residual.
#pragma once
#include "cuda/common.cuh"

namespace llmcore {
namespace cuda {

// tanh-approximated GELU (Hendrycks & Gimpel 2016): x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
__device__ __forceinline__ float gelu_of_sum(float x) {
  constexpr float kLinear = 2.0f * 0.7978845608f, kCubic = kLinear * 0.044715f;
  return x / (1.0f + expf(-x * fmaf(x * x, kCubic, kLinear)));
}

template <class O>
struct Epilogue {  // out = residual + act(product + bias); all (M,N) with row stride ldo
  O* out;
  int64_t ldo;
  const float* bias;  // (N) or null
  const O* residual;  // or null
  bool gelu;
  O* pre_activation;  // or null
};

template <class O>
Epilogue<O> epilogue_of(const GemmArgs& g) {
  const void* residual = g.accumulate ? g.out : g.residual;
  return {static_cast<O*>(g.out),           g.ldo, g.bias, static_cast<const O*>(residual), g.act == Activation::kGelu,
          static_cast<O*>(g.pre_activation)};
}

// Finishes the element at row m, column n, whose product is x.
template <class O>
__device__ __forceinline__ void finish(const Epilogue<O>& e, int64_t m, int64_t n, float x) {
  const int64_t at = m * e.ldo + n;
  if (e.bias) x += e.bias[n];
  if (e.pre_activation) e.pre_activation[at] = rounded<O>(x);
  if (e.gelu) x = gelu_of_sum(x);
  if (e.residual) x += as_float(e.residual[at]);
  e.out[at] = rounded<O>(x);
}

}  // namespace cuda
}  // namespace llmcore
