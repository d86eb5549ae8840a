// Kernels by device. The CUDA kernels are a library of their own (csrc/cuda), opened when the device is first
// requested, so the same wheel runs on machines without one.
#pragma once
#include <string>

#include "core/cuda_api.h"
#include "core/dtype.h"

namespace llmcore {

// Sets where the library is and where libcublasLt may be (paths separated by colons). Call it before the first use of
// the device.
void set_cuda_paths(const std::string& library, const std::string& blas);

// Returns the opened library. Throws std::runtime_error with one line that says what is missing: the library, a driver
// or a device.
const CudaApi& cuda();
// Returns the library, or null if the device has not been used so far.
const CudaApi* opened_cuda();

// Throws the error that occurred on the device since the last check: a std::bad_alloc for memory, else a
// std::runtime_error.
void check_cuda(const char* what);

Device device_named(const std::string& name);  // "cpu", "cuda"; std::invalid_argument for others

}  // namespace llmcore
