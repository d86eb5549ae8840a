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
  // plan is gone. What is made once and stays, such as packed weights, must exist by now. Throws std::runtime_error if
  // this thread records already.
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
  // Memory stays with the plan. What nobody else has any more serves calls that are recorded later: those before them
  // are done by then, at every replay.
  void keep(std::shared_ptr<void> memory, size_t bytes) { kept_.push_back({std::move(memory), bytes}); }
  std::shared_ptr<void> reuse(size_t bytes) const;  // null where there is none of this size

 private:
  std::vector<std::function<void()>> calls_;
  struct Kept {
    std::shared_ptr<void> memory;
    size_t bytes;
  };
  std::vector<Kept> kept_;
};

}  // namespace llmcore
