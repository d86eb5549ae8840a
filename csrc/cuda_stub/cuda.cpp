#include "cuda_stub/cuda.h"

#include <stdexcept>

namespace llmcore {
const KernelTable& cuda_kernels() { throw std::runtime_error("[cuda] this build of llmcore has no CUDA kernels"); }
}  // namespace llmcore
