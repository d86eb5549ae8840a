// Attention of a few queries to a long cache (Flash-Decoding, Dao et al. 2023): the keys are cut into splits at fixed
// places, one block per split, and the splits' results are merged in order. The queries of a key head are stacked: row
// r is query r / group, head r % group of the group. A row's bits do not depend on its batch neighbours.
#pragma once
#include "cuda/attention/attention.cuh"

namespace llmcore {
namespace cuda {
namespace {

struct Splits {
  int keys;         // per split; whole tiles
  int count;        // number of splits for the cache's capacity
  float* products;  // (B,H,T,count,D): sums of probabilities times values
  float* totals;    // (B,H,T,count,2): the base subtracted from the scores, and the sum of the probabilities
};

// The part of the work that a block does.
struct FewPiece {
  int64_t b, kv_head;
  int group, rows, row0, split;  // rows: all of the key head's; row0: the first of this block
  __device__ FewPiece(const AttentionArgs& a, const Splits& s, int block_rows) {
    group = static_cast<int>(a.H / a.Hkv), rows = group * static_cast<int>(a.T);
    const int64_t row_blocks = (rows + block_rows - 1) / block_rows, i = blockIdx.x / s.count;
    split = static_cast<int>(blockIdx.x % s.count);
    row0 = static_cast<int>(i % row_blocks) * block_rows;
    b = i / row_blocks / a.Hkv, kv_head = i / row_blocks % a.Hkv;
  }
  __device__ int64_t query(int row) const { return row / group; }
  __device__ int64_t head(int row) const { return kv_head * group + row % group; }
  __device__ int64_t of_all(const AttentionArgs& a, int row) const {  // index among (B,H,T)
    return (b * a.H + head(row)) * a.T + query(row);
  }
};

// Writes one element of out and, for the row's first element, lse.
template <class T>
__device__ __forceinline__ void put_result(const AttentionArgs& a, int64_t b, int64_t h, int64_t t, int d,
                                           float product, float base, float sum) {
  const bool none = seen_by(a, b, t).end <= 0;
  static_cast<T*>(a.out)[b * a.out_stride.b + t * a.out_stride.t + h * a.out_stride.h + d] =
      rounded<T>(none ? 0.0f : product / sum);
  if (d == 0 && a.lse)
    a.lse[(b * a.H + h) * a.T + t] = sum > 0 ? fmaf(base, kLn2, logf(sum)) : none ? -INFINITY : logf(sum);
}
// The same for a split, or the final result if there is only one split.
template <class T>
__device__ __forceinline__ void put_split(const AttentionArgs& a, const Splits& s, const FewPiece& piece, int row,
                                          int d, float product, float base, float sum) {
  if (s.count == 1) return put_result<T>(a, piece.b, piece.head(row), piece.query(row), d, product, base, sum);
  const int64_t at = piece.of_all(a, row) * s.count + piece.split;
  s.products[at * a.D + d] = product;
  if (d == 0) s.totals[2 * at] = base, s.totals[2 * at + 1] = sum;
}

// Merges the splits into out (B,T,H,D) and lse (B,H,T). One block per row.
constexpr int kMergeThreads = 128;
template <class T>
__global__ void __launch_bounds__(kMergeThreads) merge_splits_kernel(const AttentionArgs a, const Splits s) {
  const int64_t row = blockIdx.x, t = row % a.T, h = row / a.T % a.H, b = row / a.T / a.H;
  const Seen seen = seen_by(a, b, t);
  const int first = seen.low / s.keys, last = (seen.end + s.keys - 1) / s.keys;
  const float *products = s.products + row * s.count * a.D, *totals = s.totals + row * s.count * 2;
  float base = -INFINITY, sum = 0.0f;
  for (int i = first; i < last; ++i) base = fmaxf(base, totals[2 * i]);
  const float subtract = base == -INFINITY ? 0.0f : base;
  for (int i = first; i < last; ++i) sum = fmaf(totals[2 * i + 1], exp2f(totals[2 * i] - subtract), sum);
  for (int d = threadIdx.x; d < a.D; d += kMergeThreads) {
    float product = 0.0f;
#pragma unroll 8
    for (int i = first; i < last; ++i) product = fmaf(products[i * a.D + d], exp2f(totals[2 * i] - subtract), product);
    put_result<T>(a, b, h, t, d, product, base, sum);
  }
}

// ---- bfloat16, D = 64 or 128, on tensor cores -------------------------------------------------------
// A block has 16 rows; each of its four warps handles 16 keys of every tile on its own, and the warps' results are
// added in order at the end.
constexpr int kFewThreads = 128, kFewWarps = kFewThreads / kWarp, kFewRows = 16;
template <int D>
constexpr size_t few_shared() {
  return sizeof(bf16) * 4 * kKeyTile * D;
}

// q (B,T,H,D), k, v (B,S,Hkv,D) or blocks, C their element.
template <int D, class C, bool kCapped>
__global__ void __launch_bounds__(kFewThreads)
    few_tiles_kernel(const AttentionArgs a, const Splits splits, const ScoreScale scale) {
  LLMCORE_DYNAMIC_SHARED(shared);
  bf16* const keys_of_stage = reinterpret_cast<bf16*>(shared);     // two stages of (64,D)
  bf16* const values_of_stage = keys_of_stage + 2 * kKeyTile * D;  // likewise
  __shared__ float bases[kFewWarps][kFewRows], sums[kFewWarps][kFewRows];

  const FewPiece piece(a, splits, kFewRows);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, keys = keys_of(a, piece.b);
  // All warps handle the same 16 rows, with two lanes per row.
  const int watched = piece.row0 + lane % kFewRows;
  const Seen watch = watched < piece.rows ? seen_by(a, piece.b, piece.query(watched)) : Seen{INT_MAX, 0};
  const bool any = watch.low < watch.end;
  const int from = max(warp_min(any ? watch.low : INT_MAX), piece.split * splits.keys);
  const int to = min(warp_max(any ? watch.end : 0), (piece.split + 1) * splits.keys);
  if (from >= to && splits.count > 1) return;  // nobody asks for this split
  const int first = from >= to ? 0 : from / kKeyTile, last = from >= to ? 0 : (to + kKeyTile - 1) / kKeyTile;

  const auto copy = [&](int tile) {
    const int stage = (tile & 1) * kKeyTile * D;
    copy_tile<D, kFewThreads, C>(keys_of_stage + stage, a, a.k, a.k_stride, a.k_scale, piece.b, tile, piece.kv_head,
                                 keys);
    copy_tile<D, kFewThreads, C>(values_of_stage + stage, a, a.v, a.v_stride, a.v_scale, piece.b, tile, piece.kv_head,
                                 keys);
  };
  // Two tiles are in flight from the start: a split has few tiles, and each takes long to arrive.
  for (int tile = first; tile < first + 2; ++tile) {
    if (tile < last) copy(tile);
    cp_async_commit();
  }

  uint32_t queries[D / 16][4];  // left operands
  int low[2], end[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = piece.row0 + i * 8 + lane / 4;
    const bool is = row < piece.rows;
    const Seen seen = is ? seen_by(a, piece.b, piece.query(row)) : Seen{INT_MAX, 0};
    low[i] = seen.low, end[i] = seen.end;
    const bf16* const q = static_cast<const bf16*>(a.q) + piece.b * a.q_stride.b + piece.query(row) * a.q_stride.t +
                          piece.head(row) * a.q_stride.h;
    const uint32_t turn = a.scale < 0 ? 0x80008000u : 0u;
#pragma unroll
    for (int d = 0; d < D / 16; ++d)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        queries[d][2 * j + i] = is ? *reinterpret_cast<const uint32_t*>(q + d * 16 + j * 8 + lane % 4 * 2) ^ turn : 0u;
  }
  float o[D / 8][4] = {}, base[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  for (int tile = first; tile < last; ++tile) {
    if (tile > first) {
      __syncthreads();  // nobody reads the tile before any more
      if (tile + 1 < last) copy(tile + 1);
      cp_async_commit();
    }
    cp_async_wait<1>();
    __syncthreads();  // the tile has come
    const int stage = ((tile & 1) * kKeyTile + warp * 16) * D, key0 = tile * kKeyTile + warp * 16;
    if (key0 >= to || key0 + 16 <= from) continue;

    float s[2][4] = {};
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      uint32_t right[4];
      load_right<D>(right, keys_of_stage + stage, 0, d);
      multiply_two(s[0], s[1], queries[d / 16], right);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float highest = -INFINITY;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& x = s[n][2 * i + j];
          if constexpr (kCapped) x = tanh_approx(x * scale.inner);
          const int key = key0 + n * 8 + lane % 4 * 2 + j;
          if (key < low[i] || key >= end[i]) x = -INFINITY;
          highest = fmaxf(highest, x);
        }
      highest = quad_max(highest) * scale.factor;
      const float old = base[i];
      if (highest > old + kSlack) base[i] = highest;
      const float less = old < base[i] ? exp2_approx(old - base[i]) : 1.0f;
      sum[i] *= less;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) o[n][2 * i] *= less, o[n][2 * i + 1] *= less;
      const float subtract = base[i] == -INFINITY ? 0.0f : base[i];
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int j = 2 * i; j < 2 * i + 2; ++j) {
          s[n][j] = exp2_approx(fmaf(s[n][j], scale.factor, -subtract));
          sum[i] += s[n][j];
        }
    }
    uint32_t left[4];
    as_left(left, s[0], s[1]);
#pragma unroll
    for (int d = 0; d < D / 8; d += 2) {
      uint32_t right[4];
      load_right_rows<D>(right, values_of_stage + stage, 0, d * 8);
      multiply_two(o[d], o[d + 1], left, right);
    }
  }

  // Bring the warps' results to one base, in the shared memory where the tiles were.
  float* const products = reinterpret_cast<float*>(shared);  // (4,16,D)
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] = quad_sum(sum[i]);
    if (lane % 4 == 0) bases[warp][i * 8 + lane / 4] = base[i], sums[warp][i * 8 + lane / 4] = sum[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = i * 8 + lane / 4;
    float highest = -INFINITY;
#pragma unroll
    for (int w = 0; w < kFewWarps; ++w) highest = fmaxf(highest, bases[w][row]);
    const float less = base[i] == -INFINITY ? 1.0f : exp2_approx(base[i] - highest);
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
      *reinterpret_cast<Vec<float, 2>*>(products + (warp * kFewRows + row) * D + n * 8 +
                                        lane % 4 * 2) = {{o[n][2 * i] * less, o[n][2 * i + 1] * less}};
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kFewRows * D; i += kFewThreads) {
    const int row = i / D, d = i % D;
    if (piece.row0 + row >= piece.rows) break;
    float highest = -INFINITY, product = 0.0f, total = 0.0f;
#pragma unroll
    for (int w = 0; w < kFewWarps; ++w) highest = fmaxf(highest, bases[w][row]);
#pragma unroll
    for (int w = 0; w < kFewWarps; ++w) {
      product += products[w * kFewRows * D + i];
      total += sums[w][row] * (bases[w][row] == -INFINITY ? 1.0f : exp2_approx(bases[w][row] - highest));
    }
    put_split<bf16>(a, splits, piece, piece.row0 + row, d, product, highest, total);
  }
}

// ---- any dtype and head size, on plain cores --------------------------------------------------------
constexpr int kPlainFewThreads = 256, kPlainFewWarps = kPlainFewThreads / kWarp;
constexpr int kLanesOfKey = 8, kMostKeyGroups = 16;
template <class C>
constexpr int kRun = sizeof(C) == 4 ? 4 : 8;  // elements that a thread handles at a time
inline size_t plain_few_shared(int64_t D, int rows) {
  return sizeof(float) * static_cast<size_t>(rows) * (static_cast<size_t>(round_up(D, 8)) + kKeyTile);
}

// Returns kRun elements from p on as floats; only `count` exist, the others are zero.
template <int kCount, class C>
__device__ __forceinline__ void load_run(float (&x)[kCount], const C* p, int count, bool aligned) {
  if (aligned && count >= kCount) {
    const Vec<C, kCount> v = *reinterpret_cast<const Vec<C, kCount>*>(p);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if constexpr (sizeof(C) == 1)
        x[i] = static_cast<float>(int{v.v[i]} - 128);
      else
        x[i] = as_float(v.v[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    x[i] = 0.0f;
    if (i < count) {
      if constexpr (sizeof(C) == 1)
        x[i] = static_cast<float>(int{p[i]} - 128);
      else
        x[i] = as_float(p[i]);
    }
  }
}

// q (B,T,H,D), k, v (B,S,Hkv,D) or blocks, C their element; D at most 1024. A block has kRows rows. aligned: whether
// all rows of k and v allow accesses of kRun elements.
template <class T, class C, int kRows>
__global__ void __launch_bounds__(kPlainFewThreads, 2)
    few_plain_kernel(const AttentionArgs a, const Splits splits, const bool aligned) {
  constexpr int kN = kRun<C>;
  LLMCORE_DYNAMIC_SHARED(shared);
  const int D = static_cast<int>(a.D), wide = (D + 7) / 8 * 8;
  float* const queries = reinterpret_cast<float*>(shared);  // (kRows, wide), zero after D; at the end the products
  float* const scores = queries + kRows * wide;             // (kRows,64), then probabilities
  __shared__ float bases[kRows], sums[kRows], factors[kRows];
  __shared__ int lows[kRows], ends[kRows];

  const FewPiece piece(a, splits, kRows);
  const int tid = threadIdx.x, warp = tid / kWarp, lane = tid % kWarp, keys = keys_of(a, piece.b);
  int from = INT_MAX, to = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = piece.row0 + r;
    const Seen seen = row < piece.rows ? seen_by(a, piece.b, piece.query(row)) : Seen{INT_MAX, 0};
    if (seen.low < seen.end) from = min(from, seen.low), to = max(to, seen.end);
    if (tid == 0) lows[r] = seen.low, ends[r] = seen.end, bases[r] = -INFINITY, sums[r] = 0.0f;
  }
  from = max(from, piece.split * splits.keys), to = min(to, (piece.split + 1) * splits.keys);
  if (from >= to && splits.count > 1) return;  // nobody asks for this split

  for (int i = tid; i < kRows * wide; i += kPlainFewThreads) {
    const int row = piece.row0 + i / wide, d = i % wide;
    queries[i] =
        row < piece.rows && d < D
            ? as_float(static_cast<const T*>(
                  a.q)[piece.b * a.q_stride.b + piece.query(row) * a.q_stride.t + piece.head(row) * a.q_stride.h + d])
            : 0.0f;
  }
  const float factor = a.softcap > 0 ? 1.0f : a.scale * kLog2e;
  const int runs = (D + kN - 1) / kN, key_groups = min(kMostKeyGroups, kPlainFewThreads / runs);
  const int run = tid % runs, key_group = tid / runs;  // for the values; groups from key_groups on have no work
  float o[kRows][kN] = {};

  const int first = from < to ? from / kKeyTile : 0, last = from < to ? (to + kKeyTile - 1) / kKeyTile : 0;
  for (int tile = first; tile < last; ++tile) {
    const C* const k = static_cast<const C*>(a.k) + tile_at(a, a.k_stride, piece.b, tile, piece.kv_head);
    const C* const v = static_cast<const C*>(a.v) + tile_at(a, a.v_stride, piece.b, tile, piece.kv_head);
    const float* k_scale = nullptr;
    const float* v_scale = nullptr;
    if constexpr (sizeof(C) == 1) {
      k_scale = scale_at(a, a.k_scale, piece.b, tile, piece.kv_head);
      v_scale = scale_at(a, a.v_scale, piece.b, tile, piece.kv_head);
    }
    const int valid = min(kKeyTile, keys - tile * kKeyTile);
    __syncthreads();  // queries are there; nobody reads the tile before any more
#pragma unroll 1
    for (int key = tid / kLanesOfKey; key < kKeyTile; key += kPlainFewThreads / kLanesOfKey) {
      float dot[kRows] = {};
      if (key < valid)
        for (int d = tid % kLanesOfKey * kN; d < D; d += kLanesOfKey * kN) {
          float x[kN];
          load_run(x, k + key * a.k_stride.t + d, D - d, aligned);
#pragma unroll
          for (int r = 0; r < kRows; ++r)
#pragma unroll
            for (int i = 0; i < kN; ++i) dot[r] = fmaf(queries[r * wide + d + i], x[i], dot[r]);
        }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int step = kLanesOfKey / 2; step; step /= 2) dot[r] += __shfl_xor_sync(kAllLanes, dot[r], step);
        if (tid % kLanesOfKey) continue;
        if constexpr (sizeof(C) == 1)
          if (key < valid) dot[r] *= k_scale[key * a.Hkv];
        if (a.softcap > 0) dot[r] = a.softcap * kLog2e * tanhf(dot[r] * (a.scale / a.softcap));
        const int at = tile * kKeyTile + key;
        scores[r * kKeyTile + key] = at >= lows[r] && at < ends[r] ? dot[r] : -INFINITY;
      }
    }
    __syncthreads();
    for (int r = warp; r < kRows; r += kPlainFewWarps) {
      float* const x = scores + r * kKeyTile;
      const int at = tile * kKeyTile + lane;
      const bool shown0 = at >= lows[r] && at < ends[r], shown1 = at + kWarp >= lows[r] && at + kWarp < ends[r];
      const float x0 = x[lane], x1 = x[lane + kWarp];
      const float highest = warp_max(fmaxf(shown0 ? x0 * factor : -INFINITY, shown1 ? x1 * factor : -INFINITY));
      const float old = bases[r], base = highest > old + kSlack ? highest : old;
      const float less = old < base ? exp2f(old - base) : 1.0f, subtract = base == -INFINITY ? 0.0f : base;
      const float p0 = shown0 ? exp2f(fmaf(x0, factor, -subtract)) : 0.0f;
      const float p1 = shown1 ? exp2f(fmaf(x1, factor, -subtract)) : 0.0f;
      const float total = warp_sum(p0 + p1);
      x[lane] = p0, x[lane + kWarp] = p1;
      __syncwarp();  // all lanes have read the base
      if (lane == 0) bases[r] = base, factors[r] = less, sums[r] = fmaf(sums[r], less, total);
    }
    __syncthreads();
    if (key_group < key_groups) {
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int i = 0; i < kN; ++i) o[r][i] *= factors[r];
#pragma unroll 2
      for (int key = key_group; key < valid; key += key_groups) {
        float x[kN];
        load_run(x, v + key * a.v_stride.t + run * kN, D - run * kN, aligned);
        float weight = 1.0f;
        if constexpr (sizeof(C) == 1) weight = v_scale[key * a.Hkv];
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int i = 0; i < kN; ++i) o[r][i] = fmaf(scores[r * kKeyTile + key], weight * x[i], o[r][i]);
      }
    }
  }

  for (int g = 0; g < key_groups; ++g) {  // added in order, where the queries were
    __syncthreads();
    if (key_group != g) continue;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        float& sum = queries[r * wide + run * kN + i];
        sum = g == 0 ? o[r][i] : sum + o[r][i];
      }
  }
  __syncthreads();
  for (int i = tid; i < kRows * D; i += kPlainFewThreads) {
    const int r = i / D, d = i % D;
    if (piece.row0 + r >= piece.rows) break;
    put_split<T>(a, splits, piece, piece.row0 + r, d, queries[r * wide + d], bases[r], sums[r]);
  }
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
