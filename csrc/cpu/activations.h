// Activations that several families apply.
#pragma once
#include "cpu/simd.h"

namespace llmcore {
namespace LLMCORE_ISA {

// tanh-approximated GELU (Hendrycks & Gimpel 2016): x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715
// x^3). The error is at most 2.5e-7 |x| (for negative x the result is much smaller than x).
static inline vf gelu(vf x) {
  constexpr float kLinear = 2.0f * 0.7978845608f, kCubic = kLinear * 0.044715f;
#if LLMCORE_VECTOR_BYTES == 64
  // x e / (1 + e) with e = 2^s, s = 2u log2(e): about 20 instructions, so that a matrix product hides it. The
  // polynomial is a minimax fit of 2^f on [-1/2, 1/2] (relative error 9e-8).
  constexpr float kLog2e = 1.44269504088896341f;
  const __m512 v = (__m512)x;
  const __m512 s =
      _mm512_min_ps(_mm512_set1_ps(126.0f), (__m512)(x * fma(x * x, splat(kCubic * kLog2e), splat(kLinear * kLog2e))));
  const __m512 n = _mm512_roundscale_ps(s, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const vf f = (vf)(s - n);
  vf p = fma(splat(1.3264727247e-3f), f, splat(9.6715126882e-3f));
  p = fma(p, f, splat(5.5507337436e-2f));
  p = fma(p, f, splat(2.4022242085e-1f));
  p = fma(p, f, splat(6.9314697760e-1f));
  p = fma(p, f, splat(1.0f));
  const __mmask16 above_underflow = _mm512_cmp_ps_mask(s, _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
  const __m512 e = _mm512_maskz_scalef_ps(above_underflow, (__m512)p, n);
  const __m512 d = e + 1.0f;
  const __m512 r = _mm512_rcp14_ps(d);
  const __m512 inverse = r * _mm512_fnmadd_ps(d, r, _mm512_set1_ps(2.0f));  // one Newton step
  return (vf)(v * (e * inverse));
#else
  return x * sigmoid(x * fma(x * x, splat(kCubic), splat(kLinear)));
#endif
}

struct Gelu {
  static vf value(vf x) { return gelu(x); }
  // The derivative, within 2.5e-6. With s = sigmoid(2u): s + x s (1 - s) 2u'. Beyond |x| = 11 the second term is 0 in
  // float32; the bound keeps x^2 finite.
  static vf derivative(vf x) {
    const float a = 2.0f * 0.7978845608f, b = a * 0.044715f;
    const vf z = max(splat(-11.0f), min(splat(11.0f), x)), zz = z * z;
    const vf s = sigmoid(z * fma(zz, splat(b), splat(a)));
    return fma(z * s * (1.0f - s), fma(zz, splat(3.0f * b), splat(a)), s);
  }
};

struct Silu {
  static vf value(vf x) { return x * sigmoid(x); }
  static vf derivative(vf x) {
    const vf s = sigmoid(x);
    return fma(x * s, 1.0f - s, s);
  }
};

}  // namespace LLMCORE_ISA
}  // namespace llmcore
