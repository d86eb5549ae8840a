// A heap for large blocks. It reserves address space by the gigabyte, hands out the smallest hole that fits, and joins
// freed neighbours, so the memory that a step's activations free has room for its gradients, whatever their sizes. Not
// thread-safe: the allocator holds its lock around every call.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

namespace llmcore {

class Heap {
 public:
  static constexpr size_t kGranularity = size_t{16} << 10;

  static size_t block_size(size_t bytes) { return (bytes + kGranularity - 1) / kGranularity * kGranularity; }

  void* take(size_t bytes);  // page-aligned; null when the system has no more
  void give_back(void* p);
  void release();                            // returns the memory of holes to the system
  size_t cached() const { return cached_; }  // bytes of holes that still hold memory

 private:
  struct Block {
    size_t size;
    bool free;
    bool resident;  // it has been used, so it is backed by memory
    bool first;     // of its region
  };
  using Blocks = std::map<char*, Block>;

  bool grow(size_t bytes);
  Blocks::iterator find_hole(size_t size);
  void insert_hole(Blocks::iterator block);
  void remove_hole(Blocks::iterator block);
  bool join_next(Blocks::iterator block);

  Blocks blocks_;                                        // by address: every byte of every region is in one
  std::set<std::pair<size_t, char*>> resident_, fresh_;  // holes, smallest first
  size_t cached_ = 0;
};

}  // namespace llmcore
