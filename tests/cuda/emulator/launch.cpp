// Launches and their limits, memory, copies.
#include <algorithm>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "memory.h"
#include "streams.h"
#include "symbols.h"

using namespace llmcore_emulator;

namespace llmcore_emulator {
namespace {

struct Function {
  size_t most_dynamic = 0;  // 0: the part of kSharedDefault not taken by __shared__ variables
};
Function& function(const void* kernel) {
  static auto* const functions = new std::unordered_map<const void*, Function>;
  return (*functions)[kernel];
}

cudaError_t check(const cudaLaunchConfig_t& c, const void* kernel) {
  const dim3 g = c.gridDim, b = c.blockDim;
  if (!kernel) return cudaErrorInvalidDeviceFunction;
  if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z) return cudaErrorInvalidConfiguration;
  if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) return cudaErrorInvalidConfiguration;
  if (b.x > 1024 || b.y > 1024 || b.z > 64 || uint64_t{b.x} * b.y * b.z > 1024) return cudaErrorInvalidConfiguration;
  const size_t most = function(kernel).most_dynamic, own = shared_bytes_of(kernel);
  if (c.dynamicSmemBytes > (most ? most : kSharedDefault - std::min(own, kSharedDefault))) return cudaErrorInvalidValue;
  for (unsigned i = 0; i < c.numAttrs; ++i) {
    const cudaLaunchAttribute& a = c.attrs[i];
    if (a.id == cudaLaunchAttributeClusterDimension && a.val.clusterDim.x * a.val.clusterDim.y * a.val.clusterDim.z > 1)
      fail("clusters are not emulated");
    if (a.id == cudaLaunchAttributeCooperative && a.val.cooperative) fail("cooperative launches are not emulated");
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& c, const void* kernel, const Arguments& arguments) {
  Lock lock(mutex());
  if (cudaError_t e = check(c, kernel)) return result(e);
  arguments.check(kernel);
  Launch l{c.gridDim, c.blockDim, c.dynamicSmemBytes, kernel, arguments.call_thread, arguments.self()};
  const Stream* const s = find(c.stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  if (!late() && !s->capture && s != legacy_stream()) {
    DeviceAccess access;
    run(l);
    return cudaSuccess;
  }
  std::shared_ptr<const Arguments> kept(arguments.copy());
  l.arguments = kept->self();
  return result(submit(c.stream, [l, kept] { run(l); }));
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  Lock lock(mutex());
  if (!kernel) return result(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout)
    return result(value >= -1 && value <= 100 ? cudaSuccess : cudaErrorInvalidValue);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return result(cudaErrorInvalidValue);
  if (value < 0 || static_cast<size_t>(value) + shared_bytes_of(kernel) > kSharedMost)
    return result(cudaErrorInvalidValue);
  function(kernel).most_dynamic = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t get_attributes(cudaFuncAttributes* attributes, const void* kernel) {
  Lock lock(mutex());
  if (!kernel) return result(cudaErrorInvalidDeviceFunction);
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 64;
  attributes->ptxVersion = attributes->binaryVersion = 90;
  attributes->sharedSizeBytes = shared_bytes_of(kernel);
  const size_t most = function(kernel).most_dynamic;
  attributes->maxDynamicSharedSizeBytes =
      static_cast<int>(most ? most : kSharedDefault - std::min(attributes->sharedSizeBytes, kSharedDefault));
  return cudaSuccess;
}

cudaError_t most_blocks(int* blocks, const void* kernel, int threads, size_t shared_bytes) {
  Lock lock(mutex());
  if (!kernel) return result(cudaErrorInvalidDeviceFunction);
  if (threads < 1 || threads > 1024 || shared_bytes > kSharedMost) return result(cudaErrorInvalidValue);
  const size_t by_threads = 2048 / (static_cast<size_t>(threads + 31) / 32 * 32);
  const size_t by_shared = (size_t{228} << 10) / (shared_bytes + shared_bytes_of(kernel) + 1024);
  *blocks = static_cast<int>(std::min({by_threads, by_shared, size_t{32}}));
  return cudaSuccess;
}

cudaError_t allocate_device(void** p, size_t bytes) {
  Lock lock(mutex());
  if (!p) return result(cudaErrorInvalidValue);
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  *p = nullptr;
  if (!bytes) return cudaSuccess;
  *p = allocate(bytes);
  return result(*p ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t allocate_host(void** p, size_t bytes) {
  Lock lock(mutex());
  if (!p) return result(cudaErrorInvalidValue);
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  *p = bytes ? allocate_pinned(bytes) : nullptr;
  return result(*p || !bytes ? cudaSuccess : cudaErrorMemoryAllocation);
}

}  // namespace llmcore_emulator

extern "C" {

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  memory_state(available, total);
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  Lock lock(mutex());
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  drain();
  return result(!p || deallocate(p) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaFreeHost(void* p) {
  Lock lock(mutex());
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  drain();
  return result(!p || deallocate_pinned(p) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  Lock lock(mutex());
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return result(cudaErrorInvalidMemcpyDirection);
  if (bytes && (!to || !from)) return result(cudaErrorInvalidValue);
  // Only copies between pinned and device memory are asynchronous: pageable host memory has been read or written when
  // the call returns.
  const bool now = late() && !captured(stream);
  if (now && place_of(from) == Place::kElsewhere) {
    const char* const first = static_cast<const char*>(from);
    const auto copy = std::make_shared<const std::vector<char>>(first, first + bytes);
    return result(submit(stream, [=] { std::copy(copy->begin(), copy->end(), static_cast<char*>(to)); }));
  }
  const cudaError_t e = submit(stream, [=] {
    if (bytes) std::memmove(to, from, bytes);
  });
  if (now && place_of(to) == Place::kElsewhere) drain();
  return result(e);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  Lock lock(mutex());
  if (legacy_would_wait()) return result(cudaErrorStreamCaptureImplicit);
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  const cudaError_t e = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  drain();
  return e;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  Lock lock(mutex());
  if (bytes && !p) return result(cudaErrorInvalidValue);
  return result(submit(stream, [=] {
    if (bytes) std::memset(p, value, bytes);
  }));
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) {
  Lock lock(mutex());
  if (legacy_would_wait()) return result(cudaErrorStreamCaptureImplicit);
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  return cudaMemsetAsync(p, value, bytes, nullptr);
}

}  // extern "C"
