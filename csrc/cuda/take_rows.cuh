// Copies rows by index, for embedding and gather.
#pragma once
#include "cuda/vectors.cuh"

namespace llmcore {
namespace cuda {
namespace {

// from (rows,C), ids (M), out (M,C) = from[ids]; kCount columns at a time
template <class S, class O, int kCount>
__global__ void __launch_bounds__(kItemThreads)
    take_kernel(int64_t M, int64_t C, const S* from, const int32_t* ids, O* out) {
  constexpr int kEach = kCount == 1 ? 4 : 2;
  const int64_t first = first_item<kEach>(), columns = C / kCount;
  Vec<S, kCount> x[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (const int64_t i = first + j * kItemThreads; i < M * columns) {
      const Split s = split(i, columns);
      x[j] = *reinterpret_cast<const Vec<S, kCount>*>(from + ids[s.row] * C + s.at * kCount);
    }
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (const int64_t i = first + j * kItemThreads; i < M * columns) {
      if constexpr (sizeof(S) == sizeof(O))
        put(out + i * kCount, x[j]);  // unchanged bits
      else
        store(out + i * kCount, as_floats(x[j]));
    }
}

template <class S, class O>
void take_rows(const char* op, int64_t M, int64_t C, const void* from, const int32_t* ids, void* out) {
  constexpr int kWide = kVec<S> < kVec<O> ? kVec<S> : kVec<O>;
  const S* rows = static_cast<const S*>(from);
  O* to = static_cast<O*>(out);
  if (aligned<S>(0, {from, out}) && C % kWide == 0)
    launch(op, take_kernel<S, O, kWide>, blocks_of_items<2>(M * (C / kWide)), kItemThreads, 0, M, C, rows, ids, to);
  else
    launch(op, take_kernel<S, O, 1>, blocks_of_items<4>(M * C), kItemThreads, 0, M, C, rows, ids, to);
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
