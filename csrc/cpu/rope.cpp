// Rotary position embedding (Su et al. 2021), rotate-half form: pairs are (i, i + R/2) of the first R dimensions. out
// may be x.
#include "cpu/families.h"
#include "cpu/rotate.h"

namespace llmcore {
namespace LLMCORE_ISA {

template <class T>
static void rope_typed(const RopeArgs& a) {
  const int64_t half = a.R / 2, row = a.H * a.D;
  parallel_ranges(a.B * a.T, row_grain(row), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const int64_t position = a.positions ? a.positions[token] : token % a.T;
      const float* cosine = a.cos + position * half;
      const float* sine = a.sin + position * half;
      const float sign = a.inverse ? -1.0f : 1.0f;
      const T* x = static_cast<const T*>(a.x) + token * row;
      T* out = static_cast<T*>(a.out) + token * row;
      for (int64_t h = 0; h < a.rotated; ++h, x += a.D, out += a.D) turn_head(x, out, cosine, sine, half, a.D, sign);
      if (x != out) memcpy(out, x, static_cast<size_t>((a.H - a.rotated) * a.D) * sizeof(T));
    }
  });
}

static void rope(const RopeArgs& a) { a.dtype == DType::kBF16 ? rope_typed<bf16>(a) : rope_typed<float>(a); }

void register_rope(KernelTable& t) { t.rope = rope; }

}  // namespace LLMCORE_ISA
}  // namespace llmcore
