// What attention is made of: tiles of 64 queries by 64 keys, copied out of the caller's strided tensors into
// zero-padded scratch and rearranged there for panel_product. Key tiles start at key 0 and are taken in order, so the
// arithmetic of a query is the same however many queries came with it: decoding one token repeats the bits of the whole
// prompt.

constexpr int64_t kTile = kPanelWidth;
constexpr int kTileVectors = static_cast<int>(kTile) / kW;
constexpr float kLog2e = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

static inline int64_t tiles_of(int64_t n) { return (n + kTile - 1) / kTile; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Columns of a staged tile: D with zeros up to what every width of vector and every depth of AMX tile divides.
static inline int64_t staged_columns(int64_t D) { return round_up(D, kPanelDepth); }

// How many rows and how much depth to ask of panel_product: AMX tiles are whole, the padding is zero.
#if defined(LLMCORE_ISA_AMX)
static inline int64_t product_rows(const bf16*, int64_t rows) { return round_up(rows, 16); }
static inline int64_t product_depth(const bf16*, int64_t depth) { return round_up(depth, kPanelDepth); }
#else
static inline int64_t product_rows(const bf16*, int64_t rows) { return rows; }
static inline int64_t product_depth(const bf16*, int64_t depth) { return depth; }
#endif
static inline int64_t product_rows(const float*, int64_t rows) { return rows; }
static inline int64_t product_depth(const float*, int64_t depth) { return depth; }

// Carves arrays out of a workspace; without a base it only measures.
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

// body(worker, piece) for every piece. No two running pieces share a worker's number, so that it can name scratch
// memory that stays in cache from piece to piece; a piece's result does not depend on it.
template <class F>
static inline void parallel_workers(int64_t pieces, int64_t workers, const F& body) {
  int64_t next = 0;
  parallel(workers, [&](int64_t worker) {
    MatrixUnit unit;
    for (int64_t i; (i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < pieces;) body(worker, i);
  });
}

// 2^x for x <= 128, 0 below -125. A polynomial of degree 5 for 2^f, |f| <= 1/2 (relative error 1.6e-7), or 4 (2.9e-6)
// where the result is rounded to bf16; minimax with 2^0 = 1 exactly.
template <class T>
static inline vf exp2(vf x) {
  const vf magic =
      splat(12582912.0f + 127.0f);  // 1.5 * 2^23: rounds to an integer, here with the exponent's bias added
  const vf shifted = x + magic;
  const vf f = x - (shifted - magic);
  vf p;
  if constexpr (sizeof(T) == 2) {
    p = fma(splat(9.58285294e-3f), f, splat(5.59064262e-2f));
    p = fma(p, f, splat(2.40240991e-1f));
    p = fma(p, f, splat(6.93124175e-1f));
  } else {
    p = fma(splat(1.32647273e-3f), f, splat(9.67151299e-3f));
    p = fma(p, f, splat(5.55073358e-2f));
    p = fma(p, f, splat(2.40222424e-1f));
    p = fma(p, f, splat(6.93147004e-1f));
  }
  p = fma(p, f, splat(1.0f));
  return select(x < -125.0f, vf{}, p * as_float(as_bits(shifted) << 23));
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

// ---- copies and rearrangements ------------------------------------------------------------------
// dst (64, staged_columns(D)) = src (rows, D), zeros around it.
template <class T>
static void stage(int64_t rows, int64_t D, const T* src, int64_t stride, T* dst) {
  const int64_t ld = staged_columns(D);
  for (int64_t r = 0; r < rows; ++r) {
    T* to = dst + r * ld;
    memcpy(to, src + r * stride, sizeof(T) * static_cast<size_t>(D));
    if (D < ld) memset(to + D, 0, sizeof(T) * static_cast<size_t>(ld - D));
  }
  if (rows < kTile) memset(dst + rows * ld, 0, sizeof(T) * static_cast<size_t>((kTile - rows) * ld));
}

// Panel (D,64) whose columns are the rows of a staged tile.
template <class T>
static void pack_as_columns(int64_t D, const T* staged, T* panel) {
  const int64_t words = staged_columns(D) * static_cast<int64_t>(sizeof(T)) / 4;
  transpose_words(kTile, words, staged, words * 4, panel, kTile * 4);
}

// Panels (64,D), one for every 64 columns, whose depth is the rows of a staged tile.
static void pack_as_depth(int64_t D, const float* staged, float* panels) {
  const int64_t ld = staged_columns(D);
  for (int64_t c = 0; c < D; c += kTile, panels += kTile * kTile) {
    const int64_t n = smaller(kTile, ld - c);
    for (int64_t r = 0; r < kTile; ++r) {
      for (int64_t i = 0; i < n; i += kW) store(panels + r * kTile + i, load(staged + r * ld + c + i));
      for (int64_t i = n; i < kTile; i += kW) store(panels + r * kTile + i, vf{});
    }
  }
}
static void pack_as_depth(int64_t D, const bf16* staged, bf16* panels) {
  const int64_t ld = staged_columns(D);
  for (int64_t c = 0; c < D; c += kTile, panels += kTile * kTile) {
    const int64_t n = smaller(kTile, ld - c);
    for (int64_t r = 0; r < kTile; r += 2) {
      const bf16* even = staged + r * ld + c;
      bf16* to = panels + r * kTile;
      for (int64_t i = 0; i < n; i += kW)
        store_pairs(to + 2 * i, as_bits(load(even + i)) >> 16, as_bits(load(even + ld + i)) >> 16);
      for (int64_t i = n; i < kTile; i += kW) store_pairs(to + 2 * i, vu{}, vu{});
    }
  }
}

static inline int64_t depth_panel_elements(int64_t D) { return kTile * round_up(D, kTile); }
