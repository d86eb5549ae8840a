// Matrix multiplication and its packed operands. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/arith.h"
#include "core/dtype.h"
#include "core/kernels/elementwise.h"

namespace llmcore {

// Panels are the packed form of a (K, N) right-hand matrix. On CUDA (KernelTable::row_panels) the matrix as it is
// stored, without gaps, in the compute dtype. On the CPU columns in groups of kPanelWidth, zero padded:
//   float32  [ceil(N/64)][K][64]
//   bfloat16 [ceil(N/64)][Kp/2][64][2] with Kp = K rounded up to kPanelDepth: pairs of k side by side, for dot products
constexpr int64_t kPanelWidth = 64;
constexpr int64_t kPanelDepth = 32;
constexpr int64_t kPairedWidth = kPanelWidth / 2;

[[maybe_unused]] static inline int64_t panel_depth(int64_t K, DType t) {
  return t == DType::kBF16 ? round_up(K, kPanelDepth) : K;
}
[[maybe_unused]] static inline int64_t panel_elements(int64_t K, int64_t N, DType t) {
  return round_up(N, kPanelWidth) * panel_depth(K, t);
}

struct PackArgs {
  const void* src;  // transposed: (N, K) row-major, else (K, N) row-major; row stride ld
  DType src_dtype;
  int64_t ld, K, N;
  bool transposed;
  void* panels;
  DType dtype;  // of the panels
  bool paired;  // transposed only, N = 2F: a panel holds 32 columns of the first F and the same 32 of the others
};

struct GemmArgs {
  // out (M,N) = residual + act(a (M,K) · panels (K,N) + bias)   [+ out, when accumulate]
  int64_t M, N, K;
  const void* a;  // row-major, row stride lda; dtype as the panels
  int64_t lda;
  bool a_transposed;  // a is stored as (K,M), row stride lda
  const void* panels;
  bool panels_transposed;  // stored as (N,K): PackArgs::transposed
  DType dtype;             // of a and panels
  void* out;               // row stride ldo
  int64_t ldo;
  DType out_dtype;       // kF32 or dtype
  bool accumulate;       // out += ...; out_dtype kF32 only, no epilogue
  const float* bias;     // (N) or null
  const void* residual;  // as out; or null
  Activation act;
  void* pre_activation;  // (M,N), out_dtype, row stride ldo (kSwiGLU: N): what act was given; or null
};

}  // namespace llmcore
