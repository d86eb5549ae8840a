// One vector type for any width: GCC/Clang vector extensions and the few intrinsics that they cannot express.
//
// Everything in this folder except isas.cpp is compiled once per instruction set (cmake/isas.cmake), in a namespace
// named after it. The only symbols that leave an object are register_<family> and fill_table (families.h). The linker
// may merge weak symbols (inline functions, templates) of different objects and keep the AVX-512 copy, so nothing from
// outside this namespace may be instantiated, and what is in it is static: no STL, no static initialisers.
// tests/test_symbols.py guards this.
#pragma once
#include "core/kernel_table.h"

#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns about its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#endif

namespace llmcore {
namespace LLMCORE_ISA {

#if defined(LLMCORE_ISA_AVX512) || defined(LLMCORE_ISA_AVX512BF16) || defined(LLMCORE_ISA_AMX)
#define LLMCORE_VECTOR_BYTES 64
#elif defined(LLMCORE_ISA_AVX2) || defined(LLMCORE_ISA_AVXVNNI)
#define LLMCORE_VECTOR_BYTES 32
#else
#define LLMCORE_VECTOR_BYTES 16
#endif
#if defined(LLMCORE_ISA_AVX512BF16) || defined(LLMCORE_ISA_AMX)
#define LLMCORE_BF16_DOT 1
#endif

constexpr int kW = LLMCORE_VECTOR_BYTES / 4;  // floats in a vector

typedef float vf __attribute__((vector_size(LLMCORE_VECTOR_BYTES)));
typedef int32_t vi __attribute__((vector_size(LLMCORE_VECTOR_BYTES)));
typedef uint32_t vu __attribute__((vector_size(LLMCORE_VECTOR_BYTES)));
typedef uint16_t vh __attribute__((vector_size(LLMCORE_VECTOR_BYTES / 2)));

static inline vf splat(float x) { return x - vf{}; }
static inline vf as_float(vu x) { return (vf)x; }
static inline vu as_bits(vf x) { return (vu)x; }

static inline vf load(const float* p) {
  vf v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline void store(float* p, vf v) { memcpy(p, &v, sizeof v); }

static inline vf load(const bf16* p) {
  vh h;
  memcpy(&h, p, sizeof h);
  return as_float(__builtin_convertvector(h, vu) << 16);
}
// Round to nearest even, NaN stays NaN.
static inline vh to_half_exact(vf v) {
  const vu u = as_bits(v);
  const vu rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  return __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40 : rounded, vh);
}
// The same, but if the processor has an instruction for it, subnormal numbers become zero.
static inline vh to_half(vf v) {
#if defined(LLMCORE_BF16_DOT)
  return (vh)_mm512_cvtneps_pbh((__m512)v);
#else
  return to_half_exact(v);
#endif
}
static inline void store(bf16* p, vf v) {
  const vh h = to_half(v);
  memcpy(p, &h, sizeof h);
}

// Converts kW bytes to integers and back (the values must fit). GCC's own vector conversion takes the bytes apart one
// by one.
static inline vi load_bytes(const uint8_t* p) {
#if LLMCORE_VECTOR_BYTES == 64
  return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif LLMCORE_VECTOR_BYTES == 32
  return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  vi v{};
  for (int i = 0; i < kW; ++i) v[i] = p[i];
  return v;
#endif
}
static inline void store_bytes(int8_t* p, vi v) {
#if LLMCORE_VECTOR_BYTES == 64
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
#else
  for (int i = 0; i < kW; ++i) p[i] = static_cast<int8_t>(v[i]);
#endif
}

// Loads / stores the first n (0 <= n <= kW) lanes; the others are zero / left untouched.
#if LLMCORE_VECTOR_BYTES == 64
static inline vf load_n(const float* p, int n) {
  return (vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
static inline vf load_n(const bf16* p, int n) {
  const vh h = (vh)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p);
  return as_float(__builtin_convertvector(h, vu) << 16);
}
static inline void store_n(float* p, vf v, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
}
static inline void store_n(bf16* p, vf v, int n) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), (__m256i)to_half(v));
}
#else
template <class T>
static inline vf load_n(const T* p, int n) {
  T buffer[kW] = {};
  memcpy(buffer, p, sizeof(T) * static_cast<size_t>(n));
  return load(buffer);
}
template <class T>
static inline void store_n(T* p, vf v, int n) {
  T buffer[kW];
  store(buffer, v);
  memcpy(p, buffer, sizeof(T) * static_cast<size_t>(n));
}
#endif

static inline vf fma(vf a, vf b, vf c) {
#if LLMCORE_VECTOR_BYTES == 64
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LLMCORE_VECTOR_BYTES == 32
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
// The conditional operator, so that the compiler finds blends and max/min instructions.
static inline vf select(vi mask, vf a, vf b) { return mask ? a : b; }
static inline vf max(vf a, vf b) { return a > b ? a : b; }  // b where either is NaN
static inline vf min(vf a, vf b) { return a < b ? a : b; }
static inline vf sqrt(vf a) {
#if LLMCORE_VECTOR_BYTES == 64
  return (vf)_mm512_sqrt_ps((__m512)a);
#elif LLMCORE_VECTOR_BYTES == 32
  return (vf)_mm256_sqrt_ps((__m256)a);
#else
  for (int i = 0; i < kW; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}
// Bit i is set where lane i of a comparison is true.
static inline uint32_t mask_bits(vi mask) {
#if LLMCORE_VECTOR_BYTES == 64
  return _mm512_movepi32_mask((__m512i)mask);
#elif LLMCORE_VECTOR_BYTES == 32
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)mask));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kW; ++i) bits |= static_cast<uint32_t>(mask[i] & 1) << i;
  return bits;
#endif
}
static inline vf abs(vf a) { return as_float(as_bits(a) & 0x7fffffffu); }

// Horizontal reductions in one fixed order: a tree over halves, lane i with lane i + half.
template <class F>
static inline float fold(vf v, const F& op) {
#if LLMCORE_VECTOR_BYTES >= 32
#if LLMCORE_VECTOR_BYTES == 64
  const __m256 y = op(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
#else
  const __m256 y = (__m256)v;
#endif
  const __m128 x = op(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  const __m128 pair = op(x, _mm_movehl_ps(x, x));
  return op(pair, _mm_movehdup_ps(pair))[0];
#else
  for (int half = kW / 2; half > 0; half /= 2) {
    vf upper = v;
    for (int i = 0; i < half; ++i) upper[i] = v[i + half];
    v = op(v, upper);
  }
  return v[0];
#endif
}
static inline float sum(vf v) {
  return fold(v, [](auto a, auto b) { return a + b; });
}
static inline float hmax(vf v) {
  return fold(v, [](auto a, auto b) { return a > b ? a : b; });
}

// exp(x): x = n ln2 + r with |r| <= ln2/2, a minimax polynomial for e^r (relative error 4e-9), the exponent by bits.
// Within 2 ulp (1 with FMA) for every x whose result is a normal float; 0 below -87.33, inf above 88.73; NaN stays NaN.
static inline vf exp(vf x) {
  const vf log2e = splat(1.44269504088896341f);
  vf bounded = min(splat(89.0f), x);  // in this order NaN passes through
#if LLMCORE_VECTOR_BYTES == 64
  const vf n = (vf)_mm512_roundscale_ps((__m512)(bounded * log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  bounded = max(splat(-88.0f), bounded);
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: rounds to an integer
  const vf shifted = fma(bounded, log2e, magic), n = shifted - magic;
#endif
  vf r = fma(n, splat(-0.693145751953125f), bounded);  // ln2 in two parts
  r = fma(n, splat(-1.42860682030941723e-6f), r);
  vf p = fma(splat(1.3814455597e-3f), r, splat(8.3687854931e-3f));
  p = fma(p, r, splat(4.1668396443e-2f));
  p = fma(p, r, splat(1.6666519642e-1f));
  p = fma(p, r, splat(4.9999994040e-1f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
#if LLMCORE_VECTOR_BYTES == 64
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.33654f), _CMP_NLT_UQ);
  return (vf)_mm512_maskz_scalef_ps(normal, (__m512)p, (__m512)n);
#else
  // 2^n in two factors, so that n = 128 does not overflow before the result does.
  const vi k = (vi)as_bits(shifted) - 0x4b400000;
  const vi half = k >> 1;
  const vf y = p * as_float((vu)(half + 127) << 23) * as_float((vu)(k - half + 127) << 23);
  return select(x < -87.33654f, splat(0.0f), y);
#endif
}

// The shared part of the logarithms: log(1 + m) + e ln2 for 1 + m in [sqrt(1/2), sqrt(2)), by Cephes logf's polynomial.
static inline vf log_parts(vf m, vf e) {
  const vf z = m * m;
  vf p = splat(7.0376836292e-2f);
  p = fma(p, m, splat(-1.1514610310e-1f));
  p = fma(p, m, splat(1.1676998740e-1f));
  p = fma(p, m, splat(-1.2420140846e-1f));
  p = fma(p, m, splat(1.4249322787e-1f));
  p = fma(p, m, splat(-1.6668057665e-1f));
  p = fma(p, m, splat(2.0000714765e-1f));
  p = fma(p, m, splat(-2.4999993993e-1f));
  p = fma(p, m, splat(3.3333331174e-1f));
  vf y = m * z * p;
  y = fma(e, splat(-2.12194440e-4f), y);
  y = fma(z, splat(-0.5f), y);
  return fma(e, splat(0.693359375f), m + y);
}

// log(x) within 2 ulp for positive normal x; meaningless for others.
static inline vf log_normal(vf x) {
  const vu bits = as_bits(x) - 0x3f3504f3u;  // so that the mantissa lies in [sqrt(1/2), sqrt(2))
  const vf e = __builtin_convertvector((vi)bits >> 23, vf);
  return log_parts(as_float((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f, e);
}

// log(x) within 2 ulp for every positive x, subnormal ones too; -inf at 0, NaN below, inf and NaN stay.
static inline vf log(vf x) {
  const vi tiny = x < 1.17549435e-38f;
  vf y = log_normal(select(tiny, x * 8388608.0f, x)) - select(tiny, splat(15.942385f), splat(0.0f));  // 23 ln2
  y = select(x < __builtin_inff(), y, x);
  return select(x > 0.0f, y, select(x == 0.0f, splat(-__builtin_inff()), splat(__builtin_nanf("")) + x));
}

// log(1 - x) for x in [0, 1), within 2.5 ulp also where 1 - x rounds to 1.
static inline vf log_one_minus(vf x) {
  const vu bits = as_bits(1.0f - x) - 0x3f3504f3u;
  const vf e = __builtin_convertvector((vi)bits >> 23, vf);
  const vf m = as_float((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  return log_parts(select(e == 0.0f, -x, m), e);
}

// 1 / (1 + e^-x), within 3 ulp; 0 where e^-x overflows (below -88.7).
static inline vf sigmoid(vf x) { return 1.0f / (1.0f + exp(-x)); }

// Within 2 ulp: below 5/8 the polynomial of Cephes' tanhf (Moshier), above 1 - 2 / (exp(2|x|) + 1).
static inline vf tanh(vf x) {
  const vf a = abs(x), z = x * x;
  vf p = fma(splat(-5.70498872745e-3f), z, splat(2.06390887954e-2f));
  p = fma(p, z, splat(-5.37397155531e-2f));
  p = fma(p, z, splat(1.33314422036e-1f));
  p = fma(p, z, splat(-3.33332819422e-1f));
  const vf far = 1.0f - 2.0f / (exp(2.0f * min(splat(10.0f), a)) + 1.0f);
  const vf signed_far = as_float(as_bits(far) | (as_bits(x) & 0x80000000u));
  return select(a < 0.625f, fma(p * z, x, x), x != x ? x : signed_far);
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
