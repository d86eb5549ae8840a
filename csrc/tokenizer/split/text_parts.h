// Shares a long text among threads: it is cut where a piece ends anyway, whatever the pattern.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <mutex>

#include "core/thread_pool.h"
#include "tokenizer/split/specials.h"

namespace llmcore::tok {

using Text = Stretch;

// The number of bytes of a long text that one thread takes at a time.
constexpr size_t kPartBytes = 1 << 16;

// Returns the size of the text's first part: up to a line end between a non-space character and a letter or digit,
// where a piece ends whatever the pattern.
inline size_t safe_cut(Text text) {
  const auto ascii_between = [](uint8_t byte, uint8_t low, uint8_t high) { return byte >= low && byte <= high; };
  for (size_t i = kPartBytes; i + 1 < text.size; ++i) {
    const void* line_end = std::memchr(text.data + i, '\n', text.size - 1 - i);
    if (!line_end) break;
    i = static_cast<size_t>(static_cast<const uint8_t*>(line_end) - text.data);
    const uint8_t before = text.data[i - 1], after = text.data[i + 1];
    if (ascii_between(before, '!', '~') && (ascii_between(after, '0', '9') || ascii_between(after | 0x20, 'a', 'z'))) {
      return i + 1;
    }
  }
  return text.size;
}

// Calls work(next) on up to num_threads() threads; next() gives each index below n once, then indices from n on.
// Rethrows the exception of the lowest index.
template <class Work>
void work_through(size_t n, Work&& work) {
  struct Shared {
    Work& work;
    std::atomic<size_t> next;
    std::mutex mutex;
    size_t failed;
    std::exception_ptr error;
  } shared{work, {0}, {}, n, {}};
  const auto body = [](void* context, int64_t) {
    Shared& shared = *static_cast<Shared*>(context);
    size_t index = 0;
    try {
      shared.work([&] { return index = shared.next++; });
    } catch (...) {
      std::lock_guard<std::mutex> lock(shared.mutex);
      if (index <= shared.failed) shared.error = std::current_exception();
      shared.failed = std::min(shared.failed, index);
    }
  };
  parallel_for(std::min<int64_t>(static_cast<int64_t>(n), num_threads()), body, &shared);
  if (shared.error) std::rethrow_exception(shared.error);
}

}  // namespace llmcore::tok
