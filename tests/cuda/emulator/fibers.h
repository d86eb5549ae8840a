// Stacks of the emulated threads, and switching between them.
#pragma once
#include "engine.h"

namespace llmcore_emulator {

constexpr unsigned kMostThreads = 1024;  // of a block

struct Stack;
LLMCORE_EMULATOR_LOCAL Stack* take_stack();
LLMCORE_EMULATOR_LOCAL void give_back(Stack*);  // called on the stack itself, right before leaving it for good

// Returns where a fiber on this stack that has not begun `run` resumes.
LLMCORE_EMULATOR_LOCAL void* fresh(Stack*, void (*run)());
// Saves in *from where this fiber resumes, and resumes at `to`, which is on the given stack; null: on the stack of the
// caller, which is not a fiber.
LLMCORE_EMULATOR_LOCAL void go(void** from, void* to, const Stack*, bool is_caller = false);
LLMCORE_EMULATOR_LOCAL void arrived();  // the first thing that `run` does

}  // namespace llmcore_emulator
