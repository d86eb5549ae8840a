// Attention for every shape and dtype, in float32 on plain cores: tiles of 64 queries and 64 keys, of which a thread
// computes 4 by 4 scores. A block owns up to kColumns of the D output columns; if D is larger, several blocks compute
// the same scores.
#pragma once
#include "cuda/attention/attention.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kPlainThreads = 256, kTile = 64, kDepth = 32, kTileStride = kTile + 4;  // so that rows stay aligned
static_assert(kTile == kKeyTile && kTile == kQueryTile, "one kind of tile");

// Rows in memory as floats.
template <class C>
struct Rows {
  const C* at;
  int64_t stride;
  const float* scale;  // of bytes
  int64_t scale_stride;
  __device__ float operator()(int row, int64_t column) const {
    if constexpr (sizeof(C) == 1)
      return scale[row * scale_stride] * static_cast<float>(int{at[row * stride + column]} - 128);
    else
      return as_float(at[row * stride + column]);
  }
};
template <class C>
__device__ Rows<C> rows_of_tile(const AttentionArgs& a, const void* from, const Strides3& stride, const float* scales,
                                int64_t b, int64_t tile, int64_t h) {
  const C* const at = static_cast<const C*>(from) + tile_at(a, stride, b, tile, h);
  return {at, stride.t, sizeof(C) == 1 ? scale_at(a, scales, b, tile, h) : nullptr, a.Hkv};
}
template <class T>
__device__ Rows<T> rows_from(const void* from, const Strides3& stride, int64_t b, int64_t row, int64_t h) {
  return {static_cast<const T*>(from) + b * stride.b + row * stride.t + h * stride.h, stride.t, nullptr, 0};
}

// Copies columns first, first + 1, ... of `count` rows to `to` [kDepth][kTile], column by column; zeros outside.
template <class C>
__device__ __forceinline__ void stage_columns(float* to, const Rows<C>& rows, int count, int64_t first, int64_t D) {
#pragma unroll
  for (int i = threadIdx.x; i < kTile * kDepth; i += kPlainThreads) {
    const int row = i / kDepth, column = i % kDepth;
    to[column * kTileStride + row] = row < count && first + column < D ? rows(row, first + column) : 0.0f;
  }
}
// Copies rows from `begin` on and columns from `first` on to `to` [kDepth][kColumns]; zeros outside.
template <int kColumns, class C>
__device__ __forceinline__ void stage_rows(float* to, const Rows<C>& rows, int begin, int count, int64_t first,
                                           int64_t D) {
#pragma unroll
  for (int i = threadIdx.x; i < kDepth * kColumns; i += kPlainThreads) {
    const int row = begin + i / kColumns, column = i % kColumns;
    to[i] = row < count && first + column < D ? rows(row, first + column) : 0.0f;
  }
}

// A thread's part of a product of 64 rows and kColumns columns: rows 4 y + i, columns 64 c + 4 x + j, where y = thread
// / 16 and x = thread % 16.
template <int kColumns>
struct Sums {
  float v[kColumns / kTile][4][4];
};
// += sum over k of left[k][row] * right[k][column]
template <int kColumns>
__device__ __forceinline__ void add_outer(Sums<kColumns>& sums, const float* left, const float* right,
                                          int right_stride) {
  const int y = threadIdx.x / 16 * 4, x = threadIdx.x % 16 * 4;
#pragma unroll 8
  for (int k = 0; k < kDepth; ++k) {
    const Vec<float, 4> l = *reinterpret_cast<const Vec<float, 4>*>(left + k * kTileStride + y);
#pragma unroll
    for (int c = 0; c < kColumns / kTile; ++c) {
      const Vec<float, 4> r = *reinterpret_cast<const Vec<float, 4>*>(right + k * right_stride + c * kTile + x);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums.v[c][i][j] = fmaf(l.v[i], r.v[j], sums.v[c][i][j]);
    }
  }
}

// Shared memory: two adjacent operands, or one of kColumns columns; and a tile of probabilities, column-major.
struct PlainShared {
  alignas(16) float operands[2 * kDepth * kTileStride];
  alignas(16) float tile[kTile * kTileStride];
};

// left (64 rows) · right (64 rows)^T, over all D columns.
template <class L, class R>
__device__ __forceinline__ Sums<kTile> multiply_rows(PlainShared& shared, const Rows<L>& left, int left_count,
                                                     const Rows<R>& right, int right_count, int64_t D) {
  Sums<kTile> sums{};
  float* const right_staged = shared.operands + kDepth * kTileStride;
  for (int64_t d = 0; d < D; d += kDepth) {
    __syncthreads();
    stage_columns(shared.operands, left, left_count, d, D);
    stage_columns(right_staged, right, right_count, d, D);
    __syncthreads();
    add_outer<kTile>(sums, shared.operands, right_staged, kTileStride);
  }
  return sums;
}
// sums += x · rows, where x (64,64) is laid out as multiply_rows left it; columns from `first` on.
template <int kColumns, class C>
__device__ __forceinline__ void add_product(PlainShared& shared, Sums<kColumns>& sums, const float (&x)[4][4],
                                            const Rows<C>& rows, int count, int64_t first, int64_t D) {
  const int y = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < 4; ++j)
    *reinterpret_cast<Vec<float, 4>*>(shared.tile + (column + j) * kTileStride +
                                      y) = {{x[0][j], x[1][j], x[2][j], x[3][j]}};
  for (int k = 0; k < kTile; k += kDepth) {
    __syncthreads();
    stage_rows<kColumns>(shared.operands, rows, k, count, first, D);
    __syncthreads();
    add_outer<kColumns>(sums, shared.tile + k * kTileStride, shared.operands, kColumns);
  }
}

// Reduces over the 16 threads that share rows.
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
  for (int step = 8; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
  for (int step = 8; step; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// Converts scores to powers of two, with the sign of the scale.
struct PlainScale {
  float factor, inner, cap;
  explicit __device__ PlainScale(const AttentionArgs& a)
      : factor(a.scale * kLog2e), inner(a.softcap > 0 ? a.scale / a.softcap : 0.0f), cap(a.softcap * kLog2e) {}
};

// q (B,T,H,D), k, v (B,S,Hkv,D) or blocks, C their element; out (B,T,H,D), lse (B,H,T). Blocks: columns, then query
// tiles, then heads.
template <class T, class C, int kColumns>
__global__ void __launch_bounds__(kPlainThreads, sizeof(C) == 1 ? 1 : 2) plain_forward_kernel(const AttentionArgs a) {
  static_assert(kColumns <= 2 * kTileStride, "rows fit where two operands do");
  __shared__ PlainShared shared;
  __shared__ int lowest, last_end;
  const int64_t parts = (a.D + kColumns - 1) / kColumns, spans = (a.T + kTile - 1) / kTile;
  const int64_t column0 = blockIdx.x % parts * kColumns, span = spans - 1 - blockIdx.x / parts % spans;
  const int64_t b = blockIdx.x / parts / spans / a.H, h = blockIdx.x / parts / spans % a.H, kv_head = h / (a.H / a.Hkv);
  const int64_t t0 = span * kTile;
  const int rows = static_cast<int>(min(int64_t{kTile}, a.T - t0)), keys = keys_of(a, b), y = threadIdx.x / 16 * 4;
  const PlainScale scale(a);

  if (threadIdx.x == 0) lowest = INT_MAX, last_end = 0;
  __syncthreads();
  int low[4], end[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Seen seen = y + i < rows ? seen_by(a, b, t0 + y + i) : Seen{INT_MAX, 0};
    low[i] = seen.low, end[i] = seen.end;
    if (threadIdx.x % 16 == 0 && seen.low < seen.end) atomicMin(&lowest, seen.low), atomicMax(&last_end, seen.end);
  }
  __syncthreads();
  const int first = lowest / kTile, last = (last_end + kTile - 1) / kTile;

  Sums<kColumns> o{};
  float base[4], sum[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) base[i] = -INFINITY, sum[i] = 0.0f;
  for (int tile = first; tile < last; ++tile) {
    const int valid = min(kTile, keys - tile * kTile);
    Sums<kTile> s = multiply_rows(shared, rows_from<T>(a.q, a.q_stride, b, t0, h), rows,
                                  rows_of_tile<C>(a, a.k, a.k_stride, a.k_scale, b, tile, kv_head), valid, a.D);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float highest = -INFINITY;
      bool shown[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float& x = s.v[0][i][j];
        const int key = tile * kTile + threadIdx.x % 16 * 4 + j;
        shown[j] = key >= low[i] && key < end[i];
        if (a.softcap > 0) x = scale.cap * tanhf(x * scale.inner);
        if (shown[j]) highest = fmaxf(highest, a.softcap > 0 ? x : x * scale.factor);
      }
      highest = row_max(highest);
      const float old = base[i];
      if (highest > old + kSlack) base[i] = highest;
      const float less = old < base[i] ? exp2f(old - base[i]) : 1.0f, subtract = base[i] == -INFINITY ? 0.0f : base[i];
      sum[i] *= less;
#pragma unroll
      for (int c = 0; c < kColumns / kTile; ++c)
#pragma unroll
        for (int j = 0; j < 4; ++j) o.v[c][i][j] *= less;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float& x = s.v[0][i][j];
        // Not x * factor - base: rounding the product would cost large scores their last bits.
        x = shown[j] ? exp2f(a.softcap > 0 ? x - subtract : fmaf(x, scale.factor, -subtract)) : 0.0f;
        sum[i] += x;
      }
    }
    add_product<kColumns>(shared, o, s.v[0], rows_of_tile<C>(a, a.v, a.v_stride, a.v_scale, b, tile, kv_head), valid,
                          column0, a.D);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float total = row_sum(sum[i]);
    if (y + i >= rows) continue;
    const int64_t t = t0 + y + i;
    const bool none = end[i] <= 0;
    T* const out = static_cast<T*>(a.out) + b * a.out_stride.b + t * a.out_stride.t + h * a.out_stride.h;
#pragma unroll
    for (int c = 0; c < kColumns / kTile; ++c)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t column = column0 + c * kTile + threadIdx.x % 16 * 4 + j;
        if (column < a.D) out[column] = rounded<T>(none ? 0.0f : o.v[c][i][j] / total);
      }
    if (a.lse && column0 == 0 && threadIdx.x % 16 == 0)
      a.lse[(b * a.H + h) * a.T + t] = total > 0 ? fmaf(base[i], kLn2, logf(total)) : none ? -INFINITY : logf(total);
  }
}

// Computes p and ds from the products q·k and dO·v; 0 where the query does not see the key.
__device__ __forceinline__ void plain_gradient(float& s, float& dp, bool shown, float lse2, float delta, bool capped,
                                               const PlainScale& scale) {
  if (capped) {
    const float t = tanhf(s * scale.inner);
    s = exp2f(fmaf(t, scale.cap, -lse2));
    dp = s * (dp - delta) * fmaf(-t, t, 1.0f);
  } else {
    s = exp2f(fmaf(s, scale.factor, -lse2));
    dp = s * (dp - delta);
  }
  if (!shown) s = dp = 0.0f;
}

// Stores a thread's sums in the rows of a gradient.
template <class T, int kColumns>
__device__ __forceinline__ void put_sums(void* to, const Strides3& stride, int64_t b, int64_t row0, int rows, int64_t h,
                                         const Sums<kColumns>& sums, int64_t column0, int64_t D, float factor) {
  const int y = threadIdx.x / 16 * 4, x = threadIdx.x % 16 * 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (y + i >= rows) continue;
    T* const at = static_cast<T*>(to) + b * stride.b + (row0 + y + i) * stride.t + h * stride.h;
#pragma unroll
    for (int c = 0; c < kColumns / kTile; ++c)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t column = column0 + c * kTile + x + j;
        if (column < D) at[column] = rounded<T>(sums.v[c][i][j] * factor);
      }
  }
}

// dk, dv (B,S,Hkv,D). Blocks: columns, then key tiles, then key heads. The sums run over the heads of the group, then
// the query tiles.
template <class T, int kColumns>
__global__ void __launch_bounds__(kPlainThreads, 1)
    plain_key_gradients_kernel(const AttentionBackwardArgs args, const Prepared prepared) {
  __shared__ PlainShared shared;
  const AttentionArgs& a = args.forward;
  const int64_t parts = (a.D + kColumns - 1) / kColumns, spans = (a.S + kTile - 1) / kTile, group = a.H / a.Hkv;
  const int64_t column0 = blockIdx.x % parts * kColumns, key0 = blockIdx.x / parts % spans * kTile;
  const int64_t b = blockIdx.x / parts / spans / a.Hkv, kv_head = blockIdx.x / parts / spans % a.Hkv;
  const int rows = static_cast<int>(min(int64_t{kTile}, a.S - key0)), y = threadIdx.x / 16 * 4,
            x = threadIdx.x % 16 * 4;
  const Strides3 dout_stride{a.T * a.H * a.D, a.H * a.D, a.D};
  const Rows<T> keys = rows_from<T>(a.k, a.k_stride, b, key0, kv_head);
  const Rows<T> values = rows_from<T>(a.v, a.v_stride, b, key0, kv_head);
  const PlainScale scale(a);

  Sums<kColumns> dk{}, dv{};
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h)
    for (int64_t tile = 0; tile < prepared.tiles; ++tile) {
      const int64_t t0 = tile * kTile, past = a.S - a.T + t0;  // position of the tile's first query
      const int queries = static_cast<int>(min(int64_t{kTile}, a.T - t0));
      if ((a.causal && past + queries <= key0) || prepared.lowest[b * prepared.tiles + tile] >= key0 + rows) continue;
      const Rows<T> q = rows_from<T>(a.q, a.q_stride, b, t0, h);
      const Rows<T> dout = rows_from<T>(args.dout, dout_stride, b, t0, h);
      Sums<kTile> s = multiply_rows(shared, keys, rows, q, queries, a.D);
      Sums<kTile> dp = multiply_rows(shared, values, rows, dout, queries, a.D);
      const int64_t at = (b * a.H + h) * prepared.tiles * kTile + t0, low_at = b * prepared.tiles * kTile + t0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float lse2 = prepared.lse2[at + x + j], delta = prepared.delta[at + x + j];
        const int64_t low = prepared.low[low_at + x + j];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int64_t key = key0 + y + i;
          const bool shown = x + j < queries && key >= low && (!a.causal || key <= past + x + j);
          plain_gradient(s.v[0][i][j], dp.v[0][i][j], shown, lse2, delta, a.softcap > 0, scale);
        }
      }
      add_product<kColumns>(shared, dv, s.v[0], dout, queries, column0, a.D);
      add_product<kColumns>(shared, dk, dp.v[0], q, queries, column0, a.D);
    }
  put_sums<T>(args.dk, a.k_stride, b, key0, rows, kv_head, dk, column0, a.D, a.scale);
  put_sums<T>(args.dv, a.v_stride, b, key0, rows, kv_head, dv, column0, a.D, 1.0f);
}

// dq (B,T,H,D). Blocks: columns, then query tiles, then heads.
template <class T, int kColumns>
__global__ void __launch_bounds__(kPlainThreads, 1)
    plain_query_gradients_kernel(const AttentionBackwardArgs args, const Prepared prepared) {
  __shared__ PlainShared shared;
  const AttentionArgs& a = args.forward;
  const int64_t parts = (a.D + kColumns - 1) / kColumns, spans = prepared.tiles;
  const int64_t column0 = blockIdx.x % parts * kColumns, tile = spans - 1 - blockIdx.x / parts % spans,
                t0 = tile * kTile;
  const int64_t b = blockIdx.x / parts / spans / a.H, h = blockIdx.x / parts / spans % a.H, kv_head = h / (a.H / a.Hkv);
  const int rows = static_cast<int>(min(int64_t{kTile}, a.T - t0)), y = threadIdx.x / 16 * 4, x = threadIdx.x % 16 * 4;
  const int64_t past = a.S - a.T + t0;
  const Strides3 dout_stride{a.T * a.H * a.D, a.H * a.D, a.D};
  const Rows<T> q = rows_from<T>(a.q, a.q_stride, b, t0, h);
  const Rows<T> dout = rows_from<T>(args.dout, dout_stride, b, t0, h);
  const PlainScale scale(a);

  float lse2[4], delta[4];
  int64_t low[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t at = (b * a.H + h) * prepared.tiles * kTile + t0 + y + i;
    lse2[i] = prepared.lse2[at], delta[i] = prepared.delta[at];
    low[i] = prepared.low[b * prepared.tiles * kTile + t0 + y + i];
  }
  Sums<kColumns> dq{};
  const int64_t end = a.causal ? min(a.S, past + rows) : a.S;
  for (int64_t key0 = prepared.lowest[b * prepared.tiles + tile] / kTile * kTile; key0 < end; key0 += kTile) {
    const int valid = static_cast<int>(min(int64_t{kTile}, a.S - key0));
    const Rows<T> keys = rows_from<T>(a.k, a.k_stride, b, key0, kv_head);
    Sums<kTile> s = multiply_rows(shared, q, rows, keys, valid, a.D);
    Sums<kTile> dp = multiply_rows(shared, dout, rows, rows_from<T>(a.v, a.v_stride, b, key0, kv_head), valid, a.D);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t key = key0 + x + j;
        const bool shown = key < a.S && key >= low[i] && (!a.causal || key <= past + y + i);
        plain_gradient(s.v[0][i][j], dp.v[0][i][j], shown, lse2[i], delta[i], a.softcap > 0, scale);
      }
    add_product<kColumns>(shared, dq, dp.v[0], keys, valid, column0, a.D);
  }
  put_sums<T>(args.dq, a.q_stride, b, t0, rows, h, dq, column0, a.D, a.scale);
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
