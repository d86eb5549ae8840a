// Launch errors, streams, events, graphs, memory.
#include <cstdio>
#include <cstring>
#include <thread>

#include "cuda/ptx.cuh"
#include "test.h"

namespace {

__global__ void add_kernel(int* x, int n) { x[threadIdx.x] += n; }
__global__ void dynamic_kernel(int* out) {
  LLMCORE_DYNAMIC_SHARED(room);
  room[threadIdx.x] = 3;
  out[threadIdx.x] = room[threadIdx.x];
}
__global__ void large_kernel(int* out) {
  __shared__ int room[2560];  // 10 KiB
  LLMCORE_DYNAMIC_SHARED(more);
  room[threadIdx.x] = 3, more[threadIdx.x] = 4;
  out[threadIdx.x] = room[threadIdx.x] + more[threadIdx.x];
}

TEST(launch_errors) {
  Array<int> x(std::vector<int>(1024, 0));
  int* const p = x.get();
  CHECK(start(add_kernel, 1, 1025, 0, p, 1) == cudaErrorInvalidConfiguration);
  CHECK(cudaPeekAtLastError() == cudaErrorInvalidConfiguration);
  CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess);
  CHECK(start(add_kernel, 1, dim3(32, 33), 0, p, 1) == cudaErrorInvalidConfiguration);
  CHECK(start(add_kernel, 1, dim3(1, 1, 65), 0, p, 1) == cudaErrorInvalidConfiguration);
  CHECK(start(add_kernel, dim3(1, 65536), 1, 0, p, 1) == cudaErrorInvalidConfiguration);
  CHECK(start(add_kernel, dim3(1, 1, 65536), 1, 0, p, 1) == cudaErrorInvalidConfiguration);
  CHECK(start(add_kernel, 0x80000000u, 1, 0, p, 1) == cudaErrorInvalidConfiguration);
  CHECK(start(add_kernel, 0, 1, 0, p, 1) == cudaErrorInvalidConfiguration);
  CHECK(start(add_kernel, 1, 0, 0, p, 1) == cudaErrorInvalidConfiguration);
  cudaGetLastError();
  CHECK(start(add_kernel, 1, 1024, 0, p, 1) == cudaSuccess && cudaGetLastError() == cudaSuccess);
  CHECK(x.values()[1023] == 1);
}

TEST(shared_memory_limits) {
  Array<int> x(1024);
  int* const p = x.get();
  const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
  CHECK(start(dynamic_kernel, 1, 32, 48 << 10, p) == cudaSuccess);
  CHECK(start(dynamic_kernel, 1, 32, (48 << 10) + 1, p) == cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(dynamic_kernel, most, (227 << 10) + 1) == cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(dynamic_kernel, most, 227 << 10) == cudaSuccess);
  CHECK(start(dynamic_kernel, 1, 32, 227 << 10, p) == cudaSuccess && x.values()[31] == 3);
  CHECK(start(dynamic_kernel, 1, 32, (227 << 10) + 1, p) == cudaErrorInvalidValue);
  // __shared__ variables count too.
  CHECK(start(large_kernel, 1, 32, 38 << 10, p) == cudaSuccess && x.values()[31] == 7);
  CHECK(start(large_kernel, 1, 32, 39 << 10, p) == cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(large_kernel, most, 218 << 10) == cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(large_kernel, most, 217 << 10) == cudaSuccess);
  cudaFuncAttributes attributes{};
  CHECK(cudaFuncGetAttributes(&attributes, large_kernel) == cudaSuccess && attributes.sharedSizeBytes == 10240);
  int blocks = 0;
  CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, large_kernel, 256, 64 << 10) == cudaSuccess);
  CHECK(blocks == 3);
  cudaGetLastError();
}

TEST(device) {
  int n = 0, value = 0;
  CHECK(cudaGetDeviceCount(&n) == cudaSuccess && n == 1 && cudaSetDevice(1) == cudaErrorInvalidDevice);
  cudaDeviceProp p;
  CHECK(cudaGetDeviceProperties(&p, 0) == cudaSuccess && p.major == 9 && p.multiProcessorCount == 4);
  CHECK(!std::strcmp(p.name, "emulated CUDA device (on the CPU)"));
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) == cudaSuccess);
  CHECK(value == 227 << 10 && p.l2CacheSize == 50 << 20);
  CHECK(!std::strcmp(cudaGetErrorName(cudaErrorInvalidValue), "cudaErrorInvalidValue"));
  CHECK(!std::strcmp(cudaGetErrorString(cudaErrorInvalidValue), "invalid argument"));
  cudaGetLastError();
}

CHILD(no_device) {
  int n = 5;
  CHECK(cudaGetDeviceCount(&n) == cudaErrorNoDevice && n == 0);
}
CHILD(little_memory) {
  void *p = nullptr, *q = nullptr;
  size_t available = 0, total = 0;
  CHECK(cudaMalloc(&p, 600000) == cudaSuccess && cudaMalloc(&q, 600000) == cudaErrorMemoryAllocation && !q);
  CHECK(cudaMemGetInfo(&available, &total) == cudaSuccess && available == 400000 && total == 1000000);
  CHECK(cudaFree(p) == cudaSuccess && cudaMalloc(&q, 1000000) == cudaSuccess);
  CHECK(cudaFree(q) == cudaSuccess && cudaFree(q) == cudaErrorInvalidValue);
}
TEST(environment) {
  CHECK(run_child("no_device", {{"LLMCORE_EMULATOR_DEVICES", "0"}}).status == 0);
  CHECK(run_child("little_memory", {{"LLMCORE_EMULATOR_MEMORY", "1000000"}}).status == 0);
}

cudaGraphExec_t finished(cudaStream_t s) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  CHECK(cudaStreamEndCapture(s, &graph) == cudaSuccess && graph);
  CHECK(cudaGraphInstantiate(&ready, graph, 0) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess);
  return ready;
}

TEST(graphs) {
  const cudaStream_t s = test_stream();
  Array<int> x(std::vector<int>(4, 0)), y(std::vector<int>(4, 0));
  int* pinned = nullptr;
  CHECK(cudaHostAlloc(&pinned, 16, cudaHostAllocDefault) == cudaSuccess);
  for (int i = 0; i < 4; ++i) pinned[i] = i;
  CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal) == cudaErrorIllegalState);
  cudaStreamCaptureStatus status;
  CHECK(cudaStreamIsCapturing(s, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive);
  CHECK(cudaMemcpyAsync(x.get(), pinned, 16, cudaMemcpyHostToDevice, s) == cudaSuccess);
  CHECK(start(add_kernel, 1, 4, 0, x.get(), 10) == cudaSuccess);
  CHECK(cudaMemcpyAsync(y.get(), x.get(), 16, cudaMemcpyDeviceToDevice, s) == cudaSuccess);
  CHECK(cudaMemsetAsync(x.get(), 1, 4, s) == cudaSuccess);
  CHECK(start(add_kernel, 1, 1025, 0, x.get(), 10) == cudaErrorInvalidConfiguration);
  const cudaGraphExec_t graph = finished(s);
  CHECK(x.values()[3] == 0 && y.values()[3] == 0);
  for (int round = 0; round < 3; ++round) {
    pinned[3] = 100 * round;
    CHECK(cudaGraphLaunch(graph, s) == cudaSuccess && cudaStreamSynchronize(s) == cudaSuccess);
    CHECK(y.values()[3] == 100 * round + 10 && y.values()[1] == 11 && x.values()[0] == 0x01010101);
  }
  CHECK(cudaGraphExecDestroy(graph) == cudaSuccess && cudaFreeHost(pinned) == cudaSuccess);
  cudaGetLastError();
}

TEST(graphs_within_graphs_and_over_streams) {
  const cudaStream_t s = test_stream();
  cudaStream_t other = nullptr;
  cudaEvent_t fork = nullptr, join = nullptr;
  CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming) == cudaSuccess &&
        cudaEventCreate(&join) == cudaSuccess);
  Array<int> x(std::vector<int>(4, 0));
  const auto add_on = [&](cudaStream_t stream) {
    cudaLaunchConfig_t config{};
    config.gridDim = 1, config.blockDim = 4, config.stream = stream;
    return cudaLaunchKernelEx(&config, add_kernel, x.get(), 1);
  };
  CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(cudaEventRecord(fork, s) == cudaSuccess && cudaStreamWaitEvent(other, fork) == cudaSuccess);
  CHECK(add_on(other) == cudaSuccess && cudaEventRecord(join, other) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(s, join) == cudaSuccess && add_on(s) == cudaSuccess);
  const cudaGraphExec_t inner = finished(s);
  CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(cudaGraphLaunch(inner, s) == cudaSuccess && cudaGraphLaunch(inner, s) == cudaSuccess);
  const cudaGraphExec_t outer = finished(s);
  CHECK(x.values()[0] == 0 && cudaGraphLaunch(outer, s) == cudaSuccess && x.values()[0] == 4);
  cudaGraph_t none = nullptr;
  CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(cudaEventRecord(fork, s) == cudaSuccess && cudaStreamWaitEvent(other, fork) == cudaSuccess);
  CHECK(add_on(other) == cudaSuccess && cudaStreamEndCapture(other, &none) == cudaErrorStreamCaptureUnmatched);
  CHECK(cudaStreamEndCapture(s, &none) == cudaErrorStreamCaptureInvalidated && !none);
  CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(cudaEventRecord(fork, s) == cudaSuccess && cudaStreamWaitEvent(other, fork) == cudaSuccess);
  CHECK(cudaStreamEndCapture(s, &none) == cudaErrorStreamCaptureUnjoined && !none);
  CHECK(add_on(other) == cudaSuccess && x.values()[0] == 5);
  CHECK(cudaGraphExecDestroy(inner) == cudaSuccess && cudaGraphExecDestroy(outer) == cudaSuccess);
  CHECK(cudaEventDestroy(fork) == cudaSuccess && cudaEventDestroy(join) == cudaSuccess);
  CHECK(cudaStreamDestroy(other) == cudaSuccess && cudaStreamDestroy(other) == cudaErrorInvalidResourceHandle);
  cudaGetLastError();
}

// A call that is forbidden during a capture invalidates the capture.
template <class F>
void check_forbidden(cudaStreamCaptureMode mode, cudaError_t expected, F call) {
  const cudaStream_t s = test_stream();
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamBeginCapture(s, mode) == cudaSuccess);
  CHECK(call(s) == expected);
  const cudaError_t end = cudaStreamEndCapture(s, &graph);
  CHECK(end == (expected == cudaSuccess ? cudaSuccess : cudaErrorStreamCaptureInvalidated));
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();
}

TEST(forbidden_while_capturing) {
  const auto global = cudaStreamCaptureModeGlobal, local = cudaStreamCaptureModeThreadLocal,
             relaxed = cudaStreamCaptureModeRelaxed;
  const auto unsupported = cudaErrorStreamCaptureUnsupported;
  void* p = nullptr;
  const auto allocate = [&](cudaStream_t) { return cudaMalloc(&p, 16); };
  const auto allocate_elsewhere = [&](cudaStream_t) {
    cudaError_t e = cudaSuccess;
    std::thread([&] { e = cudaMalloc(&p, 16); }).join();
    return e;
  };
  for (const auto mode : {global, local, relaxed}) {
    check_forbidden(mode, unsupported, [](cudaStream_t s) { return cudaStreamSynchronize(s); });
    check_forbidden(mode, unsupported, [](cudaStream_t s) { return cudaStreamQuery(s); });
    check_forbidden(mode, unsupported, [](cudaStream_t) { return cudaDeviceSynchronize(); });
    check_forbidden(mode, cudaErrorCapturedEvent, [](cudaStream_t s) {
      cudaEvent_t event = nullptr;
      CHECK(cudaEventCreate(&event) == cudaSuccess && cudaEventRecord(event, s) == cudaSuccess);
      const cudaError_t e = cudaEventSynchronize(event);
      cudaEventDestroy(event);
      return e;
    });
    check_forbidden(mode, mode == relaxed ? cudaSuccess : unsupported, allocate);
    check_forbidden(mode, mode == global ? unsupported : cudaSuccess, allocate_elsewhere);
    check_forbidden(mode, mode == relaxed ? cudaSuccess : unsupported, [](cudaStream_t) {
      int x = 0, y = 0;
      return cudaMemcpy(&x, &y, 4, cudaMemcpyDefault);
    });
  }
  cudaStream_t blocking = nullptr;
  cudaGraph_t graph = nullptr;
  int x = 0, y = 0;
  CHECK(cudaStreamCreate(&blocking) == cudaSuccess);
  CHECK(cudaStreamBeginCapture(blocking, relaxed) == cudaSuccess);
  CHECK(cudaMemcpyAsync(&x, &y, 4, cudaMemcpyDefault) == cudaErrorStreamCaptureImplicit);
  CHECK(cudaStreamEndCapture(blocking, &graph) == cudaErrorStreamCaptureInvalidated);
  CHECK(cudaStreamBeginCapture(blocking, global) == cudaSuccess);
  std::thread([&] { CHECK(cudaStreamEndCapture(blocking, &graph) == cudaErrorStreamCaptureWrongThread); }).join();
  CHECK(cudaStreamEndCapture(blocking, &graph) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(cudaStreamEndCapture(blocking, &graph) == cudaErrorIllegalState);
  CHECK(cudaStreamBeginCapture(nullptr, global) == unsupported);
  CHECK(cudaStreamDestroy(blocking) == cudaSuccess);
  cudaGetLastError();
}

TEST(events) {
  cudaEvent_t from = nullptr, to = nullptr, untimed = nullptr;
  CHECK(cudaEventCreate(&from) == cudaSuccess && cudaEventCreate(&to) == cudaSuccess);
  CHECK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming) == cudaSuccess);
  float ms = -1;
  CHECK(cudaEventElapsedTime(&ms, from, to) == cudaErrorInvalidResourceHandle);
  for (const cudaEvent_t e : {from, to, untimed}) CHECK(cudaEventRecord(e, test_stream()) == cudaSuccess);
  CHECK(cudaEventSynchronize(to) == cudaSuccess && cudaEventQuery(to) == cudaSuccess);
  CHECK(cudaEventElapsedTime(&ms, from, to) == cudaSuccess && ms >= 0 && ms < 1000);
  CHECK(cudaEventElapsedTime(&ms, from, untimed) == cudaErrorInvalidResourceHandle);
  for (const cudaEvent_t e : {from, to, untimed}) CHECK(cudaEventDestroy(e) == cudaSuccess);
  cudaGetLastError();
}

TEST(work_of_other_libraries) {
  static int done = 0, destroyed = 0;
  const auto work = [](void* p) { done += *static_cast<int*>(p); };
  const auto destroy = [](void* p) { ++destroyed, delete static_cast<int*>(p); };
  const cudaStream_t s = test_stream();
  llmcore_emulator_enqueue(s, work, new int(3), destroy);
  CHECK(cudaStreamSynchronize(s) == cudaSuccess && done == 3 && destroyed == 1);
  CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  llmcore_emulator_enqueue(s, work, new int(10), destroy);
  const cudaGraphExec_t graph = finished(s);
  CHECK(done == 3 && destroyed == 1);
  CHECK(cudaGraphLaunch(graph, s) == cudaSuccess && cudaGraphLaunch(graph, s) == cudaSuccess);
  CHECK(cudaStreamSynchronize(s) == cudaSuccess && done == 23 && destroyed == 1);
  CHECK(cudaGraphExecDestroy(graph) == cudaSuccess && destroyed == 2);
}

// Pinned memory is read when the stream reaches the copy, other memory at once.
CHILD(late) {
  const cudaStream_t s = test_stream();
  int *x = nullptr, *pinned = nullptr, host = 5;
  CHECK(cudaMalloc(&x, 8) == cudaSuccess && cudaHostAlloc(&pinned, 8, 0) == cudaSuccess);
  pinned[0] = 5, pinned[1] = 7;
  CHECK(cudaMemcpyAsync(x, pinned, 4, cudaMemcpyHostToDevice, s) == cudaSuccess);
  CHECK(cudaMemcpyAsync(x + 1, &host, 4, cudaMemcpyHostToDevice, s) == cudaSuccess);
  CHECK(start(add_kernel, 1, 2, 0, x, 100) == cudaSuccess);
  CHECK(cudaMemcpyAsync(pinned, x, 8, cudaMemcpyDeviceToHost, s) == cudaSuccess);
  CHECK(pinned[0] == 5 && pinned[1] == 7);
  pinned[0] = 6, host = 6;
  CHECK(cudaStreamSynchronize(s) == cudaSuccess && pinned[0] == 106 && pinned[1] == 105);
  CHECK(start(add_kernel, 1, 1, 0, x, 1) == cudaSuccess);
  CHECK(cudaMemcpyAsync(&host, x, 4, cudaMemcpyDeviceToHost, s) == cudaSuccess && host == 107);
}
TEST(late_work) { CHECK(run_child("late", {{"LLMCORE_EMULATOR_LATE", "1"}}).status == 0); }

}  // namespace
