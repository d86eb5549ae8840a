// Rows taken by index, scattered and summed, for mixtures of experts.
#include "cpu/families.h"
#include "cpu/lanes.h"

namespace llmcore {
namespace LLMCORE_ISA {

template <class T>
static void take_typed(const TakeArgs& a) {
  parallel_ranges(a.N, row_grain(a.C), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      memcpy(static_cast<T*>(a.out) + n * a.C, static_cast<const T*>(a.x) + static_cast<int64_t>(a.ids[n]) * a.C,
             static_cast<size_t>(a.C) * sizeof(T));
  });
}
static void take(const TakeArgs& a) { a.dtype == DType::kBF16 ? take_typed<bf16>(a) : take_typed<float>(a); }

template <class T>
static void scatter_typed(const ScatterArgs& a) {
  parallel_ranges(a.M, row_grain(a.C), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      for_lanes(a.C, [&](int64_t c, auto lanes, int) {
        vf sum{};
        for (int64_t i = a.offsets[m]; i < a.offsets[m + 1]; ++i)
          sum += load_n(static_cast<const T*>(a.dout) + a.order[i] * a.C + c, lanes);
        store_n(static_cast<T*>(a.dx) + m * a.C + c, sum, lanes);
      });
  });
}
static void scatter(const ScatterArgs& a) {
  a.dtype == DType::kBF16 ? scatter_typed<bf16>(a) : scatter_typed<float>(a);
}

template <class T>
static void weighted_sum_typed(const WeightedSumArgs& a) {
  parallel_ranges(a.M, row_grain(a.k * a.C), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      for_lanes(a.C, [&](int64_t c, auto lanes, int) {
        vf sum{};
        for (int64_t i = m * a.k; i < (m + 1) * a.k; ++i)
          sum = fma(load_n(static_cast<const T*>(a.y) + i * a.C + c, lanes), splat(a.weight[i]), sum);
        store_n(static_cast<T*>(a.out) + m * a.C + c, sum, lanes);
      });
  });
}
static void weighted_sum(const WeightedSumArgs& a) {
  a.dtype == DType::kBF16 ? weighted_sum_typed<bf16>(a) : weighted_sum_typed<float>(a);
}

template <class T>
static void weighted_sum_backward_typed(const WeightedSumBackwardArgs& b) {
  const WeightedSumArgs& a = b.forward;
  parallel_ranges(a.M * a.k, row_grain(a.C), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T *dout = static_cast<const T*>(b.dout) + i / a.k * a.C, *y = static_cast<const T*>(a.y) + i * a.C;
      T* dy = static_cast<T*>(b.dy) + i * a.C;
      vf dot{};
      for_lanes(a.C, [&](int64_t c, auto lanes, int) {
        const vf d = load_n(dout + c, lanes);
        dot = fma(d, load_n(y + c, lanes), dot);
        store_n(dy + c, d * a.weight[i], lanes);
      });
      b.dweight[i] = sum(dot);
    }
  });
}
static void weighted_sum_backward(const WeightedSumBackwardArgs& b) {
  b.forward.dtype == DType::kBF16 ? weighted_sum_backward_typed<bf16>(b) : weighted_sum_backward_typed<float>(b);
}

void register_gather(KernelTable& t) {
  t.take = take;
  t.scatter = scatter;
  t.weighted_sum = weighted_sum;
  t.weighted_sum_backward = weighted_sum_backward;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
