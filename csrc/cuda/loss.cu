// Cross-entropy over rows of logits, one block per row. NaN and inf in the logits come out as NaN or inf losses.
#include "cuda/rows.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kMostThreads = 512;
constexpr int kElements = 16;  // per thread at a time

unsigned threads_of_row(int64_t V) {
  const int64_t wanted = round_up((V + kElements - 1) / kElements, kWarp);
  return static_cast<unsigned>(wanted < kWarp ? kWarp : wanted < kMostThreads ? wanted : kMostThreads);
}

// logits (M,V) with row stride ld; target, loss, lse (M)
template <class T, int kCount>
__global__ void __launch_bounds__(kMostThreads, 3) cross_entropy_kernel(CrossEntropyArgs a) {
  __shared__ float shared[kWarp];
  const int64_t m = blockIdx.x;
  const T* x = static_cast<const T*>(a.logits) + m * a.ld;
  const MaxSum row = block_max_sum<kCount>(x, a.V, shared);
  if (threadIdx.x > 0) return;
  const float lse = row.max + logf(row.sum);
  const int32_t target = a.target[m];
  a.lse[m] = lse;
  a.loss[m] = target < 0 ? 0.0f : lse - as_float(x[target]);
}

void cross_entropy_forward(const CrossEntropyArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    const unsigned blocks = ceil_div(a.M, 1), threads = threads_of_row(a.V);
    if (aligned<T>(a.ld, {a.logits}))
      launch("cross_entropy", cross_entropy_kernel<T, kVec<T>>, blocks, threads, 0, a);
    else
      launch("cross_entropy", cross_entropy_kernel<T, 1>, blocks, threads, 0, a);
  });
}

// Computes elements i to i + kCount of a row's gradient from the logits x.
template <int kCount>
__device__ __forceinline__ Floats<kCount> gradient(const Floats<kCount>& x, unsigned i, unsigned target, float lse,
                                                   float dloss) {
  Floats<kCount> d;
#pragma unroll
  for (int c = 0; c < kCount; ++c) d.v[c] = exp_of_difference(x.v[c] - lse) * dloss;
  if (target - i < kCount) {
#pragma unroll
    for (int c = 0; c < kCount; ++c)
      if (i + c == target) d.v[c] = (exp_of_difference(x.v[c] - lse) - 1.0f) * dloss;
  }
  return d;
}

// logits (M,V) with row stride ld, dlogits (M,V) with row stride ld_out. They may be the same memory, also when float32
// becomes bfloat16 in the first half of each row: the block works on a row from its start, in steps; its writes in a
// step overlap only what it has read in this step or earlier, and all threads have read by then. Targets are int32, so
// 32 bits suffice to count the elements of a row.
template <class T, class O, int kCount>
__global__ void __launch_bounds__(kMostThreads, kCount == 1 ? 2 : 3)
    cross_entropy_backward_kernel(CrossEntropyBackwardArgs a) {
  constexpr int kEach = kCount == 1 ? 8 : kElements / kCount;
  constexpr bool kShrinks = sizeof(O) < sizeof(T);
  const int64_t m = blockIdx.x;
  const unsigned V = static_cast<unsigned>(a.V), vectors = V / kCount, threads = blockDim.x, thread = threadIdx.x;
  const T* x = static_cast<const T*>(a.logits) + m * a.ld;
  O* out = static_cast<O*>(a.dlogits) + m * a.ld_out;
  const int32_t signed_target = a.target[m];
  const unsigned target = static_cast<unsigned>(signed_target), rest = vectors * kCount + thread;
  if (signed_target < 0) {
    for (unsigned i = thread; i < vectors; i += threads) store(out + i * kCount, Floats<kCount>{});
    if (rest < V) out[rest] = rounded<O>(0.0f);
    return;
  }
  const float lse = a.lse[m], dloss = a.dloss[m];
  const Floats<1> last = rest < V ? load<1>(x + rest) : Floats<1>{};
  for (unsigned start = 0; start < vectors; start += kEach * threads) {
    Vec<T, kCount> part[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (const unsigned i = start + j * threads + thread; i < vectors)
        part[j] = *reinterpret_cast<const Vec<T, kCount>*>(x + i * kCount);
    if (kShrinks) __syncthreads();
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (const unsigned i = start + j * threads + thread; i < vectors)
        store(out + i * kCount, gradient(as_floats(part[j]), i * kCount, target, lse, dloss));
  }
  if (kShrinks) __syncthreads();  // also if the row is shorter than a vector
  if (rest < V) store(out + rest, gradient(last, rest, target, lse, dloss));
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& a) {
  with_float(a.dtype, [&](auto t) {
    with_float(a.out_dtype, [&](auto o) {
      using T = decltype(t);
      using O = decltype(o);
      constexpr int kCount = kVec<T> < kVec<O> ? kVec<T> : kVec<O>;
      const unsigned blocks = ceil_div(a.M, 1), threads = threads_of_row(a.V);
      if (aligned<T>(0, {a.logits, a.dlogits}) && a.ld % kVec<T> == 0 && a.ld_out % kVec<O> == 0)
        launch("cross_entropy_backward", cross_entropy_backward_kernel<T, O, kCount>, blocks, threads, 0, a);
      else
        launch("cross_entropy_backward", cross_entropy_backward_kernel<T, O, 1>, blocks, threads, 0, a);
    });
  });
}

}  // namespace

void register_loss(KernelTable& t) {
  t.cross_entropy_forward = cross_entropy_forward;
  t.cross_entropy_backward = cross_entropy_backward;
}

}  // namespace cuda
}  // namespace llmcore
