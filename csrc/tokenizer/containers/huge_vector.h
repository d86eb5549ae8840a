// Memory for large tables that are read at random. It is on huge pages if the system provides them, since translating
// the address of a small page would cost as much as the read.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace llmcore::tok {

template <class T>
struct HugeAllocator {
  using value_type = T;
  HugeAllocator() = default;
  template <class U>
  HugeAllocator(const HugeAllocator<U>&) {}

  T* allocate(size_t n) {
    const size_t page = n * sizeof(T) >= kHuge ? kHuge : 64;
    const size_t bytes = (n * sizeof(T) + page - 1) / page * page;
    void* memory = std::aligned_alloc(page, bytes);
    if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (page == kHuge) madvise(memory, bytes, MADV_HUGEPAGE);  // advice only
#endif
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t) { std::free(memory); }

  friend bool operator==(const HugeAllocator&, const HugeAllocator&) { return true; }
  friend bool operator!=(const HugeAllocator&, const HugeAllocator&) { return false; }

 private:
  static constexpr size_t kHuge = 1 << 21;
};

template <class T>
using HugeVector = std::vector<T, HugeAllocator<T>>;

}  // namespace llmcore::tok
