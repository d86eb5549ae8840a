// Cross-entropy over rows of logits. NaN and inf in the logits come out as NaN or inf losses.
#include "cpu/families.h"
#include "cpu/lanes.h"

namespace llmcore {
namespace LLMCORE_ISA {

template <class T>
static void cross_entropy_forward_typed(const CrossEntropyArgs& a) {
  parallel_ranges(a.M, row_grain(a.V), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const T* x = static_cast<const T*>(a.logits) + m * a.ld;
      const MaxSum row = max_sum(x, a.V);
      const float lse = row.max + log(splat(row.sum))[0];
      a.lse[m] = lse;
      a.loss[m] = a.target[m] < 0 ? 0.0f : lse - to_float(x[a.target[m]]);
    }
  });
}
static void cross_entropy_forward(const CrossEntropyArgs& a) {
  a.dtype == DType::kBF16 ? cross_entropy_forward_typed<bf16>(a) : cross_entropy_forward_typed<float>(a);
}

// dlogits may be logits, also when float32 becomes bfloat16 in the same rows (ld_out = 2 ld): a row is processed from
// its start, every vector is read before it is written, and writes never overtake reads.
template <class T, class O>
static void cross_entropy_backward_typed(const CrossEntropyBackwardArgs& a) {
  parallel_ranges(a.M, row_grain(a.V), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const T* x = static_cast<const T*>(a.logits) + m * a.ld;
      O* out = static_cast<O*>(a.dlogits) + m * a.ld_out;
      const int64_t target = a.target[m];
      if (target < 0) {
        memset(out, 0, static_cast<size_t>(a.V) * sizeof(O));
        continue;
      }
      const float lse = a.lse[m], dloss = a.dloss[m];
      const float at_target = (exp(splat(to_float(x[target]) - lse))[0] - 1.0f) * dloss;
      for_lanes<2>(
          a.V, [&](int64_t i, auto lanes, int) { store_n(out + i, exp(load_n(x + i, lanes) - lse) * dloss, lanes); });
      store_n(out + target, splat(at_target), 1);
    }
  });
}
static void cross_entropy_backward(const CrossEntropyBackwardArgs& a) {
  const bool bf16_out = a.out_dtype == DType::kBF16;
  if (a.dtype == DType::kBF16)
    bf16_out ? cross_entropy_backward_typed<bf16, bf16>(a) : cross_entropy_backward_typed<bf16, float>(a);
  else
    bf16_out ? cross_entropy_backward_typed<float, bf16>(a) : cross_entropy_backward_typed<float, float>(a);
}

void register_loss(KernelTable& t) {
  t.cross_entropy_forward = cross_entropy_forward;
  t.cross_entropy_backward = cross_entropy_backward;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
