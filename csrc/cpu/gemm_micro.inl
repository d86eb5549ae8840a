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

// c (R,kStrip) = a (R,k) · panel (k,kStrip of 64) [+ c]
template <int R>
static void micro(int64_t k, const float* a, int64_t lda, const float* panel, float* c, int64_t ldc, bool accumulate) {
  vf acc[R][kVectors];
  load_tile<R>(acc, c, ldc, accumulate);
  for (int64_t p = 0; p < k; ++p, panel += kPanelWidth) {
    vf b[kVectors];
    for (int j = 0; j < kVectors; ++j) b[j] = load(panel + j * kW);
    for (int r = 0; r < R; ++r) {
      const vf x = splat(a[r * lda + p]);
      for (int j = 0; j < kVectors; ++j) acc[r][j] = fma(x, b[j], acc[r][j]);
    }
  }
  store_tile<R>(acc, c, ldc);
}

// Two neighbouring bf16 as one number, for broadcasting; the second is 0 past the end of an odd row.
static inline uint32_t load_pair(const bf16* p, bool both) {
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
    const vu x = vu{} + load_pair(a + r * lda, both);
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

template <int R>
static void micro(int64_t k, const bf16* a, int64_t lda, const bf16* panel, float* c, int64_t ldc, bool accumulate) {
  vf acc[R][kVectors];
  load_tile<R>(acc, c, ldc, accumulate);
  int64_t p = 0;
  for (; p + 2 <= k; p += 2, panel += 2 * kPanelWidth) pair_step<R>(acc, a + p, lda, panel, true);
  if (p < k) pair_step<R>(acc, a + p, lda, panel, false);
  store_tile<R>(acc, c, ldc);
}

// Elements of a panel between strips: a strip starts at column s of the first k (fp32) or pair of k (bf16).
static inline int64_t strip_offset(const float*, int64_t s) { return s; }
static inline int64_t strip_offset(const bf16*, int64_t s) { return 2 * s; }

template <class T>
static void panel_product_registers(int64_t m, int64_t k, const T* a, int64_t lda, const T* panel, float* c,
                                    int64_t ldc, bool accumulate) {
  for (int64_t s = 0; s < kPanelWidth; s += kStrip) {
    const T* b = panel + strip_offset(panel, s);
    for (int64_t i = 0; i < m; i += kRows) {
      const T* x = a + i * lda;
      float* y = c + i * ldc + s;
      switch (m - i) {
        case 1:
          micro<1>(k, x, lda, b, y, ldc, accumulate);
          break;
        case 2:
          micro<2>(k, x, lda, b, y, ldc, accumulate);
          break;
        case 3:
          micro<3>(k, x, lda, b, y, ldc, accumulate);
          break;
        case 4:
          micro<4>(k, x, lda, b, y, ldc, accumulate);
          break;
        case 5:
          micro<5>(k, x, lda, b, y, ldc, accumulate);
          break;
        default:
          micro<kRows>(k, x, lda, b, y, ldc, accumulate);
      }
    }
  }
}

#if defined(LLMCORE_ISA_AMX)
// Tiles 0-3 hold 16 x 16 of c, 4-5 hold 16 x 32 of a (plain rows), 6-7 hold 16 pairs of k x 16 columns of a panel.
// One configuration serves everything but the last m % 16 rows.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16];
  explicit TileConfig(uint8_t r) : rows{r, r, r, r, r, r, 16, 16} {}
};
static inline void configure_tiles(int64_t rows) {
  const TileConfig config(static_cast<uint8_t>(rows));
  asm volatile("ldtilecfg %0" ::"m"(config));
}

struct MatrixUnit {
  MatrixUnit() { configure_tiles(16); }
  ~MatrixUnit() { asm volatile("tilerelease"); }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;
};

// Strides in bytes. The instructions are ordered among themselves; tile_fence() orders them after ordinary stores.
#define TILE_LOAD(tile, p, stride) asm volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(p), "r"(stride))
#define TILE_STORE(tile, p, stride) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(p), "r"(stride) : "memory")
#define TILE_ZERO(tile) asm volatile("tilezero %tmm" #tile)
#define TILE_DOT(c, a, b) asm volatile("tdpbf16ps %tmm" #b ", %tmm" #a ", %tmm" #c)
static inline void tile_fence() { asm volatile("" ::: "memory"); }

constexpr int64_t kPanelRowBytes = kPanelWidth * 2 * sizeof(bf16);  // one pair of k
constexpr int64_t kPanelStepElements = kPanelDepth * kPanelWidth;   // 32 k
constexpr int64_t kPanelTileElements = 16 * 2;                      // 16 columns

// The last k % 32 columns of `rows` rows, zero padded to a tile of 32.
static inline void copy_tail(bf16 (*tail)[kPanelDepth], int64_t rows, int64_t k, const bf16* a, int64_t lda) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int i = 0; i < kPanelDepth; ++i) tail[r][i] = bf16{0};
    for (int64_t i = 0; i < k; ++i) tail[r][i] = a[r * lda + i];
  }
}

// 32 rows x 32 columns
static inline void tiles_2x2(int64_t k, const bf16* a, int64_t lda, const bf16* panel, float* c, int64_t ldc,
                             bool accumulate) {
  const int64_t c_stride = ldc * static_cast<int64_t>(sizeof(float));
  alignas(64) bf16 tail[32][kPanelDepth];
  if (k % kPanelDepth) copy_tail(tail, 32, k % kPanelDepth, a + k / kPanelDepth * kPanelDepth, lda);
  tile_fence();
  if (accumulate) {
    TILE_LOAD(0, c, c_stride);
    TILE_LOAD(1, c + 16, c_stride);
    TILE_LOAD(2, c + 16 * ldc, c_stride);
    TILE_LOAD(3, c + 16 * ldc + 16, c_stride);
  } else {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
  }
  int64_t a_stride = lda * static_cast<int64_t>(sizeof(bf16));
  const bf16 *a0 = a, *a1 = a + 16 * lda;
  for (int64_t left = k; left > 0; left -= kPanelDepth) {
    if (left < kPanelDepth) {
      a0 = tail[0];
      a1 = tail[16];
      a_stride = sizeof tail[0];
    }
    TILE_LOAD(4, a0, a_stride);
    TILE_LOAD(6, panel, kPanelRowBytes);
    TILE_DOT(0, 4, 6);
    TILE_LOAD(5, a1, a_stride);
    TILE_DOT(2, 5, 6);
    TILE_LOAD(7, panel + kPanelTileElements, kPanelRowBytes);
    TILE_DOT(1, 4, 7);
    TILE_DOT(3, 5, 7);
    a0 += kPanelDepth;
    a1 += kPanelDepth;
    panel += kPanelStepElements;
  }
  TILE_STORE(0, c, c_stride);
  TILE_STORE(1, c + 16, c_stride);
  TILE_STORE(2, c + 16 * ldc, c_stride);
  TILE_STORE(3, c + 16 * ldc + 16, c_stride);
}

// As many rows as the configuration says (`rows`, up to 16) x 64 columns
static inline void tiles_1x4(int64_t rows, int64_t k, const bf16* a, int64_t lda, const bf16* panel, float* c,
                             int64_t ldc, bool accumulate) {
  const int64_t c_stride = ldc * static_cast<int64_t>(sizeof(float));
  alignas(64) bf16 tail[16][kPanelDepth];
  if (k % kPanelDepth) copy_tail(tail, rows, k % kPanelDepth, a + k / kPanelDepth * kPanelDepth, lda);
  tile_fence();
  if (accumulate) {
    TILE_LOAD(0, c, c_stride);
    TILE_LOAD(1, c + 16, c_stride);
    TILE_LOAD(2, c + 32, c_stride);
    TILE_LOAD(3, c + 48, c_stride);
  } else {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
  }
  int64_t a_stride = lda * static_cast<int64_t>(sizeof(bf16));
  for (int64_t left = k; left > 0; left -= kPanelDepth) {
    if (left < kPanelDepth) {
      a = tail[0];
      a_stride = sizeof tail[0];
    }
    TILE_LOAD(4, a, a_stride);
    TILE_LOAD(6, panel, kPanelRowBytes);
    TILE_DOT(0, 4, 6);
    TILE_LOAD(7, panel + kPanelTileElements, kPanelRowBytes);
    TILE_DOT(1, 4, 7);
    TILE_LOAD(6, panel + 2 * kPanelTileElements, kPanelRowBytes);
    TILE_DOT(2, 4, 6);
    TILE_LOAD(7, panel + 3 * kPanelTileElements, kPanelRowBytes);
    TILE_DOT(3, 4, 7);
    a += kPanelDepth;
    panel += kPanelStepElements;
  }
  TILE_STORE(0, c, c_stride);
  TILE_STORE(1, c + 16, c_stride);
  TILE_STORE(2, c + 32, c_stride);
  TILE_STORE(3, c + 48, c_stride);
}

static void panel_product_tiles(int64_t m, int64_t k, const bf16* a, int64_t lda, const bf16* panel, float* c,
                                int64_t ldc, bool accumulate) {
  const int64_t pairs = m / 32 * 32, whole = m / 16 * 16;
  for (int64_t s = 0; s < kPanelWidth; s += 32)
    for (int64_t i = 0; i < pairs; i += 32)
      tiles_2x2(k, a + i * lda, lda, panel + 2 * s, c + i * ldc + s, ldc, accumulate);
  if (pairs < whole) tiles_1x4(16, k, a + pairs * lda, lda, panel, c + pairs * ldc, ldc, accumulate);
  if (whole < m) {
    configure_tiles(m - whole);
    tiles_1x4(m - whole, k, a + whole * lda, lda, panel, c + whole * ldc, ldc, accumulate);
    configure_tiles(16);
  }
}
#else
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
  panel_product_registers(m, k, a, lda, panel, c, ldc, accumulate);
}
#if defined(LLMCORE_ISA_AMX)
template <>
void panel_product<bf16>(int64_t m, int64_t k, const bf16* a, int64_t lda, const bf16* panel, float* c, int64_t ldc,
                         bool accumulate) {
  panel_product_tiles(m, k, a, lda, panel, c, ldc, accumulate);
}
#endif
