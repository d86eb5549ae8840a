// Gumbel noise of one token, with the same bits that csrc/cpu/sample/noise.h computes in vectors on processors with
// FMA, so draws do not depend on the device. (Without FMA its logarithms round once more, and a few of their last bits
// differ.) static: compiled into every ISA's kernels, see dtype.h.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/philox.h"

namespace llmcore {

// Each operation is rounded once and never fused with another: compilers differ in what they make of a * b + c.
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float noise_multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float noise_add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float noise_fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline uint32_t noise_bits(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
#endif
}
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float noise_float(uint32_t u) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(u);
#else
  float x;
  memcpy(&x, &u, 4);
  return x;
#endif
}

// The logarithms of cpu/simd.h, of the same names.
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float noise_log_parts(float m, float e) {
  const float z = noise_multiply(m, m);
  float p = 7.0376836292e-2f;
  p = noise_fma(p, m, -1.1514610310e-1f);
  p = noise_fma(p, m, 1.1676998740e-1f);
  p = noise_fma(p, m, -1.2420140846e-1f);
  p = noise_fma(p, m, 1.4249322787e-1f);
  p = noise_fma(p, m, -1.6668057665e-1f);
  p = noise_fma(p, m, 2.0000714765e-1f);
  p = noise_fma(p, m, -2.4999993993e-1f);
  p = noise_fma(p, m, 3.3333331174e-1f);
  float y = noise_multiply(noise_multiply(m, z), p);
  y = noise_fma(e, -2.12194440e-4f, y);
  y = noise_fma(z, -0.5f, y);
  return noise_fma(e, 0.693359375f, noise_add(m, y));
}
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float noise_exponent(uint32_t bits) {
  return static_cast<float>(static_cast<int32_t>(bits) >> 23);
}
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float noise_mantissa(uint32_t bits) {
  return noise_add(noise_float((bits & 0x007fffffu) + 0x3f3504f3u), -1.0f);
}
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float noise_log_normal(float x) {
  const uint32_t bits = noise_bits(x) - 0x3f3504f3u;
  return noise_log_parts(noise_mantissa(bits), noise_exponent(bits));
}
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float noise_log_one_minus(float x) {
  const uint32_t bits = noise_bits(noise_add(1.0f, -x)) - 0x3f3504f3u;
  const float e = noise_exponent(bits);
  return noise_log_parts(e == 0.0f ? -x : noise_mantissa(bits), e);
}

// In (0, 1]; e^-g is never below this value.
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float uniform_of(uint32_t random) {
  return noise_multiply(noise_add(static_cast<float>(random), 0.5f), 2.3283064365386963e-10f);
}
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline float gumbel_of(uint32_t random) {
  constexpr float kMost = 1.0f - 5.9604645e-8f;
  const float v = uniform_of(random);
  return -noise_log_normal(-noise_log_one_minus(v < kMost ? v : kMost));
}

// The random word of a token.
[[maybe_unused]] LLMCORE_HOST_DEVICE static inline uint32_t random_word(uint64_t seed, uint64_t step, uint32_t id) {
  const Philox4 words = philox4x32(seed, step, id / 4);
  const uint32_t low = id & 1 ? words.v[1] : words.v[0], high = id & 1 ? words.v[3] : words.v[2];
  return id & 2 ? high : low;
}

}  // namespace llmcore
