// Built with -DLLMCORE_RACES=ON: two threads at one address, and misaligned addresses.
#if defined(LLMCORE_EMULATOR_RACES)
#include <cstdio>
#include <cstdlib>
#include <string>

#include "cuda/ptx.cuh"
#include "test.h"

namespace {

struct alignas(16) Four {
  float v[4];
};
__device__ float blocks_scratch[64];
__device__ unsigned blocks_done;

// 64 threads; even kinds are correct, and each odd kind is the preceding even one without what makes it correct.
__global__ void neighbours_kernel(int kind, float* out) {
  __shared__ float room[64];
  __shared__ __align__(16) float tile[64];
  __shared__ unsigned count;
  __shared__ bool last;
  const int t = threadIdx.x, block = blockIdx.x, next = (t + 1) % 64;
  if (kind < 2) {  // the neighbour's value after a barrier
    room[t] = static_cast<float>(t);
    if (kind == 0) __syncthreads();
    out[64 * block + t] = room[next];
  } else if (kind < 4) {  // within a warp; a shuffle orders no memory
    room[t] = static_cast<float>(t);
    if (kind == 2)
      __syncwarp();
    else
      __shfl_xor_sync(0xffffffffu, t, 1);
    out[64 * block + t] = room[t ^ 1];
  } else if (kind < 6) {  // read before it is overwritten
    room[t] = 1.0f;
    __syncthreads();
    const float x = room[next];
    if (kind == 4) __syncthreads();
    room[t] = x + 1.0f;
    out[64 * block + t] = room[t];
  } else if (kind < 8) {  // all threads count
    if (t == 0) count = 0;
    __syncthreads();
    if (kind == 6)
      atomicAdd(&count, 1u);
    else
      ++count;
  } else if (kind < 10) {  // the last block reads what all blocks have written
    if (t == 0) blocks_scratch[block] = 1.0f;
    if (kind == 8) __threadfence();
    __syncthreads();
    if (t == 0) last = atomicAdd(&blocks_done, 1u) + 1 == gridDim.x;
    __syncthreads();
    if (!last) return;
    if (kind == 8) __threadfence();
    if (t < static_cast<int>(gridDim.x)) out[t] = blocks_scratch[t];
    if (t == 0) blocks_done = 0;
  } else if (kind < 12) {  // blocks write to separate places, or to the same one
    out[kind == 10 ? 64 * block + t : t] = 1.0f;
  } else if (kind < 14) {  // a copy is visible to others after its thread's wait and a barrier
    if (t < 16) llmcore::cuda::cp_async_16(tile + 4 * t, out + 4 * t);
    llmcore::cuda::cp_async_commit();
    llmcore::cuda::cp_async_wait<0>();
    if (kind == 12) __syncthreads();
    room[t] = tile[next];
  } else {  // 16 bytes at once
    const Four x = *reinterpret_cast<const Four*>(out + (kind == 14 ? 4 : 1));
    if (t == 0) out[64 * block] = x.v[0];
  }
}

void run_kind(int kind) {
  Array<float> out(std::vector<float>(256, 0.0f));
  CHECK(start(neighbours_kernel, kind == 14 || kind == 15 ? 1 : 3, 64, 0, kind, out.get()) == cudaSuccess);
  cudaDeviceSynchronize();
}
CHILD(neighbours) { run_kind(std::atoi(std::getenv("RACES_TEST_KIND"))); }

TEST(races) {
  for (int wanted = 0; wanted < 16; ++wanted) {
    const std::string kind = std::to_string(wanted);
    const Outcome o = run_child("neighbours", {{"RACES_TEST_KIND", kind.c_str()}});
    const bool wrong = wanted % 2 == 1;
    const bool told = wanted == 15 ? o.says("is not aligned to the 16 bytes") : o.says("race at");
    if (o.aborted != wrong || told != wrong) std::printf("kind %d: %s\n", wanted, o.output.c_str());
    CHECK(o.aborted == wrong && told == wrong && (!wrong || o.says("neighbours_kernel")));
  }
}

}  // namespace
#endif
