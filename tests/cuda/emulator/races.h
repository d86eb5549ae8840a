// Finds races, as compute-sanitizer's racecheck and memcheck do: two threads access one byte, at least one of them
// writes, and nothing orders them. With -DLLMCORE_RACES=ON the compiler announces every access of the kernels to
// races.cpp, as it does for ThreadSanitizer; without it, this costs nothing.
#pragma once
#include "engine.h"

namespace llmcore_emulator {

enum class Access { kRead, kWrite, kAtomic };

#if defined(LLMCORE_EMULATOR_RACES)
LLMCORE_EMULATOR_LOCAL void touch(unsigned thread, const void* at, size_t bytes, Access);
LLMCORE_EMULATOR_LOCAL void launch_begins();
LLMCORE_EMULATOR_LOCAL void block_begins(unsigned at);       // the block's number in the grid
LLMCORE_EMULATOR_LOCAL void block_is_ordered();              // __syncthreads
LLMCORE_EMULATOR_LOCAL void warp_is_ordered(unsigned warp);  // __syncwarp; no other exchange orders memory
LLMCORE_EMULATOR_LOCAL void fence();                         // __threadfence
LLMCORE_EMULATOR_LOCAL void ignore_stacks(const void* low, size_t bytes);
#else
inline void touch(unsigned, const void*, size_t, Access) {}
inline void launch_begins() {}
inline void block_begins(unsigned) {}
inline void block_is_ordered() {}
inline void warp_is_ordered(unsigned) {}
inline void fence() {}
inline void ignore_stacks(const void*, size_t) {}
#endif

inline void touch_atomically(const void* at, size_t bytes) { touch(current_thread, at, bytes, Access::kAtomic); }

}  // namespace llmcore_emulator
