// Packing into panels and transposing. The unit moved is always a word of 32 bits: a float, or two bf16 that are
// adjacent in the result; a transpose of words then does the rest.
#pragma once
#include "cpu/lanes.h"

namespace llmcore {
namespace LLMCORE_ISA {

// kStream: data that is read only much later bypasses the caches when whole lines are written, so that memory need not
// be read first.
#if LLMCORE_VECTOR_BYTES == 64
template <bool kStream>
static inline void store_line(void* dst, __m512i line) {
  kStream ? _mm512_stream_si512(static_cast<__m512i*>(dst), line) : _mm512_storeu_si512(dst, line);
}
static inline void end_stream() { _mm_sfence(); }
#else
static inline void end_stream() {}
#endif

// dst (columns, rows) = src (rows, columns)^T in words of 32 bits; both counts multiples of 16. Strides in bytes.
template <bool kStream = false>
static void transpose_words(int64_t rows, int64_t columns, const void* src, int64_t step, void* dst, int64_t out) {
  const char* from = static_cast<const char*>(src);
  char* to = static_cast<char*>(dst);
#if LLMCORE_VECTOR_BYTES == 64
  // Lane l of v[i] holds 4 words of row 4l + i; shuffles within lanes then bring 16 rows of a word together.
  for (int64_t r = 0; r < rows; r += 16)
    for (int64_t c = 0; c < columns; c += 4) {
      __m512i v[4];
      for (int i = 0; i < 4; ++i) {
        const char* p = from + (r + i) * step + c * 4;
        const auto row = [&](int64_t n) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + n * step)); };
        v[i] = _mm512_castsi128_si512(row(0));
        v[i] = _mm512_mask_broadcast_i32x4(v[i], 0x00f0, row(4));
        v[i] = _mm512_mask_broadcast_i32x4(v[i], 0x0f00, row(8));
        v[i] = _mm512_mask_broadcast_i32x4(v[i], 0xf000, row(12));
      }
      const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
      const __m512i d = _mm512_unpacklo_epi32(v[2], v[3]), e = _mm512_unpackhi_epi32(v[2], v[3]);
      char* q = to + c * out + r * 4;
      store_line<kStream>(q, _mm512_unpacklo_epi64(a, d));
      store_line<kStream>(q + out, _mm512_unpackhi_epi64(a, d));
      store_line<kStream>(q + 2 * out, _mm512_unpacklo_epi64(b, e));
      store_line<kStream>(q + 3 * out, _mm512_unpackhi_epi64(b, e));
    }
#else
  typedef uint32_t v4 __attribute__((vector_size(16)));
#if defined(__clang__)
#define LLMCORE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LLMCORE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, v4{__VA_ARGS__})
#endif
  for (int64_t r = 0; r < rows; r += 4)
    for (int64_t c = 0; c < columns; c += 4) {
      v4 v[4];
      for (int i = 0; i < 4; ++i) memcpy(&v[i], from + (r + i) * step + c * 4, sizeof(v4));
      const v4 a = LLMCORE_SHUFFLE(v[0], v[1], 0, 4, 1, 5), b = LLMCORE_SHUFFLE(v[0], v[1], 2, 6, 3, 7);
      const v4 d = LLMCORE_SHUFFLE(v[2], v[3], 0, 4, 1, 5), e = LLMCORE_SHUFFLE(v[2], v[3], 2, 6, 3, 7);
      const v4 w[4] = {LLMCORE_SHUFFLE(a, d, 0, 1, 4, 5), LLMCORE_SHUFFLE(a, d, 2, 3, 6, 7),
                       LLMCORE_SHUFFLE(b, e, 0, 1, 4, 5), LLMCORE_SHUFFLE(b, e, 2, 3, 6, 7)};
      for (int i = 0; i < 4; ++i) memcpy(to + (c + i) * out + r * 4, &w[i], sizeof(v4));
    }
#undef LLMCORE_SHUFFLE
#endif
}

// Interleaves pairs of rows, as in a bf16 panel: dst[2i], dst[2i+1] = even[i], odd[i] for kW columns.
static inline void store_pairs(bf16* dst, vu even, vu odd) {
  const vu pairs = even | (odd << 16);
  memcpy(dst, &pairs, sizeof pairs);
}

// Returns n (0 <= n <= kW) values as bf16 bits, one per word; the rest is zero.
static inline vu half_bits(const bf16* p, int n) { return as_bits(load_n(p, n)) >> 16; }
static inline vu half_bits(const float* p, int n) { return __builtin_convertvector(to_half_exact(load_n(p, n)), vu); }

// The lanes in use if n elements are left.
static inline int lanes_left(int64_t n) { return static_cast<int>(n < 0 ? 0 : n < kW ? n : kW); }

// dst[0..n) = src[0..n) converted, dst[n..end) = 0; end - n small
static inline void copy_row(const float* src, int64_t n, int64_t end, float* dst) {
  memcpy(dst, src, sizeof(float) * static_cast<size_t>(n));
  for (; n < end; ++n) dst[n] = 0.0f;
}
static inline void copy_row(const bf16* src, int64_t n, int64_t end, bf16* dst) {
  memcpy(dst, src, sizeof(bf16) * static_cast<size_t>(n));
  for (; n < end; ++n) dst[n] = bf16{0};
}
static inline void copy_row(const bf16* src, int64_t n, int64_t end, float* dst) {
  for (int64_t i = 0; i < end; ++i) dst[i] = i < n ? to_float(src[i]) : 0.0f;
}
static inline void copy_row(const float* src, int64_t n, int64_t end, bf16* dst) {
  int64_t i = 0;
  for (; i + kW <= n; i += kW) {
    const vh h = to_half_exact(load(src + i));
    memcpy(dst + i, &h, sizeof h);
  }
  for (; i < end; ++i) dst[i] = i < n ? to_bf16(src[i]) : bf16{0};
}

constexpr int64_t kPackDepth = 256;  // k in one piece of work
constexpr int64_t kWordGroup = 16;   // the words that transpose_words takes at a time

// Packs `width` columns of a panel (64, or half of them) from the rows of src (N,K) that start at `row`, k in [begin,
// end). Rows from `stop` on count as zeros.
template <class S, bool kStream = false, class T>
static void pack_rows(const PackArgs& g, int64_t row, int64_t stop, int64_t width, int64_t begin, int64_t end,
                      T* panel) {
  constexpr int64_t kPerWord = 4 / sizeof(T), kStageWords = kPackDepth / kPerWord;
  alignas(64) T stage[kPanelWidth * kPackDepth];
  const int64_t words = (end - begin) / kPerWord, padded = round_up(words, kWordGroup) * kPerWord;
  for (int64_t n = 0; n < width; ++n) {
    const bool inside = row + n < stop;
    const int64_t count = inside ? (end < g.K ? end : g.K) - begin : 0;
    const S* src = static_cast<const S*>(g.src) + (inside ? (row + n) * g.ld + begin : 0);
    copy_row(src, count, padded, stage + n * kPackDepth);
  }
  // A float panel ends at K itself: the last group of words goes through a buffer.
  char* dst = reinterpret_cast<char*>(panel) + begin / kPerWord * kPanelWidth * 4;
  const int64_t whole = words / kWordGroup * kWordGroup;
  transpose_words<kStream>(width, whole, stage, kStageWords * 4, dst, kPanelWidth * 4);
  if (whole < words) {
    alignas(64) uint32_t rest[kWordGroup * kPanelWidth];
    transpose_words(width, kWordGroup, stage + whole * kPerWord, kStageWords * 4, rest, kPanelWidth * 4);
    for (int64_t k = whole; k < words; ++k)
      memcpy(dst + k * kPanelWidth * 4, rest + (k - whole) * kPanelWidth, static_cast<size_t>(width * 4));
  }
}

// Packs `width` columns of half a paired panel from the rows of src from `row` on.
template <class S, bool kStream = false, class T>
static void pack_half(const PackArgs& g, int64_t row, bool second, int64_t width, int64_t begin, int64_t end,
                      T* panels) {
  const int64_t F = g.N / 2, stop = second ? g.N : F, first = second ? row - F : row;
  T* panel = panels + first / kPairedWidth * kPanelWidth * panel_depth(g.K, g.dtype);
  panel += (second * kPairedWidth + first % kPairedWidth) * 4 / static_cast<int64_t>(sizeof(T));
  pack_rows<S, kStream>(g, row, stop, width, begin, end, panel);
}

// The same from the columns of src (K,N)
template <class S, bool kStream = false>
static void pack_columns(const PackArgs& g, int64_t column, int64_t begin, int64_t end, float* panel) {
  const int64_t count = g.N - column < kPanelWidth ? g.N - column : kPanelWidth;
  for (int64_t k = begin; k < end; ++k)
    copy_row(static_cast<const S*>(g.src) + k * g.ld + column, count, kPanelWidth, panel + k * kPanelWidth);
}

// Interleaves two rows of 64.
template <bool kStream>
static inline void interleave_rows(const bf16* even, const bf16* odd, bf16* dst) {
#if LLMCORE_VECTOR_BYTES == 64
  typedef uint16_t words __attribute__((vector_size(64)));
  words first, second;  // numbers above 31 mean the odd row
  for (int i = 0; i < 32; ++i) {
    first[i] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
    second[i] = static_cast<uint16_t>(first[i] + 16);
  }
  for (int n = 0; n < 64; n += 32) {
    const __m512i a = _mm512_loadu_si512(even + n), b = _mm512_loadu_si512(odd + n);
    store_line<kStream>(dst + 2 * n, _mm512_permutex2var_epi16(a, (__m512i)first, b));
    store_line<kStream>(dst + 2 * n + 32, _mm512_permutex2var_epi16(a, (__m512i)second, b));
  }
#else
  for (int n = 0; n < 64; n += kW) store_pairs(dst + 2 * n, half_bits(even + n, kW), half_bits(odd + n, kW));
#endif
}
template <bool>
static inline void interleave_rows(const float* even, const float* odd, bf16* dst) {
  for (int n = 0; n < 64; n += kW) store_pairs(dst + 2 * n, half_bits(even + n, kW), half_bits(odd + n, kW));
}

template <class S, bool kStream = false>
static void pack_columns(const PackArgs& g, int64_t column, int64_t begin, int64_t end, bf16* panel) {
  constexpr int64_t kRowsAhead = 16;
  const S* src = static_cast<const S*>(g.src) + column;
  int64_t k = begin;
  if (g.N - column >= kPanelWidth)
    for (; k + 2 <= min_of(end, g.K); k += 2) {
      for (int64_t r = k; r < k + 2 && !kStream; ++r)
        for (int64_t n = 0; n < kPanelWidth; n += 64 / static_cast<int64_t>(sizeof(S)))
          __builtin_prefetch(src + (r + kRowsAhead) * g.ld + n, 0, 3);
      interleave_rows<kStream>(src + k * g.ld, src + (k + 1) * g.ld, panel + k * kPanelWidth);
    }
  for (; k < end; k += 2)
    for (int64_t n = 0; n < kPanelWidth; n += kW) {
      const int count = lanes_left(g.N - column - n);
      const vu even = half_bits(src + (k < g.K ? k * g.ld + n : 0), k < g.K ? count : 0);
      const vu odd = half_bits(src + (k + 1 < g.K ? (k + 1) * g.ld + n : 0), k + 1 < g.K ? count : 0);
      store_pairs(panel + k * kPanelWidth + 2 * n, even, odd);
    }
}

// Reads up to 16 rows of words from up to 16 columns: one float each, or two interleaved rows of bf16. The rest is
// zero.
static inline void stage_words(const float* src, int64_t ld, int64_t rows, int columns, uint32_t (*words)[kWordGroup]) {
  for (int64_t r = 0; r < kWordGroup; ++r)
    for (int c = 0; c < kWordGroup; c += kW)
      store(reinterpret_cast<float*>(words[r] + c), load_n(src + r * ld + c, r < rows ? lanes_left(columns - c) : 0));
}
static inline void stage_words(const bf16* src, int64_t ld, int64_t rows, int columns, uint32_t (*words)[kWordGroup]) {
  for (int64_t r = 0; r < kWordGroup; ++r)
    for (int c = 0; c < kWordGroup; c += kW) {
      const bf16* even = src + 2 * r * ld + c;
      store_pairs(reinterpret_cast<bf16*>(words[r] + c), half_bits(even, 2 * r < rows ? lanes_left(columns - c) : 0),
                  half_bits(even + ld, 2 * r + 1 < rows ? lanes_left(columns - c) : 0));
    }
}

#if LLMCORE_VECTOR_BYTES == 64
// dst (8,32) = src (32,8)^T. Lane l of v[r] holds row 8l + r, so that only shuffles within lanes remain.
static inline void transpose_32x8(const bf16* src, int64_t ld, bf16* dst, int64_t ld_dst) {
  __m512i v[8], pairs[8], quads[8];
  for (int r = 0; r < 8; ++r) {
    const auto row = [&](int64_t n) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(src + (r + n) * ld)); };
    v[r] = _mm512_castsi128_si512(row(0));
    v[r] = _mm512_mask_broadcast_i32x4(v[r], 0x00f0, row(8));
    v[r] = _mm512_mask_broadcast_i32x4(v[r], 0x0f00, row(16));
    v[r] = _mm512_mask_broadcast_i32x4(v[r], 0xf000, row(24));
  }
  for (int i = 0; i < 4; ++i) {  // rows 2i and 2i + 1 of columns 0-3, of columns 4-7
    pairs[i] = _mm512_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
    pairs[4 + i] = _mm512_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 2) {  // four rows of two columns
    quads[i] = _mm512_unpacklo_epi32(pairs[i], pairs[i + 1]);
    quads[i + 1] = _mm512_unpackhi_epi32(pairs[i], pairs[i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    const int first = i / 2 * 4 + i % 2;
    _mm512_storeu_si512(dst + 2 * i * ld_dst, _mm512_unpacklo_epi64(quads[first], quads[first + 2]));
    _mm512_storeu_si512(dst + (2 * i + 1) * ld_dst, _mm512_unpackhi_epi64(quads[first], quads[first + 2]));
  }
}
#endif

// The same for whole groups of rows and columns, as many columns as it can; returns how many.
static inline int64_t transpose_whole(const float* src, int64_t ld, int64_t columns, float* dst, int64_t ld_dst) {
  transpose_words(kWordGroup, columns / kWordGroup * kWordGroup, src, ld * 4, dst, ld_dst * 4);
  return columns / kWordGroup * kWordGroup;
}
static inline int64_t transpose_whole([[maybe_unused]] const bf16* src, [[maybe_unused]] int64_t ld,
                                      [[maybe_unused]] int64_t columns, [[maybe_unused]] bf16* dst,
                                      [[maybe_unused]] int64_t ld_dst) {
  int64_t c = 0;
#if LLMCORE_VECTOR_BYTES == 64
  for (; c + kWordGroup <= columns; c += kWordGroup)
    for (int64_t i = c; i < c + kWordGroup; i += 8) transpose_32x8(src + i, ld, dst + i * ld_dst, ld_dst);
#endif
  return c;
}

// dst (columns,rows) = src (rows,columns)^T. dst has room for whole groups of 16 rows of 16 words; anything past `rows`
// in them is zero.
template <class T>
static void transpose_block(const T* src, int64_t ld, int64_t rows, int64_t columns, T* dst, int64_t ld_dst) {
  constexpr int64_t kGroupRows = kWordGroup * 4 / sizeof(T);
  alignas(64) uint32_t words[kWordGroup][kWordGroup];
  for (int64_t r = 0; r < rows; r += kGroupRows) {
    int64_t c = rows - r < kGroupRows ? 0 : transpose_whole(src + r * ld, ld, columns, dst + r, ld_dst);
    for (; c < columns; c += kWordGroup) {
      const int64_t left = columns - c < kWordGroup ? columns - c : kWordGroup;
      stage_words(src + r * ld + c, ld, rows - r, static_cast<int>(left), words);
      transpose_words(kWordGroup, kWordGroup, words, sizeof words[0], dst + c * ld_dst + r,
                      ld_dst * static_cast<int64_t>(sizeof(T)));
    }
  }
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
