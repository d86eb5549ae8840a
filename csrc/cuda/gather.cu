// Rows taken by index, scattered and summed, for mixtures of experts.
#include "cuda/take_rows.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kThreads = kItemThreads;

void take(const TakeArgs& a) {
  with_float(a.dtype, [&](auto t) { take_rows<decltype(t), decltype(t)>("take", a.N, a.C, a.x, a.ids, a.out); });
}

// dout (N,C), offsets (M+1), order (N), dx (M,C)
template <class T, int kCount>
__global__ void __launch_bounds__(kThreads) scatter_kernel(ScatterArgs a) {
  const int64_t i = first_item<1>(), columns = a.C / kCount;
  if (i >= a.M * columns) return;
  const Split s = split(i, columns);
  const T* from = static_cast<const T*>(a.dout) + s.at * kCount;
  Floats<kCount> sum{};
  const int64_t end = a.offsets[s.row + 1];
#pragma unroll 4
  for (int64_t at = a.offsets[s.row]; at < end; ++at) {
    const Floats<kCount> x = load<kCount>(from + a.order[at] * a.C);
#pragma unroll
    for (int c = 0; c < kCount; ++c) sum.v[c] += x.v[c];
  }
  store(static_cast<T*>(a.dx) + i * kCount, sum);
}

void scatter(const ScatterArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    if (aligned<T>(a.C, {a.dout, a.dx}))
      launch("scatter", scatter_kernel<T, kVec<T>>, blocks_of_items<1>(a.M * (a.C / kVec<T>)), kThreads, 0, a);
    else
      launch("scatter", scatter_kernel<T, 1>, blocks_of_items<1>(a.M * a.C), kThreads, 0, a);
  });
}

// y (M,k,C), weight (M,k), out (M,C)
template <class T, int kCount>
__global__ void __launch_bounds__(kThreads) weighted_sum_kernel(WeightedSumArgs a) {
  const int64_t i = first_item<1>(), columns = a.C / kCount;
  if (i >= a.M * columns) return;
  const Split s = split(i, columns);
  const T* from = static_cast<const T*>(a.y) + s.row * a.k * a.C + s.at * kCount;
  const float* weight = a.weight + s.row * a.k;
  Floats<kCount> sum{};
#pragma unroll 4
  for (int64_t k = 0; k < a.k; ++k) {
    const Floats<kCount> x = load<kCount>(from + k * a.C);
#pragma unroll
    for (int c = 0; c < kCount; ++c) sum.v[c] = fmaf(x.v[c], weight[k], sum.v[c]);
  }
  store(static_cast<T*>(a.out) + i * kCount, sum);
}

void weighted_sum(const WeightedSumArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    if (aligned<T>(a.C, {a.y, a.out}))
      launch("weighted_sum", weighted_sum_kernel<T, kVec<T>>, blocks_of_items<1>(a.M * (a.C / kVec<T>)), kThreads, 0,
             a);
    else
      launch("weighted_sum", weighted_sum_kernel<T, 1>, blocks_of_items<1>(a.M * a.C), kThreads, 0, a);
  });
}

// dout (M,C), y, dy (M,k,C), dweight (M,k): one warp per row of y.
template <class T, int kCount>
__global__ void __launch_bounds__(kThreads) weighted_sum_backward_kernel(WeightedSumBackwardArgs b) {
  constexpr int kEach = 2;
  const WeightedSumArgs& a = b.forward;
  const int64_t i = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= a.M * a.k) return;
  const T *dout = static_cast<const T*>(b.dout) + split(i, a.k).row * a.C, *y = static_cast<const T*>(a.y) + i * a.C;
  T* dy = static_cast<T*>(b.dy) + i * a.C;
  const float weight = a.weight[i];
  float dot = 0.0f;
  for (int64_t start = threadIdx.x % kWarp * kCount; start < a.C; start += kEach * kWarp * kCount) {
    Floats<kCount> d[kEach]{}, x[kEach]{};
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (const int64_t c = start + j * kWarp * kCount; c < a.C)
        d[j] = load<kCount>(dout + c), x[j] = load<kCount>(y + c);
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int64_t at = start + j * kWarp * kCount;
      if (at >= a.C) continue;
#pragma unroll
      for (int c = 0; c < kCount; ++c) dot = fmaf(d[j].v[c], x[j].v[c], dot), d[j].v[c] *= weight;
      store(dy + at, d[j]);
    }
  }
  dot = warp_sum(dot);
  if (threadIdx.x % kWarp == 0) b.dweight[i] = dot;
}

void weighted_sum_backward(const WeightedSumBackwardArgs& b) {
  const WeightedSumArgs& a = b.forward;
  const unsigned blocks = ceil_div(a.M * a.k, kThreads / kWarp);
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    if (aligned<T>(a.C, {b.dout, a.y, b.dy}))
      launch("weighted_sum_backward", weighted_sum_backward_kernel<T, kVec<T>>, blocks, kThreads, 0, b);
    else
      launch("weighted_sum_backward", weighted_sum_backward_kernel<T, 1>, blocks, kThreads, 0, b);
  });
}

}  // namespace

void register_gather(KernelTable& t) {
  t.take = take;
  t.scatter = scatter;
  t.weighted_sum = weighted_sum;
  t.weighted_sum_backward = weighted_sum_backward;
}

}  // namespace cuda
}  // namespace llmcore
