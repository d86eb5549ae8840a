// A sequence of kernel calls, recorded while ops run once and replayed without them: no checks, no allocation, no
// Python. Whatever changes from replay to replay is in tensors that the kernels read (tokens, positions, lengths).
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

  // From now on, this thread's ops are recorded as they run; their results stay in place until the plan is destroyed.
  // Anything made once and kept, such as packed weights, must exist before this call. Throws std::runtime_error if this
  // thread is already recording.
  void begin();
  void end();

  // Replays everything with the same memory. If a device takes part, the host's calls run first (they check and hand
  // over their inputs, and read nothing that the device writes), then the device's as one graph.
  void run();
  size_t size() const { return host_.size() + device_.size(); }

  // Returns the plan that this thread is recording to, or null.
  static Plan* recording();
  template <class Call>
  void add(Device device, Call&& call) {
    (device == Device::kCPU ? host_ : device_).emplace_back(std::forward<Call>(call));
  }
  // Memory stays with the plan. Memory that nobody else refers to any more is reused by calls recorded later: at every
  // replay, the calls before them are done by then.
  void keep(std::shared_ptr<void> memory, size_t bytes, Device device) {
    kept_.push_back({std::move(memory), bytes, device});
  }
  std::shared_ptr<void> reuse(size_t bytes, Device device) const;  // null if there is none of this size
  // Returns a copy of host memory on the device, which every replay makes again before anything else happens there. All
  // requests for the same memory share one copy.
  Tensor uploaded(const Tensor& host);

 private:
  std::vector<std::function<void()>> host_, device_;
  struct Kept {
    std::shared_ptr<void> memory;
    size_t bytes;
    Device device;
  };
  std::vector<Kept> kept_;
  std::vector<std::pair<Tensor, Tensor>> uploads_;  // (on the host, on the device)
  // Small uploads are adjacent, so that a replay sends them all at once.
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
