// A few rows times a quantized weight: a block streams one strip, each of its warps every eighth block of 32 columns.
// Lane l has row l % 16 of the strip and the first or the last half of the block's words: a load of the warp takes 128
// contiguous bytes. All loads of several blocks are issued before their use.
#pragma once
#include "cuda/quantized/quantized.cuh"

namespace llmcore {
namespace cuda {
namespace {

// A lane's share of a block of weights.
template <class Kind>
struct WeightPart {
  uint32_t word[4];
  float scale[Kind::kHalves], minimum[Kind::kHalves];
};
template <class Kind>
__device__ __forceinline__ WeightPart<Kind> load_weight(const uint8_t* block, const QuantBytes& bytes, int row,
                                                        int half) {
  WeightPart<Kind> w;
  const uint32_t* q = reinterpret_cast<const uint32_t*>(block + bytes.factor * (1 + Kind::kMinima)) + row;
#pragma unroll
  for (int i = 0; i < 4; ++i) w.word[i] = __ldg(q + (Kind::kBits == 8 ? 4 * half + i : i) * kStripRows);
#pragma unroll
  for (int h = 0; h < Kind::kHalves; ++h) {
    const int at = h * static_cast<int>(kStripRows) + row;
    w.scale[h] = quant_factor(block, at, bytes.wide);
    w.minimum[h] = Kind::kMinima ? quant_factor(block + bytes.factor, at, bytes.wide) : 0.0f;
  }
  return w;
}

// Adds kAhead blocks, kSlices apart, to the sums of kRows rows of x. Each lane keeps its own sums: of two rows, one
// lane has one and the lane 16 further on the other.
template <int kRows>
constexpr int kOwnRows = kRows == 1 ? 1 : kRows / 2;
template <class Kind, int kRows, int kAhead>
__device__ __forceinline__ void add_blocks(float (&sum)[kOwnRows<kRows>], const ActivationBlock* const (&x)[kRows],
                                           const uint8_t* strip, int first, const QuantBytes& bytes) {
  const int lane = threadIdx.x % kWarp, row = lane % kStripRows, half = lane / kStripRows;
  WeightPart<Kind> w[kAhead];
#pragma unroll
  for (int u = 0; u < kAhead; ++u)
    w[u] = load_weight<Kind>(strip + static_cast<int64_t>(first + u * kSlices) * bytes.block, bytes, row, half);
#pragma unroll
  for (int u = 0; u < kAhead; ++u) {
    const int b = first + u * kSlices;
    int dot[kRows];
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const Vec<int, 4> q = *reinterpret_cast<const Vec<int, 4>*>(x[m][b].q + 16 * half);
      dot[m] = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) dot[m] = dot4<Kind::kMinima>(quant_numbers<Kind>(w[u].word[i], half), q.v[i], dot[m]);
    }
#pragma unroll
    for (int o = 0; o < kOwnRows<kRows>; ++o) {
      constexpr int kNext = kRows == 1 ? 0 : 1;  // with one row, all lanes have it
      const int first_row = kRows == 1 ? 0 : 2 * o;
      const int mine = half ? dot[first_row + kNext] : dot[first_row];
      const int sent = half ? dot[first_row] : dot[first_row + kNext];
      const int other = __shfl_xor_sync(kAllLanes, sent, kStripRows);  // the other half of this lane's row
      const ActivationBlock& at = half ? x[first_row + kNext][b] : x[first_row][b];
      if constexpr (Kind::kHalves == 1) {
        sum[o] = add_block<Kind>(sum[o], w[u].scale[0], at.scale, static_cast<float>(mine + other), w[u].minimum[0],
                                 at.scaled_total);
      } else {
        sum[o] = add_block<Kind>(sum[o], w[u].scale[0], at.scale, static_cast<float>(half ? other : mine),
                                 w[u].minimum[0], at.scaled[0]);
        sum[o] = add_block<Kind>(sum[o], w[u].scale[1], at.scale, static_cast<float>(half ? mine : other),
                                 w[u].minimum[1], at.scaled[1]);
      }
    }
  }
}

// out (M,N) for M <= kRows
template <class Kind, int kRows>
__global__ void __launch_bounds__(kSlices* kWarp, 2) quantized_gemv_kernel(QuantizedGemmArgs a, QuantBytes bytes) {
  constexpr int kAhead = kRows == 1 ? 4 : 2, kStrip = static_cast<int>(kStripRows);
  __shared__ float sums[kSlices][kRows][kStrip];
  const int lane = threadIdx.x % kWarp, slice = threadIdx.x / kWarp, row = lane % kStrip, half = lane / kStrip;
  const int blocks = static_cast<int>(a.K / kQuantBlock);
  const uint8_t* strip = a.weight + blockIdx.x * bytes.strip;
  const ActivationBlock* x[kRows];  // entries past the last row repeat it
#pragma unroll
  for (int m = 0; m < kRows; ++m) x[m] = a.x + (m < a.M ? m : a.M - 1) * a.ldx;
  float sum[kOwnRows<kRows>] = {};
  int b = slice;
  for (; b + (kAhead - 1) * kSlices < blocks; b += kAhead * kSlices)
    add_blocks<Kind, kRows, kAhead>(sum, x, strip, b, bytes);
  for (; b < blocks; b += kSlices) add_blocks<Kind, kRows, 1>(sum, x, strip, b, bytes);
#pragma unroll
  for (int o = 0; o < kOwnRows<kRows>; ++o)
    if (kRows > 1 || half == 0) sums[slice][kRows > 1 ? 2 * o + half : 0][row] = sum[o];
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * kStrip; i += kSlices * kWarp) {
    const int m = i / kStrip;
    const int64_t column = static_cast<int64_t>(blockIdx.x) * kStrip + i % kStrip;
    if (m >= a.M || column >= a.N) continue;
    float y = sums[0][m][i % kStrip];
#pragma unroll
    for (int s = 1; s < kSlices; ++s) y += sums[s][m][i % kStrip];
    store_product(a, m, column, y);
  }
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
