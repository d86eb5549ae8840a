// Rows that stay in registers between passes: each row has a group of whole warps, and each thread some vectors of the
// row, adjacent to its neighbours'. If groups are small, a block has several.
#pragma once
#include "cuda/vectors.cuh"

namespace llmcore {
namespace cuda {

constexpr int kMostRowWarps = 16;  // of a group
constexpr int kUsualWarps = 8;     // per block, if groups are smaller than that

struct RowGroups {
  int warps, groups;  // warps per group; groups per block
  unsigned threads() const { return static_cast<unsigned>(warps * groups * kWarp); }
  unsigned blocks(int64_t rows) const { return ceil_div(rows, groups); }
};
// Returns the groups for rows of `columns` elements, `each` per thread.
inline RowGroups row_groups(int64_t columns, int each) {
  const int warps = columns > 0 ? static_cast<int>(ceil_div(columns, int64_t{kWarp} * each)) : 1;
  return {warps, warps < kUsualWarps ? kUsualWarps / warps : 1};
}

// Calls f(Constant) with the number of elements that a thread has of a row, chosen so that short rows need only one
// warp and no barrier. Single elements (kCount 1) are at most 16, each with its own address. Returns false if rows are
// too long.
template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};
template <int kCount, class F>
bool with_row_elements(int64_t columns, F f) {
  constexpr int64_t kMostThreads = int64_t{kMostRowWarps} * kWarp;
  if (columns <= 8 * kWarp) return f(Constant<8>{}), true;
  if (columns <= 16 * kWarp) return f(Constant<16>{}), true;
  if constexpr (kCount > 1)
    if (columns <= 32 * kWarp || (columns > 16 * kMostThreads && columns <= 32 * kMostThreads))
      return f(Constant<32>{}), true;
  if (columns <= 16 * kMostThreads) return f(Constant<16>{}), true;
  return false;
}

struct InGroup {
  int group, thread, threads;
  __device__ __forceinline__ explicit InGroup(int warps)
      : group(static_cast<int>(threadIdx.x) / (warps * kWarp)),
        thread(static_cast<int>(threadIdx.x) % (warps * kWarp)),
        threads(warps * kWarp) {}
};

// Sums each value over the threads of a group; every thread of the group gets the result. All threads of the block must
// take part. `room` holds as many sums as the block has warps and must differ from the previous call's, so that one
// barrier is enough.
template <int kSums>
__device__ __forceinline__ void group_sum(float (&x)[kSums], int warps, float (*room)[kSums]) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) x[i] = warp_sum(x[i]);
  if (warps == 1) return;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, first = warp / warps * warps;
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) room[warp][i] = x[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kSums; ++i) x[i] = warp_sum(lane < warps ? room[first + lane][i] : 0.0f);
}
__device__ __forceinline__ float group_max(float x, int warps, float (*room)[1]) {  // room as group_sum's
  x = warp_max(x);
  if (warps == 1) return x;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, first = warp / warps * warps;
  if (lane == 0) room[warp][0] = x;
  __syncthreads();
  return warp_max(room[first + (lane < warps ? lane : 0)][0]);
}

// ---- of rows of any length, by a whole block ------------------------------------------------------

constexpr float kLowest = -3.402823466e38f;  // the maximum of nothing; it makes rows of only -inf come out right

__device__ __forceinline__ float exp_of_difference(float difference) {  // e^difference, within 3 ulp where it matters
  return exp2_approx(difference * 1.44269504088896341f);
}

struct MaxSum {  // the maximum of some elements, and the sum of e^(x - maximum)
  float max = kLowest, sum = 0.0f;

  template <int kCount>
  __device__ __forceinline__ void add(const Floats<kCount>& x) {
    float next = max;
#pragma unroll
    for (int i = 0; i < kCount; ++i) next = fmaxf(next, x.v[i]);
    sum *= exp_of_difference(max - next);
    max = next;
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum += exp_of_difference(x.v[i] - next);
  }
};

// Computes the MaxSum of a row x (n) in one pass ("Online normalizer calculation for softmax", Milakov & Gimelshein
// 2018); every thread of the block gets it. A NaN or +inf makes the sum NaN; a row of only -inf has the maximum kLowest
// and the sum 0. x is aligned to kCount elements; shared: room for 32 values.
template <int kCount, class T>
__device__ __forceinline__ MaxSum block_max_sum(const T* x, int64_t n, float* shared) {
  constexpr int kEach = 16 / kCount;
  const int64_t vectors = n / kCount, step = blockDim.x;
  MaxSum row;
  int64_t i = threadIdx.x;
  for (; i + (kEach - 1) * step < vectors; i += kEach * step) {
    Floats<16> part;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const Floats<kCount> y = load<kCount>(x + (i + j * step) * kCount);
#pragma unroll
      for (int c = 0; c < kCount; ++c) part.v[j * kCount + c] = y.v[c];
    }
    row.add(part);
  }
  for (; i < vectors; i += step) row.add(load<kCount>(x + i * kCount));
  for (i = vectors * kCount + threadIdx.x; i < n; i += step) row.add(load<1>(x + i));
  const float highest = block_max(row.max, shared);
  row.sum = block_sum(row.sum * exp_of_difference(row.max - highest), shared);
  row.max = highest;
  return row;
}

}  // namespace cuda
}  // namespace llmcore
