// Matrix products with cuBLASLt, which is opened at first use. (set_blas_paths() and blas_version(): common.cuh.)
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
  const float* bias;     // (N), or null
  bool gelu;             // tanh approximation
  void* pre_activation;  // (M,N), as out: the input of GELU; or null
};

enum class BlasResult { kDone, kUnsupported, kFailed };
// kUnsupported: the library has no kernel for this epilogue with these shapes and alignments. kFailed is noted.
BlasResult blas_product(const BlasProduct&);

// gemm.cu: converts a bias to the form that cuBLASLt needs with a bfloat16 result.
void round_bias(const float* bias, int64_t n, bf16* out);

}  // namespace cuda
}  // namespace llmcore
