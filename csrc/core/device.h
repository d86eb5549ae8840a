// Kernels by device. The CUDA kernels are a library of their own (csrc/cuda), opened when somebody first asks for the
// device: the same wheel runs where there is none.
#pragma once
#include <string>

#include "core/cuda_api.h"
#include "core/dtype.h"

namespace llmcore {

// Where the library lies, and where libcublasLt may (paths separated by colons). Before the first use of the device.
void set_cuda_paths(const std::string& library, const std::string& blas);

// The opened library. Throws std::runtime_error, one line that says what is missing: the library, a driver, a device.
const CudaApi& cuda();
// The library, or null where nobody has used the device so far.
const CudaApi* opened_cuda();

// Throws what went wrong on the device since the last check: std::bad_alloc's kind for memory, else runtime_error.
void check_cuda(const char* what);

Device device_named(const std::string& name);  // "cpu", "cuda"; std::invalid_argument for others

}  // namespace llmcore
