// Elements that are floats in registers whatever their type in memory, read and written up to 16 bytes at a time.
#pragma once
#include "cuda/common.cuh"

namespace llmcore {
namespace cuda {

template <int kCount>
struct Floats {
  float v[kCount];
};

template <class T, int kCount>
__device__ __forceinline__ Floats<kCount> as_floats(const Vec<T, kCount>& x) {
  Floats<kCount> y;
#pragma unroll
  for (int i = 0; i < kCount; ++i) y.v[i] = as_float(x.v[i]);
  return y;
}

// kCount elements at p, which is aligned to the smaller of their total size and 16 bytes.
template <int kCount, class T>
__device__ __forceinline__ Floats<kCount> load(const T* p) {
  constexpr int kPart = kCount < kVec<T> ? kCount : kVec<T>;
  Floats<kCount> x;
#pragma unroll
  for (int part = 0; part < kCount; part += kPart) {
    const Vec<T, kPart> v = *reinterpret_cast<const Vec<T, kPart>*>(p + part);
#pragma unroll
    for (int i = 0; i < kPart; ++i) x.v[part + i] = as_float(v.v[i]);
  }
  return x;
}

template <int kCount>
__device__ __forceinline__ void store(float* p, const Floats<kCount>& x) {
  constexpr int kPart = kCount < 4 ? kCount : 4;
#pragma unroll
  for (int part = 0; part < kCount; part += kPart) {
    Vec<float, kPart> v;
#pragma unroll
    for (int i = 0; i < kPart; ++i) v.v[i] = x.v[part + i];
    put(p + part, v);
  }
}
template <int kCount>
__device__ __forceinline__ void store(bf16* p, const Floats<kCount>& x) {
  constexpr int kPart = kCount < 8 ? kCount : 8;
#pragma unroll
  for (int part = 0; part < kCount; part += kPart) {
    Vec<bf16, kPart> v;
    if constexpr (kPart == 1) {
      v.v[0] = rounded<bf16>(x.v[part]);
    } else {
#pragma unroll
      for (int i = 0; i < kPart; i += 2) {  // one instruction rounds two
        const uint32_t two = pack_bf16x2(x.v[part + i], x.v[part + i + 1]);
        v.v[i] = {static_cast<uint16_t>(two & 0xffffu)}, v.v[i + 1] = {static_cast<uint16_t>(two >> 16)};
      }
    }
    put(p + part, v);
  }
}

// x / (1 + e^-s), within 4 ulp where that is a normal float. __fdividef: 2 ulp, and 0 where the divisor is above 2^126,
// in a third of the instructions of a division.
__device__ __forceinline__ float times_sigmoid(float x, float s) { return __fdividef(x, 1.0f + expf(-s)); }

// Rotates a pair (x1, x2): each of the two is rounded alike wherever it is computed.
__device__ __forceinline__ float turned_first(float x1, float x2, float cosine, float sine) {
  return fmaf(x1, cosine, -__fmul_rn(x2, sine));
}
__device__ __forceinline__ float turned_second(float x1, float x2, float cosine, float sine) {
  return fmaf(x2, cosine, __fmul_rn(x1, sine));
}

// i = row * n + at. 64-bit division is slow and seldom needed.
struct Split {
  int64_t row, at;
};
__device__ __forceinline__ Split split(int64_t i, int64_t n) {
  if (((i | n) >> 32) == 0) {
    const uint32_t q = static_cast<uint32_t>(i) / static_cast<uint32_t>(n);
    return {q, static_cast<uint32_t>(i) - q * static_cast<uint32_t>(n)};
  }
  return {i / n, i % n};
}

// Threads per block, and blocks for `items` pieces of work, kEach per thread; a block's pieces are adjacent.
constexpr int kItemThreads = 256;
template <int kEach>
unsigned blocks_of_items(int64_t items) {
  return ceil_div(items, int64_t{kItemThreads} * kEach);
}
template <int kEach>
__device__ __forceinline__ int64_t first_item() {  // each of the thread's others is kItemThreads further on
  return int64_t{blockIdx.x} * (kItemThreads * kEach) + threadIdx.x;
}

}  // namespace cuda
}  // namespace llmcore
