// Micro-kernels: a few rows times one panel of 64 columns (kernels.h), in registers or AMX tiles. An element of the
// result is one chain of accumulations over k in an order that depends on k only: the same bits for any number of rows,
// any position among them, and however a caller cuts k at multiples of kPanelDepth (the chain continues from c).

static inline int64_t depth_of(const float*, int64_t k) { return k; }
static inline int64_t depth_of(const bf16*, int64_t k) { return round_up(k, kPanelDepth); }

// Registers hold kRows x kStrip columns; a panel is walked in strips.
#if LLMCORE_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kRows = 6, kVectors = 4;  // 24 accumulators of 32 registers
#else
constexpr int kRows = 6, kVectors = 2;  // 12 accumulators of 16 registers
#endif
constexpr int kStrip = kVectors * kW;

// Element (r,k) of a lies at r * row + k * depth; of bf16, pairs of k lie side by side.
struct RowLayout {
  int64_t row, depth;
};

template <int R>
static inline void load_tile(vf (&acc)[R][kVectors], const float* c, int64_t ldc, bool accumulate) {
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < kVectors; ++j) acc[r][j] = accumulate ? load(c + r * ldc + j * kW) : vf{};
}

template <int R>
static inline void store_tile(const vf (&acc)[R][kVectors], float* c, int64_t ldc) {
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < kVectors; ++j) store(c + r * ldc + j * kW, acc[r][j]);
}

// One k.
template <int R>
static inline void step(vf (&acc)[R][kVectors], const float* a, int64_t lda, const float* panel) {
  vf b[kVectors];
  for (int j = 0; j < kVectors; ++j) b[j] = load(panel + j * kW);
  for (int r = 0; r < R; ++r) {
    const vf x = splat(a[r * lda]);
    for (int j = 0; j < kVectors; ++j) acc[r][j] = fma(x, b[j], acc[r][j]);
  }
}

// c (R,kStrip) = a (R,k) · panel (k,kStrip of 64) [+ c]. `lines` lines at `ahead` are prefetched every 4 k.
template <int R>
static void micro(int64_t k, const float* a, RowLayout layout, const float* panel, float* c, int64_t ldc,
                  bool accumulate, const float* ahead, int lines) {
  vf acc[R][kVectors];
  load_tile<R>(acc, c, ldc, accumulate);
  int64_t p = 0;
  for (; p + 4 <= k; p += 4) {
    for (int i = 0; i < lines; ++i, ahead += 16) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, a += layout.depth, panel += kPanelWidth) step<R>(acc, a, layout.row, panel);
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

// One pair of k. Without dot products the even and the odd element are widened and multiplied one after the other.
template <int R>
static inline void pair_step(vf (&acc)[R][kVectors], const bf16* a, int64_t lda, const bf16* panel, bool both) {
  vu b[kVectors];
  for (int j = 0; j < kVectors; ++j) memcpy(&b[j], panel + 2 * j * kW, sizeof(vu));
  for (int r = 0; r < R; ++r) {
    const vu x = vu{} + broadcast_pair(a + r * lda, both);
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
template <int R>
static void micro(int64_t k, const bf16* a, RowLayout layout, const bf16* panel, float* c, int64_t ldc, bool accumulate,
                  const bf16* ahead, int lines) {
  vf acc[R][kVectors];
  load_tile<R>(acc, c, ldc, accumulate);
  int64_t p = 0;
  for (; p + 8 <= k; p += 8) {
    for (int i = 0; i < lines; ++i, ahead += 32) __builtin_prefetch(ahead, 0, 2);
    for (int i = 0; i < 8; i += 2, a += 2 * layout.depth, panel += 2 * kPanelWidth)
      pair_step<R>(acc, a, layout.row, panel, true);
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
template <class T>
static void rows_product(int64_t m, int64_t k, const T* a, RowLayout layout, const T* panel, float* c, int64_t ldc,
                         bool accumulate, const T* ahead, int lines) {
  using Micro = void (*)(int64_t, const T*, RowLayout, const T*, float*, int64_t, bool, const T*, int);
  static constexpr Micro kMicro[kRows] = {micro<1>, micro<2>, micro<3>, micro<4>, micro<5>, micro<6>};
  for (int64_t s = 0; s < kPanelWidth; s += kStrip)
    kMicro[m - 1](k, a, layout, panel + strip_offset(panel, s), c + s, ldc, accumulate, ahead, s == 0 ? lines : 0);
}

#if !defined(LLMCORE_ISA_AMX)
struct MatrixUnit {
  MatrixUnit() {}
  ~MatrixUnit() {}
};
#endif

// c (m,64) float, row stride ldc: c = a (m,k) · panel (k,64)   [+ c when accumulate]. a row-major, row stride lda, read
// up to its k-th column only; panel in the layout of kernels.h. Call it where a MatrixUnit is alive.
template <class T>
static void panel_product(int64_t m, int64_t k, const T* a, int64_t lda, const T* panel, float* c, int64_t ldc,
                          bool accumulate) {
  for (int64_t i = 0; i < m; i += kRows)
    rows_product(m - i < kRows ? m - i : kRows, k, a + i * lda, {lda, 1}, panel, c + i * ldc, ldc, accumulate, panel,
                 0);
}
