#include "memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "symbols.h"

namespace llmcore_emulator {
namespace {

constexpr size_t kPage = 4096, kSignalStack = size_t{64} << 10;
constexpr unsigned char kGarbage = 0xff;

struct Allocation {
  size_t bytes;
  char* pages;  // the pages that hold it, between two guard pages
  size_t pages_bytes;
};
struct Range {
  const char* at;
  size_t bytes;
};
struct Memory {
  std::recursive_mutex mutex;
  std::map<const char*, Allocation> device;
  std::map<const char*, size_t> pinned;
  std::vector<Range> stack_guards;
  size_t used = 0;
  int access = 0;  // number of live DeviceAccess objects
};
Memory& memory() {
  static Memory* const m = new Memory;  // never destroyed: tensors may outlive static destructors
  return *m;
}
using Lock = std::lock_guard<std::recursive_mutex>;

bool is_set(const char* name) {
  const char* text = std::getenv(name);
  return text && *text && std::strcmp(text, "0");
}
bool apart() {
  static const bool value = is_set("LLMCORE_EMULATOR_APART");
  return value;
}
bool guarded() {
  static const bool value = is_set("LLMCORE_EMULATOR_GUARD");
  return value;
}
size_t total_bytes() {
  static const size_t bytes = [] {
    const char* text = std::getenv("LLMCORE_EMULATOR_MEMORY");
    return text && *text ? static_cast<size_t>(std::strtoull(text, nullptr, 0)) : size_t{4} << 30;
  }();
  return bytes;
}
size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

void protect(const Allocation& a, int protection) {
  if (mprotect(a.pages, a.pages_bytes, protection)) fail("mprotect failed");
}

}  // namespace

void* allocate(size_t bytes) {
  watch_faults();
  Memory& m = memory();
  Lock lock(m.mutex);
  if (bytes > total_bytes() - m.used) return nullptr;
  const size_t pages_bytes = rounded(bytes, kPage);
  void* const p = mmap(nullptr, pages_bytes + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  const Allocation a{bytes, static_cast<char*>(p) + kPage, pages_bytes};
  protect(a, PROT_READ | PROT_WRITE);
  madvise(a.pages, pages_bytes, MADV_HUGEPAGE);  // fewer pages are protected faster
  std::memset(a.pages, kGarbage, pages_bytes);
  if (apart() && !m.access) protect(a, PROT_NONE);
  // An allocation at the end of its pages hits the guard page with the first byte past its end.
  char* const memory = guarded() ? a.pages + pages_bytes - rounded(bytes, 16) : a.pages;
  m.used += bytes;
  m.device[memory] = a;
  return memory;
}

bool deallocate(void* p) {
  Memory& m = memory();
  Lock lock(m.mutex);
  const auto at = m.device.find(static_cast<char*>(p));
  if (at == m.device.end()) return false;
  m.used -= at->second.bytes;
  munmap(at->second.pages - kPage, at->second.pages_bytes + 2 * kPage);
  m.device.erase(at);
  return true;
}

void* allocate_pinned(size_t bytes) {
  void* const p = std::aligned_alloc(kPage, rounded(bytes, kPage));
  if (!p) return nullptr;
  Memory& m = memory();
  Lock lock(m.mutex);
  m.pinned[static_cast<char*>(p)] = bytes;
  return p;
}

bool deallocate_pinned(void* p) {
  Memory& m = memory();
  Lock lock(m.mutex);
  if (!m.pinned.erase(static_cast<char*>(p))) return false;
  std::free(p);
  return true;
}

void memory_state(size_t* available, size_t* total) {
  Memory& m = memory();
  Lock lock(m.mutex);
  *total = total_bytes();
  *available = total_bytes() - m.used;
}

Place place_of(const void* p) {
  Memory& m = memory();
  Lock lock(m.mutex);
  const char* const address = static_cast<const char*>(p);
  const auto device = m.device.upper_bound(address);
  if (device != m.device.begin()) {
    const auto& [start, a] = *std::prev(device);
    if (address < start + a.bytes) return Place::kDevice;
  }
  const auto pinned = m.pinned.upper_bound(address);
  if (pinned != m.pinned.begin()) {
    const auto& [start, bytes] = *std::prev(pinned);
    if (address < start + bytes) return Place::kPinned;
  }
  return Place::kElsewhere;
}

DeviceAccess::DeviceAccess() {
  if (!apart()) return;
  Memory& m = memory();
  Lock lock(m.mutex);
  if (m.access++) return;
  for (const auto& [_, a] : m.device) protect(a, PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  if (!apart()) return;
  Memory& m = memory();
  Lock lock(m.mutex);
  if (--m.access) return;
  for (const auto& [_, a] : m.device) protect(a, PROT_NONE);
}

void check_argument(const void* kernel, int at, const void* value, size_t bytes) {
  if (!apart()) return;
  const char* const first = static_cast<const char*>(value);
  for (size_t i = 0; i + sizeof(void*) <= bytes; i += sizeof(void*)) {
    uintptr_t word;
    std::memcpy(&word, first + i, sizeof word);
    if (word < (uintptr_t{1} << 32) || word >> 47) continue;  // a number, or floats
    const void* const p = reinterpret_cast<const void*>(word);
    unsigned char resident;
    if (mincore(reinterpret_cast<void*>(word / kPage * kPage), 1, &resident)) continue;  // nothing is mapped there
    if (place_of(p) == Place::kElsewhere && place_of(static_cast<const char*>(p) - 1) == Place::kElsewhere)
      fail("argument %d, byte %zu: %p is an address of the host's memory\n  kernel %s", at, i, p,
           function_name(kernel).c_str());
  }
}

// ---- crashes ------------------------------------------------------------------------------------------

namespace {

struct sigaction handlers_before[NSIG];

void describe_address(const char* address, char* text, size_t room) {
  Memory& m = memory();
  const void* const p = address;
  if (!m.mutex.try_lock()) {
    std::snprintf(text, room, "address %p", p);
    return;
  }
  std::snprintf(text, room, "address %p%s", p,
                p ? "" : " (or a pointer that is not an address, or not aligned to the 16 bytes that are accessed)");
  for (const auto& [start, a] : m.device) {
    if (address < a.pages - kPage || address >= a.pages + a.pages_bytes + kPage) continue;
    const ptrdiff_t at = address - start;
    const bool inside = at >= 0 && static_cast<size_t>(at) < a.bytes;
    std::snprintf(text, room, "address %p, byte %td of %zu bytes of the device%s", p, at, a.bytes,
                  inside ? "" : ": out of bounds");
  }
  for (const Range& guard : m.stack_guards)
    if (address >= guard.at && address < guard.at + guard.bytes)
      std::snprintf(text, room, "the stack of an emulated thread is full");
  m.mutex.unlock();
}

void on_fault(int signal, siginfo_t* info, void*) {
  char what[300], place[1000] = "", text[1500];
  describe_address(static_cast<const char*>(info->si_addr), what, sizeof what);
  if (running()) describe_place(place, sizeof place);
  const bool of_device = std::strstr(what, "device") || std::strstr(what, "stack");
  int n = 0;
  if (running())
    n = std::snprintf(text, sizeof text, "CUDA emulator: memory fault, %s\n  kernel %s\n", what, place);
  else if (of_device)
    n = std::snprintf(text, sizeof text, "CUDA emulator: memory fault, %s, touched by the host\n", what);
  if (n > 0 && write(2, text, static_cast<size_t>(n)) < 0) _exit(1);
  sigaction(signal, &handlers_before[signal], nullptr);  // the access is retried and reaches the previous handler
}

}  // namespace

void watch_faults() {
  static const bool watched = [] {
    for (const int signal : {SIGSEGV, SIGBUS}) {
      struct sigaction action{};
      action.sa_sigaction = on_fault;
      action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
      sigaction(signal, &action, &handlers_before[signal]);
    }
    return true;
  }();
  static_cast<void>(watched);
  struct SignalStack {  // a full stack has no room for a handler
    stack_t stack{};
    SignalStack() {
      stack_t before{};
      if (sigaltstack(nullptr, &before) || !(before.ss_flags & SS_DISABLE)) return;
      stack.ss_sp = std::malloc(kSignalStack);
      stack.ss_size = kSignalStack;
      if (stack.ss_sp) sigaltstack(&stack, nullptr);
    }
    ~SignalStack() {
      if (!stack.ss_sp) return;
      stack_t none{};
      none.ss_flags = SS_DISABLE;
      sigaltstack(&none, nullptr);
      std::free(stack.ss_sp);
    }
  };
  thread_local SignalStack stack;
  static_cast<void>(stack);
}

void add_stack_guard(const void* p, size_t bytes) {
  Memory& m = memory();
  Lock lock(m.mutex);
  m.stack_guards.push_back({static_cast<const char*>(p), bytes});
}

}  // namespace llmcore_emulator
