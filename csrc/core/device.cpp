#include "core/device.h"

#include <dlfcn.h>

#include <mutex>
#include <new>
#include <stdexcept>

#include "core/check.h"

namespace llmcore {
namespace {

struct OutOfMemory : std::bad_alloc {
  explicit OutOfMemory(std::string line) : line_(std::move(line)) {}
  const char* what() const noexcept override { return line_.c_str(); }

 private:
  std::string line_;
};

struct Library {
  std::mutex mutex;
  std::string path, blas;
  const CudaApi* api = nullptr;
};

Library& library() {
  static Library* const instance = new Library;  // never destroyed: tensors may outlive static destructors
  return *instance;
}

const CudaApi* open(const Library& found) {
  const auto missing = [](const std::string& why) { throw std::runtime_error("[cuda] " + why); };
  if (found.path.empty()) missing("this build of llmcore has no CUDA kernels (build with LLMCORE_CUDA=ON and nvcc)");
  void* const handle = dlopen(found.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) missing(std::string("the library of CUDA kernels cannot be opened: ") + dlerror());
  const auto open_cuda = reinterpret_cast<OpenCuda>(dlsym(handle, kOpenCudaName));
  if (!open_cuda) missing(found.path + " is not llmcore's library of CUDA kernels");
  char message[512] = "";
  const CudaApi* api = open_cuda(found.blas.c_str(), message, sizeof message);
  if (!api) missing(message);
  if (api->layout != kCudaApiLayout) missing(found.path + " is from another version of llmcore");
  return api;
}

}  // namespace

void set_cuda_paths(const std::string& path, const std::string& blas) {
  Library& l = library();
  std::lock_guard<std::mutex> lock(l.mutex);
  l.path = path, l.blas = blas;
}

const CudaApi& cuda() {
  Library& l = library();
  std::lock_guard<std::mutex> lock(l.mutex);
  if (!l.api) l.api = open(l);
  return *l.api;
}

const CudaApi* opened_cuda() {
  Library& l = library();
  std::lock_guard<std::mutex> lock(l.mutex);
  return l.api;
}

void check_cuda(const char* what) {
  const char* const line = cuda().kernels.error();
  if (!line) return;
  const std::string text = std::string("[") + what + "] " + line;
  if (text.find("out of memory") != std::string::npos) throw OutOfMemory(text);
  throw std::runtime_error(text);
}

Device device_named(const std::string& name) {
  if (name == "cpu") return Device::kCPU;
  if (name == "cuda") return Device::kCUDA;
  fail("device", "'cpu' or 'cuda'", "'" + name + "'");
}

}  // namespace llmcore
