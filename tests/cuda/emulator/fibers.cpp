#include "fibers.h"

#include <sys/mman.h>

#include "memory.h"
#include "races.h"
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && !defined(LLMCORE_EMULATOR_INLINE_SWITCH)
// Saves the callee-saved registers and, in *from, the stack pointer; resumes where `to` was saved.
extern "C" LLMCORE_EMULATOR_LOCAL void llmcore_emulator_switch(void** from, void* to);
asm(R"(
.text
.p2align 4
.globl llmcore_emulator_switch
.hidden llmcore_emulator_switch
.type llmcore_emulator_switch,@function
llmcore_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size llmcore_emulator_switch, .-llmcore_emulator_switch
)");
#endif

namespace llmcore_emulator {

struct Stack {
  char* low;  // its lowest byte, above a guard page
  char* top;  // where the stack begins
#if !defined(__x86_64__)
  ucontext_t context;
#endif
};

namespace {

constexpr size_t kPage = 4096, kStackBytes = size_t{64} << 10;

Stack stacks[kMostThreads];
Stack* free_stacks[kMostThreads];
unsigned stacks_n = 0, free_stacks_n = 0;

#if defined(__SANITIZE_ADDRESS__)
const void* caller_low = nullptr;
size_t caller_bytes = 0;
bool from_caller = false;
void begin_switch(void** fake, const Stack* to) {
  __sanitizer_start_switch_fiber(fake, to ? to->low : caller_low, to ? kStackBytes : caller_bytes);
}
void end_switch(void* fake) {
  const void* low = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake, &low, &bytes);
  if (from_caller) caller_low = low, caller_bytes = bytes;
  from_caller = false;
}
#endif

#if defined(__x86_64__)
#if defined(LLMCORE_EMULATOR_INLINE_SWITCH)
constexpr int kRegisters = 0;
LLMCORE_EMULATOR_INLINE void switch_to(void** from, void* to) { take_turns({from, to}); }
#else
constexpr int kRegisters = 6;
inline void switch_to(void** from, void* to) { llmcore_emulator_switch(from, to); }
#endif
#else
void switch_to(void** from, void* to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}
#endif

}  // namespace

Stack* take_stack() {
  if (free_stacks_n) return free_stacks[--free_stacks_n];
  static char* const all = [] {
    constexpr size_t kBytes = kMostThreads * (kPage + kStackBytes);
    void* const p = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fail("no memory for the threads' stacks");
    ignore_stacks(p, kBytes);
    return static_cast<char*>(p);
  }();
  char* const p = all + stacks_n * (kPage + kStackBytes);
  if (mprotect(p, kPage, PROT_NONE)) fail("no memory for the threads' stacks");
  add_stack_guard(p, kPage);
  Stack& s = stacks[stacks_n];
  s.low = p + kPage;
  // Stacks start at different offsets within a page; otherwise they would share a few cache lines.
  s.top = s.low + kStackBytes - stacks_n++ % 16 * 256;
  return &s;
}

void give_back(Stack* stack) { free_stacks[free_stacks_n++] = stack; }

void* fresh(Stack* s, void (*run)()) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(s->low, kStackBytes);
#endif
#if defined(__x86_64__)
  // Set up the stack as if the fiber had yielded before the first instruction of run.
  void** at = reinterpret_cast<void**>(s->top);
  *--at = nullptr;  // where run would return to: the stack is aligned as after a call
  *--at = reinterpret_cast<void*>(run);
  for (int i = 0; i < kRegisters; ++i) *--at = nullptr;
  return at;
#else
  getcontext(&s->context);
  s->context.uc_stack.ss_sp = s->low;
  s->context.uc_stack.ss_size = static_cast<size_t>(s->top - s->low);
  s->context.uc_link = nullptr;
  makecontext(&s->context, run, 0);
  return &s->context;
#endif
}

void go(void** from, void* to, [[maybe_unused]] const Stack* stack, [[maybe_unused]] bool is_caller) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  from_caller = is_caller;
  begin_switch(&fake, stack);
  switch_to(from, to);
  end_switch(fake);
#else
  switch_to(from, to);
#endif
}

void arrived() {
#if defined(__SANITIZE_ADDRESS__)
  end_switch(nullptr);
#endif
}

}  // namespace llmcore_emulator
