// Stacks of the emulated threads, and going from one to another.
#pragma once
#include "engine.h"

namespace llmcore_emulator {

constexpr unsigned kMostThreads = 1024;  // of a block

struct Stack;
LLMCORE_EMULATOR_LOCAL Stack* take_stack();
LLMCORE_EMULATOR_LOCAL void give_back(Stack*);  // by who runs on it, right before going away for good

// Where a fiber on this stack goes on that has not begun with `run`.
LLMCORE_EMULATOR_LOCAL void* fresh(Stack*, void (*run)());
// Keeps in *from where this fiber goes on, and goes on at `to`, which is on that stack; null: the caller's, who is no
// fiber and says so.
LLMCORE_EMULATOR_LOCAL void go(void** from, void* to, const Stack*, bool is_caller = false);
LLMCORE_EMULATOR_LOCAL void arrived();  // the first thing that `run` does

}  // namespace llmcore_emulator
