// Softmax over rows. -inf entries come out as 0; a row that is all -inf or contains NaN or +inf comes out as NaN.
#include "cpu/families.h"
#include "cpu/lanes.h"

namespace llmcore {
namespace LLMCORE_ISA {

template <class T>
static void softmax_forward_typed(const SoftmaxArgs& a) {
  const int64_t N = a.N;
  constexpr int64_t kKept = 4096;  // a row of up to this many exponentials stays in L1; longer ones are computed twice
  parallel_ranges(a.M, row_grain(N), [&](int64_t begin, int64_t end) {
    float kept[kKept];
    for (int64_t m = begin; m < end; ++m) {
      const T* x = static_cast<const T*>(a.x) + m * N;
      T* out = static_cast<T*>(a.out) + m * N;
      if (N > kKept) {
        const MaxSum row = max_sum(x, N);
        const float factor = 1.0f / row.sum;
        for_lanes<2>(N, [&](int64_t i, auto lanes, int) {
          store_n(out + i, exp(load_n(x + i, lanes) - row.max) * factor, lanes);
        });
        continue;
      }
      const float top = row_max(x, N);
      vf total[4] = {};
      for_lanes<4>(N, [&](int64_t i, auto lanes, int u) {
        const vf e = exp(load_n(x + i, lanes) - top);
        store_n(kept + i, e, lanes);
        total[u] += keep_n(e, lanes);
      });
      const float factor = 1.0f / sum4(total);
      for_lanes<4>(N, [&](int64_t i, auto lanes, int) { store_n(out + i, load_n(kept + i, lanes) * factor, lanes); });
    }
  });
}
static void softmax_forward(const SoftmaxArgs& a) {
  a.dtype == DType::kBF16 ? softmax_forward_typed<bf16>(a) : softmax_forward_typed<float>(a);
}

template <class T>
static void softmax_backward_typed(const SoftmaxBackwardArgs& a) {
  const int64_t N = a.N;
  parallel_ranges(a.M, row_grain(N), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const T* dout = static_cast<const T*>(a.dout) + m * N;
      const T* out = static_cast<const T*>(a.out) + m * N;
      T* dx = static_cast<T*>(a.dx) + m * N;
      vf s[4] = {};
      for_lanes<4>(
          N, [&](int64_t i, auto lanes, int u) { s[u] = fma(load_n(dout + i, lanes), load_n(out + i, lanes), s[u]); });
      const float dot = sum4(s);
      for_lanes<4>(N, [&](int64_t i, auto lanes, int) {
        store_n(dx + i, load_n(out + i, lanes) * (load_n(dout + i, lanes) - dot), lanes);
      });
    }
  });
}
static void softmax_backward(const SoftmaxBackwardArgs& a) {
  a.dtype == DType::kBF16 ? softmax_backward_typed<bf16>(a) : softmax_backward_typed<float>(a);
}

void register_softmax(KernelTable& t) {
  t.softmax_forward = softmax_forward;
  t.softmax_backward = softmax_backward;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
