#include "cuda/attention/backward.cuh"

namespace llmcore {
namespace cuda {
namespace {

template <int D, bool kCapped>
void launch_backward(const AttentionBackwardArgs& args, const Prepared& prepared) {
  const AttentionArgs& a = args.forward;
  const unsigned key_blocks = ceil_div(a.S, kOwnRows<D>) * static_cast<unsigned>(a.B * a.Hkv);
  launch("attention_backward", key_gradients_kernel<D, kCapped>, dim3(key_blocks), dim3(kBackwardThreads),
         backward_shared<D>(), args, prepared, gradient_scale(a));
  const unsigned query_blocks = ceil_div(a.T, kOwnRows<D>) * static_cast<unsigned>(a.B * a.H);
  launch("attention_backward", query_gradients_kernel<D, kCapped>, dim3(query_blocks), dim3(kBackwardThreads),
         backward_shared<D>(), args, prepared, gradient_scale(a));
}
template <int D>
void launch_backward(const AttentionBackwardArgs& args, const Prepared& prepared) {
  args.forward.softcap > 0 ? launch_backward<D, true>(args, prepared) : launch_backward<D, false>(args, prepared);
}

}  // namespace

void tiles_backward(const AttentionBackwardArgs& args, const Prepared& prepared) {
  args.forward.D == 64 ? launch_backward<64>(args, prepared) : launch_backward<128>(args, prepared);
}

}  // namespace cuda
}  // namespace llmcore
