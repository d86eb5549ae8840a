#include "core/plan.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "core/device.h"

namespace llmcore {
namespace {

thread_local Plan* current = nullptr;
constexpr size_t kParcelBytes = size_t{64} << 10, kUploadAlignment = 256;

}  // namespace

Plan::~Plan() {
  end();
  if (graph_) cuda().graph_destroy(graph_);
}

Plan* Plan::recording() { return current; }

void Plan::begin() {
  if (current) throw std::runtime_error("[plan] expected one recording at a time, got a second");
  current = this;
}

void Plan::end() {
  if (current == this) current = nullptr;
}

std::shared_ptr<void> Plan::reuse(size_t bytes, Device device) const {
  for (const Kept& kept : kept_)
    if (kept.bytes == bytes && kept.device == device && kept.memory.use_count() == 1) return kept.memory;
  return nullptr;
}

Tensor Plan::uploaded(const Tensor& given) {
  for (const auto& [host, there] : uploads_)
    if (host.data() == given.data() && host.dtype() == given.dtype() && host.shape() == given.shape()) return there;
  const CudaApi& api = cuda();
  const Tensor host = given.contiguous();
  const size_t bytes = static_cast<size_t>(host.size()) * size_of(host.dtype());
  const std::shared_ptr<Parcel> parcel = parcel_for(bytes);
  char* const pinned = static_cast<char*>(parcel->pinned.get()) + parcel->used;
  char* const data = static_cast<char*>(parcel->there.data()) + parcel->used;
  const Tensor there =
      Tensor::wrap(data, host.shape(), contiguous_strides(host.shape()), host.dtype(), parcel, true, Device::kCUDA);
  parcel->used += (bytes + kUploadAlignment - 1) / kUploadAlignment * kUploadAlignment;
  const auto fill = [host, pinned, bytes] { std::memcpy(pinned, host.data(), bytes); };
  fill();
  api.pinned_to_device(data, pinned, bytes);
  add(Device::kCPU, fill);
  uploads_.emplace_back(given, there);
  return there;
}

// Host memory that the graph may read whenever it runs, and its destination on the device.
std::shared_ptr<Plan::Parcel> Plan::parcel_for(size_t bytes) {
  if (parcel_ && parcel_->used + bytes <= kParcelBytes) return parcel_;
  const CudaApi& api = cuda();
  const size_t size = std::max(bytes, kParcelBytes);
  auto parcel = std::make_shared<Parcel>();
  parcel->pinned = std::shared_ptr<void>(api.allocate_pinned(size), api.deallocate_pinned);
  parcel->there = Tensor::empty({static_cast<int64_t>(size)}, DType::kU8, Device::kCUDA);
  check_cuda("plan");
  // In the graph, the parcel is sent just before its first user, with everything put into it before or after that
  // point.
  add(Device::kCUDA,
      [parcel, &api] { api.pinned_to_device(parcel->there.data(), parcel->pinned.get(), parcel->used); });
  if (size == kParcelBytes) parcel_ = parcel;
  return parcel;
}

void Plan::run() {
  if (!device_.empty()) cuda().synchronize();  // the last replay may still read what the host is about to overwrite
  for (const std::function<void()>& call : host_) call();
  if (device_.empty()) return;
  if (!graph_) {
    cuda().graph_begin();
    for (const std::function<void()>& call : device_) call();
    graph_ = cuda().graph_end();
    check_cuda("plan");
  }
  cuda().graph_launch(graph_);
  check_cuda("plan");
}

}  // namespace llmcore
