#include "cuda/attention/forward.cuh"

namespace llmcore {
namespace cuda {
namespace {

template <int D, class C>
void launch_forward(const AttentionArgs& a) {
  const dim3 grid(ceil_div(a.T, kForwardRows) * static_cast<unsigned>(a.B * a.H));
  const auto kernel = a.softcap > 0 ? forward_kernel<D, C, true> : forward_kernel<D, C, false>;
  launch("attention", kernel, grid, dim3(kForwardThreads), sizeof(ForwardShared<D>), a, score_scale(a));
}

}  // namespace

void tiles_forward(const AttentionArgs& a) {
  if (a.k_scale)
    a.D == 64 ? launch_forward<64, uint8_t>(a) : launch_forward<128, uint8_t>(a);
  else
    a.D == 64 ? launch_forward<64, bf16>(a) : launch_forward<128, bf16>(a);
}

}  // namespace cuda
}  // namespace llmcore
