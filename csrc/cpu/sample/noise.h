// Gumbel noise for tokens, a function of (seed, step, token id) only: g = -log(E), E = -log(1 - v) exponential,
// v = min((r + 1/2) 2^-32, 1 - 2^-24), and r is word id % 4 of Philox4x32-10 with key = seed, counter = (step, id / 4).
// Small v makes large g, and floats are dense near 0: likely winners do not tie, and no g is infinite.
#pragma once
#include "core/philox.h"
#include "cpu/simd.h"

namespace llmcore {
namespace LLMCORE_ISA {

typedef uint64_t vq __attribute__((vector_size(LLMCORE_VECTOR_BYTES)));
typedef uint32_t vu_half __attribute__((vector_size(LLMCORE_VECTOR_BYTES / 2)));

// Returns the 64-bit products of the lower halves of the lanes with m.
static inline vq multiply_low(vq a, uint32_t m) {
  const vq b = vq{} + m;
#if LLMCORE_VECTOR_BYTES == 64
  return (vq)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif LLMCORE_VECTOR_BYTES == 32
  return (vq)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (vq)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * b;
#endif
}

// philox4x32 of core/philox.h for kW / 2 counters; the words are the lower halves of the lanes.
static inline void philox_lanes(uint64_t key, uint64_t counter_lo, vq counter_hi, vq words[4]) {
  vq k0 = vq{} + (key & 0xffffffffu), k1 = vq{} + (key >> 32);
  vq c0 = vq{} + counter_lo, c1 = c0 >> 32, c2 = counter_hi, c3 = c2 >> 32;
  for (int round = 0; round < 10; ++round) {
    const vq p0 = multiply_low(c0, 0xD2511F53u), p1 = multiply_low(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// v, without the upper bound.
static inline vf uniform(vu random) { return (__builtin_convertvector(random, vf) + 0.5f) * 2.3283064365386963e-10f; }
static inline vf gumbel(vu random) {
  return -log_normal(-log_one_minus(min(uniform(random), splat(1.0f - 5.9604645e-8f))));
}

static inline vq first_lanes(uint64_t start) {
  vq v;
  for (int i = 0; i < kW / 2; ++i) v[i] = static_cast<uint64_t>(i);
  return v + start;
}

// Interleaves the lanes of a and b: the first half of each, then the second.
struct Zipped {
  vq low, high;
};
static inline Zipped zip(vq a, vq b) {
#if LLMCORE_VECTOR_BYTES == 64
  return {vq{a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]}, vq{a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]}};
#elif LLMCORE_VECTOR_BYTES == 32
  return {vq{a[0], b[0], a[1], b[1]}, vq{a[2], b[2], a[3], b[3]}};
#else
  return {vq{a[0], b[0]}, vq{a[1], b[1]}};
#endif
}

// Random words of the tokens [start, start + 2 kW), start a multiple of 4.
static inline Zipped random_block(uint64_t seed, uint64_t step, int64_t start) {
  vq words[4];
  philox_lanes(seed, step, first_lanes(static_cast<uint64_t>(start) / 4), words);
  return zip((words[0] & 0xffffffffu) | words[1] << 32, (words[2] & 0xffffffffu) | words[3] << 32);
}

// Random words of the tokens ids[0 .. kW).
static inline vu random_of(uint64_t seed, uint64_t step, vu ids) {
  vu_half parts[2];
  memcpy(parts, &ids, sizeof ids);
  for (vu_half& part : parts) {
    const vq id = __builtin_convertvector(part, vq), lane = id & 3;
    vq words[4];
    philox_lanes(seed, step, id >> 2, words);
    const vq low = lane == 0 ? words[0] : words[1], high = lane == 2 ? words[2] : words[3];
    part = __builtin_convertvector(lane < 2 ? low : high, vu_half);
  }
  vu random;
  memcpy(&random, parts, sizeof random);
  return random;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
