// Matrix multiplication on packed panels: the driver for kernels that multiply in registers (tiles.h: AMX). A piece of
// work is a block of rows times a group of panels. Rows of a stay in the L2 cache while panels stream past; the
// epilogue runs while a few rows of the product are in L1. How the work is cut never affects the bits of the result.
#include "cpu/families.h"
#include "cpu/gemm/tiles.h"

namespace llmcore {
namespace LLMCORE_ISA {

// Finishes m rows of the product with one panel. GELU takes the value before pre_activation's rounding to out_dtype.
template <class O>
static void epilogue(const GemmArgs& g, int64_t row, int64_t m, int64_t column, const float* c) {
  O *out = static_cast<O*>(g.out), *pre = static_cast<O*>(g.pre_activation);
  const O* residual = g.accumulate ? out : static_cast<const O*>(g.residual);
  const int64_t columns = min_of(g.N - column, kPanelWidth);
  for (int64_t i = 0; i < m; ++i, c += kPanelWidth) {
    const int64_t at = (row + i) * g.ldo + column;
    for_lanes(columns, [&](int64_t j, auto lanes, int) {
      vf v = load(c + j);
      if (g.bias) v = v + load_n(g.bias + column + j, lanes);
      if (pre) store_n(pre + at + j, v, lanes);
      if (g.act == Activation::kGelu) v = gelu(v);
      if (residual) v = v + load_n(residual + at + j, lanes);
      store_n(out + at + j, v, lanes);
    });
  }
}

// The same for paired panels and 32 columns of silu(gate) * up, as in elementwise.cpp but before rounding.
template <class O>
static void swiglu_epilogue(const GemmArgs& g, int64_t row, int64_t m, int64_t column, const float* c) {
  const int64_t F = g.N / 2, columns = min_of(F - column, kPairedWidth);
  for (int64_t i = row; i < row + m; ++i, c += kPanelWidth) {
    O* out = static_cast<O*>(g.out) + i * g.ldo + column;
    O* pre = g.pre_activation ? static_cast<O*>(g.pre_activation) + i * g.N + column : nullptr;
    const O* residual = g.residual ? static_cast<const O*>(g.residual) + i * g.ldo + column : nullptr;
    for_lanes(columns, [&](int64_t j, auto lanes, int) {
      vf gate = load(c + j), up = load(c + kPairedWidth + j);
      if (g.bias) {
        gate = gate + load_n(g.bias + column + j, lanes);
        up = up + load_n(g.bias + F + column + j, lanes);
      }
      if (pre) {
        store_n(pre + j, gate, lanes);
        store_n(pre + F + j, up, lanes);
      }
      vf v = gate * sigmoid(gate) * up;
      if (residual) v = v + load_n(residual + j, lanes);
      store_n(out + j, v, lanes);
    });
  }
}

constexpr int64_t kBlockRows = 96;     // rows in a piece: 16 times kRows, so that 16 prefetches of 1/16 make a panel
constexpr int64_t kBlockPanels = 6;    // panels in a piece
constexpr int64_t kTurnedPanels = 12;  // the same if rows of a are rearranged for it
constexpr int64_t kBlockBytes = 4096;  // of a row of a in one pass; longer K is cut
constexpr int64_t kFewRows = 24;       // products of so few rows are bound by how fast panels arrive:
constexpr int64_t kFewBytes = 1024;    // they read a panel in short passes and fetch one while they multiply by another

// Returns the word that a kernel broadcasts for one k (float) or a pair of k (bf16; the second is 0 past the end).
static inline void words_of_k(const float* src, int64_t, bool, int64_t rows, uint32_t* words) {
  memcpy(words, src, sizeof(float) * static_cast<size_t>(rows));
}
static inline void words_of_k(const bf16* src, int64_t ld, bool both, int64_t rows, uint32_t* words) {
  for (int64_t c = 0; c < rows; c += kW) {
    const int n = lanes_left(rows - c);
    store_pairs(reinterpret_cast<bf16*>(words + c), half_bits(src + c, n), both ? half_bits(src + ld + c, n) : vu{});
  }
}

// Writes groups of `step` rows of src (k,rows)^T, each in kGroupBytes: words [k][kRows], as rows_product reads them.
// Unlike a transpose, this writes whole lines in order.
constexpr int64_t kGroupBytes = kBlockBytes * kRows + 64;  // 64: keeps the groups out of a single set of the L1 cache
template <class T>
static void group_rows(const T* src, int64_t ld, int64_t k, int64_t rows, int64_t step, T* dst) {
  constexpr int64_t kPerWord = 4 / sizeof(T), kTake = kWordGroup * kPerWord;
  uint32_t words[kWordGroup][kBlockRows + kRows] = {};
  for (int64_t i = 0; i < k; i += kTake) {
    const int64_t count = min_of(k - i, kTake);
    for (int64_t j = 0; j < count; j += kPerWord) {
      const T* row = src + (i + j) * ld;
      for (int64_t r = kTake; r < kTake + kPerWord; ++r)
        for (int64_t c = 0; c < rows; c += 64 / static_cast<int64_t>(sizeof(T)))
          __builtin_prefetch(row + r * ld + c, 0, 3);
      words_of_k(row, ld, j + kPerWord <= count, rows, words[j / kPerWord]);
    }
    char* group = reinterpret_cast<char*>(dst) + i / kPerWord * kRows * 4;
    for (int64_t r = 0; r < rows; r += step, group += kGroupBytes)
      for (int64_t j = 0; j < kWordGroup; ++j) memcpy(group + j * kRows * 4, words[j] + r, kRows * 4);
  }
}

template <class T, class O>
static void gemm_block(const GemmArgs& g, int64_t row, int64_t rows, int64_t first, int64_t panels) {
  constexpr int64_t kDepth = kBlockBytes / sizeof(T), kGroup = kGroupBytes / sizeof(T);
  alignas(64) float sums[kBlockPanels * kBlockRows * kPanelWidth];
  alignas(64) T grouped[kBlockRows / kRows * kGroup];
  const int64_t depth = depth_of(static_cast<const T*>(nullptr), g.K);
  const int64_t products = ceil_div(rows, kRows), step = ceil_div(rows, products);
  const bool few = products > 1 && g.M <= kFewRows && !g.a_transposed;
  const int64_t pass = few ? kFewBytes / static_cast<int64_t>(sizeof(T)) : kDepth;
  const int lines = static_cast<int>(few ? ceil_div(16, products) : 1);
  const bool cut = g.K > pass, paired = g.act == Activation::kSwiGLU;
  const int64_t width = paired ? kPairedWidth : kPanelWidth;  // columns of out from a panel
  for (int64_t k0 = 0; k0 == 0 || k0 < g.K; k0 += pass) {
    const int64_t k = min_of(g.K - k0, pass);
    const bool last = k0 + k == g.K;
    const T* a = static_cast<const T*>(g.a) + row * g.lda + k0;
    int64_t next_rows = step * g.lda;
    if (g.a_transposed) {
      group_rows(static_cast<const T*>(g.a) + k0 * g.lda + row, g.lda, k, rows, step, grouped);
      a = grouped;
      next_rows = kGroup;
    }
    const T* b = static_cast<const T*>(g.panels) + first * kPanelWidth * depth + k0 * kPanelWidth;
    for (int64_t p = 0; p < panels; ++p, b += kPanelWidth * depth) {
      const int64_t column = (first + p) * width, part = k * kPanelWidth / 16 * lines;
      const T* ahead = few ? b + k * kPanelWidth : p + 1 < panels ? b + kPanelWidth * depth : b;
      for (int64_t i = 0; i < rows; i += step, ahead += part) {
        const int64_t m = min_of(rows - i, step);
        float* c = sums + (cut ? (p * kBlockRows + i) * kPanelWidth : 0);
        if (last) {
          // Stores that miss the L2 cache would hold up the loads of the next rows.
          const auto fetch = [&](const void* base, int64_t ld, int64_t at) {
            const O* line = static_cast<const O*>(base) + (row + i) * ld + at;
            for (int64_t r = 0; r < m; ++r)
              for (int64_t j = 0; j < width; j += 64 / static_cast<int64_t>(sizeof(O)))
                __builtin_prefetch(line + r * ld + j, 0, 2);
          };
          fetch(g.out, g.ldo, column);
          if (paired && g.pre_activation)
            for (int64_t at = column; at < g.N; at += g.N / 2) fetch(g.pre_activation, g.N, at);
        }
        const T* rows_of_a = a + i / step * next_rows;
        if (g.a_transposed)
          rows_product(m, k, rows_of_a, Grouped<T>{}, b, c, kPanelWidth, k0 > 0, ahead, lines);
        else
          rows_product(m, k, rows_of_a, RowMajor{g.lda}, b, c, kPanelWidth, k0 > 0, ahead, lines);
        if (!last) continue;
        paired ? swiglu_epilogue<O>(g, row + i, m, column, c) : epilogue<O>(g, row + i, m, column, c);
      }
    }
  }
}

template <class T, class O>
static void gemm_typed(const GemmArgs& g) {
  const int64_t panels = ceil_div(g.N, kPanelWidth), row_blocks = ceil_div(g.M, kBlockRows);
  int64_t group = kBlockPanels;
  if (g.a_transposed && g.K <= kBlockBytes / static_cast<int64_t>(sizeof(T))) group = kTurnedPanels;
  if (g.M <= kFewRows && !g.a_transposed) group = 1;  // this shares the reading evenly
  while (group > 1 && row_blocks * ceil_div(panels, group) < 4 * num_threads()) --group;
  // Neighbouring pieces share panels, so each panel is read from memory once.
  parallel(row_blocks * ceil_div(panels, group), [&](int64_t piece) {
    const int64_t row = piece % row_blocks * kBlockRows, first = piece / row_blocks * group;
    gemm_block<T, O>(g, row, min_of(g.M - row, kBlockRows), first, min_of(panels - first, group));
  });
}

static void gemm(const GemmArgs& g) {
  if (g.M == 0 || g.N == 0) return;
#if defined(LLMCORE_ISA_AMX)
  if (g.dtype == DType::kBF16 && g.K > 0) return gemm_tiles(g);
#endif
  if (g.dtype == DType::kF32) return gemm_typed<float, float>(g);
  if (g.out_dtype == DType::kF32) return gemm_typed<bf16, float>(g);
  gemm_typed<bf16, bf16>(g);
}

template <class S, class T>
static void pack_typed(const PackArgs& g) {
  const int64_t depth = panel_depth(g.K, g.dtype), pieces = ceil_div(depth, kPackDepth);
  parallel(ceil_div(g.N, kPanelWidth) * pieces, [&](int64_t piece) {
    const int64_t panel = piece / pieces, begin = piece % pieces * kPackDepth;
    const int64_t end = begin + kPackDepth < depth ? begin + kPackDepth : depth;
    T *panels = static_cast<T*>(g.panels), *dst = panels + panel * kPanelWidth * depth;
    if (g.paired)
      for (int second = 0; second < 2; ++second)
        pack_half<S>(g, panel * kPairedWidth + second * (g.N / 2), second, kPairedWidth, begin, end, panels);
    else if (g.transposed)
      pack_rows<S>(g, panel * kPanelWidth, g.N, kPanelWidth, begin, end, dst);
    else
      pack_columns<S>(g, panel * kPanelWidth, begin, end, dst);
  });
}

static void pack(const PackArgs& g) {
  const bool from_f32 = g.src_dtype == DType::kF32;
  if (g.dtype == DType::kF32) return from_f32 ? pack_typed<float, float>(g) : pack_typed<bf16, float>(g);
  from_f32 ? pack_typed<float, bf16>(g) : pack_typed<bf16, bf16>(g);
}

void register_gemm(KernelTable& t) {
  t.pack = pack;
  t.gemm = gemm;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
