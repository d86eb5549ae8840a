// Products of few rows: out (M,N) = epilogue(x (M,K) · w (N,K)^T), M <= kFewRows. Decoding does little else, and it is
// bound by how fast w arrives: w is read once, 16 bytes per thread, with several loads in flight. A block takes 16 or
// 32 rows of w, and each of its warps every eighth slice of K; their sums are added in order. A row of out has the same
// bits whatever the other rows are and however many there are.
#pragma once
#include "cuda/gemm/epilogue.cuh"

namespace llmcore {
namespace cuda {

constexpr int kFewRows = 8;
constexpr int kGemvWarps = 8, kGemvThreads = kGemvWarps * kWarp;
constexpr int kGemvRows = 16;  // rows of w that a warp takes together

template <class T>
struct GemvArgs {  // K and ldx: multiples of 16 bytes; x and w aligned to 16 bytes
  int64_t M, N, K;
  const T* x;
  int64_t ldx;
  const T* w;
};

// Loads 16 bytes; zeros if !valid, which only occurs at the end of a row.
template <bool kEnd, class V, class T>
__device__ __forceinline__ V part_of(const T* p, bool valid) {
  return !kEnd || valid ? *reinterpret_cast<const V*>(p) : V{};
}

// Sums the warps' results for kRows rows of w: parts[warp][m][row].
template <int kRows, class O>
__device__ __forceinline__ void finish_parts(const float* parts, int64_t row, int64_t M, int64_t N,
                                             const Epilogue<O>& e) {
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * kFewRows; i += kGemvThreads) {
    const int64_t m = i / kRows, n = row + i % kRows;
    if (m >= M || n >= N) continue;
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kGemvWarps; ++w) sum += parts[w * kRows * kFewRows + i];
    finish(e, m, n, sum);
  }
}

// Adds kUnroll times 32 columns of w, of which `left` remain (kEnd) or all exist. On tensor cores, w's rows are the
// rows of the left factor and x's rows the columns of the right one. A lane's 16 bytes of a row are 8 adjacent
// elements; they may stand for other k of a product than their own, because the mapping is the same on both sides.
template <bool kEnd, int kTiles, int kUnroll>
__device__ __forceinline__ void add_slice(const bf16* const (&w)[kTiles][2], const bf16* x, int64_t k, int left,
                                          float (&sums)[kTiles][4]) {
  using Words = Vec<uint32_t, 4>;
  Words a[kUnroll][kTiles][2], b[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int half = 0; half < 2; ++half) a[u][t][half] = part_of<kEnd, Words>(w[t][half] + k + 32 * u, 32 * u < left);
    b[u] = part_of<kEnd, Words>(x + k + 32 * u, 32 * u < left);
  }
  __syncwarp();  // all loads are in flight before the first wait
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
#pragma unroll
    for (int i = 0; i < 4; i += 2)
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        mma_16816(sums[t], {a[u][t][0].v[i], a[u][t][1].v[i], a[u][t][0].v[i + 1], a[u][t][1].v[i + 1]},
                  {b[u].v[i], b[u].v[i + 1]});
}

template <int kTiles, class O>
__global__ void __launch_bounds__(kGemvThreads, 2) gemv_bf16_kernel(GemvArgs<bf16> g, Epilogue<O> e) {
  constexpr int kRows = kTiles * kGemvRows, kUnroll = 4, kSlice = 32 * kUnroll;  // kSlice: columns of w
  __shared__ float parts[kGemvWarps * kRows * kFewRows];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, group = lane / 4, first = lane % 4 * 8;
  const int64_t row = int64_t{blockIdx.x} * kRows;
  // Rows past the end repeat existing ones: their sums are not used.
  const bf16* w[kTiles][2];
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t r = row + t * kGemvRows + half * 8 + group;
      w[t][half] = g.w + (r < g.N ? r : g.N - 1) * g.K + first;
    }
  const bf16* x = g.x + (group < g.M ? group : 0) * g.ldx + first;
  float sums[kTiles][4] = {};
  int64_t k = warp * kSlice;
  for (; k + kSlice <= g.K; k += kGemvWarps * kSlice) add_slice<false, kTiles, kUnroll>(w, x, k, 0, sums);
  if (k < g.K) add_slice<true, kTiles, kUnroll>(w, x, k, static_cast<int>(g.K - k) - first, sums);
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int m = lane % 4 * 2 + i % 2, n = t * kGemvRows + group + i / 2 * 8;
      parts[(warp * kFewRows + m) * kRows + n] = sums[t][i];
    }
  finish_parts<kRows>(parts, row, g.M, g.N, e);
}

constexpr int kLaneRows = 4;  // rows of w that a lane handles in float32, every eighth 16 bytes of them

template <bool kEnd, int kM, int kUnroll>
__device__ __forceinline__ void add_slice(const float* const (&w)[kLaneRows], const float* const (&x)[kM], int64_t k,
                                          int left, float (&sums)[kLaneRows][kM]) {
  using Floats = Vec<float, 4>;
  Floats a[kUnroll][kLaneRows];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) a[u][r] = part_of<kEnd, Floats>(w[r] + k + 32 * u, 32 * u < left);
  __syncwarp();
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      const Floats b = part_of<kEnd, Floats>(x[m] + k + 32 * u, 32 * u < left);
#pragma unroll
      for (int r = 0; r < kLaneRows; ++r)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[r][m] = fmaf(a[u][r].v[i], b.v[i], sums[r][m]);
    }
}

// kM >= M
template <int kM, class O>
__global__ void __launch_bounds__(kGemvThreads, kM < 8 ? 2 : 1) gemv_f32_kernel(GemvArgs<float> g, Epilogue<O> e) {
  constexpr int kUnroll = 2, kSlice = 32 * kUnroll;
  __shared__ float parts[kGemvWarps * kGemvRows * kFewRows];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, group = lane / 8 * kLaneRows, first = lane % 8 * 4;
  const int64_t row = int64_t{blockIdx.x} * kGemvRows;
  const float *w[kLaneRows], *x[kM];
#pragma unroll
  for (int r = 0; r < kLaneRows; ++r) w[r] = g.w + (row + group + r < g.N ? row + group + r : g.N - 1) * g.K + first;
#pragma unroll
  for (int m = 0; m < kM; ++m) x[m] = g.x + (m < g.M ? m : 0) * g.ldx + first;
  float sums[kLaneRows][kM] = {};
  int64_t k = warp * kSlice;
  for (; k + kSlice <= g.K; k += kGemvWarps * kSlice) add_slice<false, kM, kUnroll>(w, x, k, 0, sums);
  if (k < g.K) add_slice<true, kM, kUnroll>(w, x, k, static_cast<int>(g.K - k) - first, sums);
#pragma unroll
  for (int r = 0; r < kLaneRows; ++r)
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      float sum = sums[r][m];
#pragma unroll
      for (int step = 4; step; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
      if (lane % 8 == 0) parts[(warp * kFewRows + m) * kGemvRows + group + r] = sum;
    }
  finish_parts<kGemvRows>(parts, row, g.M, g.N, e);
}

}  // namespace cuda
}  // namespace llmcore
