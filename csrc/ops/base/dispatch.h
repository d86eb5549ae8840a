// Which device's kernels an op calls.
#pragma once
#include "core/kernel_table.h"

namespace llmcore {

// The table of the device: on the CPU the best instruction set of this machine, or the one named by LLMCORE_CPU_ISA.
// Throws where there is none.
const KernelTable& kernels(Device device);

}  // namespace llmcore
