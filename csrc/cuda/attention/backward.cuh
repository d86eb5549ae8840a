// Backward of attention on tensor cores for bfloat16, D = 64 or 128, with the probabilities recomputed from lse:
//   S = QK^T   dP = dO V^T   P = 2^(t - lse2)   dS = P (dP - delta), delta = rowsum(dO o O)
//   dV = P^T dO   dK = scale dS^T Q   dQ = scale dS K
// Two kernels, so that every sum has one owner and one order, without atomics: one owns keys and loops over the queries
// of all heads that share them; the other owns queries and loops over their keys. The first works on S^T and dP^T: in
// both, the sums of the first two products are laid out as the left operand of the following ones and never leave
// registers.
#pragma once
#include "cuda/attention/attention.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kBackwardThreads = 128, kBackwardWarps = kBackwardThreads / kWarp;
// Tiles of 16 rows that a warp owns: their accumulators must fit in its registers.
template <int D>
constexpr int kOwnTiles = D == 64 ? 2 : 1;
template <int D>
constexpr int kOwnRows = kBackwardWarps * kOwnTiles<D> * 16;
// On the other side: rows of a tile in shared memory, and the rows that a warp takes at a time.
constexpr int kOtherRows = 64, kOtherStep = 32, kOtherColumns = kOtherStep / 8;
template <int D>
constexpr size_t backward_shared() {
  return sizeof(bf16) * D * (2 * kOwnRows<D> + 4 * kOtherRows);
}

// For one score: factor and cap as in the forward pass, but with the sign of the scale.
struct GradientScale {
  float factor, inner, cap;
};
inline GradientScale gradient_scale(const AttentionArgs& a) {
  if (a.softcap > 0) return {1.0f, a.scale / a.softcap, a.softcap * kLog2e};
  return {a.scale * kLog2e, 0.0f, 0.0f};
}
// Computes p and ds from a product q·k and a dp.
template <bool kCapped>
__device__ __forceinline__ void gradient(float& s, float& dp, float lse2, float delta, const GradientScale& scale) {
  if constexpr (kCapped) {
    const float t = tanh_approx(s * scale.inner);
    s = exp2_approx(fmaf(t, scale.cap, -lse2));
    dp = s * (dp - delta) * fmaf(-t, t, 1.0f);
  } else {
    s = exp2_approx(fmaf(s, scale.factor, -lse2));
    dp = s * (dp - delta);
  }
}

// x (16 m, 8 columns) += own rows (from `row` on) · other rows^T, kOtherStep of them from `at` on.
template <int D, int kTiles>
__device__ __forceinline__ void rows_by_rows(float (&x)[kTiles][kOtherColumns][4], const bf16* own, int row,
                                             const bf16* other, int at) {
#pragma unroll
  for (int d = 0; d < D; d += 16) {
    uint32_t left[kTiles][4];
#pragma unroll
    for (int m = 0; m < kTiles; ++m) load_left<D>(left[m], own, row + m * 16, d);
#pragma unroll
    for (int n = 0; n < kOtherColumns; n += 2) {
      uint32_t right[4];
      load_right<D>(right, other, at + n * 8, d);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) multiply_two(x[m][n], x[m][n + 1], left[m], right);
    }
  }
}
// sums (16 m, D) += x · other rows.
template <int D, int kTiles>
__device__ __forceinline__ void add_products(float (&sums)[kTiles][D / 8][4],
                                             const float (&x)[kTiles][kOtherColumns][4], const bf16* other, int at) {
#pragma unroll
  for (int n = 0; n < kOtherColumns; n += 2) {
    uint32_t left[kTiles][4];
#pragma unroll
    for (int m = 0; m < kTiles; ++m) as_left(left[m], x[m][n], x[m][n + 1]);
#pragma unroll
    for (int d = 0; d < D / 8; d += 2) {
      uint32_t right[4];
      load_right_rows<D>(right, other, at + n * 8, d * 8);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) multiply_two(sums[m][d], sums[m][d + 1], left[m], right);
    }
  }
}
// Stores row `row` of a product: 2 elements from each lane.
template <int D>
__device__ __forceinline__ void store_row(bf16* to, const float (&sums)[D / 8][4], int i, float factor) {
  to += threadIdx.x % 4 * 2;
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
    *reinterpret_cast<uint32_t*>(to + n * 8) = pack_bf16x2(sums[n][2 * i] * factor, sums[n][2 * i + 1] * factor);
}

// dk, dv (B,S,Hkv,D). One block per key head and kOwnRows keys.
template <int D, bool kCapped>
__global__ void __launch_bounds__(kBackwardThreads, 2)
    key_gradients_kernel(const AttentionBackwardArgs args, const Prepared prepared, const GradientScale scale) {
  constexpr int kTiles = kOwnTiles<D>, kKeys = kOwnRows<D>;
  const AttentionArgs& a = args.forward;
  LLMCORE_DYNAMIC_SHARED(shared);
  bf16* const keys = reinterpret_cast<bf16*>(shared);                  // (kKeys,D)
  bf16* const values = keys + kKeys * D;                               // (kKeys,D)
  bf16* const queries_of_stage = values + kKeys * D;                   // two stages of (64,D)
  bf16* const douts_of_stage = queries_of_stage + 2 * kOtherRows * D;  // likewise
  __shared__ __align__(16) float lse2_of_stage[2][kOtherRows], delta_of_stage[2][kOtherRows];
  __shared__ __align__(16) int low_of_stage[2][kOtherRows];

  const int group = static_cast<int>(a.H / a.Hkv), past = static_cast<int>(a.S - a.T);
  const int T = static_cast<int>(a.T), tiles = static_cast<int>(prepared.tiles);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  // Seldom-used values are in shared memory: the sums take nearly all registers.
  __shared__ int b, kv_head, key0, valid;
  if (threadIdx.x == 0) {
    const unsigned spans = (static_cast<unsigned>(a.S) - 1) / kKeys + 1, kv_heads = static_cast<unsigned>(a.Hkv);
    b = blockIdx.x / spans / kv_heads, kv_head = blockIdx.x / spans % kv_heads;
    key0 = blockIdx.x % spans * kKeys, valid = min(kKeys, static_cast<int>(a.S) - key0);
  }
  __syncthreads();

  // Steps through tiles of queries in order, starting with the group's first head; returns the next tile that sees some
  // of these keys.
  const auto next = [&](int i) {
    for (++i; i < group * tiles; ++i) {
      const int tile = i % tiles;
      if (a.causal && past + min((tile + 1) * kOtherRows, T) <= key0) {  // the last query is before the keys
        i += max(0, (key0 - past) / kOtherRows - tile - 1);
        continue;
      }
      if (prepared.lowest[b * prepared.tiles + tile] < key0 + valid) break;
    }
    return i;
  };
  const auto copy = [&](int i, int stage) {
    const int h = kv_head * group + i / tiles, t0 = i % tiles * kOtherRows, rows = T - t0;
    const bf16* const q = static_cast<const bf16*>(a.q) + b * a.q_stride.b + t0 * a.q_stride.t + h * a.q_stride.h;
    const bf16* const dout = static_cast<const bf16*>(args.dout) + ((b * a.T + t0) * a.H + h) * D;
    copy_rows<D, kOtherRows, kBackwardThreads>(queries_of_stage + stage * kOtherRows * D, q, a.q_stride.t, rows);
    copy_rows<D, kOtherRows, kBackwardThreads>(douts_of_stage + stage * kOtherRows * D, dout, a.H * D, rows);
    constexpr int kPieces = kOtherRows / 4;  // of 16 bytes
    const int64_t at = (b * a.H + h) * prepared.tiles * kOtherRows + t0;
    const int piece = threadIdx.x % kPieces * 4;
    if (threadIdx.x < kPieces)
      cp_async_16(lse2_of_stage[stage] + piece, prepared.lse2 + at + piece);
    else if (threadIdx.x < 2 * kPieces)
      cp_async_16(delta_of_stage[stage] + piece, prepared.delta + at + piece);
    else if (threadIdx.x < 3 * kPieces)
      cp_async_16(low_of_stage[stage] + piece, prepared.low + b * prepared.tiles * kOtherRows + t0 + piece);
  };

  float dk[kTiles][D / 8][4] = {}, dv[kTiles][D / 8][4] = {};
  int at = next(-1), stage = 0;
  if (at < group * tiles) {
    const bf16* const k =
        static_cast<const bf16*>(a.k) + b * a.k_stride.b + key0 * a.k_stride.t + kv_head * a.k_stride.h;
    const bf16* const v =
        static_cast<const bf16*>(a.v) + b * a.v_stride.b + key0 * a.v_stride.t + kv_head * a.v_stride.h;
    copy_rows<D, kKeys, kBackwardThreads>(keys, k, a.k_stride.t, valid);
    copy_rows<D, kKeys, kBackwardThreads>(values, v, a.v_stride.t, valid);
    copy(at, 0);
  }
  cp_async_commit();
  const int own = warp * kTiles * 16;  // the warp's first key
  for (; at < group * tiles; stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // the tile has come, and nobody reads the one before it any more
    const int following = next(at);
    if (following < group * tiles) copy(following, stage ^ 1);
    cp_async_commit();
    const int first =
        past + at % tiles * kOtherRows - key0;  // position of the tile's first query, relative to the first key
    const bool all_low = prepared.highest[b * prepared.tiles + at % tiles] <= key0 + own;
    at = following;
    const bf16 *const queries = queries_of_stage + stage * kOtherRows * D, *const douts =
                                                                               douts_of_stage + stage * kOtherRows * D;
#pragma unroll 1
    for (int part = 0; part < kOtherRows; part += kOtherStep) {
      if (a.causal && first + part + kOtherStep <= own) continue;  // all queries are before the warp's keys
      float s[kTiles][kOtherColumns][4] = {}, dp[kTiles][kOtherColumns][4] = {};
      rows_by_rows<D, kTiles>(s, keys, own, queries, part);
      rows_by_rows<D, kTiles>(dp, values, own, douts, part);
#pragma unroll
      for (int n = 0; n < kOtherColumns; ++n) {
        const int column = part + n * 8 + lane % 4 * 2;
        const Vec<float, 2> lse2 = *reinterpret_cast<const Vec<float, 2>*>(lse2_of_stage[stage] + column);
        const Vec<float, 2> delta = *reinterpret_cast<const Vec<float, 2>*>(delta_of_stage[stage] + column);
#pragma unroll
        for (int m = 0; m < kTiles; ++m)
#pragma unroll
          for (int j = 0; j < 4; ++j) gradient<kCapped>(s[m][n][j], dp[m][n][j], lse2.v[j % 2], delta.v[j % 2], scale);
      }
      if (!all_low || (a.causal && first + part < own + kTiles * 16 - 1)) {  // some query does not see all keys
#pragma unroll
        for (int n = 0; n < kOtherColumns; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int column = part + n * 8 + lane % 4 * 2 + j;
            const int from = low_of_stage[stage][column] - key0, to = a.causal ? first + column : INT_MAX;
#pragma unroll
            for (int m = 0; m < kTiles; ++m)
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                const int key = own + m * 16 + i * 8 + lane / 4;
                if (key < from || key > to) s[m][n][2 * i + j] = dp[m][n][2 * i + j] = 0.0f;
              }
          }
      }
      add_products<D, kTiles>(dv, s, douts, part);
      add_products<D, kTiles>(dk, dp, queries, part);
    }
  }
#pragma unroll
  for (int m = 0; m < kTiles; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = own + m * 16 + i * 8 + lane / 4;
      if (row >= valid) continue;
      const int64_t key = key0 + row;
      store_row<D>(static_cast<bf16*>(args.dk) + b * a.k_stride.b + key * a.k_stride.t + kv_head * a.k_stride.h, dk[m],
                   i, a.scale);
      store_row<D>(static_cast<bf16*>(args.dv) + b * a.v_stride.b + key * a.v_stride.t + kv_head * a.v_stride.h, dv[m],
                   i, 1.0f);
    }
}

// dq (B,T,H,D). One block per head and kOwnRows queries; each head's last queries come first, because they see the most
// keys.
template <int D, bool kCapped>
__global__ void __launch_bounds__(kBackwardThreads, 2)
    query_gradients_kernel(const AttentionBackwardArgs args, const Prepared prepared, const GradientScale scale) {
  constexpr int kTiles = kOwnTiles<D>, kQueries = kOwnRows<D>;
  const AttentionArgs& a = args.forward;
  LLMCORE_DYNAMIC_SHARED(shared);
  bf16* const queries = reinterpret_cast<bf16*>(shared);             // (kQueries,D)
  bf16* const douts = queries + kQueries * D;                        // (kQueries,D)
  bf16* const keys_of_stage = douts + kQueries * D;                  // two stages of (64,D)
  bf16* const values_of_stage = keys_of_stage + 2 * kOtherRows * D;  // likewise
  __shared__ int low[kQueries];

  const unsigned spans = (static_cast<unsigned>(a.T) - 1) / kQueries + 1, heads = static_cast<unsigned>(a.H);
  const int b = blockIdx.x / spans / heads, h = blockIdx.x / spans % heads;
  const int kv_head = h / static_cast<int>(a.H / a.Hkv), t0 = (spans - 1 - blockIdx.x % spans) * kQueries;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, own = warp * kTiles * 16;
  const int rows = min(kQueries, static_cast<int>(a.T) - t0), keys = static_cast<int>(a.S);
  const int first_position = static_cast<int>(a.S - a.T) + t0;

  if (threadIdx.x < kQueries)
    low[threadIdx.x] = static_cast<int>(threadIdx.x) < rows
                           ? prepared.low[b * prepared.tiles * kQueryTile + t0 + threadIdx.x]
                           : INT_MAX;
  int lowest = INT_MAX, highest = 0;
#pragma unroll
  for (int i = 0; i < kQueries / kQueryTile; ++i)
    if (t0 + i * kQueryTile < a.T) {
      const int64_t tile = b * prepared.tiles + t0 / kQueryTile + i;
      lowest = min(lowest, prepared.lowest[tile]), highest = max(highest, prepared.highest[tile]);
    }
  const int end = a.causal ? max(0, min(first_position + rows, keys)) : keys;
  const int first = lowest / kOtherRows, last = (end + kOtherRows - 1) / kOtherRows;

  float lse2[kTiles][2], delta[kTiles][2];
  const int64_t at = (b * a.H + h) * prepared.tiles * kQueryTile + t0;
#pragma unroll
  for (int m = 0; m < kTiles; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = own + m * 16 + i * 8 + lane / 4;
      lse2[m][i] = row < rows ? prepared.lse2[at + row] : INFINITY;
      delta[m][i] = row < rows ? prepared.delta[at + row] : 0.0f;
    }

  const auto copy = [&](int tile) {
    const int stage = (tile & 1) * kOtherRows * D;
    copy_tile<D, kBackwardThreads, bf16>(keys_of_stage + stage, a, a.k, a.k_stride, nullptr, b, tile, kv_head, keys);
    copy_tile<D, kBackwardThreads, bf16>(values_of_stage + stage, a, a.v, a.v_stride, nullptr, b, tile, kv_head, keys);
  };
  float dq[kTiles][D / 8][4] = {};
  if (first < last) {
    const bf16* const q = static_cast<const bf16*>(a.q) + b * a.q_stride.b + t0 * a.q_stride.t + h * a.q_stride.h;
    const bf16* const dout = static_cast<const bf16*>(args.dout) + ((b * a.T + t0) * a.H + h) * D;
    copy_rows<D, kQueries, kBackwardThreads>(queries, q, a.q_stride.t, rows);
    copy_rows<D, kQueries, kBackwardThreads>(douts, dout, a.H * D, rows);
    copy(first);
  }
  cp_async_commit();
  for (int tile = first; tile < last; ++tile) {
    cp_async_wait<0>();
    __syncthreads();  // the tile has come, and nobody reads the one before it any more
    if (tile + 1 < last) copy(tile + 1);
    cp_async_commit();
    const bf16 *const keys_here = keys_of_stage + (tile & 1) * kOtherRows * D, *const values_here =
                                                                                   values_of_stage +
                                                                                   (tile & 1) * kOtherRows * D;
#pragma unroll 1
    for (int part = 0; part < kOtherRows; part += kOtherStep) {
      const int key0 = tile * kOtherRows + part;
      if (key0 >= keys || (a.causal && key0 > first_position + own + kTiles * 16 - 1)) continue;
      float s[kTiles][kOtherColumns][4] = {}, dp[kTiles][kOtherColumns][4] = {};
      rows_by_rows<D, kTiles>(s, queries, own, keys_here, part);
      rows_by_rows<D, kTiles>(dp, douts, own, values_here, part);
#pragma unroll
      for (int m = 0; m < kTiles; ++m)
#pragma unroll
        for (int n = 0; n < kOtherColumns; ++n)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            gradient<kCapped>(s[m][n][j], dp[m][n][j], lse2[m][j / 2], delta[m][j / 2], scale);
      if (key0 + kOtherStep > keys || highest > key0 || (a.causal && key0 + kOtherStep - 1 > first_position + own)) {
#pragma unroll
        for (int m = 0; m < kTiles; ++m)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int row = own + m * 16 + i * 8 + lane / 4;
            const int from = low[row] - key0, to = (a.causal ? min(first_position + row + 1, keys) : keys) - key0;
#pragma unroll
            for (int n = 0; n < kOtherColumns; ++n)
#pragma unroll
              for (int j = 0; j < 2; ++j) {
                const int key = n * 8 + lane % 4 * 2 + j;
                if (key < from || key >= to) dp[m][n][2 * i + j] = 0.0f;
              }
          }
      }
      add_products<D, kTiles>(dq, dp, keys_here, part);
    }
  }
#pragma unroll
  for (int m = 0; m < kTiles; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = own + m * 16 + i * 8 + lane / 4;
      if (row >= rows) continue;
      const int64_t t = t0 + row;
      store_row<D>(static_cast<bf16*>(args.dq) + b * a.q_stride.b + t * a.q_stride.t + h * a.q_stride.h, dq[m], i,
                   a.scale);
    }
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
