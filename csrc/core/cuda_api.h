// The C interface of libllmcore_cuda, the library of CUDA kernels that _core opens when the device is first requested
// (core/device.cpp). Both sides are compiled from this header and compare kCudaApiLayout. Nothing here throws: errors
// are kept, and KernelTable::error() reports them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "core/allocator.h"
#include "core/kernel_table.h"

namespace llmcore {

constexpr int kMostDimensions = 8;
struct StridedCopyArgs {  // elements of `item` bytes from one layout to another, both on the device; strides in
                          // elements
  int ndim;
  int64_t shape[kMostDimensions], from_stride[kMostDimensions], to_stride[kMostDimensions];
  int64_t item;
  const void* from;
  void* to;
};

struct CudaDeviceInfo {
  char name[256];
  int major, minor;  // compute capability
  int multiprocessors;
  size_t memory, free_memory;        // bytes
  size_t l2_bytes, shared_bytes;     // of the L2 cache; of shared memory available to a block
  double clock_hz, memory_clock_hz;  // 0 where the driver does not say
  int memory_bus_bits;
  int driver, runtime;  // CUDA versions, 1000 major + 10 minor
  char blas[256];       // version of cuBLASLt, or why it is missing
};

struct CudaApi {
  uint64_t layout;
  KernelTable kernels;

  void (*info)(CudaDeviceInfo*);

  // Allocates device memory, which is kept for reuse when freed. Returns null if none is left; error() says how much
  // was requested and how much is free. Freed memory may be handed out again at once: all work is in the order of one
  // stream.
  void* (*allocate)(size_t bytes);
  void (*deallocate)(void* p, size_t bytes);
  void (*release_cached)();
  void (*memory_stats)(MemoryStats*);
  void (*reset_peak)();
  // Host memory that the copies of a recorded plan may read at any time.
  void* (*allocate_pinned)(size_t bytes);
  void (*deallocate_pinned)(void* p);

  // Copies in stream order. to_device has read the bytes when it returns (but reads the pinned memory of a recorded
  // plan again at every replay); to_host has written them.
  void (*to_device)(void* to, const void* from, size_t bytes);
  void (*pinned_to_device)(void* to, const void* pinned, size_t bytes);
  void (*to_host)(void* to, const void* from, size_t bytes);
  void (*copy)(void* to, const void* from, size_t bytes);
  void (*copy_strided)(const StridedCopyArgs&);
  void (*zero)(void* p, size_t bytes);
  void (*synchronize)();      // waits until all of this is done
  void (*synchronize_all)();  // and also for work that others put on their own streams

  // This thread's launches between the two are recorded, not executed. graph_end returns the graph, or null.
  void (*graph_begin)();
  void* (*graph_end)();
  void (*graph_launch)(void* graph);
  void (*graph_destroy)(void* graph);
};

template <class... T>
constexpr uint64_t hash_of_sizes() {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const size_t size : {sizeof(T)...}) hash = (hash ^ size) * 1099511628211u;
  return hash;
}
constexpr uint64_t kCudaApiLayout =
    hash_of_sizes<CudaApi, CudaDeviceInfo, StridedCopyArgs, PackArgs, GemmArgs, AttentionArgs, AttentionBackwardArgs,
                  CacheAppendArgs, NormArgs, NormBackwardArgs, UnaryArgs, UnaryBackwardArgs, BinaryArgs, GatedArgs,
                  GatedBackwardArgs, ScaleArgs, SoftcapArgs, CastArgs, ColumnSumArgs, SoftmaxArgs, SoftmaxBackwardArgs,
                  RopeArgs, RopeAppendArgs, TakeArgs, ScatterArgs, WeightedSumArgs, WeightedSumBackwardArgs,
                  EmbeddingArgs, EmbeddingBackwardArgs, CrossEntropyArgs, CrossEntropyBackwardArgs,
                  QuantizeActivationsArgs, QuantizedGemmArgs, DequantizeRowsArgs, UpdateArgs, MomentumArgs,
                  SumSquaresArgs, DivideByNormArgs, AddDiagonalArgs, SumArgs, SampleArgs>();

// The library's only symbol. Returns null if there is no device; `message` then says why, in one line. blas_paths:
// where to look for libcublasLt besides the loader's own places, separated by colons.
using OpenCuda = const CudaApi* (*)(const char* blas_paths, char* message, size_t room);
constexpr const char* kOpenCudaName = "llmcore_cuda_open";

}  // namespace llmcore
