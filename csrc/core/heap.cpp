#include "core/heap.h"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace llmcore {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kRegion = size_t{1} << 30;  // of address space; memory is committed when it is written to

size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

// Reserves address space that starts at a huge page, or returns null.
char* reserve(size_t size) {
  void* p = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(p);
  char* aligned = reinterpret_cast<char*>(round_up(reinterpret_cast<uintptr_t>(p), kHugePage));
  if (aligned > begin) munmap(begin, static_cast<size_t>(aligned - begin));
  munmap(aligned + size, static_cast<size_t>(begin + kHugePage - aligned));
  madvise(aligned, size, MADV_HUGEPAGE);
  return aligned;
}

}  // namespace

void Heap::insert_hole(Blocks::iterator block) {
  block->second.free = true;
  (block->second.resident ? resident_ : fresh_).insert({block->second.size, block->first});
  if (block->second.resident) cached_ += block->second.size;
}

void Heap::remove_hole(Blocks::iterator block) {
  block->second.free = false;
  (block->second.resident ? resident_ : fresh_).erase({block->second.size, block->first});
  if (block->second.resident) cached_ -= block->second.size;
}

bool Heap::grow(size_t bytes) {
  size_t size = std::max(kRegion, round_up(bytes, kHugePage));
  char* p = reserve(size);
  if (!p && size > bytes) p = reserve(size = round_up(bytes, kHugePage));  // if address space is limited
  if (!p) return false;
  ASAN_POISON_MEMORY_REGION(p, size);
  insert_hole(blocks_.insert({p, {size, true, false, true}}).first);
  return true;
}

// Finds the smallest resident hole that fits, else a fresh one together with the resident hole before it; end() if the
// system has no more memory.
Heap::Blocks::iterator Heap::find_hole(size_t size) {
  if (const auto hole = resident_.lower_bound({size, nullptr}); hole != resident_.end()) {
    return blocks_.find(hole->second);
  }
  auto hole = fresh_.lower_bound({size, nullptr});
  if (hole == fresh_.end()) {
    if (!grow(size)) return blocks_.end();
    hole = fresh_.lower_bound({size, nullptr});
  }
  const auto block = blocks_.find(hole->second);
  if (block->second.first || !std::prev(block)->second.free) return block;
  const auto before = std::prev(block);
  const size_t taken = size - before->second.size;  // from the fresh one; the resident one alone was too small
  remove_hole(before);
  remove_hole(block);
  before->second.size = size;
  if (const size_t rest = block->second.size - taken)
    insert_hole(blocks_.insert({block->first + taken, {rest, true, false, false}}).first);
  blocks_.erase(block);
  insert_hole(before);
  return before;
}

void* Heap::take(size_t bytes) {
  const size_t size = block_size(bytes);
  const auto block = find_hole(size);
  if (block == blocks_.end()) return nullptr;
  remove_hole(block);
  if (const size_t rest = block->second.size - size) {
    block->second.size = size;
    insert_hole(blocks_.insert({block->first + size, {rest, true, block->second.resident, false}}).first);
  }
  block->second.resident = true;
  ASAN_UNPOISON_MEMORY_REGION(block->first, bytes);
  return block->first;
}

// Joins two holes, unless only one of them is resident: the other would then count as kept memory.
bool Heap::join_next(Blocks::iterator block) {
  const auto next = std::next(block);
  if (next == blocks_.end() || next->second.first || !next->second.free || !block->second.free) return false;
  if (next->second.resident != block->second.resident) return false;
  remove_hole(block);
  remove_hole(next);
  block->second.size += next->second.size;
  blocks_.erase(next);
  insert_hole(block);
  return true;
}

void Heap::give_back(void* p) {
  const auto block = blocks_.find(static_cast<char*>(p));
  ASAN_POISON_MEMORY_REGION(p, block->second.size);
  insert_hole(block);
  join_next(block);
  if (!block->second.first) join_next(std::prev(block));
}

void Heap::release() {
  for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
    if (!block->second.free || !block->second.resident) continue;
    madvise(block->first, block->second.size, MADV_DONTNEED);
    remove_hole(block);
    block->second.resident = false;
    insert_hole(block);
  }
  for (auto block = blocks_.begin(); block != blocks_.end();) {
    while (join_next(block)) {
    }
    const auto next = std::next(block);
    if (block->second.free && block->second.first && (next == blocks_.end() || next->second.first)) {
      remove_hole(block);  // a whole region
      ASAN_UNPOISON_MEMORY_REGION(block->first, block->second.size);
      munmap(block->first, block->second.size);
      blocks_.erase(block);
    }
    block = next;
  }
}

}  // namespace llmcore
