// The building blocks of attention: tiles of 64 queries by 64 keys, copied out of the caller's strided tensors into
// zero-padded scratch and rearranged there for panel_product. Key tiles start at key 0 and are taken in order, so the
// arithmetic of a query is the same however many queries came with it: decoding one token reproduces the bits of the
// whole prompt.
#pragma once
#include "cpu/gemm/pack.h"
#include "cpu/gemm/tile_micro.h"

namespace llmcore {
namespace LLMCORE_ISA {

constexpr int64_t kTile = kPanelWidth;
constexpr int kTileVectors = static_cast<int>(kTile) / kW;
constexpr float kLog2e = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

static inline int64_t tiles_of(int64_t n) { return ceil_div(n, kTile); }

// Columns of a staged tile: D padded with zeros to a multiple of every vector width and AMX tile depth.
static inline int64_t staged_columns(int64_t D) { return round_up(D, kPanelDepth); }

// The rows and depth to request from panel_product: AMX tiles are whole, and the padding is zero.
#if defined(LLMCORE_ISA_AMX)
static inline int64_t product_rows(const bf16*, int64_t rows) { return round_up(rows, 16); }
static inline int64_t product_depth(const bf16*, int64_t depth) { return round_up(depth, kPanelDepth); }
#else
static inline int64_t product_rows(const bf16*, int64_t rows) { return rows; }
static inline int64_t product_depth(const bf16*, int64_t depth) { return depth; }
#endif
static inline int64_t product_rows(const float*, int64_t rows) { return rows; }
static inline int64_t product_depth(const float*, int64_t depth) { return depth; }

// Queries taken at a time in the forward pass: few enough that one product's result is still in L1 for the next; whole
// AMX tiles, or a multiple of the rows that panel_product takes at a time.
#if defined(LLMCORE_ISA_AMX)
static constexpr int64_t query_rows(const bf16*) { return 32; }
#else
static constexpr int64_t query_rows(const bf16*) { return 30; }
#endif
static constexpr int64_t query_rows(const float*) { return 30; }

// Returns the first key seen by query t of batch row b, which is at `position`.
static inline int64_t first_key(const AttentionArgs& a, int64_t b, int64_t t, int64_t position) {
  const int64_t start = a.starts ? a.starts[b * a.T + t] : 0;
  return a.causal ? max_of(start, position - a.window + 1) : 0;
}

// Carves arrays out of a workspace; without a base, only measures.
struct Arena {
  char* base;
  int64_t used;
  template <class X>
  X* take(int64_t n) {
    X* p = base ? reinterpret_cast<X*>(base + used) : nullptr;
    used += round_up(n * static_cast<int64_t>(sizeof(X)), 64);
    return p;
  }
};

// Runs body(worker, piece) for every piece. No two running pieces share a worker number, so it can select scratch
// memory that stays in cache from piece to piece; a piece's result does not depend on it.
template <class F>
static inline void parallel_workers(int64_t pieces, int64_t workers, const F& body) {
  int64_t next = 0;
  parallel(workers, [&](int64_t worker) {
    MatrixUnit unit;
    for (int64_t i; (i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < pieces;) body(worker, i);
  });
}

// 2^x for x <= 127, and 0 far below: 2^floor(x) times a polynomial for the rest in [0, 1], minimax with 2^0 = 1
// exactly. Its relative error is 1.4e-7 (degree 5), or 2.9e-6 (degree 4) if the result is rounded to bf16.
template <class T>
static inline vf exp2(vf x) {
#if LLMCORE_VECTOR_BYTES == 64
  const vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF);  // x - floor(x); 0 at -inf
#else
  const vf magic = splat(12582912.0f + 127.0f);  // 1.5 * 2^23: rounds to an integer, here with the exponent's bias
  const vf shifted = (x - 0.5f) + magic;
  const vf f = x - (shifted - magic);
#endif
  vf p;
  if constexpr (sizeof(T) == 2) {
    p = fma(splat(1.34266838e-2f), f, splat(5.22424728e-2f));
    p = fma(p, f, splat(2.41280198e-1f));
    p = fma(p, f, splat(6.93044841e-1f));
  } else {
    p = fma(splat(1.86713005e-3f), f, splat(9.01703071e-3f));
    p = fma(p, f, splat(5.57999127e-2f));
    p = fma(p, f, splat(2.40164444e-1f));
    p = fma(p, f, splat(6.93151295e-1f));
  }
  p = fma(p, f, splat(1.0f));
#if LLMCORE_VECTOR_BYTES == 64
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);  // p * 2^floor(x)
#else
  return select(x < -125.0f, vf{}, p * as_float(as_bits(shifted) << 23));
#endif
}

static inline bool any_greater(vf a, vf b) {
#if LLMCORE_VECTOR_BYTES == 64
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#elif LLMCORE_VECTOR_BYTES == 32
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)) != 0;
#else
  const vi greater = a > b;
  int32_t any = 0;
  for (int i = 0; i < kW; ++i) any |= greater[i];
  return any != 0;
#endif
}

// Prefetches rows that are about to be read or written. They are far apart, so the hardware cannot predict them, and
// each would wait for memory after the previous one.
template <bool kWrite, class T>
static inline void prefetch_rows(const T* rows, int64_t count, int64_t stride, int64_t columns) {
  for (int64_t r = 0; r < count; ++r) {
    const char* p = reinterpret_cast<const char*>(rows + r * stride);
    for (int64_t i = 0; i < columns * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(p + i, kWrite, 2);
  }
}

// Reads rows into the cache in memory order: the processor's prefetchers then run ahead, which they do not when heads
// of neighbouring rows are read separately. (A burst of prefetch instructions is dropped if memory cannot keep up.)
template <class T>
static inline void touch_rows(const T* rows, int64_t count, int64_t stride, int64_t columns) {
  if (stride == columns) columns *= count, count = 1;
  for (int64_t r = 0; r < count; ++r) {
    const char* p = reinterpret_cast<const char*>(rows + r * stride);
    for (int64_t i = 0; i < columns * static_cast<int64_t>(sizeof(T)); i += 64)
      static_cast<void>(*static_cast<const volatile char*>(p + i));
  }
}

// ---- copies and rearrangements ------------------------------------------------------------------
// dst (padded, staged_columns(D)) = src (rows, D), padded with zeros.
template <class T>
static void stage(int64_t rows, int64_t padded, int64_t D, const T* src, int64_t stride, T* dst) {
  constexpr int64_t kStep = LLMCORE_VECTOR_BYTES / static_cast<int64_t>(sizeof(T));
  const int64_t ld = staged_columns(D);
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = src + r * stride;
    T* to = dst + r * ld;
    int64_t i = 0;
    for (; i + kStep <= D; i += kStep) memcpy(to + i, from + i, LLMCORE_VECTOR_BYTES);
    if (i < ld) {
      memset(to + i, 0, sizeof(T) * static_cast<size_t>(ld - i));
      memcpy(to + i, from + i, sizeof(T) * static_cast<size_t>(D - i));
    }
  }
  if (rows < padded) memset(dst + rows * ld, 0, sizeof(T) * static_cast<size_t>((padded - rows) * ld));
}

// A tile of 64 rows whose columns are a multiple of kPanelDepth.
template <class T>
struct WholeTile {
  const T* data;
  int64_t stride, columns;
};

// Returns the caller's rows in place if they fill a tile, else copied to `scratch` and padded.
template <class T>
static WholeTile<T> whole_tile(int64_t rows, int64_t D, const T* src, int64_t stride, T* scratch) {
  const int64_t columns = staged_columns(D);
  if (rows == kTile && D == columns) return {src, stride, columns};
  stage(rows, kTile, D, src, stride, scratch);
  return {scratch, columns, columns};
}

// The same from bytes: x = scale * (q - 128), one scale per row. Meanwhile prefetches the rows of `next` (or null) one
// at a time, at the rate at which they will be used.
template <class T>
static WholeTile<T> whole_tile(int64_t rows, int64_t D, const uint8_t* src, int64_t stride, const float* scale,
                               int64_t scale_stride, const uint8_t* next, T* scratch) {
  const int64_t columns = staged_columns(D);
  for (int64_t r = 0; r < rows; ++r) {
    const vf factor = splat(scale[r * scale_stride]), zero = factor * -128.0f;
    const auto take = [&](const uint8_t* bytes) {
      return fma(__builtin_convertvector(load_bytes(bytes), vf), factor, zero);
    };
    const uint8_t* from = src + r * stride;
    T* to = scratch + r * columns;
    if (next)
      for (int64_t i = 0; i < D; i += 64) __builtin_prefetch(next + r * stride + i, 0, 2);
    int64_t i = 0;
    for (; i + kW <= D; i += kW) store(to + i, take(from + i));
    for (; i < columns; i += kW) {
      uint8_t rest[kW] = {};
      for (int64_t j = i; j < D; ++j) rest[j - i] = from[j];
      const vi inside = lane_numbers() < static_cast<int32_t>(D - i);
      store(to + i, select(inside, take(rest), vf{}));
    }
  }
  if (rows < kTile) memset(scratch + rows * columns, 0, sizeof(T) * static_cast<size_t>((kTile - rows) * columns));
  return {scratch, columns, columns};
}

// Makes a panel (D,64) whose columns are the rows of a tile.
template <class T>
static void pack_as_columns(const WholeTile<T>& tile, T* panel) {
  constexpr int64_t kSize = sizeof(T);
  transpose_words(kTile, tile.columns * kSize / 4, tile.data, tile.stride * kSize, panel, kTile * 4);
}

// Makes panels (64,D), one per 64 columns, whose depth is the rows of a tile.
static void pack_as_depth(const WholeTile<float>& tile, float* panels) {
  for (int64_t c = 0; c < tile.columns; c += kTile, panels += kTile * kTile) {
    const int64_t n = min_of(kTile, tile.columns - c);
    for (int64_t r = 0; r < kTile; ++r) {
      for (int64_t i = 0; i < n; i += kW) store(panels + r * kTile + i, load(tile.data + r * tile.stride + c + i));
      for (int64_t i = n; i < kTile; i += kW) store(panels + r * kTile + i, vf{});
    }
  }
}

// Interleaves two rows of 32 columns as pairs: dst[2i], dst[2i+1] = even[i], odd[i].
static inline void interleave(const bf16* even, const bf16* odd, bf16* dst) {
#if LLMCORE_VECTOR_BYTES == 64
  const __m512i a = _mm512_loadu_si512(even), b = _mm512_loadu_si512(odd);
  const __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);  // within lanes
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  _mm512_storeu_si512(dst, _mm512_permutex2var_epi64(low, first, high));
  _mm512_storeu_si512(dst + 32, _mm512_permutex2var_epi64(low, second, high));
#else
  for (int i = 0; i < 32; i += kW) {
    const vu pairs = (as_bits(load(even + i)) >> 16) | as_bits(load(odd + i));
    memcpy(dst + 2 * i, &pairs, sizeof pairs);
  }
#endif
}
static void pack_as_depth(const WholeTile<bf16>& tile, bf16* panels) {
  for (int64_t c = 0; c < tile.columns; c += kTile, panels += kTile * kTile)
    for (int64_t r = 0; r < kTile; r += 2) {
      const bf16* even = tile.data + r * tile.stride + c;
      bf16* to = panels + r * kTile;
      interleave(even, even + tile.stride, to);
      if (c + 32 < tile.columns)
        interleave(even + 32, even + tile.stride + 32, to + kTile);
      else
        memset(to + kTile, 0, sizeof(bf16) * kTile);
    }
}

static inline int64_t depth_panel_elements(int64_t D) { return kTile * round_up(D, kTile); }

}  // namespace LLMCORE_ISA
}  // namespace llmcore
