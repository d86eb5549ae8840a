// CUDA's runtime for the emulator: the part of <cuda_runtime.h> that kernels and their host code use, as plain C++.
#pragma once
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#define __host__
#define __device__
#define __global__
#define __constant__
#define __managed__
#define __grid_constant__
#define __shared__ static __attribute__((abi_tag("llmcore_shared")))  // symbols.cpp finds this tag in their names
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ /* the standard library has it in __attribute__((__noinline__)) */
#define __align__(n) __attribute__((aligned(n)))

#define CUDART_VERSION 13000
#define CUDART_INF_F __builtin_huge_valf()
#define CUDART_NAN_F __builtin_nanf("")

#include "device_functions.h"
#include "engine.h"

// ---- vectors ----------------------------------------------------------------------------------------
#define LLMCORE_EMULATOR_VECTORS(type, name, align2, align4)       \
  struct name##1 { type x; };                                      \
  struct alignas(align2) name##2 { type x, y; };                   \
  struct alignas(align4) name##4 { type x, y, z, w; };             \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
LLMCORE_EMULATOR_VECTORS(signed char, char, 2, 4)
LLMCORE_EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
LLMCORE_EMULATOR_VECTORS(short, short, 4, 8)
LLMCORE_EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
LLMCORE_EMULATOR_VECTORS(int, int, 8, 16)
LLMCORE_EMULATOR_VECTORS(unsigned, uint, 8, 16)
LLMCORE_EMULATOR_VECTORS(float, float, 8, 16)
LLMCORE_EMULATOR_VECTORS(long long, longlong, 16, 16)
LLMCORE_EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
LLMCORE_EMULATOR_VECTORS(double, double, 16, 16)
#undef LLMCORE_EMULATOR_VECTORS
struct int3 {
  int x, y, z;
};
struct float3 {
  float x, y, z;
};
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }

// ---- errors -----------------------------------------------------------------------------------------
enum cudaError {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidMemcpyDirection = 21,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorIllegalState = 401,
  cudaErrorNotReady = 600,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureMerge = 902,
  cudaErrorStreamCaptureUnmatched = 903,
  cudaErrorStreamCaptureUnjoined = 904,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorStreamCaptureImplicit = 906,
  cudaErrorCapturedEvent = 907,
  cudaErrorStreamCaptureWrongThread = 908,
};
using cudaError_t = cudaError;

// ---- handles ----------------------------------------------------------------------------------------
using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;

enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4,
};
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2,
};
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2,
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrClockRate = 13,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMemoryClockRate = 36,
  cudaDevAttrGlobalMemoryBusWidth = 37,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxRegistersPerMultiprocessor = 82,
  cudaDevAttrManagedMemory = 83,
  cudaDevAttrCooperativeLaunch = 95,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum : unsigned {
  cudaStreamDefault = 0,
  cudaStreamNonBlocking = 1,
  cudaEventDefault = 0,
  cudaEventBlockingSync = 1,
  cudaEventDisableTiming = 2,
  cudaHostAllocDefault = 0,
  cudaHostAllocPortable = 1,
  cudaHostAllocMapped = 2,
  cudaHostAllocWriteCombined = 4,
};

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlock;
  int regsPerBlock, warpSize, maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3];
  size_t totalConstMem;
  int major, minor, multiProcessorCount, memoryBusWidth, l2CacheSize, persistingL2CacheMaxSize;
  int maxThreadsPerMultiProcessor, regsPerMultiprocessor, maxBlocksPerMultiProcessor;
  size_t sharedMemPerMultiprocessor, sharedMemPerBlockOptin, reservedSharedMemPerBlock;
  int integrated, canMapHostMemory, concurrentKernels, asyncEngineCount, unifiedAddressing, managedMemory;
};
struct cudaFuncAttributes {
  size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
  int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, maxDynamicSharedSizeBytes;
};

enum cudaLaunchAttributeID {
  cudaLaunchAttributeIgnore = 0,
  cudaLaunchAttributeCooperative = 2,
  cudaLaunchAttributeClusterDimension = 4,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6,
  cudaLaunchAttributePriority = 8,
};
union cudaLaunchAttributeValue {
  char pad[64];
  struct {
    unsigned x, y, z;
  } clusterDim;
  int cooperative, priority, programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

// ---- functions --------------------------------------------------------------------------------------
extern "C" {
#pragma GCC visibility push(hidden)
const char* cudaGetErrorName(cudaError_t);
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();

cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaSetDevice(int);
cudaError_t cudaGetDevice(int*);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int device);
cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaDriverGetVersion(int*);
cudaError_t cudaRuntimeGetVersion(int*);

cudaError_t cudaMemGetInfo(size_t* available, size_t* total);
cudaError_t cudaFree(void*);
cudaError_t cudaFreeHost(void*);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t = nullptr);
cudaError_t cudaMemset(void*, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void*, int value, size_t bytes, cudaStream_t = nullptr);

cudaError_t cudaStreamCreate(cudaStream_t*);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t*, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamQuery(cudaStream_t);
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned flags = 0);
cudaError_t cudaLaunchHostFunc(cudaStream_t, void (*)(void*), void* data);

cudaError_t cudaEventCreate(cudaEvent_t*);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t);
cudaError_t cudaEventQuery(cudaEvent_t);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to);

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*);
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus*);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long flags = 0);
cudaError_t cudaGraphGetNodes(cudaGraph_t, struct CUgraphNode_st** nodes, size_t* count);
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaGraphDestroy(cudaGraph_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);
#pragma GCC visibility pop

// Not part of CUDA: runs work(data) in stream order, or at every launch of the graph that records it; then
// destroy(data). It serves emulations of CUDA's other libraries (cublaslt.cpp).
__attribute__((visibility("default"))) void llmcore_emulator_enqueue(cudaStream_t, void (*work)(void*), void* data,
                                                                     void (*destroy)(void*));
}

namespace llmcore_emulator {

LLMCORE_EMULATOR_LOCAL void check_argument(const void* kernel, int at, const void* value, size_t bytes);

template <class T>
inline T* clear_padding(T* value) {  // padding otherwise holds leftover bytes
#if __has_builtin(__builtin_clear_padding)
  __builtin_clear_padding(value);
#endif
  return value;
}

// The arguments of a launch; a recorded launch keeps them.
struct Arguments {
  void (*const call_thread)(const void* arguments_of);
  explicit Arguments(void (*call_thread)(const void*)) : call_thread(call_thread) {}
  virtual ~Arguments() = default;
  virtual const void* self() const = 0;
  virtual Arguments* copy() const = 0;
  virtual void check(const void* kernel) const = 0;  // LLMCORE_EMULATOR_APART
};
template <class... P>
struct ArgumentsOf final : Arguments {
  void (*kernel)(P...);
  std::tuple<P...> values;
  template <class... A>
  explicit ArgumentsOf(void (*kernel)(P...), A&&... a)
      : Arguments(thread), kernel(kernel), values(std::forward<A>(a)...) {}
  const void* self() const override { return this; }
  static void thread(const void* arguments) {
    const ArgumentsOf& a = *static_cast<const ArgumentsOf*>(arguments);
    std::apply(a.kernel, a.values);
  }
  Arguments* copy() const override { return new ArgumentsOf(*this); }
  void check(const void* name) const override {
    int at = 0;
    std::tuple<P...> copy = values;
    std::apply([&](auto&... value) { (check_argument(name, at++, clear_padding(&value), sizeof value), ...); }, copy);
  }
};

LLMCORE_EMULATOR_LOCAL cudaError_t launch(const cudaLaunchConfig_t&, const void* kernel, const Arguments&);
LLMCORE_EMULATOR_LOCAL cudaError_t set_attribute(const void* kernel, cudaFuncAttribute, int value);
LLMCORE_EMULATOR_LOCAL cudaError_t get_attributes(cudaFuncAttributes*, const void* kernel);
LLMCORE_EMULATOR_LOCAL cudaError_t most_blocks(int*, const void* kernel, int threads, size_t shared_bytes);
LLMCORE_EMULATOR_LOCAL cudaError_t allocate_device(void**, size_t bytes);
LLMCORE_EMULATOR_LOCAL cudaError_t allocate_host(void**, size_t bytes);

}  // namespace llmcore_emulator

template <class T>
inline cudaError_t cudaMalloc(T** p, size_t bytes) {
  return llmcore_emulator::allocate_device(reinterpret_cast<void**>(p), bytes);
}
template <class T>
inline cudaError_t cudaHostAlloc(T** p, size_t bytes, unsigned) {
  return llmcore_emulator::allocate_host(reinterpret_cast<void**>(p), bytes);
}
template <class T>
inline cudaError_t cudaMallocHost(T** p, size_t bytes, unsigned = 0) {
  return llmcore_emulator::allocate_host(reinterpret_cast<void**>(p), bytes);
}
template <class... P, class... A>
inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
  return llmcore_emulator::launch(
      *config, reinterpret_cast<const void*>(kernel),
      llmcore_emulator::ArgumentsOf<std::decay_t<P>...>(kernel, static_cast<P>(std::forward<A>(arguments))...));
}
template <class F>
inline cudaError_t cudaFuncSetAttribute(F* kernel, cudaFuncAttribute attribute, int value) {
  return llmcore_emulator::set_attribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class F>
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, F* kernel) {
  return llmcore_emulator::get_attributes(attributes, reinterpret_cast<const void*>(kernel));
}
template <class F>
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, F* kernel, int threads, size_t shared) {
  return llmcore_emulator::most_blocks(blocks, reinterpret_cast<const void*>(kernel), threads, shared);
}
