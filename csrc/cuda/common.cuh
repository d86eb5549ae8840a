// Shared by all kernels: launching, errors, 16-byte accesses, conversions, sums over a warp and a block.
#pragma once
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>

#include "core/kernel_table.h"
#include "cuda/ptx.cuh"

namespace llmcore {

struct StridedCopyArgs;  // api.h

namespace cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// ---- of the host (runtime.cu) ----------------------------------------------------------------------
cudaStream_t stream();                       // the one that this thread launches to
int multiprocessors();                       // of the device
void note(const char* what, cudaError_t e);  // keeps the first error, for KernelTable::error()
void note(const char* line);
// More than 48 KB of shared memory, including static memory, is available only on request.
cudaError_t allow_shared(const void* kernel, size_t bytes);
void* blas_workspace(size_t* bytes);  // one for all products; null and 0 if there is no memory

void copy_strided(const StridedCopyArgs&);  // copy.cu

// ---- of the host (gemm/blas.cu) --------------------------------------------------------------------------
void set_blas_paths(const char* paths);      // where libcublasLt may be, separated by colons; opened at first use
void blas_version(char* text, size_t room);  // opens it; writes its version, or one line that says why it is missing

// Launches a kernel; an empty grid does nothing. Arguments are converted to the kernel's parameter types.
template <class... P, class... A>
void launch(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... arguments) {
  if (!grid.x || !grid.y || !grid.z) return;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes, config.stream = stream();
  if (shared_bytes > 32 * 1024) note(op, allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes));
  note(op, cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...));
}

inline unsigned ceil_div(int64_t n, int64_t m) { return static_cast<unsigned>((n + m - 1) / m); }
// Returns the number of blocks for n pieces of work if each block loops over several: enough to fill the device a few
// times.
inline unsigned blocks_for(int64_t n, int64_t a_block) {
  const int64_t wanted = (n + a_block - 1) / a_block, most = int64_t{16} * multiprocessors();
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

// Calls f(T{}) with T float or bf16.
template <class F>
void with_float(DType dtype, F f) {
  if (dtype == DType::kBF16)
    f(bf16{});
  else
    f(float{});
}

// ---- of the device --------------------------------------------------------------------------------
__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
template <class T>
__device__ __forceinline__ T rounded(float x);
template <>
__device__ __forceinline__ float rounded<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 rounded<bf16>(float x) {
  return {static_cast<uint16_t>(pack_bf16x2(x, 0.0f) & 0xffffu)};
}

// kCount elements that are read or written at once; the pointer is aligned to their total size.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Vec {
  T v[kCount];
};
// Stores v at p in one access: the compiler splits a plain assignment inside a loop or a condition.
template <class T, int kCount>
__device__ __forceinline__ void put(T* p, const Vec<T, kCount>& v) {
  const auto as = [&](auto word) {
    memcpy(&word, &v, sizeof word);
    __stwb(reinterpret_cast<decltype(word)*>(p), word);
  };
  if constexpr (sizeof v == 16)
    as(uint4{});
  else if constexpr (sizeof v == 8)
    as(uint2{});
  else
    *reinterpret_cast<Vec<T, kCount>*>(p) = v;
}
template <class T>
constexpr int kVec = 16 / static_cast<int>(sizeof(T));  // elements of 16 bytes

// Whether pointers and a row length allow 16-byte accesses.
template <class T>
bool aligned(int64_t columns, std::initializer_list<const void*> pointers) {
  bool ok = columns % kVec<T> == 0;
  for (const void* p : pointers) ok = ok && reinterpret_cast<uintptr_t>(p) % 16 == 0;
  return ok;
}

// Returns the same value in every lane; the order of additions is fixed.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = kWarp / 2; step; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int step = kWarp / 2; step; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = kWarp / 2; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// Reduces over all threads of a block of whole warps (blockDim.y = z = 1) with `over_warp`, starting from `none`; every
// thread gets the result. `shared`: room for 32 values. All threads must take part; one barrier already separates two
// uses of the same room.
template <class T, class OverWarp>
__device__ __forceinline__ T over_block(T x, T* shared, T none, OverWarp over_warp) {
  const int warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  x = over_warp(x);
  if (warps == 1) return x;
  __syncthreads();
  if (lane == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  return over_warp(lane < warps ? shared[lane] : none);
}
template <class T>
__device__ __forceinline__ T block_sum(T x, T* shared) {
  return over_block(x, shared, T{}, [](T v) { return warp_sum(v); });
}
__device__ __forceinline__ float block_max(float x, float* shared) {
  return over_block(x, shared, -INFINITY, [](float v) { return warp_max(v); });
}

// ---- one per family -------------------------------------------------------------------------------
void register_attention(KernelTable&);    // attention/attention.cu
void register_cache(KernelTable&);        // cache.cu: cache_append, rope_append
void register_elementwise(KernelTable&);  // elementwise.cu
void register_embedding(KernelTable&);    // embedding.cu
void register_gather(KernelTable&);       // gather.cu: take, scatter, weighted sums
void register_gemm(KernelTable&);         // gemm/gemm.cu: pack, gemm
void register_loss(KernelTable&);         // loss.cu
void register_muon(KernelTable&);         // optim/muon.cu: orthogonalisation, except its products
void register_norm(KernelTable&);         // norm.cu
void register_optim(KernelTable&);        // optim/optim.cu: updates, sums
void register_quantized(KernelTable&);    // quantized/quantized.cu
void register_rope(KernelTable&);         // rope.cu
void register_sample(KernelTable&);       // sample/sample.cu
void register_softmax(KernelTable&);      // softmax.cu

}  // namespace cuda
}  // namespace llmcore
