#include "races.h"

#if defined(LLMCORE_EMULATOR_RACES)
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "symbols.h"

namespace llmcore_emulator {
namespace {

constexpr unsigned kMostThreads = 1024, kWarp = 32;
constexpr uintptr_t kPage = 4096;
constexpr size_t kMostPages = size_t{1} << 15;  // 1.6 GB of cells
constexpr uint32_t kAtomicBit = 1u << 31;

// A thread between two ordering points: all its accesses there form one moment. The moments of a launch are numbered
// from `base` on; lower numbers belong to earlier launches, which are over.
struct Moment {
  unsigned block, thread, barriers, warp_barriers;
};
std::vector<Moment> moments;
uint32_t base = 1;

struct Cell {  // of a byte: its last writer (with kAtomicBit), and two of its readers since
  uint32_t writer, readers[2];
};
struct Page {
  Cell cells[kPage];
};
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
struct Recent {
  uintptr_t number;
  Page* page;
} recent[256];

// State of the running block.
unsigned block, barriers, warp_barriers[kMostThreads / kWarp];
uint32_t now[kMostThreads];  // each thread's moment; 0: not yet numbered
bool fenced, counted, acquired;
// State of the launch: with a fence and an atomic operation after a barrier, a block publishes everything it did before
// that barrier (the example for __threadfence in the CUDA C++ Programming Guide).
std::unordered_map<unsigned, unsigned> released;

uintptr_t stacks_low, stacks_high;

Page& page_of(uintptr_t number) {
  Recent& r = recent[number % 256];
  if (r.number == number && r.page) return *r.page;
  std::unique_ptr<Page>& page = pages[number];
  if (!page) page.reset(new Page());
  r = {number, page.get()};
  return *page;
}

uint32_t moment_of(unsigned thread) {
  if (!now[thread]) {
    now[thread] = base + static_cast<uint32_t>(moments.size());
    moments.push_back({block, thread, barriers, warp_barriers[thread / kWarp]});
  }
  return now[thread];
}

// Whether a moment happened before what `thread` does now.
bool is_ordered(uint32_t then, unsigned thread, uintptr_t at) {
  const Moment& m = moments[then - base];
  if (m.block != block) {
    if (is_shared(reinterpret_cast<const void*>(at))) return true;  // each block has its own
    const auto r = released.find(m.block);
    return acquired && r != released.end() && m.barriers < r->second;
  }
  return m.thread == thread || m.barriers < barriers ||
         (m.thread / kWarp == thread / kWarp && m.warp_barriers < warp_barriers[thread / kWarp]);
}

[[noreturn]] __attribute__((noinline, cold)) void report(uint32_t then, bool wrote, unsigned thread, uintptr_t at,
                                                         Access access) {
  const Moment& m = moments[then - base];
  const char* const what = access == Access::kRead    ? "read"
                           : access == Access::kWrite ? "written"
                                                      : "changed atomically";
  fail("race at %p (%s): %s by thread %u of block %u, %s by thread %u of block %u, and nothing orders them",
       reinterpret_cast<const void*>(at),
       is_shared(reinterpret_cast<const void*>(at)) ? "shared memory" : "device memory", wrote ? "written" : "read",
       m.thread, m.block, what, thread, block);
}

void touch_byte(Cell& c, uint32_t id, unsigned thread, uintptr_t at, Access access) {
  const uint32_t writer = c.writer & ~kAtomicBit;
  if (writer >= base && writer != id && !(access == Access::kAtomic && c.writer & kAtomicBit) &&
      !is_ordered(writer, thread, at))
    report(writer, true, thread, at, access);
  if (access == Access::kRead) {
    if (c.readers[0] == id) return;
    c.readers[1] = c.readers[0], c.readers[0] = id;
    return;
  }
  for (const uint32_t reader : c.readers)
    if (reader >= base && reader != id && !is_ordered(reader, thread, at)) report(reader, false, thread, at, access);
  c = {id | (access == Access::kAtomic ? kAtomicBit : 0u), {0, 0}};
}

}  // namespace

void touch(unsigned thread, const void* address, size_t bytes, Access access) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(address);
  if (!running() || (first >= stacks_low && first < stacks_high)) return;
  const uint32_t id = moment_of(thread);
  for (uintptr_t at = first; at < first + bytes;) {
    Page& page = page_of(at / kPage);
    const uintptr_t end = std::min(first + bytes, (at / kPage + 1) * kPage);
    for (; at < end; ++at) touch_byte(page.cells[at % kPage], id, thread, at, access);
  }
  if (access == Access::kAtomic) {
    counted = true;
    if (fenced) released[block] = barriers;
  }
}

void launch_begins() {
  base += static_cast<uint32_t>(moments.size());
  moments.clear();
  released.clear();
  if (base < kAtomicBit / 2 && pages.size() < kMostPages) return;
  pages.clear();
  std::memset(recent, 0, sizeof recent);
  base = 1;
}

void block_begins(unsigned at) {
  block = at, barriers = 0;
  fenced = counted = acquired = false;
  std::memset(warp_barriers, 0, sizeof warp_barriers);
  std::memset(now, 0, sizeof now);
}

void block_is_ordered() {
  ++barriers;
  std::memset(now, 0, sizeof now);
}

void warp_is_ordered(unsigned warp) {
  ++warp_barriers[warp];
  std::memset(now + warp * kWarp, 0, kWarp * sizeof now[0]);
}

void fence() {
  fenced = true;
  acquired = acquired || counted;
}

void ignore_stacks(const void* low, size_t bytes) {
  stacks_low = reinterpret_cast<uintptr_t>(low), stacks_high = stacks_low + bytes;
}

namespace {

// The functions that the compiler calls. An access of 2, 4, 8 or 16 bytes is announced with its size if its type
// implies that it is aligned.
template <size_t kBytes>
void announced(const void* at, Access access) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(at);
  if (address % kBytes && running() && !(address >= stacks_low && address < stacks_high))
    fail("%p is not aligned to the %zu bytes that are accessed at once", at, kBytes);
  touch(current_thread, at, kBytes, access);
}

}  // namespace
}  // namespace llmcore_emulator

using llmcore_emulator::Access;
#define LLMCORE_ANNOUNCED(bytes)                                                                 \
  void __tsan_read##bytes(void* at) { llmcore_emulator::announced<bytes>(at, Access::kRead); }   \
  void __tsan_write##bytes(void* at) { llmcore_emulator::announced<bytes>(at, Access::kWrite); } \
  void __tsan_unaligned_read##bytes(void* at) {                                                  \
    llmcore_emulator::touch(llmcore_emulator::current_thread, at, bytes, Access::kRead);         \
  }                                                                                              \
  void __tsan_unaligned_write##bytes(void* at) {                                                 \
    llmcore_emulator::touch(llmcore_emulator::current_thread, at, bytes, Access::kWrite);        \
  }
extern "C" {
LLMCORE_ANNOUNCED(1)
LLMCORE_ANNOUNCED(2)
LLMCORE_ANNOUNCED(4)
LLMCORE_ANNOUNCED(8)
LLMCORE_ANNOUNCED(16)
void __tsan_read_range(void* at, size_t bytes) {
  llmcore_emulator::touch(llmcore_emulator::current_thread, at, bytes, Access::kRead);
}
void __tsan_write_range(void* at, size_t bytes) {
  llmcore_emulator::touch(llmcore_emulator::current_thread, at, bytes, Access::kWrite);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
}
#endif
