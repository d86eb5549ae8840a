#include "ops/base/common.h"

namespace llmcore {
namespace {

template <class Int>
void copy_checked(const char* op, const char* name, const Int* src, int64_t n, int64_t low, int64_t high,
                  int32_t* dst) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t id = static_cast<int64_t>(src[i]);
    if (id < low || id >= high)
      fail(op, std::string(name) + " in [" + std::to_string(low) + ", " + std::to_string(high) + ")",
           std::to_string(id) + " at " + std::to_string(i));
    dst[i] = static_cast<int32_t>(id);
  }
}

void copy_checked(const char* op, const char* name, const Tensor& ids, int64_t low, int64_t high, const Tensor& out) {
  const Tensor src = ids.contiguous();
  int32_t* dst = out.data_as<int32_t>();
  switch (ids.dtype()) {
    case DType::kI32:
      return copy_checked(op, name, src.data_as<int32_t>(), src.size(), low, high, dst);
    case DType::kI64:
      return copy_checked(op, name, src.data_as<int64_t>(), src.size(), low, high, dst);
    case DType::kU32:
      return copy_checked(op, name, src.data_as<uint32_t>(), src.size(), low, high, dst);
    default:
      fail_type(op, std::string(name) + " int32, int64 or uint32", name_of(ids.dtype()));
  }
}

}  // namespace

Tensor checked_ids(const char* op, const char* name, const Tensor& given, int64_t low, int64_t high, Device device) {
  const Tensor ids = given.to(Device::kCPU);
  Tensor out = Tensor::empty(ids.shape(), DType::kI32);
  copy_checked(op, name, ids, low, high, out);
  // In a plan, the memory may hold other ids at the next replay.
  if (Plan* plan = Plan::recording()) plan->add(Device::kCPU, [=] { copy_checked(op, name, ids, low, high, out); });
  // Ids that several ops read go to the device once, unchanged.
  return (device == Device::kCUDA && ids.dtype() == DType::kI32 ? ids : out).to(device);
}

}  // namespace llmcore
