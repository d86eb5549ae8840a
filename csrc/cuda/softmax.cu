// Softmax over rows. Rows up to some length are read once and stay in registers. -inf entries come out as 0; a row that
// is all -inf or contains NaN or +inf comes out as NaN.
#include "cuda/rows.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kMostThreads = kMostRowWarps * kWarp;

// x, out (M,N); a thread has kElements of a row
template <class T, int kCount, int kElements>
__global__ void __launch_bounds__(kMostThreads) softmax_kernel(SoftmaxArgs a, int warps, int groups) {
  constexpr int kEach = kElements / kCount;
  __shared__ float most[kMostRowWarps][1], sums[kMostRowWarps][1];
  const InGroup at(warps);
  const int64_t m = int64_t{blockIdx.x} * groups + at.group;
  const int columns = m < a.M ? static_cast<int>(a.N) : 0;
  const T* x = static_cast<const T*>(a.x) + m * a.N;
  T* out = static_cast<T*>(a.out) + m * a.N;
  Floats<kCount> row[kEach];
  float top = kLowest;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int i = (j * at.threads + at.thread) * kCount;
    if (i < columns) {
      row[j] = load<kCount>(x + i);
    } else {
#pragma unroll
      for (int c = 0; c < kCount; ++c) row[j].v[c] = -INFINITY;
    }
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j)
#pragma unroll
    for (int c = 0; c < kCount; ++c) top = fmaxf(top, row[j].v[c]);
  top = group_max(top, warps, most);
  float sum[1] = {0.0f};
#pragma unroll
  for (int j = 0; j < kEach; ++j)
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      row[j].v[c] = expf(row[j].v[c] - top);
      sum[0] += row[j].v[c];
    }
  group_sum<1>(sum, warps, sums);
  const float factor = 1.0f / sum[0];
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int i = (j * at.threads + at.thread) * kCount;
    if (i >= columns) continue;
#pragma unroll
    for (int c = 0; c < kCount; ++c) row[j].v[c] *= factor;
    store(out + i, row[j]);
  }
}

// Handles rows of any length, one block per row; rows are read twice.
template <class T>
__global__ void __launch_bounds__(kMostThreads) long_softmax_kernel(SoftmaxArgs a) {
  __shared__ float shared[kWarp];
  const T* x = static_cast<const T*>(a.x) + blockIdx.x * a.N;
  T* out = static_cast<T*>(a.out) + blockIdx.x * a.N;
  const MaxSum row = block_max_sum<1>(x, a.N, shared);
  const float factor = 1.0f / row.sum;
  for (int64_t i = threadIdx.x; i < a.N; i += kMostThreads)
    out[i] = rounded<T>(expf(as_float(x[i]) - row.max) * factor);
}

template <class T, int kCount>
void run_softmax(const SoftmaxArgs& a) {
  const bool fits = with_row_elements<kCount>(a.N, [&](auto elements) {
    constexpr int kElements = decltype(elements)::value;
    const RowGroups g = row_groups(a.N, kElements);
    launch("softmax", softmax_kernel<T, kCount, kElements>, g.blocks(a.M), g.threads(), 0, a, g.warps, g.groups);
  });
  if (!fits) launch("softmax", long_softmax_kernel<T>, ceil_div(a.M, 1), kMostThreads, 0, a);
}

void softmax_forward(const SoftmaxArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    aligned<T>(a.N, {a.x, a.out}) ? run_softmax<T, kVec<T>>(a) : run_softmax<T, 1>(a);
  });
}

// dout, out, dx (M,N): dx = out * (dout - sum(dout * out))
template <class T, int kCount, int kElements>
__global__ void __launch_bounds__(kMostThreads) softmax_backward_kernel(SoftmaxBackwardArgs a, int warps, int groups) {
  constexpr int kEach = kElements / kCount;
  __shared__ float sums[kMostRowWarps][1];
  const InGroup at(warps);
  const int64_t m = int64_t{blockIdx.x} * groups + at.group;
  const int columns = m < a.M ? static_cast<int>(a.N) : 0;
  const T *dout = static_cast<const T*>(a.dout) + m * a.N, *out = static_cast<const T*>(a.out) + m * a.N;
  T* dx = static_cast<T*>(a.dx) + m * a.N;
  Vec<T, kCount> d[kEach], y[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int i = (j * at.threads + at.thread) * kCount;
    d[j] = {}, y[j] = {};
    if (i < columns) {
      d[j] = *reinterpret_cast<const Vec<T, kCount>*>(dout + i);
      y[j] = *reinterpret_cast<const Vec<T, kCount>*>(out + i);
    }
  }
  float dot[1] = {0.0f};
#pragma unroll
  for (int j = 0; j < kEach; ++j)
#pragma unroll
    for (int c = 0; c < kCount; ++c) dot[0] = fmaf(as_float(d[j].v[c]), as_float(y[j].v[c]), dot[0]);
  group_sum<1>(dot, warps, sums);
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int i = (j * at.threads + at.thread) * kCount;
    if (i >= columns) continue;
    Floats<kCount> to;
#pragma unroll
    for (int c = 0; c < kCount; ++c) to.v[c] = as_float(y[j].v[c]) * (as_float(d[j].v[c]) - dot[0]);
    store(dx + i, to);
  }
}

template <class T>
__global__ void __launch_bounds__(kMostThreads) long_softmax_backward_kernel(SoftmaxBackwardArgs a) {
  __shared__ float shared[kWarp];
  const int64_t first = blockIdx.x * a.N;
  const T *dout = static_cast<const T*>(a.dout) + first, *out = static_cast<const T*>(a.out) + first;
  T* dx = static_cast<T*>(a.dx) + first;
  float dot = 0.0f;
  for (int64_t i = threadIdx.x; i < a.N; i += kMostThreads) dot = fmaf(as_float(dout[i]), as_float(out[i]), dot);
  dot = block_sum(dot, shared);
  for (int64_t i = threadIdx.x; i < a.N; i += kMostThreads)
    dx[i] = rounded<T>(as_float(out[i]) * (as_float(dout[i]) - dot));
}

template <class T, int kCount>
void run_softmax_backward(const SoftmaxBackwardArgs& a) {
  const bool fits = with_row_elements<kCount>(a.N, [&](auto elements) {
    constexpr int kElements = decltype(elements)::value;
    const RowGroups g = row_groups(a.N, kElements);
    launch("softmax_backward", softmax_backward_kernel<T, kCount, kElements>, g.blocks(a.M), g.threads(), 0, a, g.warps,
           g.groups);
  });
  if (!fits) launch("softmax_backward", long_softmax_backward_kernel<T>, ceil_div(a.M, 1), kMostThreads, 0, a);
}

void softmax_backward(const SoftmaxBackwardArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    aligned<T>(a.N, {a.dout, a.out, a.dx}) ? run_softmax_backward<T, kVec<T>>(a) : run_softmax_backward<T, 1>(a);
  });
}

}  // namespace

void register_softmax(KernelTable& t) {
  t.softmax_forward = softmax_forward;
  t.softmax_backward = softmax_backward;
}

}  // namespace cuda
}  // namespace llmcore
