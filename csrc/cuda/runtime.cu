// The device that runs the kernels: its stream, memory that is kept for reuse, copies, graphs and errors.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/cuda_api.h"
#include "cuda/common.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr size_t kGranularity = 512, kLarge = size_t{1} << 20;
constexpr size_t kSegment = size_t{64} << 20;  // from which small and medium blocks are cut
// Pinned buffers: a few for pieces of large copies, and many for small copies, so that a step's tokens and positions
// can be sent long before the stream reaches them.
constexpr size_t kStagingBytes = size_t{8} << 20, kSmallBytes = size_t{128} << 10;
constexpr int kStagings = 2, kSmallStagings = 64;
constexpr size_t kBlasWorkspace = size_t{32} << 20;

thread_local cudaStream_t recording_stream = nullptr;  // the stream of a thread that records a graph
thread_local std::string last_error;
thread_local bool has_error = false;

// A block of a segment. Free neighbours are joined, so that the memory freed by a step's activations has room for its
// gradients.
struct Block {
  size_t size;
  char* segment;
  bool free;
};

struct Device {
  std::mutex mutex;
  cudaStream_t stream = nullptr, recording = nullptr;
  cudaDeviceProp properties{};
  std::map<char*, Block> blocks;  // by address; the blocks of a segment are adjacent
  std::map<size_t, std::vector<char*>> holes;
  std::unordered_map<char*, size_t> segments;
  int64_t allocated = 0, peak = 0, cached = 0;
  // Copies of host memory wait here until the stream reaches them.
  struct Staging {
    void* memory = nullptr;
    cudaEvent_t done = nullptr;
  } staging[kStagings], small[kSmallStagings];
  int next_staging = 0, next_small = 0;
  std::mutex staging_mutex, recording_mutex;
  void* workspace = nullptr;
};

Device& device() {
  static Device* const instance = new Device;  // never destroyed: tensors may outlive static destructors
  return *instance;
}

// LLMCORE_CUDA_CACHE=0: every tensor has its own allocation, so that a sanitizer sees where it ends.
bool caching() {
  static const bool wanted = [] {
    const char* given = std::getenv("LLMCORE_CUDA_CACHE");
    return !given || std::strcmp(given, "0") != 0;
  }();
  return wanted;
}

size_t rounded_size(size_t bytes) {
  const size_t unit = bytes >= kLarge ? kLarge / 8 : kGranularity;
  return bytes ? (bytes + unit - 1) / unit * unit : unit;
}

void remove_hole(Device& d, char* p, size_t size) {
  std::vector<char*>& found = d.holes[size];
  for (size_t i = 0; i < found.size(); ++i)
    if (found[i] == p) {
      found[i] = found.back();
      found.pop_back();
      break;
    }
  if (found.empty()) d.holes.erase(size);
}

void add_hole(Device& d, char* p, size_t size) { d.holes[size].push_back(p); }

// Returns the memory of unused segments to the driver.
void release(Device& d) {
  for (auto at = d.segments.begin(); at != d.segments.end();) {
    char* const p = at->first;
    const auto block = d.blocks.find(p);
    if (!block->second.free || block->second.size != at->second) {
      ++at;
      continue;
    }
    remove_hole(d, p, at->second);
    d.blocks.erase(block);
    d.cached -= static_cast<int64_t>(at->second);
    cudaFree(p);
    at = d.segments.erase(at);
  }
}

bool add_segment(Device& d, size_t size) {
  const size_t bytes = size >= kSegment / 2 || !caching() ? size : kSegment;
  void* p = nullptr;
  for (const size_t wanted : {bytes, size}) {
    if (cudaMalloc(&p, wanted) == cudaSuccess) {
      char* const memory = static_cast<char*>(p);
      d.segments[memory] = wanted;
      d.blocks[memory] = {wanted, memory, true};
      d.cached += static_cast<int64_t>(wanted);
      add_hole(d, memory, wanted);
      return true;
    }
    cudaGetLastError();  // otherwise the next launch would report it
  }
  return false;
}

std::string megabytes(size_t bytes) {
  char text[64];
  std::snprintf(text, sizeof text, bytes < (size_t{10} << 20) ? "%.3f MB" : "%.0f MB",
                static_cast<double>(bytes) / 1e6);
  return text;
}

void* allocate(size_t bytes) {
  Device& d = device();
  const size_t size = caching() ? rounded_size(bytes) : bytes ? bytes : 1;
  std::lock_guard<std::mutex> lock(d.mutex);
  auto hole = d.holes.lower_bound(size);
  if (hole == d.holes.end() || !caching()) {
    if (!add_segment(d, size)) {
      cudaStreamSynchronize(d.stream);
      release(d);
      if (!add_segment(d, size)) {
        size_t available = 0, total = 0;
        cudaMemGetInfo(&available, &total);
        note(("out of memory: " + megabytes(bytes) + " requested, " + megabytes(available) + " of " + megabytes(total) +
              " free, " + megabytes(static_cast<size_t>(d.allocated)) +
              " held by tensors here; try a smaller batch or context, or recomputation")
                 .c_str());
        return nullptr;
      }
    }
    hole = d.holes.lower_bound(size);
  }
  char* const p = hole->second.back();
  const size_t found = hole->first;
  remove_hole(d, p, found);
  Block& block = d.blocks[p];
  block.free = false;
  if (found - size >= kGranularity) {  // the rest stays a hole
    block.size = size;
    d.blocks[p + size] = {found - size, block.segment, true};
    add_hole(d, p + size, found - size);
  }
  const size_t taken = d.blocks[p].size;
  d.cached -= static_cast<int64_t>(taken);
  d.allocated += static_cast<int64_t>(taken);
  if (d.allocated > d.peak) d.peak = d.allocated;
  return p;
}

void deallocate(void* memory, size_t) {
  Device& d = device();
  std::lock_guard<std::mutex> lock(d.mutex);
  char* p = static_cast<char*>(memory);
  auto at = d.blocks.find(p);
  if (at == d.blocks.end()) return;
  at->second.free = true;
  d.allocated -= static_cast<int64_t>(at->second.size);
  d.cached += static_cast<int64_t>(at->second.size);
  const auto after = std::next(at);
  if (after != d.blocks.end() && after->second.free && after->second.segment == at->second.segment) {
    remove_hole(d, after->first, after->second.size);
    at->second.size += after->second.size;
    d.blocks.erase(after);
  }
  if (at != d.blocks.begin()) {
    const auto before = std::prev(at);
    if (before->second.free && before->second.segment == at->second.segment) {
      remove_hole(d, before->first, before->second.size);
      before->second.size += at->second.size;
      d.blocks.erase(at);
      at = before;
    }
  }
  add_hole(d, at->first, at->second.size);
  if (!caching()) {
    cudaStreamSynchronize(d.stream);
    release(d);
  }
}

void release_cached() {
  Device& d = device();
  std::lock_guard<std::mutex> lock(d.mutex);
  note("release", cudaStreamSynchronize(d.stream));
  release(d);
}

void memory_stats(MemoryStats* stats) {
  Device& d = device();
  std::lock_guard<std::mutex> lock(d.mutex);
  *stats = {d.allocated, d.peak, d.cached};
}

void reset_peak() {
  Device& d = device();
  std::lock_guard<std::mutex> lock(d.mutex);
  d.peak = d.allocated;
}

void* allocate_pinned(size_t bytes) {
  void* p = nullptr;
  note("pinned memory", cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocDefault));
  return p;
}

void deallocate_pinned(void* p) {
  if (p) note("pinned memory", cudaFreeHost(p));
}

// Returns a pinned buffer of this size that the stream no longer reads, or null.
Device::Staging* free_staging(Device& d, size_t bytes) {
  const bool small = bytes <= kSmallBytes;
  int& next = small ? d.next_small : d.next_staging;
  Device::Staging& s = small ? d.small[next] : d.staging[next];
  next = (next + 1) % (small ? kSmallStagings : kStagings);
  if (!s.memory) {
    note("pinned memory", cudaHostAlloc(&s.memory, small ? kSmallBytes : kStagingBytes, cudaHostAllocDefault));
    note("event", cudaEventCreateWithFlags(&s.done, cudaEventDisableTiming));
  } else {
    note("copy", cudaEventSynchronize(s.done));
  }
  return s.memory ? &s : nullptr;
}

// Copies piece by piece through pinned memory, so that the copy runs while the host continues.
void to_device(void* to, const void* from, size_t bytes) {
  Device& d = device();
  std::lock_guard<std::mutex> lock(d.staging_mutex);
  for (size_t at = 0; at < bytes; at += kStagingBytes) {
    const size_t n = bytes - at < kStagingBytes ? bytes - at : kStagingBytes;
    Device::Staging* const s = free_staging(d, n);
    if (!s) return;
    std::memcpy(s->memory, static_cast<const char*>(from) + at, n);
    note("copy", cudaMemcpyAsync(static_cast<char*>(to) + at, s->memory, n, cudaMemcpyHostToDevice, d.stream));
    note("copy", cudaEventRecord(s->done, d.stream));
  }
}

void pinned_to_device(void* to, const void* pinned, size_t bytes) {
  if (bytes) note("copy", cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, stream()));
}

void to_host(void* to, const void* from, size_t bytes) {
  Device& d = device();
  std::lock_guard<std::mutex> lock(d.staging_mutex);
  // One piece is in flight while the previous one is copied out.
  Device::Staging* before = nullptr;
  size_t before_at = 0, before_n = 0;
  const auto take = [&] {
    note("copy", cudaEventSynchronize(before->done));
    std::memcpy(static_cast<char*>(to) + before_at, before->memory, before_n);
  };
  for (size_t at = 0; at < bytes; at += kStagingBytes) {
    const size_t n = bytes - at < kStagingBytes ? bytes - at : kStagingBytes;
    Device::Staging* const s = free_staging(d, n);
    if (!s) return;
    note("copy", cudaMemcpyAsync(s->memory, static_cast<const char*>(from) + at, n, cudaMemcpyDeviceToHost, d.stream));
    note("copy", cudaEventRecord(s->done, d.stream));
    if (before) take();
    before = s, before_at = at, before_n = n;
  }
  if (before) take();
}

void copy(void* to, const void* from, size_t bytes) {
  if (bytes) note("copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()));
}

void zero(void* p, size_t bytes) {
  if (bytes) note("zero", cudaMemsetAsync(p, 0, bytes, stream()));
}

void synchronize() { note("synchronize", cudaStreamSynchronize(device().stream)); }
void synchronize_all() { note("synchronize", cudaDeviceSynchronize()); }

void graph_begin() {
  Device& d = device();
  d.recording_mutex.lock();  // until graph_end: a capture takes everything that enters its stream
  if (!d.recording) note("graph", cudaStreamCreateWithFlags(&d.recording, cudaStreamNonBlocking));
  recording_stream = d.recording;
  const cudaError_t e = cudaStreamBeginCapture(recording_stream, cudaStreamCaptureModeThreadLocal);
  note("graph", e);
  if (e != cudaSuccess) recording_stream = nullptr;
}

void* graph_end() {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  if (recording_stream) note("graph", cudaStreamEndCapture(recording_stream, &graph));
  recording_stream = nullptr;
  device().recording_mutex.unlock();
  if (!graph) return nullptr;
  note("graph", cudaGraphInstantiate(&ready, graph, 0));
  note("graph", cudaGraphDestroy(graph));
  return ready;
}

void graph_launch(void* graph) {
  if (graph) note("graph", cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream()));
}

void graph_destroy(void* graph) {
  synchronize();
  if (graph) note("graph", cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)));
}

const char* error() {
  if (!has_error) return nullptr;
  has_error = false;
  return last_error.c_str();
}

void info(CudaDeviceInfo* found) {
  const cudaDeviceProp& p = device().properties;
  std::snprintf(found->name, sizeof found->name, "%s", p.name);
  found->major = p.major, found->minor = p.minor, found->multiprocessors = p.multiProcessorCount;
  cudaMemGetInfo(&found->free_memory, &found->memory);
  found->l2_bytes = static_cast<size_t>(p.l2CacheSize), found->shared_bytes = p.sharedMemPerBlockOptin;
  int clock = 0, memory_clock = 0;
  cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, 0);
  cudaDeviceGetAttribute(&memory_clock, cudaDevAttrMemoryClockRate, 0);
  found->clock_hz = 1e3 * clock, found->memory_clock_hz = 1e3 * memory_clock;
  found->memory_bus_bits = p.memoryBusWidth;
  cudaDriverGetVersion(&found->driver);
  cudaRuntimeGetVersion(&found->runtime);
  blas_version(found->blas, sizeof found->blas);
}

CudaApi make_api() {
  CudaApi api{};
  api.layout = kCudaApiLayout;
  KernelTable& t = api.kernels;
  t.name = "cuda", t.fast_bf16 = true, t.row_panels = true, t.error = error;
  register_attention(t);
  register_cache(t);
  register_elementwise(t);
  register_embedding(t);
  register_gather(t);
  register_gemm(t);
  register_loss(t);
  register_muon(t);
  register_norm(t);
  register_optim(t);
  register_quantized(t);
  register_rope(t);
  register_sample(t);
  register_softmax(t);
  api.info = info;
  api.allocate = allocate, api.deallocate = deallocate, api.release_cached = release_cached;
  api.memory_stats = memory_stats, api.reset_peak = reset_peak;
  api.allocate_pinned = allocate_pinned, api.deallocate_pinned = deallocate_pinned;
  api.to_device = to_device, api.pinned_to_device = pinned_to_device, api.to_host = to_host;
  api.copy = copy, api.copy_strided = copy_strided, api.zero = zero, api.synchronize = synchronize;
  api.synchronize_all = synchronize_all;
  api.graph_begin = graph_begin, api.graph_end = graph_end;
  api.graph_launch = graph_launch, api.graph_destroy = graph_destroy;
  return api;
}

std::string version_of(int cuda) { return std::to_string(cuda / 1000) + "." + std::to_string(cuda / 10 % 100); }

// Returns one line that says why there is no device, or an empty string.
std::string opened(Device& d) {
  int count = 0, driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0) return "no NVIDIA driver was found (does nvidia-smi work?): use the device cpu";
  const cudaError_t e = cudaGetDeviceCount(&count);
  if (e == cudaErrorInsufficientDriver)
    return "the NVIDIA driver supports CUDA " + version_of(driver) + ", but the kernels need " +
           version_of(CUDART_VERSION) + ": install a newer driver";
  if (e != cudaSuccess) return std::string("no device can be used: ") + cudaGetErrorString(e);
  if (count == 0) return "the driver reports no device (is it hidden by CUDA_VISIBLE_DEVICES?)";
  for (const cudaError_t step : {cudaSetDevice(0), cudaGetDeviceProperties(&d.properties, 0),
                                 cudaStreamCreateWithFlags(&d.stream, cudaStreamNonBlocking)})
    if (step != cudaSuccess) return std::string("the device cannot be used: ") + cudaGetErrorString(step);
  if (d.properties.major < 8)
    return std::string(d.properties.name) + " has compute capability " + std::to_string(d.properties.major) + "." +
           std::to_string(d.properties.minor) + "; 8.0 (Ampere) or newer is needed";
  return "";
}

}  // namespace

cudaStream_t stream() { return recording_stream ? recording_stream : device().stream; }

int multiprocessors() { return device().properties.multiProcessorCount; }

void note(const char* line) {
  if (has_error) return;
  has_error = true;
  last_error = line;
}

void note(const char* what, cudaError_t e) {
  if (e == cudaSuccess) return;
  cudaGetLastError();
  note((std::string(what) + ": " + cudaGetErrorString(e)).c_str());
}

cudaError_t allow_shared(const void* kernel, size_t bytes) {
  static auto* const mutex = new std::mutex;
  static auto* const most = new std::unordered_map<const void*, size_t>;  // the most requested so far
  std::lock_guard<std::mutex> lock(*mutex);
  size_t& allowed = (*most)[kernel];
  if (bytes <= allowed) return cudaSuccess;
  const cudaError_t e =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (e == cudaSuccess) allowed = bytes;
  return e;
}

void* blas_workspace(size_t* bytes) {
  Device& d = device();
  std::lock_guard<std::mutex> lock(d.mutex);
  if (!d.workspace) note("workspace", cudaMalloc(&d.workspace, kBlasWorkspace));
  *bytes = d.workspace ? kBlasWorkspace : 0;
  return d.workspace;
}

}  // namespace cuda
}  // namespace llmcore

extern "C" __attribute__((visibility("default"))) const llmcore::CudaApi* llmcore_cuda_open(const char* blas_paths,
                                                                                            char* message,
                                                                                            size_t room) {
  const std::string why = llmcore::cuda::opened(llmcore::cuda::device());
  if (!why.empty()) {
    std::snprintf(message, room, "%s", why.c_str());
    return nullptr;
  }
  llmcore::cuda::set_blas_paths(blas_paths);
  static const llmcore::CudaApi api = llmcore::cuda::make_api();
  return &api;
}
