// Backward of attention: five products per tile of 64 queries x 64 keys, with the probabilities recomputed from lse:
//   S = QK^T   dP = dO V^T   P = 2^(t - lse2)   dS = P (dP - delta), delta = rowsum(dO o O)
//   dV += P^T dO   dK += dS^T Q   dQ += dS K        (the scale is applied when dQ and dK are written)
// All tiles are computed transposed, keys as rows: P^T and dS^T come out as the left operands of dV and dK, lse and
// delta are vectors, not broadcasts, and dQ^T = K^T dS^T takes dS^T as a panel. One piece is one batch row and key
// head; its sums run over heads, spans of queries, key tiles and query blocks in that order, whatever the number of
// threads.
#pragma once
#include "cpu/attention/forward.h"

namespace llmcore {
namespace LLMCORE_ISA {

constexpr int64_t kSpanBlocks = 8;  // query blocks rearranged at a time; their panels stay in L2

template <class T>
struct BackwardScratch {
  // For each query block of a span
  T *q_columns, *dout_columns;  // panels (D,64 queries)
  T *q_depth, *dout_depth;      // panels (64 queries, D)
  float* dq;                    // (D, 64): transposed sums
  float *lse, *delta;           // (64): lse in powers of two, +inf where a query sees nothing
  int32_t *low, *highest;       // (64): the first key that each query sees, and the largest of these
  int32_t* first_tile;          // for every query block: the first tile of keys that it sees
  // For each key tile
  float *dk, *dv;  // (64, D rounded up)
  // For the current tile
  T *keys, *values, *keys_transposed;  // (kTile, D) staged twice, (D, kTile)
  T *p, *ds, *ds_panel;                // (kTile, 64 queries); ds again as a panel
  T* staged;
  float *scores, *dp;  // (kTile, 64)
  float* rows;         // (64, D)

  int64_t lay_out(char* base, const AttentionArgs& a) {
    Arena arena{base, 0};
    const int64_t blocks = min_of(kSpanBlocks, tiles_of(a.T)), tiles = tiles_of(a.S);
    const int64_t columns = kTile * staged_columns(a.D), depth = depth_panel_elements(a.D);
    q_columns = arena.take<T>(blocks * columns);
    dout_columns = arena.take<T>(blocks * columns);
    q_depth = arena.take<T>(blocks * depth);
    dout_depth = arena.take<T>(blocks * depth);
    dq = arena.take<float>(blocks * columns);
    lse = arena.take<float>(blocks * kTile);
    delta = arena.take<float>(blocks * kTile);
    low = arena.take<int32_t>(blocks * kTile);
    highest = arena.take<int32_t>(blocks);
    first_tile = arena.take<int32_t>(tiles_of(a.T));
    dk = arena.take<float>(tiles * depth);
    dv = arena.take<float>(tiles * depth);
    keys = arena.take<T>(columns);
    values = arena.take<T>(columns);
    keys_transposed = arena.take<T>(columns);
    p = arena.take<T>(kTile * kTile);
    ds = arena.take<T>(kTile * kTile);
    ds_panel = sizeof(T) == 4 ? ds : arena.take<T>(kTile * kTile);  // a float panel is plain rows
    staged = arena.take<T>(columns);
    scores = arena.take<float>(kTile * kTile);
    dp = arena.take<float>(kTile * kTile);
    rows = arena.take<float>(columns);
    return arena.used;
  }
};

// Returns the bytes of scratch for one piece.
static int64_t backward_slot(const AttentionArgs& a) {
  return a.dtype == DType::kF32 ? BackwardScratch<float>{}.lay_out(nullptr, a)
                                : BackwardScratch<bf16>{}.lay_out(nullptr, a);
}

// Writes two rows of dS^T, as rows and as one row of pairs of the panel.
static inline void store_both_ways(float* row0, float* row1, float*, vf x0, vf x1) {
  store(row0, x0);
  store(row1, x1);
}
static inline void store_both_ways(bf16* row0, bf16* row1, bf16* pairs, vf x0, vf x1) {
#if defined(LLMCORE_BF16_DOT)
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)x1, (__m512)x0);
  const __m512i by_column = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                             21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i side_by_side = _mm512_permutexvar_epi16(by_column, both);
  memcpy(row0, &both, sizeof both / 2);
  const __m256i upper = _mm512_extracti64x4_epi64(both, 1);
  memcpy(row1, &upper, sizeof upper);
  memcpy(pairs, &side_by_side, sizeof side_by_side);
#else
  const vh h0 = to_half(x0), h1 = to_half(x1);
  const vu side_by_side = __builtin_convertvector(h0, vu) | (__builtin_convertvector(h1, vu) << 16);
  memcpy(row0, &h0, sizeof h0);
  memcpy(row1, &h1, sizeof h1);
  memcpy(pairs, &side_by_side, sizeof side_by_side);
#endif
}

// Computes columns [0, kTile) of key rows r and r+1. Query columns before `first` (for row r; one more for row r+1) see
// nothing, nor do those whose `low` is above the row, if low is not null.
template <class T, bool kMasked>
static inline void gradient_rows(const BackwardScratch<T>& s, int64_t r, int64_t rows, int64_t first, bool causal,
                                 const float* lse, const float* delta, const int32_t* low, int64_t key, vf scale,
                                 float inverse_cap) {
  for (int64_t j = 0; j < kTile; j += kW) {
    const vf base = load(lse + j), subtract = load(delta + j);
    vf p[2], ds[2];
    for (int64_t e = 0; e < 2; ++e) {
      const int64_t at = (r + e) * kTile + j, hidden = causal ? first + e - j : 0;  // lanes hidden in this vector
      if (kMasked && (r + e >= rows || hidden >= kW)) {
        p[e] = ds[e] = vf{};
        continue;
      }
      p[e] = exp2<T>(fma(load(s.scores + at), scale, -base));
      ds[e] = p[e] * (load(s.dp + at) - subtract);
      if (inverse_cap > 0) {  // the scores are capped: the derivative of tanh
        const vf t = load(s.scores + at) * inverse_cap;
        ds[e] = ds[e] * fma(-t, t, splat(1.0f));
      }
      if (kMasked && (hidden > 0 || low)) {
        vi shown = lane_numbers() >= static_cast<int32_t>(hidden), lowest{};
        if (low) memcpy(&lowest, low + j, sizeof lowest);
        shown &= lowest <= static_cast<int32_t>(key + r + e);
        p[e] = select(shown, p[e], vf{});
        ds[e] = select(shown, ds[e], vf{});
      }
    }
    store(s.p + r * kTile + j, p[0]);
    store(s.p + (r + 1) * kTile + j, p[1]);
    store_both_ways(s.ds + r * kTile + j, s.ds + (r + 1) * kTile + j, s.ds_panel + r * kTile + 2 * j, ds[0], ds[1]);
  }
}

// `first`: the first query of the block that sees `key`, the tile's first key; each later key is seen one query later.
// low: null if every query sees the tile from its first key on.
template <class T>
static void gradient_tile(const BackwardScratch<T>& s, int64_t rows, int64_t first, bool causal, const float* lse,
                          const float* delta, const int32_t* low, int64_t key, vf scale, float inverse_cap) {
  for (int64_t r = 0; r < kTile; r += 2)
    if (r + 2 <= rows && (!causal || first + r + 1 <= 0) && !low)
      gradient_rows<T, false>(s, r, rows, 0, false, lse, delta, low, key, scale, inverse_cap);
    else
      gradient_rows<T, true>(s, r, rows, first + r, causal, lse, delta, low, key, scale, inverse_cap);
}

// dst (D, keys) = src (keys, D)^T, by way of `words` (as large as dst).
static void transpose_rows(int64_t keys, int64_t D, const float* src, float*, float* dst) {
  transpose_words(keys, D, src, D * 4, dst, keys * 4);
}
static void transpose_rows(int64_t keys, int64_t D, const bf16* src, bf16* words, bf16* dst) {
  transpose_words(keys, D / 2, src, D * 2, words, keys * 4);
  for (int64_t d = 0; d < D; d += 2)  // pairs of d side by side, now taken apart
    for (int64_t i = 0; i < keys; i += kW) {
      vu pairs;
      memcpy(&pairs, words + d * keys + 2 * i, sizeof pairs);
      const vh even = __builtin_convertvector(pairs & 0xffffu, vh), odd = __builtin_convertvector(pairs >> 16, vh);
      memcpy(dst + d * keys + i, &even, sizeof even);
      memcpy(dst + (d + 1) * keys + i, &odd, sizeof odd);
    }
}

// dst (rows, D) with a row stride = factor * src (rows, ld).
template <class T>
static void write_rows(int64_t rows, int64_t D, const float* src, int64_t ld, vf factor, T* dst, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = src + r * ld;
    T* to = dst + r * stride;
    for_lanes(D, [&](int64_t i, auto lanes, int) { store_n(to + i, load(from + i) * factor, lanes); });
  }
}

// One query head and the key head it reads. Tensors at the first row of the batch row and head.
template <class T>
struct BackwardHead {
  const AttentionArgs& a;
  BackwardScratch<T> s;
  int64_t b;              // the batch row
  int64_t blocks, tiles;  // of 64 queries, of 64 keys
  bool first, last;       // of the heads that share the key head: dk and dv begin and end with these
  const T *q, *out, *dout, *k, *v;
  T *dq, *dk, *dv;
  const float* lse;

  int64_t past() const { return a.S - a.T; }  // the first query's position
  int64_t block_rows(int64_t i) const { return min_of(kTile, a.T - i * kTile); }
  // Whether block i sees a tile; the first and the last block that do (if none: blocks and -1); the last tile that i
  // sees.
  bool sees(int64_t i, int64_t tile) const { return s.first_tile[i] <= tile && tile <= last_tile(i); }
  int64_t first_block(int64_t tile) const {
    int64_t i = a.causal ? max_of(0, tile * kTile - past()) / kTile : 0;
    while (i < blocks && !sees(i, tile)) ++i;
    return i;
  }
  int64_t last_block(int64_t tile) const {
    int64_t i = blocks - 1;
    while (i >= 0 && !sees(i, tile)) --i;
    return i;
  }
  int64_t last_tile(int64_t i) const { return a.causal ? (past() + i * kTile + block_rows(i) - 1) / kTile : tiles - 1; }
};

// Prepares everything that the tiles need from query block i, the j-th of its span.
template <class T>
static void prepare_queries(const BackwardHead<T>& head, int64_t i, int64_t j) {
  const AttentionArgs& a = head.a;
  const BackwardScratch<T>& s = head.s;
  const int64_t columns = kTile * staged_columns(a.D), depth = depth_panel_elements(a.D);
  const int64_t t = i * kTile, rows = head.block_rows(i);
  const WholeTile<T> queries = whole_tile(rows, a.D, head.q + t * a.q_stride.t, a.q_stride.t, s.staged);
  pack_as_columns(queries, s.q_columns + j * columns);
  pack_as_depth(queries, s.q_depth + j * depth);
  const T *out = head.out + t * a.out_stride.t, *dout = head.dout + t * a.out_stride.t;
  const WholeTile<T> douts = whole_tile(rows, a.D, dout, a.out_stride.t, s.staged);
  pack_as_columns(douts, s.dout_columns + j * columns);
  pack_as_depth(douts, s.dout_depth + j * depth);
  float *lse2 = s.lse + j * kTile, *delta = s.delta + j * kTile;
  s.highest[j] = 0;
  for (int64_t r = 0; r < kTile; ++r) {
    const int64_t low = r < rows ? first_key(a, head.b, t + r, head.past() + t + r) : 0;
    s.low[j * kTile + r] = static_cast<int32_t>(low);
    s.highest[j] = static_cast<int32_t>(max_of(s.highest[j], low));
    const float lse = r < rows ? head.lse[t + r] : -__builtin_inff();
    if (lse == -__builtin_inff()) {
      lse2[r] = __builtin_inff();
      delta[r] = 0.0f;
      continue;
    }
    lse2[r] = lse * kLog2e;
    vf dot{};
    const T *y = out + r * a.out_stride.t, *dy = dout + r * a.out_stride.t;
    for_lanes(a.D, [&](int64_t n, auto lanes, int) { dot = fma(load_n(y + n, lanes), load_n(dy + n, lanes), dot); });
    delta[r] = sum(dot);
  }
}

// c (m,64) = a (m,kTile) · panel [+ c], where row i of a is zero before column first + i, which is left out.
template <class T>
static void trimmed_product(int64_t m, int64_t first, const T* a, const T* panel, float* c, int64_t ldc,
                            bool accumulate) {
#if defined(LLMCORE_ISA_AMX)
  if (sizeof(T) == 2) return panel_product(m, kTile, a, kTile, panel, c, ldc, accumulate);  // tiles are whole
#endif
  for (int64_t i = 0; i < m; i += kRows) {
    const int64_t skip = max_of(0, min_of(first + i, kTile)) / 2 * 2;  // bf16 comes in pairs
    rows_product(min_of(kRows, m - i), kTile - skip, a + i * kTile + skip, RowMajor{kTile}, panel + skip * kTile,
                 c + i * ldc, ldc, accumulate, panel, 0);
  }
}

// Processes one tile of keys against the prepared blocks [span, end).
template <class T>
static void add_tile(const BackwardHead<T>& head, int64_t tile, int64_t span, int64_t end) {
  const AttentionArgs& a = head.a;
  const BackwardScratch<T>& s = head.s;
  const int64_t key = tile * kTile, rows = min_of(kTile, a.S - key), m = product_rows(s.keys, rows);
  const int64_t ld = staged_columns(a.D), wide = round_up(a.D, kTile), k_depth = product_depth(s.keys, a.D);
  const int64_t columns = kTile * ld, depth = depth_panel_elements(a.D);
  const int64_t first_block = head.first_block(tile), last_block = head.last_block(tile);
  const auto after = [&](int64_t i) {  // the next block of the span that sees the tile
    do ++i;
    while (i < end && !head.sees(i, tile));
    return i;
  };
  const int64_t begin = after(max_of(span, first_block) - 1);
  if (begin >= end) return;
  float *dk = s.dk + tile * depth, *dv = s.dv + tile * depth;
  T *dk_out = head.dk + key * a.k_stride.t, *dv_out = head.dv + key * a.v_stride.t;
  stage(rows, kTile, a.D, head.k + key * a.k_stride.t, a.k_stride.t, s.keys);
  stage(rows, kTile, a.D, head.v + key * a.v_stride.t, a.v_stride.t, s.values);
  transpose_rows(kTile, ld, s.keys, s.staged, s.keys_transposed);

  const auto multiply = [&](int64_t j) {  // S and dP
    panel_product(m, k_depth, s.keys, ld, s.q_columns + j * columns, s.scores, kTile, false);
    panel_product(m, k_depth, s.values, ld, s.dout_columns + j * columns, s.dp, kTile, false);
  };
  // The next block's first products run between a block's gradients and the products that read them, and vice versa, so
  // nothing is read right after it was written.
  multiply(begin - span);
  for (int64_t i = begin, next; i < end; i = next) {
    const int64_t j = i - span;
    next = after(i);
    float* dq = s.dq + j * columns;
    T* dq_out = head.dq + i * kTile * a.q_stride.t;
    const bool dq_ends = tile == head.last_tile(i), dkv_ends = head.last && i == last_block;
    if (dq_ends) prefetch_rows<true>(dq_out, head.block_rows(i), a.q_stride.t, a.D);
    if (dkv_ends) {
      prefetch_rows<true>(dk_out, rows, a.k_stride.t, a.D);
      prefetch_rows<true>(dv_out, rows, a.v_stride.t, a.D);
    }
    const int64_t first_query = a.causal ? key - head.past() - i * kTile : -kTile;  // the first that sees the tile
    const bool capped = a.softcap > 0;
    if (capped) cap_scores(rows, kTile, a, s.scores);
    gradient_tile(s, rows, first_query, a.causal, s.lse + j * kTile, s.delta + j * kTile,
                  s.highest[j] > key ? s.low + j * kTile : nullptr, key, splat(kLog2e * (capped ? 1.0f : a.scale)),
                  capped ? 1.0f / a.softcap : 0.0f);
    if (next < end) multiply(next - span);
    const bool more = !head.first || i > first_block;
    for (int64_t c = 0; c < a.D; c += kTile) {
      trimmed_product(m, first_query, s.p, s.dout_depth + j * depth + c * kTile, dv + c, wide, more);
      trimmed_product(m, first_query, s.ds, s.q_depth + j * depth + c * kTile, dk + c, wide, more);
    }
    panel_product(product_rows(s.keys, a.D), kTile, s.keys_transposed, kTile, s.ds_panel, dq, kTile,
                  tile > s.first_tile[i]);
    if (dq_ends) {
      transpose_words(ld, kTile, dq, kTile * 4, s.rows, ld * 4);
      write_rows(head.block_rows(i), a.D, s.rows, ld, splat(a.scale), dq_out, a.q_stride.t);
    }
    if (dkv_ends) {
      write_rows(rows, a.D, dk, wide, splat(a.scale), dk_out, a.k_stride.t);
      write_rows(rows, a.D, dv, wide, splat(1.0f), dv_out, a.v_stride.t);
    }
  }
}

// Writes the gradients of keys that no query sees.
template <class T>
static void clear_keys(const BackwardHead<T>& head, int64_t tile) {
  const AttentionArgs& a = head.a;
  for (int64_t key = tile * kTile; key < min_of((tile + 1) * kTile, a.S); ++key) {
    memset(head.dk + key * a.k_stride.t, 0, sizeof(T) * static_cast<size_t>(a.D));
    memset(head.dv + key * a.v_stride.t, 0, sizeof(T) * static_cast<size_t>(a.D));
  }
}

template <class T>
static void backward_piece(const AttentionBackwardArgs& args, int64_t piece, char* scratch) {
  const AttentionArgs& a = args.forward;
  const int64_t blocks = tiles_of(a.T), tiles = tiles_of(a.S), group = a.H / a.Hkv;
  BackwardScratch<T> s;
  s.lay_out(scratch, a);
  const int64_t b = piece / a.Hkv, kv_head = piece % a.Hkv;
  for (int64_t i = 0; i < blocks; ++i) {
    int64_t lowest = a.S;
    for (int64_t t = i * kTile; t < min_of((i + 1) * kTile, a.T); ++t)
      lowest = min_of(lowest, first_key(a, b, t, a.S - a.T + t));
    s.first_tile[i] = static_cast<int32_t>(max_of(0, lowest) / kTile);
  }
  const int64_t k_at = b * a.k_stride.b + kv_head * a.k_stride.h, v_at = b * a.v_stride.b + kv_head * a.v_stride.h;
  for (int64_t g = 0; g < group; ++g) {
    const int64_t h = kv_head * group + g;
    const int64_t q_at = b * a.q_stride.b + h * a.q_stride.h, out_at = b * a.out_stride.b + h * a.out_stride.h;
    const BackwardHead<T> head{a,
                               s,
                               b,
                               blocks,
                               tiles,
                               g == 0,
                               g + 1 == group,
                               static_cast<const T*>(a.q) + q_at,
                               static_cast<const T*>(a.out) + out_at,
                               static_cast<const T*>(args.dout) + out_at,
                               static_cast<const T*>(a.k) + k_at,
                               static_cast<const T*>(a.v) + v_at,
                               static_cast<T*>(args.dq) + q_at,
                               static_cast<T*>(args.dk) + k_at,
                               static_cast<T*>(args.dv) + v_at,
                               a.lse + (b * a.H + h) * a.T};
    for (int64_t span = 0; span < blocks; span += kSpanBlocks) {
      const int64_t end = min_of(span + kSpanBlocks, blocks);
      for (int64_t i = span; i < end; ++i) prepare_queries(head, i, i - span);
      for (int64_t tile = 0; tile < tiles; ++tile) add_tile(head, tile, span, end);
    }
    for (int64_t tile = 0; head.last && tile < tiles; ++tile)
      if (head.last_block(tile) < 0) clear_keys(head, tile);
  }
}

// (B,rows,heads,D) = 0
static void zero_gradient(void* dst, const AttentionArgs& a, int64_t rows, int64_t heads, const Strides3& stride) {
  const int64_t size = static_cast<int64_t>(size_of(a.dtype));
  for (int64_t b = 0; b < a.B; ++b)
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t h = 0; h < heads; ++h)
        memset(static_cast<char*>(dst) + (b * stride.b + t * stride.t + h * stride.h) * size, 0,
               static_cast<size_t>(a.D * size));
}

static int64_t backward_workers(const AttentionArgs& a) {
  return attention_workers(a.B * a.Hkv, static_cast<double>(a.B * a.S) * static_cast<double>(a.H * a.T * a.D));
}

static size_t attention_backward_workspace(const AttentionArgs& a) {
  return static_cast<size_t>(backward_slot(a) * backward_workers(a));
}

static void attention_backward(const AttentionBackwardArgs& args) {
  const AttentionArgs& a = args.forward;
  if (a.T == 0 || a.S == 0) {
    zero_gradient(args.dq, a, a.T, a.H, a.q_stride);
    zero_gradient(args.dk, a, a.S, a.Hkv, a.k_stride);
    zero_gradient(args.dv, a, a.S, a.Hkv, a.v_stride);
    return;
  }
  const int64_t slot = backward_slot(a), room = max_of(1, static_cast<int64_t>(a.workspace_bytes) / slot);
  parallel_workers(a.B * a.Hkv, min_of(room, backward_workers(a)), [&](int64_t worker, int64_t piece) {
    char* scratch = static_cast<char*>(a.workspace) + worker * slot;
    if (a.dtype == DType::kF32)
      backward_piece<float>(args, piece, scratch);
    else
      backward_piece<bf16>(args, piece, scratch);
  });
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
