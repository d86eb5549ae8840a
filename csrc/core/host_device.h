// Marks functions that both CUDA kernels and the host call.
#pragma once

#if defined(__CUDACC__)
#define LLMCORE_HOST_DEVICE __host__ __device__
#else
#define LLMCORE_HOST_DEVICE
#endif
