// Measures the best that this machine can do: the floors that kernels are compared with.
#pragma once
#include "core/tensor.h"

namespace llmcore {

// Runs `rounds` rounds of independent multiply-adds in each of `pieces` pieces on the pool; returns the operations done
// (a multiply-add is two). dtype float32, bfloat16, or uint8 for products of bytes. The caller measures the time.
double machine_peak(DType dtype, int64_t pieces, int64_t rounds);

// Reads all of x once, on the pool; returns the sum of its 32-bit words modulo 2^32.
uint32_t machine_read(const Tensor& x);

}  // namespace llmcore
