// Chooses the device whose kernels an op calls.
#pragma once
#include "core/kernel_table.h"

namespace llmcore {

// Returns the device's table: on the CPU, of the best instruction set of this machine or the one named by
// LLMCORE_CPU_ISA. Throws if there is no such device.
const KernelTable& kernels(Device device);

}  // namespace llmcore
