// A sequence of kernel calls, recorded while ops run once and replayed without them: no checks, no allocation, no
// Python. What changes from replay to replay lies in tensors that the kernels read (tokens, positions, lengths).
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace llmcore {

class Plan {
 public:
  ~Plan() { end(); }

  // From now on, what this thread's ops do is recorded while they do it; their results stay where they are until the
  // plan is gone. Throws std::runtime_error if this thread records already.
  void begin();
  void end();

  // Does it all again, with the same memory.
  void run() const;
  size_t size() const { return calls_.size(); }

  // The plan that this thread records to, or null.
  static Plan* recording();
  template <class Call>
  void add(Call&& call) {
    calls_.emplace_back(std::forward<Call>(call));
  }
  void keep(std::shared_ptr<void> memory) { kept_.push_back(std::move(memory)); }

 private:
  std::vector<std::function<void()>> calls_;
  std::vector<std::shared_ptr<void>> kept_;
};

}  // namespace llmcore
