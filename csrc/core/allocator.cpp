#include "core/allocator.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <vector>

namespace llmcore {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

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
  int64_t allocated = 0, peak = 0, cached = 0;
};

// A fork waits until no thread is inside: in the child, nobody would ever give the lock back.
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
  const size_t size = bucket_size(bytes);
  Cache& c = cache();
  {
    std::lock_guard<std::mutex> lock(c.mutex);
    auto it = c.free_blocks.find(size);
    if (it != c.free_blocks.end() && !it->second.empty()) {
      void* p = it->second.back();
      it->second.pop_back();
      c.cached -= static_cast<int64_t>(size);
      c.allocated += static_cast<int64_t>(size);
      if (c.allocated > c.peak) c.peak = c.allocated;
      return p;
    }
  }
  const size_t alignment = size >= kHugePage ? kHugePage : kAlignment;
  void* p = nullptr;
  if (posix_memalign(&p, alignment, size) != 0) {
    release_cached_memory();
    if (posix_memalign(&p, alignment, size) != 0) throw std::bad_alloc();
  }
  if (size >= kHugePage) madvise(p, size, MADV_HUGEPAGE);
  std::lock_guard<std::mutex> lock(c.mutex);
  c.allocated += static_cast<int64_t>(size);
  if (c.allocated > c.peak) c.peak = c.allocated;
  return p;
}

void deallocate(void* p, size_t bytes) {
  const size_t size = bucket_size(bytes);
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  c.allocated -= static_cast<int64_t>(size);
  c.cached += static_cast<int64_t>(size);
  c.free_blocks[size].push_back(p);
}

void release_cached_memory() {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  for (auto& [size, blocks] : c.free_blocks)
    for (void* p : blocks) free(p);
  c.free_blocks.clear();
  c.cached = 0;
}

MemoryStats memory_stats() {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  return {c.allocated, c.peak, c.cached};
}

void reset_peak_memory() {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  c.peak = c.allocated;
}

}  // namespace llmcore
