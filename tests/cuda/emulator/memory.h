// Memory of the emulated device, pinned memory of the host, and the explanation of crashes.
#pragma once
#include <cstddef>

#include "engine.h"

namespace llmcore_emulator {

LLMCORE_EMULATOR_LOCAL void* allocate(size_t bytes);  // null if none is left
LLMCORE_EMULATOR_LOCAL bool deallocate(void*);        // false: it was never allocated
LLMCORE_EMULATOR_LOCAL void* allocate_pinned(size_t bytes);
LLMCORE_EMULATOR_LOCAL bool deallocate_pinned(void*);
LLMCORE_EMULATOR_LOCAL void memory_state(size_t* available, size_t* total);

enum class Place { kDevice, kPinned, kElsewhere };
LLMCORE_EMULATOR_LOCAL Place place_of(const void*);

// LLMCORE_EMULATOR_APART: the host cannot touch the device's memory, except while one of these objects is alive.
class LLMCORE_EMULATOR_LOCAL DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
};
// Kernels must not get host addresses either: aborts if an argument contains one.
LLMCORE_EMULATOR_LOCAL void check_argument(const void* kernel, int at, const void* value, size_t bytes);

LLMCORE_EMULATOR_LOCAL void watch_faults();  // for this thread of the process
LLMCORE_EMULATOR_LOCAL void add_stack_guard(const void*, size_t bytes);
LLMCORE_EMULATOR_LOCAL void describe_place(char* text, size_t room);  // the running kernel, block and thread

}  // namespace llmcore_emulator
