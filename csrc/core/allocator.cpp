#include "core/allocator.h"

#include <pthread.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "core/heap.h"

namespace llmcore {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kLarge = size_t{128} << 10;

// Rounded so that slightly different sizes share a bucket: at most an eighth is wasted.
size_t bucket_size(size_t bytes) {
  if (bytes < kAlignment) return kAlignment;
  size_t power = size_t{1} << (63 - __builtin_clzll(bytes));
  size_t step = power / 8 < kAlignment ? kAlignment : power / 8;
  return (bytes + step - 1) / step * step;
}

struct Cache {
  std::mutex mutex;
  std::map<size_t, std::vector<void*>> free_blocks;
  Heap heap;
  int64_t allocated = 0, peak = 0, cached = 0;

  void count(size_t size) {
    allocated += static_cast<int64_t>(size);
    if (allocated > peak) peak = allocated;
  }
  void release() {
    for (auto& [size, blocks] : free_blocks)
      for (void* p : blocks) free(p);
    free_blocks.clear();
    cached = 0;
    heap.release();
  }
};

// A fork waits until no thread is inside: in the child, nobody would ever release the lock.
Cache* make_cache();
void lock_for_fork();
void unlock_after_fork();

// Never destroyed: tensors held by the interpreter may outlive static destructors.
Cache& cache() {
  static Cache* instance = make_cache();
  return *instance;
}

Cache* make_cache() {
  pthread_atfork(lock_for_fork, unlock_after_fork, unlock_after_fork);
  return new Cache;
}

void lock_for_fork() { cache().mutex.lock(); }
void unlock_after_fork() { cache().mutex.unlock(); }

}  // namespace

void* allocate(size_t bytes) {
  // A size this large can only be a mistake in a shape; refuse it before the operating system overcommits.
  if (bytes > (size_t{1} << 46)) throw std::bad_alloc();
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  if (bytes >= kLarge) {
    void* p = c.heap.take(bytes);
    if (!p) {
      c.release();
      p = c.heap.take(bytes);
    }
    if (!p) throw std::bad_alloc();
    c.count(Heap::block_size(bytes));
    return p;
  }
  const size_t size = bucket_size(bytes);
  auto& blocks = c.free_blocks[size];
  void* p = nullptr;
  if (!blocks.empty()) {
    p = blocks.back();
    blocks.pop_back();
    c.cached -= static_cast<int64_t>(size);
  } else if (posix_memalign(&p, kAlignment, size) != 0) {
    throw std::bad_alloc();
  }
  c.count(size);
  return p;
}

void deallocate(void* p, size_t bytes) {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  if (bytes >= kLarge) {
    c.heap.give_back(p);
    c.allocated -= static_cast<int64_t>(Heap::block_size(bytes));
    return;
  }
  const size_t size = bucket_size(bytes);
  c.allocated -= static_cast<int64_t>(size);
  c.cached += static_cast<int64_t>(size);
  c.free_blocks[size].push_back(p);
}

void release_cached_memory() {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  c.release();
}

MemoryStats memory_stats() {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  return {c.allocated, c.peak, c.cached + static_cast<int64_t>(c.heap.cached())};
}

void reset_peak_memory() {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  c.peak = c.allocated;
}

}  // namespace llmcore
