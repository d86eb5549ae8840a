// bf16 micro-kernels on AMX tiles. Tiles 0-3 hold 16 x 16 of c, 4-5 hold 16 x 32 of a (plain rows), 6-7 hold 16 pairs
// of k x 16 columns of a panel. Every row count goes through tiles: their rounding differs from that of vdpbf16ps.
#pragma once
#include "cpu/gemm/micro.h"

namespace llmcore {
namespace LLMCORE_ISA {

#if defined(LLMCORE_ISA_AMX)

// One configuration serves all but the last m % 16 rows.
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
constexpr int64_t kPanelStep = kPanelDepth * kPanelWidth;           // elements of 32 k
constexpr int64_t kPanelTile = 16 * 2;                              // elements between tiles of 16 columns

// The last k % 32 columns of `rows` rows, zero padded to 32.
static void copy_tail(bf16 (*tail)[kPanelDepth], int64_t rows, int64_t k, const bf16* a, int64_t lda) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int i = 0; i < kPanelDepth; ++i) tail[r][i] = bf16{0};
    memcpy(tail[r], a + r * lda, static_cast<size_t>(k) * sizeof(bf16));
  }
}

static inline void step_2x2(const bf16* a0, const bf16* a1, int64_t a_stride, const bf16* panel) {
  TILE_LOAD(4, a0, a_stride);
  TILE_LOAD(6, panel, kPanelRowBytes);
  TILE_DOT(0, 4, 6);
  TILE_LOAD(7, panel + kPanelTile, kPanelRowBytes);
  TILE_DOT(1, 4, 7);
  TILE_LOAD(5, a1, a_stride);
  TILE_DOT(2, 5, 6);
  TILE_DOT(3, 5, 7);
}

// 32 rows x 32 columns of c. The tiles' contents from the previous block are stored to `before` (null for none) only
// while this block loads, and this block's result stays in the tiles: loads that come right after a tile store wait for
// it.
static void tiles_2x2(int64_t k, const bf16* a, int64_t lda, const bf16* panel, float* c, float* before, int64_t ldc,
                      bool accumulate) {
  const int64_t c_stride = ldc * static_cast<int64_t>(sizeof(float));
  int64_t a_stride = lda * static_cast<int64_t>(sizeof(bf16)), second = 16 * lda;
  const int64_t k_tail = k % kPanelDepth;
  const bf16* end = a + (k - k_tail);
  alignas(64) bf16 tail[32][kPanelDepth];
  if (k_tail) copy_tail(tail, 32, k_tail, end, lda);
  if (k < kPanelDepth) {
    a = tail[0], second = 16 * kPanelDepth, a_stride = sizeof tail[0];
    end = a + kPanelDepth;
  }
  tile_fence();
#define TURN(tile, at)                                   \
  if (before) TILE_STORE(tile, before + (at), c_stride); \
  if (accumulate)                                        \
    TILE_LOAD(tile, c + (at), c_stride);                 \
  else                                                   \
    TILE_ZERO(tile);
  TILE_LOAD(4, a, a_stride);
  TILE_LOAD(6, panel, kPanelRowBytes);
  TURN(0, 0)
  TILE_DOT(0, 4, 6);
  TILE_LOAD(7, panel + kPanelTile, kPanelRowBytes);
  TURN(1, 16)
  TILE_DOT(1, 4, 7);
  TILE_LOAD(5, a + second, a_stride);
  TURN(2, 16 * ldc)
  TILE_DOT(2, 5, 6);
  TURN(3, 16 * ldc + 16)
  TILE_DOT(3, 5, 7);
#undef TURN
  for (a += kPanelDepth, panel += kPanelStep; a != end; a += kPanelDepth, panel += kPanelStep)
    step_2x2(a, a + second, a_stride, panel);
  if (k_tail && k > kPanelDepth) step_2x2(tail[0], tail[16], sizeof tail[0], panel);
}

static void store_2x2(float* c, int64_t ldc) {
  const int64_t c_stride = ldc * static_cast<int64_t>(sizeof(float));
  TILE_STORE(0, c, c_stride);
  TILE_STORE(1, c + 16, c_stride);
  TILE_STORE(2, c + 16 * ldc, c_stride);
  TILE_STORE(3, c + 16 * ldc + 16, c_stride);
}

#define TILES_FOR_EACH_C(X, ldc) X(0, 0) X(1, 16) X(2, 16 * ldc) X(3, 16 * ldc + 16) X(4, 32 * ldc) X(5, 32 * ldc + 16)

// Six products need seven loads, five of them of new data: the least traffic possible with eight tiles.
static inline void step_3x2(const bf16* a, int64_t a_tile, int64_t a_stride, const bf16* panel) {
  TILE_LOAD(6, a, a_stride);
  TILE_LOAD(7, panel, kPanelRowBytes);
  TILE_DOT(0, 6, 7);
  TILE_LOAD(7, panel + kPanelTile, kPanelRowBytes);
  TILE_DOT(1, 6, 7);
  TILE_LOAD(6, a + a_tile, a_stride);
  TILE_DOT(3, 6, 7);
  TILE_LOAD(7, panel, kPanelRowBytes);
  TILE_DOT(2, 6, 7);
  TILE_LOAD(6, a + 2 * a_tile, a_stride);
  TILE_DOT(4, 6, 7);
  TILE_LOAD(7, panel + kPanelTile, kPanelRowBytes);
  TILE_DOT(5, 6, 7);
}

// 48 rows x 32 columns; tail holds the last k % 32 columns of a. side() runs after every step of 32 k: work for the
// vector units while the tiles multiply.
template <class Side>
static inline void tiles_3x2(int64_t k, const bf16* a, int64_t lda, const bf16 (*tail)[kPanelDepth], const bf16* panel,
                             float* c, int64_t ldc, bool accumulate, Side&& side) {
  const int64_t c_stride = ldc * static_cast<int64_t>(sizeof(float)),
                a_stride = lda * static_cast<int64_t>(sizeof(bf16));
  tile_fence();
#define X(tile, at) TILE_LOAD(tile, c + at, c_stride);
#define Z(tile, at) TILE_ZERO(tile);
  if (accumulate) {
    TILES_FOR_EACH_C(X, ldc)
  } else {
    TILES_FOR_EACH_C(Z, ldc)
  }
#undef X
#undef Z
  // A tile store after more than about 1500 cycles without one stalls for as long as ten steps (measured on Granite
  // Rapids; the cause is not documented). An occasional store that nobody reads avoids it.
  constexpr int64_t kStepsBetweenStores = 12;
  alignas(64) bf16 unused[16 * kPanelDepth];
  int64_t steps = k / kPanelDepth;
  while (steps > 0) {
    const int64_t some = steps < kStepsBetweenStores ? steps : kStepsBetweenStores;
    for (int64_t i = 0; i < some; ++i, a += kPanelDepth, panel += kPanelStep) {
      step_3x2(a, 16 * lda, a_stride, panel);
      side();
    }
    steps -= some;
    if (steps > 0) TILE_STORE(6, unused, kPanelRowBytes / 4);
  }
  if (k % kPanelDepth) {
    step_3x2(tail[0], 16 * kPanelDepth, sizeof tail[0], panel);
    side();
  }
#define X(tile, at) TILE_STORE(tile, c + at, c_stride);
  TILES_FOR_EACH_C(X, ldc)
#undef X
}

static inline void step_1x4(const bf16* a, int64_t a_stride, const bf16* panel) {
  TILE_LOAD(4, a, a_stride);
  TILE_LOAD(6, panel, kPanelRowBytes);
  TILE_DOT(0, 4, 6);
  TILE_LOAD(7, panel + kPanelTile, kPanelRowBytes);
  TILE_DOT(1, 4, 7);
  TILE_LOAD(6, panel + 2 * kPanelTile, kPanelRowBytes);
  TILE_DOT(2, 4, 6);
  TILE_LOAD(7, panel + 3 * kPanelTile, kPanelRowBytes);
  TILE_DOT(3, 4, 7);
}

// Computes as many rows as the tiles are configured for (`rows`, up to 16) x 64 columns.
static void tiles_1x4(int64_t rows, int64_t k, const bf16* a, int64_t lda, const bf16* panel, float* c, int64_t ldc,
                      bool accumulate) {
  const int64_t c_stride = ldc * static_cast<int64_t>(sizeof(float)),
                a_stride = lda * static_cast<int64_t>(sizeof(bf16));
  const int64_t k_tail = k % kPanelDepth;
  alignas(64) bf16 tail[16][kPanelDepth];
  if (k_tail) copy_tail(tail, rows, k_tail, a + k - k_tail, lda);
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
  constexpr int64_t kAhead = 4 * kPanelStep;  // few rows: bound by how fast the panel arrives
  for (const bf16* end = a + (k - k_tail); a != end; a += kPanelDepth, panel += kPanelStep) {
    for (int64_t i = 0; i < kPanelStep; i += 32) __builtin_prefetch(panel + kAhead + i, 0, 3);
    step_1x4(a, a_stride, panel);
  }
  if (k_tail) step_1x4(tail[0], sizeof tail[0], panel);
  TILE_STORE(0, c, c_stride);
  TILE_STORE(1, c + 16, c_stride);
  TILE_STORE(2, c + 32, c_stride);
  TILE_STORE(3, c + 48, c_stride);
}

// Computes the last m % 32 rows of a block, from row `begin` on.
static void tiles_rest(int64_t begin, int64_t m, int64_t k, const bf16* a, int64_t lda, const bf16* panel, float* c,
                       int64_t ldc, bool accumulate) {
  if (m - begin >= 16) {
    tiles_1x4(16, k, a + begin * lda, lda, panel, c + begin * ldc, ldc, accumulate);
    begin += 16;
  }
  if (begin == m) return;
  configure_tiles(m - begin);
  tiles_1x4(m - begin, k, a + begin * lda, lda, panel, c + begin * ldc, ldc, accumulate);
  configure_tiles(16);
}

template <>
[[maybe_unused]] void panel_product<bf16>(int64_t m, int64_t k, const bf16* a, int64_t lda, const bf16* panel, float* c,
                                          int64_t ldc, bool accumulate) {
  const int64_t whole = m / 32 * 32;
  float* before = nullptr;
  for (int64_t s = 0; s < kPanelWidth; s += 32)
    for (int64_t i = 0; i < whole; i += 32) {
      float* block = c + i * ldc + s;
      tiles_2x2(k, a + i * lda, lda, panel + 2 * s, block, before, ldc, accumulate);
      before = block;
    }
  if (before) store_2x2(before, ldc);
  tiles_rest(whole, m, k, a, lda, panel, c, ldc, accumulate);
}

#endif

}  // namespace LLMCORE_ISA
}  // namespace llmcore
