#include "cuda/attention/plain.cuh"

namespace llmcore {
namespace cuda {
namespace {

template <class T, class C, int kColumns>
void launch_forward(const AttentionArgs& a) {
  const dim3 grid(ceil_div(a.D, kColumns) * ceil_div(a.T, kTile) * static_cast<unsigned>(a.B * a.H));
  launch("attention", plain_forward_kernel<T, C, kColumns>, grid, dim3(kPlainThreads), 0, a);
}
template <class T, class C>
void launch_forward(const AttentionArgs& a) {
  a.D <= kTile ? launch_forward<T, C, kTile>(a) : launch_forward<T, C, 2 * kTile>(a);
}

template <class T, int kColumns>
void launch_backward(const AttentionBackwardArgs& args, const Prepared& prepared) {
  const AttentionArgs& a = args.forward;
  const unsigned parts = ceil_div(a.D, kColumns);
  const dim3 key_grid(parts * ceil_div(a.S, kTile) * static_cast<unsigned>(a.B * a.Hkv));
  launch("attention_backward", plain_key_gradients_kernel<T, kColumns>, key_grid, dim3(kPlainThreads), 0, args,
         prepared);
  const dim3 query_grid(parts * ceil_div(a.T, kTile) * static_cast<unsigned>(a.B * a.H));
  launch("attention_backward", plain_query_gradients_kernel<T, kColumns>, query_grid, dim3(kPlainThreads), 0, args,
         prepared);
}

}  // namespace

void plain_forward(const AttentionArgs& a) {
  with_float(a.dtype, [&](auto x) {
    using T = decltype(x);
    a.k_scale ? launch_forward<T, uint8_t>(a) : launch_forward<T, T>(a);
  });
}

void plain_backward(const AttentionBackwardArgs& args, const Prepared& prepared) {
  with_float(args.forward.dtype, [&](auto x) {
    using T = decltype(x);
    args.forward.D <= kTile ? launch_backward<T, kTile>(args, prepared) : launch_backward<T, 2 * kTile>(args, prepared);
  });
}

}  // namespace cuda
}  // namespace llmcore
