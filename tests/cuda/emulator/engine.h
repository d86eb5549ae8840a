// Runs the threads of a block as fibers of one thread of the process. A fiber that waits (at a barrier or an exchange
// within a warp) yields to the next; a thread that never waits costs one function call.
#pragma once
#include <cstddef>
#include <cstdint>

#define LLMCORE_EMULATOR_LOCAL __attribute__((visibility("hidden")))
#define LLMCORE_EMULATOR_INLINE inline __attribute__((always_inline))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};

extern LLMCORE_EMULATOR_LOCAL uint3 threadIdx, blockIdx;
extern LLMCORE_EMULATOR_LOCAL dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace llmcore_emulator {

// An operation that the lanes of a warp perform together. The last lane to arrive does it for all: `run` gets each
// lane's operand, which is on that lane's stack.
struct Collective {
  const char* name;
  void (*run)(void* const (&operands)[32], uint32_t lanes);
  bool whole_warp;  // every lane must take part
};

struct Launch {
  dim3 grid, block;
  size_t shared_bytes;
  const void* kernel;
  void (*thread)(const void* arguments);  // one thread of the kernel
  const void* arguments;
};

LLMCORE_EMULATOR_LOCAL void run(const Launch&);  // all blocks; one launch at a time
LLMCORE_EMULATOR_LOCAL bool running();           // whether this thread of the process is running a kernel

[[noreturn]] LLMCORE_EMULATOR_LOCAL void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- switching between fibers -----------------------------------------------------------------------
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define LLMCORE_EMULATOR_INLINE_SWITCH 1
#endif

struct Turn {  // where to save this fiber, and where the next one resumes; null if it is this fiber's turn
  void** from;
  void* to;
};

#if defined(LLMCORE_EMULATOR_INLINE_SWITCH)
// Switches within the kernel, with a jump: the next thread mostly resumes at the same place in the kernel or at the
// previous one, which the processor learns for each jump. All registers change, so the compiler keeps what it needs on
// the stack; the frame pointer cannot be listed as clobbered, and up to 128 bytes below the stack pointer may be in
// use.
LLMCORE_EMULATOR_INLINE void take_turns(Turn turn) {
  if (!turn.to) return;
  asm volatile(
      "leaq -128(%%rsp), %%rsp\n\t"
      "pushq %%rbp\n\t"
      "leaq 1f(%%rip), %%rax\n\t"
      "pushq %%rax\n\t"
      "movq %%rsp, (%0)\n\t"
      "movq %1, %%rsp\n\t"
      "popq %%rax\n\t"
      "jmp *%%rax\n"
      "1:\n\t"
      "popq %%rbp\n\t"
      "leaq 128(%%rsp), %%rsp\n"
      : "+D"(turn.from), "+S"(turn.to)
      :
      : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2",
        "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
#if defined(__AVX512F__)
        "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27",
        "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7",
#endif
        "memory", "cc");
}
#else
LLMCORE_EMULATOR_LOCAL void take_turns(Turn);
#endif

// ---- of a thread of a kernel ------------------------------------------------------------------------
extern LLMCORE_EMULATOR_LOCAL unsigned current_thread;  // within its block
inline int lane_of_thread() { return static_cast<int>(current_thread % 32); }

LLMCORE_EMULATOR_LOCAL Turn come_to(const Collective&, uint32_t lanes, void* operand);
LLMCORE_EMULATOR_INLINE void collect(const Collective& what, uint32_t lanes, void* operand) {
  take_turns(come_to(what, lanes, operand));
}

enum class Vote { kNone, kCount, kAnd, kOr };
LLMCORE_EMULATOR_LOCAL Turn come_to_barrier(Vote, bool vote);
LLMCORE_EMULATOR_LOCAL int votes();  // of the last barrier
LLMCORE_EMULATOR_INLINE void block_barrier(Vote kind, bool vote) { take_turns(come_to_barrier(kind, vote)); }

constexpr size_t kMostShared = size_t{227} << 10;
extern LLMCORE_EMULATOR_LOCAL unsigned char* dynamic_shared;  // exactly the launch's bytes, then a red zone

// Copies that stay in flight until their thread waits for them.
LLMCORE_EMULATOR_LOCAL void copy_later(void* to, const void* from, bool valid);
LLMCORE_EMULATOR_LOCAL void end_copy_group();
LLMCORE_EMULATOR_LOCAL void wait_for_copies(int most_pending_groups);

struct MatrixOperand {
  float* d;
  const uint32_t *a, *b;
};
struct RowOperand {
  uint32_t* r;
  const void* row;
};
extern LLMCORE_EMULATOR_LOCAL const Collective kSyncWarp, kMultiply, kLoadMatrix, kLoadMatrixTransposed;

}  // namespace llmcore_emulator
