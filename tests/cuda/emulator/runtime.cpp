// The host's side: streams, events, graphs and errors. All work is done at once, in the order of the calls, or with
// LLMCORE_EMULATOR_LATE as late as can be: when somebody waits for a stream or an event. What a captured stream gets is
// recorded, and done when its graph is launched.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

#include "cuda_runtime.h"
#include "memory.h"
#include "symbols.h"

using llmcore_emulator::fail;

namespace {

using Node = std::function<void()>;

constexpr size_t kSharedDefault = size_t{48} << 10, kSharedMost = size_t{227} << 10;

}  // namespace

struct CUstream_st {
  unsigned flags = 0;
  std::shared_ptr<struct Capture> capture;
};
using Stream = CUstream_st;

// A capture: the stream where it began and those that joined it by events.
struct Capture {
  cudaStream_t origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool invalid = false;
  std::vector<Node> nodes;
  std::set<cudaStream_t> unjoined;  // have work that the origin has not waited for
};

namespace {

using Lock = std::lock_guard<std::recursive_mutex>;
std::recursive_mutex& mutex() {  // of everything here
  static auto* const m = new std::recursive_mutex;
  return *m;
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
cudaError_t result(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}

std::set<Stream*>& streams() {
  static auto* const s = new std::set<Stream*>;
  return *s;
}

Stream* legacy_stream() {
  static Stream* const s = new Stream;
  return s;
}

Stream* find(cudaStream_t s) {  // null: no such stream
  if (!s) return legacy_stream();
  return streams().count(s) ? s : nullptr;
}

void invalidate(Stream* s) {
  if (s->capture) s->capture->invalid = true;
}

// Whether a call that may wait for the device is forbidden now, as captures may ask of the whole process or of their
// thread. To try invalidates the capture.
bool forbidden() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return false;
  bool found = false;
  for (Stream* s : streams()) {
    if (!s->capture) continue;
    const Capture& c = *s->capture;
    if (c.mode == cudaStreamCaptureModeRelaxed) continue;
    const bool own = c.thread == std::this_thread::get_id();
    if (own || (c.mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal)) {
      s->capture->invalid = true;
      found = true;
    }
  }
  return found;
}

bool any_capture() {
  bool found = false;
  for (Stream* s : streams())
    if (s->capture) s->capture->invalid = found = true;
  return found;
}

// The legacy stream waits for all streams that are not cudaStreamNonBlocking.
bool legacy_would_wait() {
  bool found = false;
  for (Stream* s : streams())
    if (s->capture && !(s->flags & cudaStreamNonBlocking)) s->capture->invalid = found = true;
  return found;
}

// ---- work -------------------------------------------------------------------------------------------

bool late() {
  static const bool value = [] {
    const char* text = std::getenv("LLMCORE_EMULATOR_LATE");
    return text && *text && std::strcmp(text, "0");
  }();
  return value;
}
std::vector<Node>& waiting() {  // of all streams, in the order of the calls
  static auto* const nodes = new std::vector<Node>;
  return *nodes;
}

void drain() {
  if (waiting().empty()) return;
  llmcore_emulator::DeviceAccess access;
  const std::vector<Node> nodes = std::move(waiting());
  waiting().clear();
  for (const Node& node : nodes) node();
}

bool captured(cudaStream_t stream) {
  const Stream* const s = find(stream);
  return s && s->capture;
}

cudaError_t submit(cudaStream_t stream, Node node) {
  constexpr size_t kMostWaiting = 4096;
  Stream* const s = find(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (s == legacy_stream() && legacy_would_wait()) return cudaErrorStreamCaptureImplicit;
  if (!s->capture) {
    waiting().push_back(std::move(node));
    if (!late() || waiting().size() == kMostWaiting) drain();
    return cudaSuccess;
  }
  if (s->capture->invalid) return cudaErrorStreamCaptureInvalidated;
  s->capture->nodes.push_back(std::move(node));
  if (s != s->capture->origin) s->capture->unjoined.insert(s);
  return cudaSuccess;
}

struct Function {
  size_t most_dynamic = 0;  // 0: what __shared__ variables leave of kSharedDefault
};
Function& function(const void* kernel) {
  static auto* const functions = new std::unordered_map<const void*, Function>;
  return (*functions)[kernel];
}

int device_count() {
  const char* text = std::getenv("LLMCORE_EMULATOR_DEVICES");
  return text && *text ? std::atoi(text) : 1;
}

}  // namespace

struct CUevent_st {
  unsigned flags = 0;
  bool recorded = false;
  std::shared_ptr<std::chrono::steady_clock::time_point> at;
  std::weak_ptr<Capture> capture;  // where it was recorded last
  bool captured = false;
  cudaStream_t stream = nullptr;
};
struct CUgraph_st {
  std::vector<Node> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<Node>> nodes;
};

namespace llmcore_emulator {
namespace {

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

// ---- errors -----------------------------------------------------------------------------------------

#define LLMCORE_ERRORS(X)                                                                                           \
  X(cudaSuccess, "no error")                                                                                        \
  X(cudaErrorInvalidValue, "invalid argument")                                                                      \
  X(cudaErrorMemoryAllocation, "out of memory")                                                                     \
  X(cudaErrorInvalidConfiguration, "invalid configuration argument")                                                \
  X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                                           \
  X(cudaErrorInvalidDeviceFunction, "invalid device function")                                                      \
  X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                                        \
  X(cudaErrorInvalidDevice, "invalid device ordinal")                                                               \
  X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                                      \
  X(cudaErrorIllegalState, "the operation cannot be performed in the present state")                                \
  X(cudaErrorNotReady, "device not ready")                                                                          \
  X(cudaErrorNotSupported, "operation not supported")                                                               \
  X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")                          \
  X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")                   \
  X(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences")                 \
  X(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began")                        \
  X(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")                                           \
  X(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream")                     \
  X(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream") \
  X(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream")              \
  X(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence from another thread")

const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
#define X(code, text) \
  case code:          \
    return #code;
    LLMCORE_ERRORS(X)
#undef X
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
#define X(code, text) \
  case code:          \
    return text;
    LLMCORE_ERRORS(X)
#undef X
  }
  return "unrecognized error code";
}
cudaError_t cudaGetLastError() {
  const cudaError_t e = last_error;
  last_error = cudaSuccess;
  return e;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

// ---- the device -------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* n) {
  *n = device_count();
  return result(*n ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
  if (!device_count()) return result(cudaErrorNoDevice);
  return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* device) {
  if (!device_count()) return result(cudaErrorNoDevice);
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (device != 0 || !device_count()) return result(cudaErrorInvalidDevice);
  std::memset(p, 0, sizeof *p);
  std::snprintf(p->name, sizeof p->name, "emulated CUDA device (on the CPU)");
  size_t available = 0;
  llmcore_emulator::memory_state(&available, &p->totalGlobalMem);
  p->sharedMemPerBlock = kSharedDefault;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 0x7fffffff, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->totalConstMem = 65536;
  p->major = 9, p->minor = 0, p->multiProcessorCount = 4;
  p->memoryBusWidth = 5120, p->l2CacheSize = 50 << 20;
  p->maxThreadsPerMultiProcessor = 2048, p->maxBlocksPerMultiProcessor = 32;
  p->sharedMemPerMultiprocessor = size_t{228} << 10, p->sharedMemPerBlockOptin = kSharedMost;
  p->reservedSharedMemPerBlock = 1024;
  p->canMapHostMemory = p->concurrentKernels = p->asyncEngineCount = p->unifiedAddressing = p->managedMemory = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (cudaError_t e = cudaGetDeviceProperties(&p, device)) return e;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = p.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(p.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = 32;
      break;
    case cudaDevAttrClockRate:
      *value = 1980000;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      break;
    case cudaDevAttrMemoryClockRate:
      *value = 2619000;
      break;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = p.memoryBusWidth;
      break;
    case cudaDevAttrL2CacheSize:
      *value = p.l2CacheSize;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = p.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(p.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = p.regsPerMultiprocessor;
      break;
    case cudaDevAttrManagedMemory:
      *value = p.managedMemory;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      break;
    default:
      return result(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  Lock lock(mutex());
  if (any_capture()) return result(cudaErrorStreamCaptureUnsupported);
  drain();
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = device_count() ? CUDART_VERSION : 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

// ---- memory -----------------------------------------------------------------------------------------

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  llmcore_emulator::memory_state(available, total);
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  Lock lock(mutex());
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  drain();
  return result(!p || llmcore_emulator::deallocate(p) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaFreeHost(void* p) {
  Lock lock(mutex());
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  drain();
  return result(!p || llmcore_emulator::deallocate_pinned(p) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  Lock lock(mutex());
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return result(cudaErrorInvalidMemcpyDirection);
  if (bytes && (!to || !from)) return result(cudaErrorInvalidValue);
  // Only pinned memory and the device's is left to itself: other memory of the host has been read when the call
  // returns, or written.
  using llmcore_emulator::Place;
  const bool now = late() && !captured(stream);
  if (now && llmcore_emulator::place_of(from) == Place::kElsewhere) {
    const char* const first = static_cast<const char*>(from);
    const auto copy = std::make_shared<const std::vector<char>>(first, first + bytes);
    return result(submit(stream, [=] { std::copy(copy->begin(), copy->end(), static_cast<char*>(to)); }));
  }
  const cudaError_t e = submit(stream, [=] {
    if (bytes) std::memmove(to, from, bytes);
  });
  if (now && llmcore_emulator::place_of(to) == Place::kElsewhere) drain();
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

// ---- streams ----------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  Lock lock(mutex());
  if (!stream || flags > cudaStreamNonBlocking) return result(cudaErrorInvalidValue);
  auto* const s = new Stream;
  s->flags = flags;
  streams().insert(s);
  *stream = s;
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s || s == legacy_stream()) return result(cudaErrorInvalidResourceHandle);
  invalidate(s);
  streams().erase(s);
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  if (s == legacy_stream() && legacy_would_wait()) return result(cudaErrorStreamCaptureImplicit);
  if (s->capture) {
    invalidate(s);
    return result(cudaErrorStreamCaptureUnsupported);
  }
  drain();
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return cudaStreamQuery(stream); }
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void*), void* data) {
  Lock lock(mutex());
  if (!function) return result(cudaErrorInvalidValue);
  return result(submit(stream, [=] { function(data); }));
}
void llmcore_emulator_enqueue(cudaStream_t stream, void (*work)(void*), void* data, void (*destroy)(void*)) {
  Lock lock(mutex());
  const std::shared_ptr<void> kept(data, destroy);
  result(submit(stream, [=] { work(kept.get()); }));
}

// ---- events -----------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (!event) return result(cudaErrorInvalidValue);
  *event = new CUevent_st;
  (*event)->flags = flags;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(mutex());
  if (!event) return result(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s || !event) return result(cudaErrorInvalidResourceHandle);
  if (s == legacy_stream() && legacy_would_wait()) return result(cudaErrorStreamCaptureImplicit);
  if (s->capture && s->capture->invalid) return result(cudaErrorStreamCaptureInvalidated);
  event->recorded = true;
  event->captured = s->capture != nullptr;
  event->capture = s->capture;
  event->stream = stream;
  event->at = std::make_shared<std::chrono::steady_clock::time_point>();
  if (event->captured) return cudaSuccess;
  return result(submit(stream, [at = event->at] { *at = std::chrono::steady_clock::now(); }));
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock(mutex());
  if (!event) return result(cudaErrorInvalidResourceHandle);
  if (event->captured) {
    if (auto c = event->capture.lock()) c->invalid = true;
    return result(cudaErrorCapturedEvent);
  }
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  drain();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return cudaEventQuery(event); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  Lock lock(mutex());
  if (!from || !to || !from->recorded || !to->recorded || (from->flags | to->flags) & cudaEventDisableTiming)
    return result(cudaErrorInvalidResourceHandle);
  if (from->captured || to->captured) return result(cudaErrorCapturedEvent);
  drain();
  *milliseconds = std::chrono::duration<float, std::milli>(*to->at - *from->at).count();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s || !event) return result(cudaErrorInvalidResourceHandle);
  if (s == legacy_stream() && legacy_would_wait()) return result(cudaErrorStreamCaptureImplicit);
  if (!event->captured) {
    if (!s->capture || !event->recorded) return cudaSuccess;
    invalidate(s);
    return result(cudaErrorStreamCaptureIsolation);
  }
  const std::shared_ptr<Capture> c = event->capture.lock();
  if (!c) return result(cudaErrorCapturedEvent);
  if (c->invalid) return result(cudaErrorStreamCaptureInvalidated);
  if (s->capture && s->capture != c) {
    s->capture->invalid = c->invalid = true;
    return result(cudaErrorStreamCaptureMerge);
  }
  if (s == legacy_stream()) {
    c->invalid = true;
    return result(cudaErrorStreamCaptureImplicit);
  }
  s->capture = c;
  if (s != c->origin) c->unjoined.insert(s);
  if (event->stream != c->origin && stream != event->stream) c->unjoined.erase(event->stream);
  return cudaSuccess;
}

// ---- graphs -----------------------------------------------------------------------------------------

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, thread_mode);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed) return result(cudaErrorInvalidValue);
  if (s == legacy_stream()) return result(cudaErrorStreamCaptureUnsupported);
  if (s->capture) return result(cudaErrorIllegalState);
  s->capture = std::make_shared<Capture>();
  s->capture->origin = stream;
  s->capture->mode = mode;
  s->capture->thread = std::this_thread::get_id();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(mutex());
  if (!graph) return result(cudaErrorInvalidValue);
  *graph = nullptr;
  Stream* const s = find(stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  if (!s->capture) return result(cudaErrorIllegalState);
  const std::shared_ptr<Capture> c = s->capture;
  if (c->origin != stream) {
    c->invalid = true;
    return result(cudaErrorStreamCaptureUnmatched);
  }
  if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id())
    return result(cudaErrorStreamCaptureWrongThread);
  for (Stream* other : streams())
    if (other->capture == c) other->capture = nullptr;
  if (c->invalid) return result(cudaErrorStreamCaptureInvalidated);
  if (!c->unjoined.empty()) return result(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{std::move(c->nodes)};
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  if (s == legacy_stream() && legacy_would_wait()) return result(cudaErrorStreamCaptureImplicit);
  *status = !s->capture           ? cudaStreamCaptureStatusNone
            : s->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                  : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  Lock lock(mutex());
  if (!ready || !graph) return result(cudaErrorInvalidValue);
  *ready = new CUgraphExec_st{std::make_shared<const std::vector<Node>>(graph->nodes)};
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, struct CUgraphNode_st** nodes, size_t* count) {
  Lock lock(mutex());
  if (!graph || !count || nodes) return result(cudaErrorInvalidValue);
  *count = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t graph, cudaStream_t stream) {
  Lock lock(mutex());
  return result(graph && find(stream) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  Lock lock(mutex());
  if (!graph) return result(cudaErrorInvalidValue);
  return result(submit(stream, [nodes = graph->nodes] {
    for (const Node& node : *nodes) node();
  }));
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Lock lock(mutex());
  if (!graph) return result(cudaErrorInvalidValue);
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  Lock lock(mutex());
  if (!graph) return result(cudaErrorInvalidValue);
  delete graph;
  return cudaSuccess;
}

}  // extern "C"
