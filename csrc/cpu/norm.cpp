// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019). A row is read from memory once; statistics are
// float32, the variance from the differences to the mean (no cancellation).
#include "cpu/families.h"
#include "cpu/lanes.h"

namespace llmcore {
namespace LLMCORE_ISA {

template <class T, bool kRms>
static void norm_forward_typed(const NormArgs& a) {
  const int64_t C = a.C;
  parallel_ranges(a.M, row_grain(C), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const T* x = static_cast<const T*>(a.x) + m * C;
      T* out = static_cast<T*>(a.out) + m * C;
      float mean = 0.0f;
      if constexpr (!kRms) {
        vf s[4] = {};
        for_lanes<4>(C, [&](int64_t i, auto lanes, int u) { s[u] += load_n(x + i, lanes); });
        mean = sum4(s) / static_cast<float>(C);
      }
      vf q[4] = {};
      for_lanes<4>(C, [&](int64_t i, auto lanes, int u) {
        const vf d = keep_n(load_n(x + i, lanes) - mean, lanes);
        q[u] = fma(d, d, q[u]);
      });
      const float rstd = 1.0f / __builtin_sqrtf(sum4(q) / static_cast<float>(C) + a.eps);
      for_lanes(C, [&](int64_t i, auto lanes, int) {
        vf y = (load_n(x + i, lanes) - mean) * rstd * load_n(a.weight + i, lanes);
        if constexpr (!kRms)
          if (a.bias) y += load_n(a.bias + i, lanes);
        store_n(out + i, y, lanes);
      });
      if (a.mean) a.mean[m] = mean;
      if (a.rstd) a.rstd[m] = rstd;
    }
  });
}

// With g = dout * weight and h = (x - mean) * rstd: dx = rstd * (g - mean(g) - h * mean(g * h)), without mean(g) for
// RMSNorm, + residual; dweight += sum of dout * h over rows, dbias += sum of dout.
template <class T, bool kRms>
static void norm_backward_typed(const NormBackwardArgs& a) {
  const int64_t M = a.M, C = a.C;
  if (M == 0 || C == 0) return;
  const int64_t even = ceil_div(M, kNormBackwardChunks), grain = row_grain(C);
  const int64_t rows = even > grain ? even : grain;
  parallel_ranges(M, rows, [&](int64_t begin, int64_t end) {
    float* dweight = a.workspace + begin / rows * 2 * C;
    float* dbias = dweight + C;
    memset(dweight, 0, static_cast<size_t>(2 * C) * sizeof(float));
    for (int64_t m = begin; m < end; ++m) {
      const T* x = static_cast<const T*>(a.x) + m * C;
      const T* dout = static_cast<const T*>(a.dout) + m * C;
      const T* residual = a.residual ? static_cast<const T*>(a.residual) + m * C : nullptr;
      T* dx = static_cast<T*>(a.dx) + m * C;
      const float mean = kRms ? 0.0f : a.mean[m], rstd = a.rstd[m];
      vf sum_g[4] = {}, sum_gh[4] = {};
      for_lanes<4>(C, [&](int64_t i, auto lanes, int u) {
        const vf d = load_n(dout + i, lanes), h = keep_n((load_n(x + i, lanes) - mean) * rstd, lanes);
        const vf g = d * load_n(a.weight + i, lanes);
        if constexpr (!kRms) {
          sum_g[u] += g;
          store_n(dbias + i, load_n(dbias + i, lanes) + d, lanes);
        }
        sum_gh[u] = fma(g, h, sum_gh[u]);
        store_n(dweight + i, fma(d, h, load_n(dweight + i, lanes)), lanes);
      });
      const float mean_g = kRms ? 0.0f : sum4(sum_g) / static_cast<float>(C);
      const float mean_gh = sum4(sum_gh) / static_cast<float>(C);
      for_lanes(C, [&](int64_t i, auto lanes, int) {
        const vf h = (load_n(x + i, lanes) - mean) * rstd;
        const vf g = load_n(dout + i, lanes) * load_n(a.weight + i, lanes);
        const vf d = (g - mean_g - h * mean_gh) * rstd;
        store_n(dx + i, residual ? d + load_n(residual + i, lanes) : d, lanes);
      });
    }
  });
  const int64_t chunks = ceil_div(M, rows);
  parallel_ranges(C, kGrain / kNormBackwardChunks, [&](int64_t begin, int64_t end) {
    for_lanes(end - begin, [&](int64_t at, auto lanes, int) {
      const int64_t i = begin + at;
      vf dweight = {}, dbias = {};
      for (int64_t c = 0; c < chunks; ++c) {
        dweight += load_n(a.workspace + c * 2 * C + i, lanes);
        dbias += load_n(a.workspace + (c * 2 + 1) * C + i, lanes);
      }
      store_n(a.dweight + i, load_n(a.dweight + i, lanes) + dweight, lanes);
      if (a.dbias) store_n(a.dbias + i, load_n(a.dbias + i, lanes) + dbias, lanes);
    });
  });
}

template <bool kRms>
static void norm_forward(const NormArgs& a) {
  a.dtype == DType::kBF16 ? norm_forward_typed<bf16, kRms>(a) : norm_forward_typed<float, kRms>(a);
}
template <bool kRms>
static void norm_backward(const NormBackwardArgs& a) {
  a.dtype == DType::kBF16 ? norm_backward_typed<bf16, kRms>(a) : norm_backward_typed<float, kRms>(a);
}

void register_norm(KernelTable& t) {
  t.layer_norm_forward = norm_forward<false>;
  t.layer_norm_backward = norm_backward<false>;
  t.rms_norm_forward = norm_forward<true>;
  t.rms_norm_backward = norm_backward<true>;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
