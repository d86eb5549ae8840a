// Which instruction sets this build contains, which of them this machine can run, and which one is in use.
#pragma once
#include <string>
#include <vector>

#include "core/kernel_table.h"

namespace llmcore {

struct IsaInfo {
  std::string name;
  bool supported;  // by this processor and operating system
};
std::vector<IsaInfo> compiled_isas();  // slowest first
std::string current_isa();             // chosen at the first call: the fastest supported, or LLMCORE_CPU_ISA
const KernelTable& cpu_kernels();      // of current_isa(); throws if LLMCORE_CPU_ISA names none that is supported

}  // namespace llmcore
