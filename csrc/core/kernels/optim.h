// Updates of parameters and the sums and products that they need. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "core/kernels/gemm.h"

namespace llmcore {

struct UpdateArgs {  // one update of a parameter; all float32
  int64_t n;
  float* p;
  const float* g;
  float* m;  // null for SGD without momentum
  float* v;  // AdamW only
  float lr, beta1, beta2, eps, weight_decay;
  float correction1, correction2;  // AdamW: 1 - beta1^t, 1 - beta2^t
  bool nesterov;                   // SGD
  float grad_scale;                // multiplies g first
  int64_t rows, columns;           // n = rows * columns; only where there are panels
  const PackArgs* packs;           // (on the host) panels of p (rows, columns), which get its new values in this pass
  int64_t pack_count;
};
enum class UpdateRule : uint8_t { kAdamW, kLion, kSgd };
struct MomentumArgs {  // m = beta m + (1 - beta) scale g; u = m, or looking ahead beta m + (1 - beta) scale g again
  int64_t n;
  const float* g;
  float* m;
  float* u;
  float beta, scale;
  bool nesterov;
};
constexpr int64_t kSumChunk = 1 << 15;  // elements in one fixed piece of a sum
struct SumSquaresArgs {                 // partial[i] = sum of squares of piece i (float64); ceil(n / kSumChunk) pieces
  int64_t n;
  const float* x;
  double* partial;
};

struct DivideByNormArgs {  // out = x / sqrt(sum of partial), in float64; 0 where that is 0
  int64_t n;
  const float* x;
  const double* partial;  // as SumSquaresArgs leaves it
  void* out;
  DType out_dtype;
};
struct AddDiagonalArgs {  // out (n,n) = factor * x + diagonal * identity
  int64_t n;
  const float* x;
  void* out;
  DType out_dtype;
  float factor, diagonal;
};
struct SumArgs {  // out[0] = factor * sum of x, added up in float64 in a fixed order
  int64_t n;
  const float* x;
  float* out;
  double factor;
};

}  // namespace llmcore
