// A small harness: TEST(name) {...} runs by default, CHILD(name) {...} only if a test requests it by name, in a
// separate process with other environment variables, which may end with abort().
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "cuda_runtime.h"

struct Case {
  const char* name;
  void (*run)();
  bool child;
};
std::vector<Case>& cases();
struct AddCase {
  AddCase(const char* name, void (*run)(), bool child) { cases().push_back({name, run, child}); }
};

#define TEST(name)                                            \
  static void test_##name();                                  \
  static const AddCase add_##name(#name, test_##name, false); \
  static void test_##name()
#define CHILD(name)                                           \
  static void child_##name();                                 \
  static const AddCase add_##name(#name, child_##name, true); \
  static void child_##name()

void check(bool ok, const char* what, const char* file, int line);
#define CHECK(condition) check(condition, #condition, __FILE__, __LINE__)

struct Outcome {
  bool aborted;        // or killed by another signal
  int status;          // else the exit status
  std::string output;  // of stdout and stderr
  bool says(const char* text) const { return output.find(text) != std::string::npos; }
};
Outcome run_child(const char* name, const std::vector<std::pair<const char*, const char*>>& environment = {});

cudaStream_t test_stream();

template <class... P, class... A>
cudaError_t start(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes;
  config.stream = test_stream();
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

// An array on the device; the host reads and writes copies of it.
template <class T>
class Array {
 public:
  explicit Array(size_t n) : n_(n) { CHECK(cudaMalloc(&p_, n * sizeof(T)) == cudaSuccess); }
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    CHECK(cudaMemcpy(p_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~Array() { cudaFree(p_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  T* get() const { return p_; }
  std::vector<T> values() const {
    std::vector<T> v(n_);
    CHECK(cudaMemcpy(v.data(), p_, n_ * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess);
    return v;
  }

 private:
  T* p_ = nullptr;
  size_t n_;
};
