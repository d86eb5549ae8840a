// Functions that CUDA kernels call as well as the host.
#pragma once

#if defined(__CUDACC__)
#define LLMCORE_HOST_DEVICE __host__ __device__
#else
#define LLMCORE_HOST_DEVICE
#endif
