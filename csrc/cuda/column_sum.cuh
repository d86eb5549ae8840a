// Sums over rows: gradients of biases.
#pragma once
#include "cuda/vectors.cuh"

namespace llmcore {
namespace cuda {
namespace {

// Columns form slabs of a cache line, and rows are cut into fixed pieces. A block sums the rows of its piece and slab;
// the last block of a slab to finish adds the pieces in order. All work on the device is in one order, so one scratch
// buffer serves every launch.
constexpr int64_t kSumBlocks = 528;    // target: four per multiprocessor of an H100
constexpr int kMostSumColumns = 64;    // per slab
constexpr int64_t kSumPieceRows = 64;  // at least
__device__ float sum_scratch[2 * kSumBlocks * kMostSumColumns];
__device__ unsigned sum_done[kSumBlocks];  // finished blocks per slab; reset to 0 when all are done

// x (M,N) with row stride ld, out (N): grid (slabs, pieces). kWide adjacent threads handle kCount columns each.
template <class T, int kCount, int kWide>
__global__ void __launch_bounds__(kItemThreads)
    column_sum_kernel(int64_t M, int64_t N, int64_t ld, int64_t rows, const T* x, float* out) {
  constexpr int kColumns = kCount * kWide, kLanes = kItemThreads / kWide, kUnroll = 4;
  __shared__ float partial[kLanes][kColumns];
  __shared__ bool last;
  const int wide = threadIdx.x % kWide, lane = threadIdx.x / kWide;
  const int64_t slab = blockIdx.x, piece = blockIdx.y, pieces = gridDim.y;
  const int64_t column = slab * kColumns + wide * kCount;
  const int64_t end = (piece + 1) * rows < M ? (piece + 1) * rows : M;
  Floats<kCount> total{};
  if (column < N) {
    x += column;
    int64_t m = piece * rows + lane;
    for (; m + (kUnroll - 1) * kLanes < end; m += kUnroll * kLanes) {
      Vec<T, kCount> part[kUnroll];
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) part[j] = *reinterpret_cast<const Vec<T, kCount>*>(x + (m + j * kLanes) * ld);
#pragma unroll
      for (int c = 0; c < kCount; ++c)
        total.v[c] +=
            (as_float(part[0].v[c]) + as_float(part[1].v[c])) + (as_float(part[2].v[c]) + as_float(part[3].v[c]));
    }
    for (; m < end; m += kLanes) {
      const Floats<kCount> part = load<kCount>(x + m * ld);
#pragma unroll
      for (int c = 0; c < kCount; ++c) total.v[c] += part.v[c];
    }
  }
#pragma unroll
  for (int c = 0; c < kCount; ++c) partial[lane][wide * kCount + c] = total.v[c];
  __syncthreads();
  const int64_t own = slab * kColumns + threadIdx.x;
  const bool adds = threadIdx.x < kColumns && own < N;
  float sum = 0.0f;
  if (adds)
    for (int r = 0; r < kLanes; ++r) sum += partial[r][threadIdx.x];
  if (pieces == 1) {
    if (adds) out[own] += sum;
    return;
  }
  volatile float* scratch = sum_scratch + slab * pieces * kColumns;
  if (adds) scratch[piece * kColumns + threadIdx.x] = sum;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&sum_done[slab], 1u) + 1u == gridDim.y;
    if (last) sum_done[slab] = 0u;
  }
  __syncthreads();
  if (!last || !adds) return;
  __threadfence();
  sum = out[own];
  for (int64_t p = 0; p < pieces; ++p) sum += scratch[p * kColumns + threadIdx.x];
  out[own] = sum;
}

template <class T, int kCount, int kWide>
void run_column_sum(const ColumnSumArgs& a) {
  const int64_t slabs = (a.N + kCount * kWide - 1) / (kCount * kWide);
  if (slabs == 0 || a.M == 0) return;
  int64_t pieces = (kSumBlocks + slabs - 1) / slabs;  // slabs * pieces < 2 * kSumBlocks, or one piece
  const int64_t most = (a.M + kSumPieceRows - 1) / kSumPieceRows;
  if (pieces > most) pieces = most;
  const int64_t rows = (a.M + pieces - 1) / pieces;
  pieces = (a.M + rows - 1) / rows;
  launch("column_sum", column_sum_kernel<T, kCount, kWide>,
         dim3(static_cast<unsigned>(slabs), static_cast<unsigned>(pieces)), kItemThreads, 0, a.M, a.N, a.ld, rows,
         static_cast<const T*>(a.x), a.out);
}

void column_sum(const ColumnSumArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    if (aligned<T>(a.ld, {a.x}) && a.N % kVec<T> == 0)
      run_column_sum<T, kVec<T>, 8>(a);
    else
      run_column_sum<T, 1, 32>(a);
  });
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
