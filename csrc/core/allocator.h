// A caching allocator for CPU storage: freed blocks are kept and handed out again, so that a training step touches the
// same pages every time instead of paying for fresh ones. Small blocks are kept by size, large ones in a heap.
#pragma once
#include <cstddef>
#include <cstdint>

namespace llmcore {

void* allocate(size_t bytes);  // 64-byte aligned; throws std::bad_alloc
void deallocate(void* p, size_t bytes);
void release_cached_memory();

struct MemoryStats {
  int64_t allocated;  // bytes in live tensors
  int64_t peak;       // highest `allocated` since the last reset
  int64_t cached;     // bytes kept for reuse
};
MemoryStats memory_stats();
void reset_peak_memory();

}  // namespace llmcore
