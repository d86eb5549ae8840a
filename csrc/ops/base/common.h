// Checks that every op shares. Each failure is one line: [op] expected ..., got ...
#pragma once
#include "core/check.h"
#include "core/device.h"
#include "core/kernel_table.h"
#include "core/plan.h"
#include "core/tensor.h"
#include "ops/base/dispatch.h"

namespace llmcore {

inline std::string describe(const Tensor& t) { return to_string(t.shape()) + " " + name_of(t.dtype()); }

inline void check_float(const char* op, const char* name, const Tensor& t) {
  if (t.dtype() != DType::kF32 && t.dtype() != DType::kBF16)
    fail_type(op, std::string(name) + " float32 or bfloat16", name_of(t.dtype()));
}
inline void check_dtype(const char* op, const char* name, const Tensor& t, DType dtype) {
  if (t.dtype() != dtype) fail_type(op, std::string(name) + " " + name_of(dtype), name_of(t.dtype()));
}
inline void check_device(const char* op, const char* name, const Tensor& t, Device device) {
  if (t.device() != device) fail(op, std::string(name) + " on " + name_of(device), name_of(t.device()));
}
inline void check_shape(const char* op, const char* name, const Tensor& t, const Shape& shape) {
  if (t.shape() != shape) fail(op, std::string(name) + " " + to_string(shape), to_string(t.shape()));
}
inline void check_ndim(const char* op, const char* name, const Tensor& t, int least) {
  if (t.ndim() < least)
    fail(op, std::string(name) + " of at least " + std::to_string(least) + " dimensions", to_string(t.shape()));
}
inline void check_like(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  check_dtype(op, name, t, like.dtype());
  check_shape(op, name, t, like.shape());
  check_device(op, name, t, like.device());
}
inline void check_contiguous(const char* op, const char* name, const Tensor& t) {
  if (!t.is_contiguous()) fail(op, std::string(name) + " contiguous", "a strided view");
}
inline void check_in_place(const char* op, const char* name, const Tensor& t) {
  if (!t.is_contiguous()) fail(op, std::string(name) + " contiguous (it is written in place)", "a strided view");
  if (!t.writable()) fail(op, std::string(name) + " writable (it is written in place)", "a read-only array");
}

// Returns a kernel of this device, or throws an error that says which one is missing.
template <class Function>
Function* find_kernel(const char* op, Device device, Function* KernelTable::* entry) {
  const KernelTable& table = kernels(device);
  if (!(table.*entry)) throw std::runtime_error(std::string("[") + op + "] not implemented on " + name_of(device));
  return table.*entry;
}
template <class Function>
Function* kernel(const char* op, Device device, Function* KernelTable::* entry) {
  return find_kernel(op, device, entry);
}

// Calls a kernel and, if a plan is recording (core/plan.h), records the call: its arguments are plain pointers and
// numbers.
template <class Args>
struct RecordedKernel {
  const char* op;
  Device device;
  void (*function)(const Args&);
  void operator()(const Args& args) const {
    function(args);
    if (device == Device::kCUDA) check_cuda(op);
    if (Plan* plan = Plan::recording()) plan->add(device, [function = function, args] { function(args); });
  }
};
template <class Args>
RecordedKernel<Args> kernel(const char* op, Device device, void (*KernelTable::*entry)(const Args&)) {
  return {op, device, find_kernel(op, device, entry)};
}

// (rows, columns) of a tensor seen as a matrix of its last dimension.
inline int64_t rows_of(const Tensor& t) { return t.dim(-1) ? t.size() / t.dim(-1) : 0; }
inline int64_t leading_rows(const Tensor& t) {  // the same, but right without columns too
  int64_t rows = 1;
  for (int i = 0; i + 1 < t.ndim(); ++i) rows *= t.dim(i);
  return rows;
}

inline Shape with_last(const Tensor& t, int64_t n) {
  Shape shape = t.shape();
  shape.back() = n;
  return shape;
}

// Token ids or targets as int32 on the device, each in [low, high). They are checked on the host; ids on the device are
// copied to the host first.
Tensor checked_ids(const char* op, const char* name, const Tensor& ids, int64_t low, int64_t high,
                   Device device = Device::kCPU);

}  // namespace llmcore
