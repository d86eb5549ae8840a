// A sequence of kernel calls, recorded while ops run once and replayed without them: no checks, no allocation, no
// Python. What changes from replay to replay lies in tensors that the kernels read (tokens, positions, lengths).
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace llmcore {

class Plan {
 public:
  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan();

  // From now on, what this thread's ops do is recorded while they do it; their results stay where they are until the
  // plan is gone. What is made once and stays, such as packed weights, must exist by now. Throws std::runtime_error if
  // this thread records already.
  void begin();
  void end();

  // Does it all again, with the same memory. Where a device takes part, the host's calls come first (they check and
  // hand over what they read, and read nothing that the device writes), then the device's as one graph.
  void run();
  size_t size() const { return host_.size() + device_.size(); }

  // The plan that this thread records to, or null.
  static Plan* recording();
  template <class Call>
  void add(Device device, Call&& call) {
    (device == Device::kCPU ? host_ : device_).emplace_back(std::forward<Call>(call));
  }
  // Memory stays with the plan. What nobody else has any more serves calls that are recorded later: those before them
  // are done by then, at every replay.
  void keep(std::shared_ptr<void> memory, size_t bytes, Device device) {
    kept_.push_back({std::move(memory), bytes, device});
  }
  std::shared_ptr<void> reuse(size_t bytes, Device device) const;  // null where there is none of this size
  // A copy of host memory on the device, made anew at every replay before anything else happens there. One for all who
  // ask for the same memory.
  Tensor uploaded(const Tensor& host);

 private:
  std::vector<std::function<void()>> host_, device_;
  struct Kept {
    std::shared_ptr<void> memory;
    size_t bytes;
    Device device;
  };
  std::vector<Kept> kept_;
  std::vector<std::pair<Tensor, Tensor>> uploads_;  // of the host, on the device
  // Small ones lie side by side, so that a replay sends them all at once.
  struct Parcel {
    std::shared_ptr<void> pinned;
    Tensor there;
    size_t used = 0;
  };
  std::shared_ptr<Parcel> parcel_;
  std::shared_ptr<Parcel> parcel_for(size_t bytes);
  void* graph_ = nullptr;
};

}  // namespace llmcore
