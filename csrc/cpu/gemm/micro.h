// Micro-kernels: a few rows times one panel of 64 columns (core/kernels/gemm.h), in registers or AMX tiles. An element
// of the result is one chain of accumulations over k in an order that depends on k only: it has the same bits for any
// number of rows, any position among them, and any way to cut k at multiples of kPanelDepth (the chain continues from
// c).
#pragma once
#include "cpu/simd.h"

namespace llmcore {
namespace LLMCORE_ISA {

static inline int64_t depth_of(const float*, int64_t k) { return k; }
static inline int64_t depth_of(const bf16*, int64_t k) { return round_up(k, kPanelDepth); }

// Registers hold kRows x kStrip columns; a panel is walked in strips.
#if LLMCORE_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kRows = 6, kVectors = 4;  // 24 accumulators of 32 registers
#else
constexpr int kRows = 6, kVectors = 2;  // 12 accumulators of 16 registers
#endif
constexpr int kStrip = kVectors * kW;

// The layout of the rows of a: element (r,k) at r * row + k * depth; of bf16, pairs of k lie side by side.
struct RowMajor {
  int64_t row;
  static constexpr int64_t depth = 1;
};
template <class T>
struct Grouped {  // kRows rows in words of 32 bits, [k][kRows]
  static constexpr int64_t row = 4 / sizeof(T), depth = kRows;
};

// Unrolled explicitly, and the loops over k below test at their end: otherwise GCC spills every accumulator to the
// stack.
template <int R, bool kAccumulate>
static inline void load_tile(vf (&acc)[R][kVectors], const float* c, int64_t ldc) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) acc[r][j] = kAccumulate ? load(c + r * ldc + j * kW) : vf{};
}

template <int R>
static inline void store_tile(const vf (&acc)[R][kVectors], float* c, int64_t ldc) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) store(c + r * ldc + j * kW, acc[r][j]);
}

// Accumulates one k.
template <int R>
static inline void step(vf (&acc)[R][kVectors], const float* a, int64_t lda, const float* panel) {
  vf b[kVectors];
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) b[j] = load(panel + j * kW);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const vf x = splat(a[r * lda]);
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) acc[r][j] = fma(x, b[j], acc[r][j]);
  }
}

// c (R,kStrip) = a (R,k) · panel (k,kStrip of 64) [+ c]. `lines` lines at `ahead` are prefetched every 4 k.
template <int R, bool kAccumulate, class Layout>
static void micro(int64_t k, const float* a, Layout layout, const float* panel, float* c, int64_t ldc,
                  const float* ahead, int lines) {
  vf acc[R][kVectors];
  load_tile<R, kAccumulate>(acc, c, ldc);
  int64_t p = 0;
  if (k >= 4) {
    do {
      for (int i = 0; i < lines; ++i, ahead += 16) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i, a += layout.depth, panel += kPanelWidth) step<R>(acc, a, layout.row, panel);
      p += 4;
    } while (p + 4 <= k);
  }
  for (; p < k; ++p, a += layout.depth, panel += kPanelWidth) step<R>(acc, a, layout.row, panel);
  store_tile<R>(acc, c, ldc);
}

// Two neighbouring bf16 as one number, for broadcasting; the second is 0 past the end of an odd row.
static inline uint32_t broadcast_pair(const bf16* p, bool both) {
  uint32_t pair = p[0].bits;
  if (both) memcpy(&pair, p, sizeof pair);
  return pair;
}

// Accumulates one pair of k. Without dot products, the even and the odd element are widened and multiplied in turn.
template <int R>
static inline void pair_step(vf (&acc)[R][kVectors], const bf16* a, int64_t lda, const bf16* panel, bool both) {
  vu b[kVectors];
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) memcpy(&b[j], panel + 2 * j * kW, sizeof(vu));
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const vu x = vu{} + broadcast_pair(a + r * lda, both);
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
#if defined(LLMCORE_BF16_DOT)
      acc[r][j] = (vf)_mm512_dpbf16_ps((__m512)acc[r][j], (__m512bh)(__m512i)x, (__m512bh)(__m512i)b[j]);
#else
      acc[r][j] = fma(as_float(x << 16), as_float(b[j] << 16), acc[r][j]);
      acc[r][j] = fma(as_float(x & 0xffff0000u), as_float(b[j] & 0xffff0000u), acc[r][j]);
#endif
    }
  }
}

// `lines` lines at `ahead` are prefetched every 8 k.
template <int R, bool kAccumulate, class Layout>
static void micro(int64_t k, const bf16* a, Layout layout, const bf16* panel, float* c, int64_t ldc, const bf16* ahead,
                  int lines) {
  vf acc[R][kVectors];
  load_tile<R, kAccumulate>(acc, c, ldc);
  int64_t p = 0;
  if (k >= 8) {
    do {
      for (int i = 0; i < lines; ++i, ahead += 32) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 4
      for (int i = 0; i < 8; i += 2, a += 2 * layout.depth, panel += 2 * kPanelWidth)
        pair_step<R>(acc, a, layout.row, panel, true);
      p += 8;
    } while (p + 8 <= k);
  }
  for (; p + 2 <= k; p += 2, a += 2 * layout.depth, panel += 2 * kPanelWidth)
    pair_step<R>(acc, a, layout.row, panel, true);
  if (p < k) pair_step<R>(acc, a, layout.row, panel, false);
  store_tile<R>(acc, c, ldc);
}

// Elements of a panel between strips: a strip starts at column s of the first k (fp32) or pair of k (bf16).
static inline int64_t strip_offset(const float*, int64_t s) { return s; }
static inline int64_t strip_offset(const bf16*, int64_t s) { return 2 * s; }

// c (m,64) = a (m,k) · panel (k,64) [+ c] for m <= kRows. Prefetches lines/16 of a panel of this depth at `ahead`.
template <class T, class Layout>
static void rows_product(int64_t m, int64_t k, const T* a, Layout layout, const T* panel, float* c, int64_t ldc,
                         bool accumulate, const T* ahead, int lines) {
  using Micro = void (*)(int64_t, const T*, Layout, const T*, float*, int64_t, const T*, int);
  static constexpr Micro kMicro[2][kRows] = {
      {micro<1, false, Layout>, micro<2, false, Layout>, micro<3, false, Layout>, micro<4, false, Layout>,
       micro<5, false, Layout>, micro<6, false, Layout>},
      {micro<1, true, Layout>, micro<2, true, Layout>, micro<3, true, Layout>, micro<4, true, Layout>,
       micro<5, true, Layout>, micro<6, true, Layout>}};
  for (int64_t s = 0; s < kPanelWidth; s += kStrip)
    kMicro[accumulate][m - 1](k, a, layout, panel + strip_offset(panel, s), c + s, ldc, ahead, s == 0 ? lines : 0);
}

#if !defined(LLMCORE_ISA_AMX)
struct MatrixUnit {
  MatrixUnit() {}
  ~MatrixUnit() {}
};
#endif

// c (m,64) float, row stride ldc: c = a (m,k) · panel (k,64)   [+ c when accumulate]. a row-major, row stride lda, read
// up to its k-th column only; panel in the layout of core/kernels/gemm.h. Call it only while a MatrixUnit is alive.
template <class T>
static void panel_product(int64_t m, int64_t k, const T* a, int64_t lda, const T* panel, float* c, int64_t ldc,
                          bool accumulate) {
  for (int64_t i = 0; i < m; i += kRows)
    rows_product(m - i < kRows ? m - i : kRows, k, a + i * lda, RowMajor{lda}, panel, c + i * ldc, ldc, accumulate,
                 panel, 0);
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
