// What Muon's orthogonalisation needs besides products: scaling its matrix by a norm known only on the device, and the
// diagonal of its polynomial.
#include "cuda/common.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// x (n), partial (pieces): sums of squares; out (n). Every block sums all partials in the same order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    divide_by_norm_kernel(const float* x, int64_t n, const double* partial, int64_t pieces, T* out) {
  __shared__ double sums[kWarp];
  double total = 0.0;
  for (int64_t i = threadIdx.x; i < pieces; i += kThreads) total += partial[i];
  total = block_sum(total, sums);
  const double factor = total == 0.0 ? 0.0 : 1.0 / sqrt(total);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += int64_t{gridDim.x} * kThreads)
    out[i] = rounded<T>(static_cast<float>(x[i] * factor));
}

void divide_by_norm(const DivideByNormArgs& a) {
  with_float(a.out_dtype, [&](auto zero) {
    using T = decltype(zero);
    launch("divide_by_norm", divide_by_norm_kernel<T>, blocks_for(a.n, kThreads * 8), kThreads, 0, a.x, a.n, a.partial,
           (a.n + kSumChunk - 1) / kSumChunk, static_cast<T*>(a.out));
  });
}

// x, out (n,n)
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_diagonal_kernel(const float* x, int64_t n, float factor, float diagonal, T* out) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n * n; i += int64_t{gridDim.x} * kThreads) {
    const float scaled = x[i] * factor;
    out[i] = rounded<T>(i % (n + 1) == 0 ? scaled + diagonal : scaled);
  }
}

void add_diagonal(const AddDiagonalArgs& a) {
  with_float(a.out_dtype, [&](auto zero) {
    using T = decltype(zero);
    launch("add_diagonal", add_diagonal_kernel<T>, blocks_for(a.n * a.n, kThreads * 8), kThreads, 0, a.x, a.n, a.factor,
           a.diagonal, static_cast<T*>(a.out));
  });
}

}  // namespace

void register_muon(KernelTable& t) {
  t.divide_by_norm = divide_by_norm;
  t.add_diagonal = add_diagonal;
}

}  // namespace cuda
}  // namespace llmcore
