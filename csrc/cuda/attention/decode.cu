#include "cuda/attention/decode.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int64_t kMostFewQueries = 8, kMostFewHeadSize = 1024;

// Depends only on the capacity and the number of queries: a recorded graph stays correct as the rows grow, and a row is
// cut in the same places whatever its neighbours are. Partial results are small compared with the keys that they came
// from, and enough blocks read at the same time even for a batch of one.
Splits cut(const AttentionArgs& a) {
  constexpr int64_t kLeastKeys = 128, kMostSplits = 64, kMostRows = 128;
  const int64_t most = a.T <= 2 ? kMostSplits : kMostRows / a.T;
  int64_t keys = round_up((a.S + most - 1) / most, kKeyTile);
  if (keys < kLeastKeys) keys = kLeastKeys;
  const int64_t count = a.S > keys ? (a.S + keys - 1) / keys : 1;
  return {static_cast<int>(keys), static_cast<int>(count), nullptr, nullptr};
}
size_t product_bytes(const AttentionArgs& a, const Splits& s) {
  return static_cast<size_t>(round_up(a.B * a.H * a.T * s.count * a.D * static_cast<int64_t>(sizeof(float)), 64));
}

template <int D, class C>
void launch_tiles(const AttentionArgs& a, const Splits& s) {
  const int64_t rows = a.T * (a.H / a.Hkv);
  const dim3 grid(static_cast<unsigned>(a.B * a.Hkv * s.count) * ceil_div(rows, kFewRows));
  const auto kernel = a.softcap > 0 ? few_tiles_kernel<D, C, true> : few_tiles_kernel<D, C, false>;
  launch("attention", kernel, grid, dim3(kFewThreads), few_shared<D>(), a, s, score_scale(a));
}
template <class C>
void launch_tiles(const AttentionArgs& a, const Splits& s) {
  a.D == 64 ? launch_tiles<64, C>(a, s) : launch_tiles<128, C>(a, s);
}

template <class T, class C, int kRows>
void launch_plain(const AttentionArgs& a, const Splits& s) {
  constexpr int64_t kN = kRun<C>;
  bool aligned = a.D % kN == 0;
  for (const Strides3& stride : {a.k_stride, a.v_stride})
    aligned = aligned && stride.b % kN == 0 && stride.t % kN == 0 && stride.h % kN == 0;
  for (const void* p : {a.k, a.v}) aligned = aligned && reinterpret_cast<uintptr_t>(p) % (kN * sizeof(C)) == 0;
  const dim3 grid(static_cast<unsigned>(a.B * a.Hkv * s.count) * ceil_div(a.T * (a.H / a.Hkv), kRows));
  launch("attention", few_plain_kernel<T, C, kRows>, grid, dim3(kPlainFewThreads), plain_few_shared(a.D, kRows), a, s,
         aligned);
}
template <class T, class C>
void launch_plain(const AttentionArgs& a, const Splits& s) {
  a.T*(a.H / a.Hkv) == 1 ? launch_plain<T, C, 1>(a, s) : launch_plain<T, C, 4>(a, s);
}

}  // namespace

bool takes_few_queries(const AttentionArgs& a) { return a.T <= kMostFewQueries && a.D <= kMostFewHeadSize; }

size_t few_queries_workspace(const AttentionArgs& a) {
  const Splits s = cut(a);
  if (s.count == 1) return 0;
  return product_bytes(a, s) + static_cast<size_t>(a.B * a.H * a.T * s.count) * 2 * sizeof(float);
}

void few_queries_forward(const AttentionArgs& a) {
  Splits s = cut(a);
  s.products = static_cast<float*>(a.workspace);
  s.totals = reinterpret_cast<float*>(static_cast<char*>(a.workspace) + product_bytes(a, s));
  if (takes_tiles(a)) {
    a.k_scale ? launch_tiles<uint8_t>(a, s) : launch_tiles<bf16>(a, s);
  } else {
    with_float(a.dtype, [&](auto x) {
      using T = decltype(x);
      a.k_scale ? launch_plain<T, uint8_t>(a, s) : launch_plain<T, T>(a, s);
    });
  }
  if (s.count == 1) return;
  with_float(a.dtype, [&](auto x) {
    launch("attention", merge_splits_kernel<decltype(x)>, dim3(static_cast<unsigned>(a.B * a.H * a.T)),
           dim3(kMergeThreads), 0, a, s);
  });
}

}  // namespace cuda
}  // namespace llmcore
