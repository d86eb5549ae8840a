// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019). A row is read from memory once; statistics are
// float32, the variance from the differences to the mean (no cancellation).
#include <algorithm>

#include "cuda/rows.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kMostThreads = kMostRowWarps * kWarp;

// ---- forward --------------------------------------------------------------------------------------

// x, out (M,C), weight, bias (C), mean, rstd (M); a thread has kElements of a row
template <class T, bool kRms, int kCount, int kElements>
__global__ void __launch_bounds__(kMostThreads) norm_kernel(NormArgs a, int warps, int groups) {
  constexpr int kEach = kElements / kCount;
  __shared__ float means[kMostRowWarps][1], squares[kMostRowWarps][1];
  const InGroup at(warps);
  const int64_t m = int64_t{blockIdx.x} * groups + at.group;
  const int columns = m < a.M ? static_cast<int>(a.C) : 0;
  const T* x = static_cast<const T*>(a.x) + m * a.C;
  T* out = static_cast<T*>(a.out) + m * a.C;
  Floats<kCount> row[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int i = (j * at.threads + at.thread) * kCount;
    row[j] = {};
    if (i < columns) row[j] = load<kCount>(x + i);
  }
  float mean[1] = {0.0f};
  if (!kRms) {
#pragma unroll
    for (int j = 0; j < kEach; ++j)
#pragma unroll
      for (int c = 0; c < kCount; ++c) mean[0] += row[j].v[c];
    group_sum<1>(mean, warps, means);
    mean[0] /= static_cast<float>(a.C);
  }
  float square[1] = {0.0f};
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if ((j * at.threads + at.thread) * kCount < columns) {
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
        const float d = row[j].v[c] - mean[0];
        square[0] = fmaf(d, d, square[0]);
      }
    }
  group_sum<1>(square, warps, squares);
  const float rstd = 1.0f / sqrtf(square[0] / static_cast<float>(a.C) + a.eps);
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int i = (j * at.threads + at.thread) * kCount;
    if (i >= columns) continue;
    const Floats<kCount> weight = load<kCount>(a.weight + i);
    Floats<kCount> bias{};
    if (!kRms && a.bias) bias = load<kCount>(a.bias + i);
#pragma unroll
    for (int c = 0; c < kCount; ++c) row[j].v[c] = fmaf((row[j].v[c] - mean[0]) * rstd, weight.v[c], bias.v[c]);
    store(out + i, row[j]);
  }
  if (at.thread == 0 && m < a.M) {
    if (a.mean) a.mean[m] = mean[0];
    if (a.rstd) a.rstd[m] = rstd;
  }
}

// Handles rows of any length, one block per row; every pass reads the row again.
template <class T, bool kRms>
__global__ void __launch_bounds__(kMostThreads) long_norm_kernel(NormArgs a) {
  __shared__ float shared[kWarp];
  const int64_t m = blockIdx.x;
  const T* x = static_cast<const T*>(a.x) + m * a.C;
  T* out = static_cast<T*>(a.out) + m * a.C;
  float mean = 0.0f, square = 0.0f;
  if (!kRms) {
    for (int64_t i = threadIdx.x; i < a.C; i += kMostThreads) mean += as_float(x[i]);
    mean = block_sum(mean, shared) / static_cast<float>(a.C);
  }
  for (int64_t i = threadIdx.x; i < a.C; i += kMostThreads) {
    const float d = as_float(x[i]) - mean;
    square = fmaf(d, d, square);
  }
  const float rstd = 1.0f / sqrtf(block_sum(square, shared) / static_cast<float>(a.C) + a.eps);
  for (int64_t i = threadIdx.x; i < a.C; i += kMostThreads)
    out[i] = rounded<T>(fmaf((as_float(x[i]) - mean) * rstd, a.weight[i], !kRms && a.bias ? a.bias[i] : 0.0f));
  if (threadIdx.x > 0) return;
  if (a.mean) a.mean[m] = mean;
  if (a.rstd) a.rstd[m] = rstd;
}

template <class T, bool kRms, int kCount>
void run_norm(const NormArgs& a) {
  const bool fits = with_row_elements<kCount>(a.C, [&](auto elements) {
    constexpr int kElements = decltype(elements)::value;
    const RowGroups g = row_groups(a.C, kElements);
    launch("norm", norm_kernel<T, kRms, kCount, kElements>, g.blocks(a.M), g.threads(), 0, a, g.warps, g.groups);
  });
  if (!fits) launch("norm", long_norm_kernel<T, kRms>, ceil_div(a.M, 1), kMostThreads, 0, a);
}

template <bool kRms>
void norm_forward(const NormArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    aligned<T>(a.C, {a.x, a.out, a.weight, a.bias}) ? run_norm<T, kRms, kVec<T>>(a) : run_norm<T, kRms, 1>(a);
  });
}

// ---- backward -------------------------------------------------------------------------------------

// With g = dout * weight and h = (x - mean) * rstd: dx = rstd * (g - mean(g) - h * mean(g * h)), without mean(g) for
// RMSNorm, + residual; dweight += sum of dout * h over rows, dbias += sum of dout.
//
// Rows are cut into fixed pieces, one block per piece. Its threads keep their columns, so sums over rows stay in
// registers until the end of the piece. workspace: (pieces, 2, C), sums of dout * h and of dout.

// dout, x, residual, dx (M,C), mean, rstd (M); a thread has kElements of each of kRows rows at a time
template <class T, bool kRms, int kCount, int kElements, int kRows, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp, 16 / kWarps)
    norm_backward_kernel(NormBackwardArgs a, int warps, int groups, int64_t rows) {
  constexpr int kEach = kElements / kCount, kKinds = kRms ? 1 : 2;  // kinds of sums: of dout * h, of dout
  __shared__ float room[2][kWarps][kKinds * kRows];
  __shared__ float combined[kUsualWarps * kWarp * kElements];  // the columns of all groups of a block
  const InGroup at(warps);
  const int64_t begin = blockIdx.x * rows, end = begin + rows < a.M ? begin + rows : a.M;
  const int columns = static_cast<int>(a.C), own = at.thread * kCount, step = at.threads * kCount;
  const T *const x = static_cast<const T*>(a.x) + own, *const dout = static_cast<const T*>(a.dout) + own;
  const T* const residual = static_cast<const T*>(a.residual) + (a.residual ? own : 0);
  T* const dx = static_cast<T*>(a.dx) + own;
  const float each = 1.0f / static_cast<float>(a.C);

  Floats<kCount> kept[kEach], total[kKinds][kEach];  // kept: weights, if there are registers for them
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    kept[j] = {};
    if (kElements == 8 && own + j * step < columns) kept[j] = load<kCount>(a.weight + own + j * step);
#pragma unroll
    for (int k = 0; k < kKinds; ++k) total[k][j] = {};
  }

  int parity = 0;
  for (int64_t first = begin + at.group; first < end + at.group; first += groups * kRows, parity ^= 1) {
    Vec<T, kCount> from[kRows][kEach], d[kRows][kEach], more[kRows][kEach];
    float mean[kRows], rstd[kRows], sums[kKinds * kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t m = first + r * groups;
      const bool there = m < end;
      mean[r] = kRms || !there ? 0.0f : a.mean[m], rstd[r] = there ? a.rstd[m] : 0.0f;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        from[r][j] = {}, d[r][j] = {}, more[r][j] = {};
        if (!there || own + j * step >= columns) continue;
        from[r][j] = *reinterpret_cast<const Vec<T, kCount>*>(x + m * a.C + j * step);
        d[r][j] = *reinterpret_cast<const Vec<T, kCount>*>(dout + m * a.C + j * step);
        if (residual) more[r][j] = *reinterpret_cast<const Vec<T, kCount>*>(residual + m * a.C + j * step);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum_g = 0.0f, sum_gh = 0.0f;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        if (own + j * step >= columns) continue;  // past the end, 0 times a NaN mean would count
        const Floats<kCount> weight = kElements == 8 ? kept[j] : load<kCount>(a.weight + own + j * step);
#pragma unroll
        for (int c = 0; c < kCount; ++c) {
          const float dy = as_float(d[r][j].v[c]), h = (as_float(from[r][j].v[c]) - mean[r]) * rstd[r];
          const float g = dy * weight.v[c];
          sum_gh = fmaf(g, h, sum_gh);
          total[0][j].v[c] = fmaf(dy, h, total[0][j].v[c]);
          if (kRms) continue;
          sum_g += g;
          total[kKinds - 1][j].v[c] += dy;
        }
      }
      sums[r] = sum_gh;
      if (!kRms) sums[(kKinds - 1) * kRows + r] = sum_g;
    }
    group_sum<kKinds * kRows>(sums, warps, room[parity]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t m = first + r * groups;
      if (m >= end) continue;
      const float mean_gh = sums[r] * each, mean_g = kRms ? 0.0f : sums[(kKinds - 1) * kRows + r] * each;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        if (own + j * step >= columns) continue;
        const Floats<kCount> weight = kElements == 8 ? kept[j] : load<kCount>(a.weight + own + j * step);
        Floats<kCount> to;
#pragma unroll
        for (int c = 0; c < kCount; ++c) {
          const float h = (as_float(from[r][j].v[c]) - mean[r]) * rstd[r];
          const float g = as_float(d[r][j].v[c]) * weight.v[c];
          to.v[c] = fmaf(g - mean_g - h * mean_gh, rstd[r], as_float(more[r][j].v[c]));
        }
        store(dx + m * a.C + j * step, to);
      }
    }
  }

  // Add the sums of the block's groups, in order.
#pragma unroll
  for (int k = 0; k < kKinds; ++k) {
    if (groups > 1) {
      __syncthreads();
#pragma unroll
      for (int e = 0; e < kElements; ++e)
        combined[(e * groups + at.group) * at.threads + at.thread] = total[k][e / kCount].v[e % kCount];
      __syncthreads();
    }
    if (at.group > 0) continue;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (own + j * step >= columns) continue;
#pragma unroll
      for (int c = 0; c < kCount; ++c)
#pragma unroll 1
        for (int group = 1; group < groups; ++group)
          total[k][j].v[c] += combined[((j * kCount + c) * groups + group) * at.threads + at.thread];
      store(a.workspace + (int64_t{blockIdx.x} * 2 + k) * a.C + own + j * step, total[k][j]);
    }
  }
}

// Handles rows of any length, which are read twice; sums over rows are in the workspace, where each thread has its own
// columns.
template <class T, bool kRms>
__global__ void __launch_bounds__(kMostThreads) long_norm_backward_kernel(NormBackwardArgs a, int64_t rows) {
  __shared__ float shared[kWarp];
  const int64_t begin = blockIdx.x * rows, end = begin + rows < a.M ? begin + rows : a.M;
  float *with_h = a.workspace + int64_t{blockIdx.x} * 2 * a.C, *alone = with_h + a.C;
  const float each = 1.0f / static_cast<float>(a.C);
  for (int64_t m = begin; m < end; ++m) {
    const T *x = static_cast<const T*>(a.x) + m * a.C, *dout = static_cast<const T*>(a.dout) + m * a.C;
    const T* residual = a.residual ? static_cast<const T*>(a.residual) + m * a.C : nullptr;
    T* dx = static_cast<T*>(a.dx) + m * a.C;
    const float mean = kRms ? 0.0f : a.mean[m], rstd = a.rstd[m];
    float mean_g = 0.0f, mean_gh = 0.0f;
    for (int64_t i = threadIdx.x; i < a.C; i += kMostThreads) {
      const float dy = as_float(dout[i]), h = (as_float(x[i]) - mean) * rstd, g = dy * a.weight[i];
      mean_g += g, mean_gh = fmaf(g, h, mean_gh);
      with_h[i] = fmaf(dy, h, m == begin ? 0.0f : with_h[i]);
      if (!kRms) alone[i] = dy + (m == begin ? 0.0f : alone[i]);
    }
    mean_g = kRms ? 0.0f : block_sum(mean_g, shared) * each;
    mean_gh = block_sum(mean_gh, shared) * each;
    for (int64_t i = threadIdx.x; i < a.C; i += kMostThreads) {
      const float h = (as_float(x[i]) - mean) * rstd, g = as_float(dout[i]) * a.weight[i];
      dx[i] = rounded<T>(fmaf(g - mean_g - h * mean_gh, rstd, residual ? as_float(residual[i]) : 0.0f));
    }
  }
}

// workspace (pieces, 2, C) -> dweight, dbias (C): grid (columns / 32, dweight and dbias)
constexpr int kPieceLanes = 16;
__global__ void __launch_bounds__(kWarp* kPieceLanes)
    norm_parameters_kernel(const float* workspace, int pieces, int64_t C, float* dweight, float* dbias) {
  __shared__ float part[kPieceLanes][kWarp];
  const int lane = threadIdx.x / kWarp, column = threadIdx.x % kWarp;
  const int64_t i = int64_t{blockIdx.x} * kWarp + column;
  float sum = 0.0f;
  if (i < C) {
    const float* from = workspace + blockIdx.y * C + i;
#pragma unroll 4
    for (int p = lane; p < pieces; p += kPieceLanes) sum += from[p * 2 * C];
  }
  part[lane][column] = sum;
  __syncthreads();
  if (lane > 0 || i >= C) return;
  for (int l = 1; l < kPieceLanes; ++l) sum += part[l][column];
  (blockIdx.y == 0 ? dweight : dbias)[i] += sum;
}

template <class T, bool kRms, int kCount, int kElements, int kRows, int kWarps>
int64_t norm_backward_pieces(const NormBackwardArgs& a, int64_t rows) {
  const RowGroups g = row_groups(a.C, kElements);
  if (rows < g.groups) rows = g.groups;
  const unsigned pieces = ceil_div(a.M, rows);
  launch("norm_backward", norm_backward_kernel<T, kRms, kCount, kElements, kRows, kWarps>, pieces, g.threads(), 0, a,
         g.warps, g.groups, rows);
  return pieces;
}

template <class T, bool kRms, int kCount>
void run_norm_backward(const NormBackwardArgs& a) {
  const int64_t wanted = std::min<int64_t>(kCudaNormBackwardChunks, int64_t{2} * multiprocessors());  // in one wave
  const int64_t rows = (a.M + wanted - 1) / wanted;
  int64_t pieces = 0;
  if constexpr (kCount == 1) {
    if (a.C <= 8 * kMostThreads) pieces = norm_backward_pieces<T, kRms, 1, 8, 1, kMostRowWarps>(a, rows);
  } else if (a.C <= 8 * kUsualWarps * kWarp) {
    pieces = norm_backward_pieces<T, kRms, kCount, 8, 2, kUsualWarps>(a, rows);
  } else if (a.C <= 16 * kMostThreads) {
    pieces = norm_backward_pieces<T, kRms, kCount, 16, 1, kMostRowWarps>(a, rows);
  }
  if (pieces == 0) {
    pieces = ceil_div(a.M, rows);
    launch("norm_backward", long_norm_backward_kernel<T, kRms>, pieces, kMostThreads, 0, a, rows);
  }
  launch("norm_backward", norm_parameters_kernel, dim3(ceil_div(a.C, kWarp), a.dbias && !kRms ? 2 : 1),
         kWarp * kPieceLanes, 0, a.workspace, pieces, a.C, a.dweight, a.dbias);
}

template <bool kRms>
void norm_backward(const NormBackwardArgs& a) {
  if (a.M == 0 || a.C == 0) return;
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    if (aligned<T>(a.C, {a.dout, a.x, a.residual, a.dx, a.weight, a.workspace}))
      run_norm_backward<T, kRms, kVec<T>>(a);
    else
      run_norm_backward<T, kRms, 1>(a);
  });
}

}  // namespace

void register_norm(KernelTable& t) {
  t.layer_norm_forward = norm_forward<false>;
  t.layer_norm_backward = norm_backward<false>;
  t.rms_norm_forward = norm_forward<true>;
  t.rms_norm_backward = norm_backward<true>;
}

}  // namespace cuda
}  // namespace llmcore
