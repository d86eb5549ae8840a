// Copies between layouts of any strides.
#include "core/cuda_api.h"
#include "cuda/common.cuh"

namespace llmcore {
namespace cuda {
namespace {

template <class T>
__global__ void copy_strided_kernel(StridedCopyArgs a, int64_t n) {  // from and to: any strides
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    int64_t rest = i, from = 0, to = 0;
    for (int k = a.ndim - 1; k >= 0; --k) {
      const int64_t at = rest % a.shape[k];
      rest /= a.shape[k];
      from += at * a.from_stride[k], to += at * a.to_stride[k];
    }
    static_cast<T*>(a.to)[to] = static_cast<const T*>(a.from)[from];
  }
}

}  // namespace

void copy_strided(const StridedCopyArgs& given) {
  StridedCopyArgs a = given;
  int64_t n = 1;
  // Adjacent dimensions that are contiguous in both layouts are merged.
  int dims = 0;
  for (int k = 0; k < given.ndim; ++k) {
    n *= given.shape[k];
    if (given.shape[k] == 1) continue;
    const bool joined = dims > 0 && a.from_stride[dims - 1] == given.from_stride[k] * given.shape[k] &&
                        a.to_stride[dims - 1] == given.to_stride[k] * given.shape[k];
    const int64_t before = joined ? a.shape[dims - 1] : 1;
    if (!joined) ++dims;
    a.shape[dims - 1] = before * given.shape[k];
    a.from_stride[dims - 1] = given.from_stride[k], a.to_stride[dims - 1] = given.to_stride[k];
  }
  a.ndim = dims;
  // Rows of contiguous memory are moved 16 bytes at a time.
  const auto whole = [](int64_t bytes) { return bytes % 16 == 0; };
  bool wide = dims > 0 && a.item < 16 && a.from_stride[dims - 1] == 1 && a.to_stride[dims - 1] == 1 &&
              whole(a.shape[dims - 1] * a.item) && whole(static_cast<int64_t>(reinterpret_cast<uintptr_t>(a.from))) &&
              whole(static_cast<int64_t>(reinterpret_cast<uintptr_t>(a.to)));
  for (int k = 0; k + 1 < dims; ++k) wide = wide && whole(a.from_stride[k] * a.item) && whole(a.to_stride[k] * a.item);
  if (wide) {
    const int64_t items = 16 / a.item;
    a.shape[dims - 1] /= items, n /= items, a.item = 16;
    for (int k = 0; k + 1 < dims; ++k) a.from_stride[k] /= items, a.to_stride[k] /= items;
  }
  const unsigned blocks = blocks_for(n, 256);
  switch (a.item) {
    case 1:
      return launch("copy", copy_strided_kernel<uint8_t>, blocks, 256, 0, a, n);
    case 2:
      return launch("copy", copy_strided_kernel<uint16_t>, blocks, 256, 0, a, n);
    case 4:
      return launch("copy", copy_strided_kernel<uint32_t>, blocks, 256, 0, a, n);
    case 8:
      return launch("copy", copy_strided_kernel<uint64_t>, blocks, 256, 0, a, n);
    default:
      return launch("copy", copy_strided_kernel<uint4>, blocks, 256, 0, a, n);
  }
}

}  // namespace cuda
}  // namespace llmcore
