// Shared by rope and cache: rotates heads by their positions and copies them to another dtype.
#pragma once
#include "cpu/lanes.h"

namespace llmcore {
namespace LLMCORE_ISA {

template <class T, class C>
static void convert_row(const T* x, int64_t D, C* to) {
  if constexpr (sizeof(T) == sizeof(C))
    memcpy(to, x, sizeof(T) * static_cast<size_t>(D));
  else
    for_lanes(D, [&](int64_t i, auto lanes, int) { store_n(to + i, load_n(x + i, lanes), lanes); });
}

// Rotates the two halves of a head's first R dimensions against each other and copies the rest.
template <class T, class O>
static inline void turn_head(const T* x, O* out, const float* cosine, const float* sine, int64_t half, int64_t D,
                             float sign) {
  for_lanes(half, [&](int64_t i, auto lanes, int) {
    const vf c = load_n(cosine + i, lanes), s = load_n(sine + i, lanes) * sign;
    const vf x1 = load_n(x + i, lanes), x2 = load_n(x + half + i, lanes);
    store_n(out + i, x1 * c - x2 * s, lanes);
    store_n(out + half + i, x2 * c + x1 * s, lanes);
  });
  if (static_cast<const void*>(x) != out && D > 2 * half) convert_row(x + 2 * half, D - 2 * half, out + 2 * half);
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
