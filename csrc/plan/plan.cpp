#include "plan/plan.h"

#include <cstring>
#include <stdexcept>

#include "core/device.h"

namespace llmcore {
namespace {

thread_local Plan* current = nullptr;

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
  const Tensor there = Tensor::empty(host.shape(), host.dtype(), Device::kCUDA);
  // Through memory that the graph may read whenever it runs.
  const std::shared_ptr<void> pinned(api.allocate_pinned(bytes), api.deallocate_pinned);
  check_cuda("plan");
  const auto fill = [host, pinned, bytes] { std::memcpy(pinned.get(), host.data(), bytes); };
  const auto send = [there, pinned, bytes, &api] { api.pinned_to_device(there.data(), pinned.get(), bytes); };
  fill();
  send();
  add(Device::kCPU, fill);
  add(Device::kCUDA, send);
  uploads_.emplace_back(given, there);
  return there;
}

void Plan::run() {
  if (!device_.empty()) cuda().synchronize();  // the last replay may still read what the host fills now
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
