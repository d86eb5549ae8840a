// Matrix products by cuBLASLt, which is opened at first use. (set_blas_paths() and blas_version(): common.cuh.)
#pragma once
#include "cuda/common.cuh"

namespace llmcore {
namespace cuda {

// out (M,N) = epilogue(a (M,K) · b (K,N) + added), row-major. M, N, K > 0.
struct BlasProduct {
  int64_t M, N, K;
  const void* a;  // row stride lda
  int64_t lda;
  bool a_transposed;  // stored as (K,M)
  const void* b;      // without gaps
  bool b_transposed;  // stored as (N,K)
  DType dtype;        // of a and b
  void* out;          // row stride ldo
  int64_t ldo;
  DType out_dtype;
  const void* added;     // (M,N), as out; may be out; or null
  const void* bias;      // (N), out_dtype; or null
  bool gelu;             // tanh approximation
  void* pre_activation;  // (M,N), as out: what GELU was given; or null
};

enum class BlasResult { kDone, kUnsupported, kFailed };
// kUnsupported: the library has no kernel for this epilogue with these shapes and alignments. kFailed is noted.
BlasResult blas_product(const BlasProduct&);

// Memory beside what cuBLASLt works in, for one bias that waits for the next product; null where there is none so
// large.
void* blas_scratch(size_t bytes);

}  // namespace cuda
}  // namespace llmcore
