// Matrix multiplication on AMX. The tiles multiply 512 pairs per cycle, so everything else must overlap with them:
// while one block of 48 x 32 is multiplied, the vector units finish the previous one (bias, GELU, rounding, store), and
// the next data is prefetched.
#pragma once
#include "cpu/activations.h"
#include "cpu/gemm/pack.h"
#include "cpu/gemm/tile_micro.h"

namespace llmcore {
namespace LLMCORE_ISA {

#if defined(LLMCORE_ISA_AMX)
namespace {  // members of class templates would be weak symbols

constexpr int64_t kGemmStripRows = 48, kBlockColumns = 32;
constexpr int64_t kBlockElements = kGemmStripRows * kBlockColumns;
constexpr int64_t kTileDepth = 2048;            // longer K is cut; partial sums wait in fp32
constexpr int64_t kTileSums = 128 * 1024;       // elements of the partial sums
constexpr int64_t kGroupElements = 512 * 1024;  // of panels that stay in the L2 cache: 1 MB
constexpr int64_t kTurnedDepth = 1024,
                  kTurnedRows = 6 * kGemmStripRows;  // of a transposed a, which is transposed block by block
constexpr int64_t kTurnedStride = kTurnedDepth + kPanelDepth;

// Fetches the next rows of a into the L2 cache, a few lines at a time.
struct RowPrefetch {
  const bf16* a = nullptr;
  int64_t lda = 0, steps = 0, step = 0, rows = 0;

  void lines(int n) {
    for (; n > 0 && rows > 0; --n) {
      __builtin_prefetch(a + step * kPanelDepth, 0, 2);
      if (++step < steps) continue;
      step = 0;
      a += lda;
      --rows;
    }
  }
};

// A row of a block: two adjacent vectors. Columns beyond the result are masked.
struct Pair {
  vf lo, hi;
};
static inline Pair load_pair(__mmask32 m, const float* p) {
  return {(vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>(m), p),
          (vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>(m >> 16), p + 16)};
}
static inline Pair load_pair(__mmask32 m, const bf16* p) {
  const __m512i v = _mm512_maskz_loadu_epi16(m, p);
  return {as_float(__builtin_convertvector((vh)_mm512_castsi512_si256(v), vu) << 16),
          as_float(__builtin_convertvector((vh)_mm512_extracti64x4_epi64(v, 1), vu) << 16)};
}
static inline void store_pair(__mmask32 m, float* p, Pair v) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(m), (__m512)v.lo);
  _mm512_mask_storeu_ps(p + 16, static_cast<__mmask16>(m >> 16), (__m512)v.hi);
}
static inline void store_pair(__mmask32 m, bf16* p, Pair v) {
  _mm512_mask_storeu_epi16(p, m, (__m512i)_mm512_cvtne2ps_pbh((__m512)v.hi, (__m512)v.lo));
}

// Finishes a block of up to 48 x 32, row by row.
template <class O, bool kGelu>
struct BlockEpilogue {
  const float* c;  // the product, row stride ldc
  int64_t ldc, ldo;
  int64_t rows = 0;  // left to do
  O *out, *pre;
  const O* residual;
  Pair bias;
  __mmask32 mask;

  void row() {
    Pair v = {load(c) + bias.lo, load(c + 16) + bias.hi};
    if (pre) {
      store_pair(mask, pre, v);
      pre += ldo;
    }
    if (kGelu) v = {gelu(v.lo), gelu(v.hi)};
    if (residual) {
      const Pair r = load_pair(mask, residual);
      v = {v.lo + r.lo, v.hi + r.hi};
      residual += ldo;
    }
    store_pair(mask, out, v);
    c += ldc;
    out += ldo;
    --rows;
  }
  void finish() {
    while (rows > 0) row();
  }
};

template <class O, bool kGelu>
struct TileGemm {
  const GemmArgs& g;
  const bf16* a;
  const bf16* panels;
  int64_t depth;
  O *out, *pre;
  const O* residual;  // added to the result: the residual, or the old result when accumulating
  BlockEpilogue<O, kGelu> pending = {};
  RowPrefetch ahead;
  alignas(64) float block[kGemmStripRows * kPanelWidth];
  alignas(64) float sums[kTileSums];
  alignas(64) bf16 turned[kTurnedRows * kTurnedStride];

  explicit TileGemm(const GemmArgs& args)
      : g(args),
        a(static_cast<const bf16*>(g.a)),
        panels(static_cast<const bf16*>(g.panels)),
        depth(round_up(g.K, kPanelDepth)),
        out(static_cast<O*>(g.out)),
        pre(static_cast<O*>(g.pre_activation)),
        residual(g.accumulate ? out : static_cast<const O*>(g.residual)) {}

  BlockEpilogue<O, kGelu> epilogue(const float* c, int64_t ldc, int64_t row, int64_t rows, int64_t column) const {
    const int64_t at = row * g.ldo + column, left = g.N - column;
    const __mmask32 mask = left >= kBlockColumns ? 0xffffffffu : (1u << left) - 1;
    return {c,
            ldc,
            g.ldo,
            rows,
            out + at,
            pre ? pre + at : nullptr,
            residual ? residual + at : nullptr,
            g.bias ? load_pair(mask, g.bias + column) : Pair{vf{}, vf{}},
            mask};
  }

  // kGemmStripRows rows (x) times columns [first, first + columns) over k in [k0, k0 + k).
  void strip(const bf16* x, int64_t lda, int64_t row, int64_t first, int64_t columns, int64_t k0, int64_t k,
             float* partial, bool last, bool cold) {
    const int64_t steps = ceil_div(k, kPanelDepth), blocks = ceil_div(min_of(columns, g.N - first), kBlockColumns);
    const int lines_per_step = static_cast<int>(ceil_div(kGemmStripRows, blocks));
    const int rows_per_step = static_cast<int>(ceil_div(kGemmStripRows, steps));
    alignas(64) bf16 tail[kGemmStripRows][kPanelDepth];
    if (k % kPanelDepth) copy_tail(tail, kGemmStripRows, k % kPanelDepth, x + k / kPanelDepth * kPanelDepth, lda);
    auto before = pending;  // local copies stay in registers
    auto next_rows = ahead;
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t column = first + i * kBlockColumns;
      const bf16* panel =
          panels + column / kPanelWidth * kPanelWidth * depth + column % kPanelWidth * 2 + k0 * kPanelWidth;
      // The next block is the other half of this panel, or the first half of the next one.
      const bf16* next = i % 2 ? panel - kBlockColumns * 2 + kPanelWidth * depth : panel + kBlockColumns * 2;
      const O* line = out + row * g.ldo + column;
      float* c = partial ? partial + i * kBlockElements : block;
      tiles_3x2(k, x, lda, tail, panel, c, kBlockColumns, k0 > 0, [&] {
        next_rows.lines(lines_per_step);
        if (cold) {
          for (int p = 0; p < 16; ++p) {
            __builtin_prefetch(next + p * kPanelWidth * 2, 0, 2);
            __builtin_prefetch(next + p * kPanelWidth * 2 + 32, 0, 2);
          }
          next += kPanelStep;
        }
        if (!last) return;
        for (int r = 0; r < rows_per_step; ++r, line += g.ldo) __builtin_prefetch(line, 0, 2);
        for (int r = 0; r < rows_per_step && before.rows > 0; ++r) before.row();
      });
      if (last) before = epilogue(c, kBlockColumns, row, kGemmStripRows, column);
    }
    pending = before;
    ahead = next_rows;
  }

  // Handles fewer rows, as when decoding: bound by how fast the panels arrive.
  void rest(const bf16* x, int64_t lda, int64_t row, int64_t rows, int64_t first, int64_t columns, int64_t k0,
            int64_t k, float* partial, bool last) {
    for (int64_t column = first; column < min_of(g.N, first + columns); column += kPanelWidth) {
      float* c = partial ? partial + (column - first) * kGemmStripRows : block;
      panel_product(rows, k, x, lda, panels + column * depth + k0 * kPanelWidth, c, kPanelWidth, k0 > 0);
      if (!last) continue;
      for (int64_t s = 0; s < kPanelWidth && column + s < g.N; s += kBlockColumns)
        epilogue(c + s, kPanelWidth, row, rows, column + s).finish();
    }
  }

  // turned (rows,k) = a (k,rows)^T at row `row` of the product, from k0 on
  void turn(int64_t row, int64_t rows, int64_t k0, int64_t k) {
    for (int64_t i = 0; i < k; i += kPanelDepth) {
      const bf16* src = a + (k0 + i) * g.lda + row;
      for (int64_t r = kPanelDepth; r < min_of(k - i, 2 * kPanelDepth); ++r)
        for (int64_t j = 0; j < rows; j += 32) __builtin_prefetch(src + r * g.lda + j, 0, 2);
      transpose_block(src, g.lda, min_of(k - i, kPanelDepth), rows, turned + i, kTurnedStride);
    }
  }

  // Rows [row, end) of columns [first, first + columns), K in chunks.
  void work(int64_t row, int64_t end, int64_t first, int64_t columns, int64_t chunk) {
    for (int64_t k0 = 0; k0 < g.K; k0 += chunk) {
      const int64_t k = min_of(g.K - k0, chunk), lda = g.a_transposed ? kTurnedStride : g.lda;
      const bool last = k0 + k == g.K;
      if (g.a_transposed) turn(row, end - row, k0, k);
      const bf16* x = g.a_transposed ? turned : a + row * lda + k0;
      float* partial = chunk < g.K ? sums : nullptr;
      for (int64_t i = row; i < end; i += kGemmStripRows, x += kGemmStripRows * lda) {
        const int64_t next = i + kGemmStripRows;
        ahead = {x + kGemmStripRows * lda, lda, ceil_div(k, kPanelDepth), 0,
                 g.a_transposed ? 0 : min_of(end - next, kGemmStripRows)};
        if (next <= end) {
          strip(x, lda, i, first, columns, k0, k, partial, last, i == row);
        } else {
          pending.finish();
          rest(x, lda, i, end - i, first, columns, k0, k, partial, last);
        }
        if (partial) partial += kGemmStripRows * columns;
      }
    }
    pending.finish();
  }
};

// How the work is cut: pieces of `strips` x `columns`, K in chunks. It never affects the bits of the result, so it may
// depend on the number of threads.
struct TilePlan {
  int64_t strips, columns, chunk;
};
static TilePlan plan_tiles(const GemmArgs& g) {
  const int64_t most_depth = g.a_transposed ? kTurnedDepth : kTileDepth, threads = num_threads();
  const int64_t chunk = round_up(ceil_div(g.K, ceil_div(g.K, most_depth)), kPanelDepth);
  const bool cut = chunk < g.K;
  const int64_t strips = ceil_div(g.M, kGemmStripRows), panels = ceil_div(g.N, kPanelWidth);
  const bool tiny = g.M * g.N * g.K < (1 << 21);  // not worth waking a thread

  // Panels of a group stay in the L2 cache while rows stream past. With few rows, every panel is used once.
  int64_t group = kGroupElements / chunk / kPanelWidth;
  if (cut) group = min_of(group, 384 / kPanelWidth);
  if (strips <= 2 && !tiny) group = min_of(group, ceil_div(panels, 4 * threads));
  group = ceil_div(panels, ceil_div(panels, group));
  const int64_t groups = ceil_div(panels, group), columns = group * kPanelWidth;

  int64_t most = min_of(strips, g.a_transposed ? kTurnedRows / kGemmStripRows : 10);
  if (cut) most = min_of(most, kTileSums / (kGemmStripRows * columns));
  int64_t best = most;
  double best_time = 1e30;  // of the slowest thread, in strips
  for (int64_t s = most; s > 0 && !tiny; --s) {
    const double time = static_cast<double>(ceil_div(ceil_div(strips, s) * groups, threads) * s);
    if (time >= 0.93 * best_time) continue;  // many rows per piece save memory traffic: smaller only when it pays
    best = s;
    best_time = time;
  }
  return {best, columns, chunk};
}

template <class O, bool kGelu>
static void gemm_tiles_typed(const GemmArgs& g) {
  const TilePlan plan = plan_tiles(g);
  const int64_t rows = plan.strips * kGemmStripRows;
  const int64_t row_blocks = ceil_div(g.M, rows), column_blocks = ceil_div(g.N, plan.columns);
  parallel(row_blocks * column_blocks, [&](int64_t piece) {
    MatrixUnit unit;
    const int64_t row = piece % row_blocks * rows, column = piece / row_blocks * plan.columns;
    TileGemm<O, kGelu> gemm(g);
    gemm.work(row, min_of(g.M, row + rows), column, plan.columns, plan.chunk);
  });
}

static void gemm_tiles(const GemmArgs& g) {
  const bool gelu = g.act == Activation::kGelu;
  if (g.out_dtype == DType::kF32) return gelu ? gemm_tiles_typed<float, true>(g) : gemm_tiles_typed<float, false>(g);
  gelu ? gemm_tiles_typed<bf16, true>(g) : gemm_tiles_typed<bf16, false>(g);
}

}  // namespace
#endif

}  // namespace LLMCORE_ISA
}  // namespace llmcore
