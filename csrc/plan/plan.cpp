#include "plan/plan.h"

#include <stdexcept>

namespace llmcore {
namespace {

thread_local Plan* current = nullptr;

}  // namespace

Plan* Plan::recording() { return current; }

void Plan::begin() {
  if (current) throw std::runtime_error("[plan] expected one recording at a time, got a second");
  current = this;
}

void Plan::end() {
  if (current == this) current = nullptr;
}

std::shared_ptr<void> Plan::reuse(size_t bytes) const {
  for (const Kept& kept : kept_)
    if (kept.bytes == bytes && kept.memory.use_count() == 1) return kept.memory;
  return nullptr;
}

void Plan::run() const {
  for (const std::function<void()>& call : calls_) call();
}

}  // namespace llmcore
