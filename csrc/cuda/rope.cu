// Rotary position embedding (Su et al. 2021), rotate-half form: pairs are (i, i + R/2) of the first R dimensions.
#include "cuda/vectors.cuh"

namespace llmcore {
namespace cuda {
namespace {

// x, out (B,T,H,D), cos, sin (P,R/2), positions (B,T). A thread rotates kCount pairs of a head, or copies kCount of its
// other elements. out may be x.
template <class T, int kCount>
__global__ void __launch_bounds__(kItemThreads) rope_kernel(RopeArgs a, int64_t items) {
  const int64_t half = a.R / 2, pairs = half / kCount, plain = (a.D - a.R) / kCount;
  const int64_t i = first_item<1>();
  if (i >= items) return;
  const Split in_head = split(i, pairs + plain), in_token = split(in_head.row, a.H);
  const T* x = static_cast<const T*>(a.x) + in_head.row * a.D;
  T* out = static_cast<T*>(a.out) + in_head.row * a.D;
  if (in_head.at >= pairs) {
    const int64_t at = a.R + (in_head.at - pairs) * kCount;
    if (x != out) put(out + at, *reinterpret_cast<const Vec<T, kCount>*>(x + at));
    return;
  }
  const int64_t at = in_head.at * kCount, token = in_token.row;
  Floats<kCount> x1 = load<kCount>(x + at), x2 = load<kCount>(x + half + at);
  if (in_token.at < a.rotated) {
    const int64_t position = (a.positions ? a.positions[token] : split(token, a.T).at) * half + at;
    const Floats<kCount> cosine = load<kCount>(a.cos + position), sine = load<kCount>(a.sin + position);
    const float sign = a.inverse ? -1.0f : 1.0f;
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      const float s = sine.v[c] * sign, before = x1.v[c];
      x1.v[c] = turned_first(before, x2.v[c], cosine.v[c], s);
      x2.v[c] = turned_second(before, x2.v[c], cosine.v[c], s);
    }
  } else if (x == out) {
    return;
  }
  store(out + at, x1);
  store(out + half + at, x2);
}

template <class T, int kCount>
void run_rope(const RopeArgs& a) {
  const int64_t items = a.B * a.T * a.H * ((a.R / 2 + a.D - a.R) / kCount);
  launch("rope", rope_kernel<T, kCount>, blocks_of_items<1>(items), kItemThreads, 0, a, items);
}

void rope(const RopeArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    const bool wide = aligned<T>(a.D, {a.x, a.out, a.cos, a.sin}) && a.R / 2 % kVec<T> == 0;
    wide ? run_rope<T, kVec<T>>(a) : run_rope<T, 1>(a);
  });
}

}  // namespace

void register_rope(KernelTable& t) { t.rope = rope; }

}  // namespace cuda
}  // namespace llmcore
