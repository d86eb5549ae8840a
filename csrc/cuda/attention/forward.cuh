// Forward attention on tensor cores (FlashAttention-2, Dao 2023) for bfloat16: a block has 128 queries of one head, a
// warp 32 of them. Tiles of 64 keys and values are loaded into shared memory one tile ahead of their use; scores and
// probabilities never leave the registers, where they are already laid out as the left operand of the second product.
#pragma once
#include "cuda/attention/attention.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kForwardThreads = 128, kRowTiles = 2;  // tiles of 16 rows per warp
constexpr int kForwardRows = kForwardThreads / kWarp * kRowTiles * 16;
// Keys that a warp takes at a time: with 64, the sums for D = 128 would not fit in the registers.
template <int D>
constexpr int kKeyStep = D == 64 ? 64 : 32;

struct alignas(16) KeyRange {  // keys that some row of a warp sees, and keys that all rows see
  int seen_from, seen_to, whole_from, whole_to;
};
template <int D>
struct ForwardShared {
  alignas(16) bf16 queries[kForwardRows * D];
  alignas(16) bf16 keys[2][kKeyTile * D], values[2][kKeyTile * D];  // the current tile and the next
  int low[kForwardRows], end[kForwardRows];                         // keys that each row sees
  KeyRange ranges[kForwardThreads / kWarp];
};

// Online softmax (Milakov & Gimelshein 2018) over a thread's rows: row 16 m + 8 i + lane/4 is [m][i].
struct ForwardRows {
  float base[kRowTiles][2],
      sum[kRowTiles][2];  // the base subtracted; the sum of the probabilities in this lane's columns
};

// Turns scores into probabilities; rescales o if a row's base rises.
template <int D, int kColumns>
__device__ __forceinline__ void softmax_tile(float (&s)[kRowTiles][kColumns][4], float (&o)[kRowTiles][D / 8][4],
                                             ForwardRows& rows, float factor) {
  bool rises = false;
  float old[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float highest = -INFINITY;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) highest = fmaxf(highest, fmaxf(s[m][n][2 * i], s[m][n][2 * i + 1]));
      highest = quad_max(highest) * factor;
      old[m][i] = rows.base[m][i];
      if (highest > old[m][i] + kSlack) rows.base[m][i] = highest, rises = true;
    }
  if (__any_sync(kAllLanes, rises)) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float less = old[m][i] < rows.base[m][i] ? exp2_approx(old[m][i] - rows.base[m][i]) : 1.0f;
        rows.sum[m][i] *= less;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) o[m][n][2 * i] *= less, o[m][n][2 * i + 1] *= less;
      }
  }
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // A row that has seen only -inf so far has no base.
      const float base = rows.base[m][i] == -INFINITY ? 0.0f : rows.base[m][i];
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
#pragma unroll
        for (int j = 2 * i; j < 2 * i + 2; ++j) {
          s[m][n][j] = exp2_approx(fmaf(s[m][n][j], factor, -base));
          rows.sum[m][i] += s[m][n][j];
        }
    }
}

// q (B,T,H,D), k, v (B,S,Hkv,D) or blocks, C their element; out (B,T,H,D), lse (B,H,T). One block per head and 128
// queries; each head's last queries come first, because they see the most keys.
template <int D, class C, bool kCapped>
__global__ void __launch_bounds__(kForwardThreads, 2) forward_kernel(const AttentionArgs a, const ScoreScale scale) {
  constexpr int kStep = kKeyStep<D>, kColumns = kStep / 8;
  LLMCORE_DYNAMIC_SHARED(bytes);
  ForwardShared<D>& shared = *reinterpret_cast<ForwardShared<D>*>(bytes);

  const unsigned heads = static_cast<unsigned>(a.H), spans = (static_cast<unsigned>(a.T) - 1) / kForwardRows + 1;
  const int b = blockIdx.x / spans / heads, h = blockIdx.x / spans % heads;
  const int kv_head = h / static_cast<int>(a.H / a.Hkv), t0 = (spans - 1 - blockIdx.x % spans) * kForwardRows;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, keys = keys_of(a, b);
  const int rows_here = min(kForwardRows, static_cast<int>(a.T) - t0);

  {  // Each thread sets up one row of its own warp.
    const bool is = static_cast<int>(threadIdx.x) < rows_here;
    const Seen seen = is ? seen_by(a, b, t0 + threadIdx.x) : Seen{INT_MAX, 0};
    shared.low[threadIdx.x] = seen.low, shared.end[threadIdx.x] = seen.end;
    const bool any = is && seen.low < seen.end;
    const KeyRange range{warp_min(any ? seen.low : INT_MAX), warp_max(any ? seen.end : 0), warp_max(is ? seen.low : 0),
                         warp_min(is ? seen.end : INT_MAX)};
    if (lane == 0) shared.ranges[warp] = range;
  }
  __syncthreads();
  int first = INT_MAX, last = 0;  // tiles
#pragma unroll
  for (const KeyRange& r : shared.ranges) first = min(first, r.seen_from), last = max(last, r.seen_to);
  first /= kKeyTile, last = (last + kKeyTile - 1) / kKeyTile;

  float o[kRowTiles][D / 8][4] = {};
  ForwardRows rows;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) rows.base[m][i] = -INFINITY, rows.sum[m][i] = 0.0f;

  const auto copy = [&](int tile) {
    const int stage = tile & 1;
    copy_tile<D, kForwardThreads, C>(shared.keys[stage], a, a.k, a.k_stride, a.k_scale, b, tile, kv_head, keys);
    copy_tile<D, kForwardThreads, C>(shared.values[stage], a, a.v, a.v_stride, a.v_scale, b, tile, kv_head, keys);
  };
  if (first < last) {
    const bf16* const q = static_cast<const bf16*>(a.q) + b * a.q_stride.b + t0 * a.q_stride.t + h * a.q_stride.h;
    copy_rows<D, kForwardRows, kForwardThreads>(shared.queries, q, a.q_stride.t, rows_here);
    copy(first);
    cp_async_commit();
    if (a.scale < 0) {
      cp_async_wait<0>();
      __syncthreads();
      negate<kForwardThreads>(shared.queries, kForwardRows * D);
    }
  }
  for (int tile = first; tile < last; ++tile) {
    cp_async_wait<0>();
    __syncthreads();  // the tile has come, and nobody reads the one before it any more
    if (tile + 1 < last) copy(tile + 1);
    cp_async_commit();
#pragma unroll 1
    for (int part = 0; part < kKeyTile; part += kStep) {
      const int key0 = tile * kKeyTile + part;
      const KeyRange range = shared.ranges[warp];
      if (key0 >= range.seen_to || key0 + kStep <= range.seen_from) continue;
      const bf16* const keys_here = shared.keys[tile & 1] + part * D;
      const bf16* const values_here = shared.values[tile & 1] + part * D;

      float s[kRowTiles][kColumns][4] = {};
#pragma unroll
      for (int d = 0; d < D; d += 16) {
        uint32_t left[kRowTiles][4];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) load_left<D>(left[m], shared.queries, (warp * kRowTiles + m) * 16, d);
#pragma unroll
        for (int n = 0; n < kColumns; n += 2) {
          uint32_t right[4];
          load_right<D>(right, keys_here, n * 8, d);
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) multiply_two(s[m][n], s[m][n + 1], left[m], right);
        }
      }
      if constexpr (kCapped) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
          for (int n = 0; n < kColumns; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) s[m][n][j] = tanh_approx(s[m][n][j] * scale.inner);
      }
      if (key0 < range.whole_from || key0 + kStep > range.whole_to) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int row = (warp * kRowTiles + m) * 16 + i * 8 + lane / 4;
            const int from = shared.low[row] - key0, to = shared.end[row] - key0;
#pragma unroll
            for (int n = 0; n < kColumns; ++n)
#pragma unroll
              for (int j = 0; j < 2; ++j) {
                const int key = n * 8 + lane % 4 * 2 + j;
                if (key < from || key >= to) s[m][n][2 * i + j] = -INFINITY;
              }
          }
      }
      softmax_tile<D>(s, o, rows, scale.factor);
#pragma unroll
      for (int n = 0; n < kColumns; n += 2) {
        uint32_t left[kRowTiles][4];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) as_left(left[m], s[m][n], s[m][n + 1]);
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
          uint32_t right[4];
          load_right_rows<D>(right, values_here, n * 8, d * 8);
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) multiply_two(o[m][d], o[m][d + 1], left[m], right);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = (warp * kRowTiles + m) * 16 + i * 8 + lane / 4;
      const float sum = quad_sum(rows.sum[m][i]);
      if (row >= rows_here) continue;
      const bool none = shared.end[row] <= 0;
      const float inverse = 1.0f / sum;
      bf16* const to =
          static_cast<bf16*>(a.out) + b * a.out_stride.b + (t0 + row) * a.out_stride.t + h * a.out_stride.h;
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
        *reinterpret_cast<uint32_t*>(to + n * 8 + lane % 4 * 2) =
            none ? 0u : pack_bf16x2(o[m][n][2 * i] * inverse, o[m][n][2 * i + 1] * inverse);
      if (a.lse && lane % 4 == 0)
        a.lse[(b * a.H + h) * a.T + t0 + row] = sum > 0 ? fmaf(rows.base[m][i], kLn2, logf(sum))
                                                : none  ? -INFINITY
                                                        : logf(sum);
    }
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
