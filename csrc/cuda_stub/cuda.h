// What the rest of the core asks of CUDA. This build has none; a CUDA build supplies the same functions.
#pragma once
#include "cpu/kernels.h"

namespace llmcore {
const KernelTable& cuda_kernels();  // throws: this build has no CUDA
}  // namespace llmcore
