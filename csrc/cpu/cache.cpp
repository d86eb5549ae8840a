// Writes keys and values to the cache, and rotates queries and keys on the way.
#include "cpu/families.h"
#include "cpu/rotate.h"

namespace llmcore {
namespace LLMCORE_ISA {

// A NaN or infinity makes the scale NaN, and with it everything read from the row.
template <class T>
static void append_bytes(const T* x, int64_t D, uint8_t* to, float* scale) {
  vf most{}, odd{};
  for_lanes(D, [&](int64_t i, auto lanes, int) {
    const vf v = keep_n(load_n(x + i, lanes), lanes);
    most = max(abs(v), most);
    odd += v - v;
  });
  const float largest = hmax(most), inverse = largest > 1e-35f && sum(odd) == 0.0f ? 127.0f / largest : 0.0f;
  *scale = sum(odd) == 0.0f ? largest / 127.0f : __builtin_nanf("");
  for_lanes(D, [&](int64_t i, auto lanes, int) {
    const vf v = keep_n(load_n(x + i, lanes), lanes);
    const vi q = inverse > 0.0f ? (vi)(max(splat(-127.0f), min(splat(127.0f), v * inverse)) + 0x1.8p23f) - 0x4b400000
                                : vi{};  // rounded by adding a number at which floats are integers apart
    int8_t bytes[kW];
    store_bytes(bytes, q + 128);
    memcpy(to + i, bytes, static_cast<size_t>(min_of(kW, D - i)));
  });
}
// Returns where the cache has token t of row b, or -1 if it has no room.
static int64_t cache_row(const CacheAppendArgs& a, int64_t b, int64_t t) {
  const int64_t at = a.lengths[b] - a.T + t;
  if (at < 0 || at >= a.S) return -1;
  if (!a.blocks) return b * a.S + at;
  return a.blocks[b * (a.S / kCacheBlock) + at / kCacheBlock] * kCacheBlock + at % kCacheBlock;
}
template <class T>
static void append_head(const CacheAppendArgs& a, const T* x, int64_t row, int64_t h) {
  const int64_t to = (row * a.H + h) * a.D;
  if (a.cache_dtype == DType::kU8)
    append_bytes(x, a.D, static_cast<uint8_t*>(a.cache) + to, a.scale + row * a.H + h);
  else if (a.cache_dtype == DType::kBF16)
    convert_row(x, a.D, static_cast<bf16*>(a.cache) + to);
  else
    convert_row(x, a.D, static_cast<float*>(a.cache) + to);
}
template <class T>
static void cache_append_typed(const CacheAppendArgs& a) {
  constexpr int64_t kRowsInPiece = 64;
  parallel_ranges(a.B * a.T, kRowsInPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / a.T, t = i % a.T, row = cache_row(a, b, t);
      for (int64_t h = 0; row >= 0 && h < a.H; ++h)
        append_head(a, static_cast<const T*>(a.x) + b * a.x_stride.b + t * a.x_stride.t + h * a.x_stride.h, row, h);
    }
  });
}
static void cache_append(const CacheAppendArgs& a) {
  a.dtype == DType::kBF16 ? cache_append_typed<bf16>(a) : cache_append_typed<float>(a);
}

// Keys are rounded to x's dtype before being rounded to the cache's, as if they had been stored in memory.
template <class T, class O>
static void rope_append_typed(const RopeAppendArgs& a) {
  const int64_t half = a.R / 2, row = (a.H + 2 * a.keys.H) * a.D;
  parallel_ranges(a.keys.B * a.keys.T, row_grain(row), [&](int64_t begin, int64_t end) {
    T turned[kMostHeadSize];
    for (int64_t token = begin; token < end; ++token) {
      const int64_t b = token / a.keys.T, to = cache_row(a.keys, b, token % a.keys.T);
      const float *cosine = a.cos + a.positions[token] * half, *sine = a.sin + a.positions[token] * half;
      const T* x = static_cast<const T*>(a.x) + token * row;
      O* q = static_cast<O*>(a.q) + token * a.H * a.D;
      for (int64_t h = 0; h < a.H; ++h, x += a.D, q += a.D) turn_head(x, q, cosine, sine, half, a.D, 1.0f);
      for (int64_t h = 0; h < a.keys.H; ++h, x += a.D) {
        turn_head(x, turned, cosine, sine, half, a.D, 1.0f);
        if (to >= 0) append_head(a.keys, turned, to, h);
      }
      for (int64_t h = 0; h < a.keys.H; ++h, x += a.D)
        if (to >= 0) append_head(a.values, x, to, h);
    }
  });
}
static void rope_append(const RopeAppendArgs& a) {
  if (a.keys.dtype == DType::kBF16)
    a.q_dtype == DType::kBF16 ? rope_append_typed<bf16, bf16>(a) : rope_append_typed<bf16, float>(a);
  else
    a.q_dtype == DType::kBF16 ? rope_append_typed<float, bf16>(a) : rope_append_typed<float, float>(a);
}

void register_cache(KernelTable& t) {
  t.cache_append = cache_append;
  t.rope_append = rope_append;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
