// Activations, sums and casts. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

// kGelu: tanh approximation. kSwiGLU: silu(gate) * up of 2F columns [gate, up], in gemm of paired panels (PackArgs);
// kGeGLU: gelu(gate) * up. gemm has kGelu and kSwiGLU; the others are kernels of their own.
enum class Activation : uint8_t { kNone, kGelu, kSwiGLU, kGeluExact, kSilu, kGeGLU };

struct UnaryArgs {  // out = f(x)
  DType dtype;
  int64_t n;
  const void* x;
  void* out;
};
struct UnaryBackwardArgs {  // dx = dout * f'(x)
  DType dtype;
  int64_t n;
  const void* dout;
  const void* x;
  void* dx;
};
struct BinaryArgs {
  DType dtype;
  int64_t n;
  const void* a;
  const void* b;
  void* out;
};
struct GatedArgs {  // swiglu: x (M,2F) = [gate, up], out (M,F) = silu(gate) * up
  DType dtype;
  int64_t M, F;
  const void* x;
  void* out;
};
struct GatedBackwardArgs {
  DType dtype;
  int64_t M, F;
  const void* dout;  // (M,F)
  const void* x;     // (M,2F)
  void* dx;          // (M,2F)
};
struct ScaleArgs {  // out = x * factor
  DType dtype;
  int64_t n;
  const void* x;
  void* out;
  float factor;
};
struct SoftcapArgs {  // out = cap * tanh(x / cap), or, where dout is given, its derivative at x times dout
  DType dtype;
  int64_t n;
  const void* x;
  const void* dout;  // or null
  void* out;
  float cap;
};
struct CastArgs {  // kF32 <-> kBF16
  int64_t n;
  const void* x;
  DType x_dtype;
  void* out;
  DType out_dtype;
};
struct ColumnSumArgs {  // out (N) += sum over rows of x (M,N)
  DType dtype;
  int64_t M, N, ld;
  const void* x;
  float* out;
};

}  // namespace llmcore
