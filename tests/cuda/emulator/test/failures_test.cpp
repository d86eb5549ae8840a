// Mistakes in kernels, and how the emulator reports them.
#include "cuda/ptx.cuh"
#include "test.h"

using namespace llmcore::cuda;

namespace {

constexpr unsigned kAll = 0xffffffffu;

__global__ void divergent_kernel(int kind, float* out) {
  const int t = threadIdx.x;
  float x = 1.0f;
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (kind == 0) {  // one warp at a barrier, another in a shuffle without its last lane
    if (t < 32 || t == 63)
      __syncthreads();
    else
      x = __shfl_xor_sync(kAll, x, 1);
  }
  if (kind == 1) x = t < 16 ? __shfl_xor_sync(kAll, x, 1) : __shfl_down_sync(kAll, x, 1);
  if (kind == 2) x = __shfl_xor_sync(0xffffu, x, 1);
  if (kind == 3 && t % 32 < 20) {
    mma_16816(d, a, b);
    x = d[0];
  }
  if (kind == 4) x = t < 32 ? static_cast<float>(__syncthreads_count(1)) : static_cast<float>(__syncthreads_or(1));
  if (kind == 5) cp_async_16(reinterpret_cast<char*>(out) + 4, out);
  if (kind == 6) ldmatrix_x4(*reinterpret_cast<uint32_t (*)[4]>(&d), reinterpret_cast<char*>(out) + 8);
  out[t] = x + d[1];
}
void diverge(int kind) {
  float* out = nullptr;
  cudaMalloc(&out, 4096);
  start(divergent_kernel, 1, 64, 0, kind, out);
}
CHILD(deadlock) { diverge(0); }
CHILD(two_shuffles) { diverge(1); }
CHILD(wrong_mask) { diverge(2); }
CHILD(partial_warp) { diverge(3); }
CHILD(two_barriers) { diverge(4); }
CHILD(misaligned_copy) { diverge(5); }
CHILD(misaligned_row) { diverge(6); }

TEST(divergence) {
  Outcome o = run_child("deadlock");
  CHECK(o.aborted && o.says("deadlock") && o.says("divergent_kernel(int, float*)") && o.says("block (0, 0, 0)"));
  CHECK(o.says("warp 0: lanes ffffffff wait at __syncthreads") &&
        o.says("warp 1: lanes 80000000 wait at __syncthreads"));
  CHECK(o.says("warp 1: lanes 7fffffff wait in __shfl_xor_sync for lanes 80000000"));
  o = run_child("two_shuffles");
  CHECK(o.aborted && o.says("different places: __shfl") && o.says("divergent_kernel"));
  o = run_child("wrong_mask");
  CHECK(o.aborted && o.says("not in its own mask 0000ffff"));
  o = run_child("partial_warp");
  CHECK(o.aborted && o.says("mma"));
  CHECK(run_child("two_barriers").says("different kinds of __syncthreads"));
  CHECK(run_child("misaligned_copy").says("cp.async: the destination"));
  CHECK(run_child("misaligned_row").says("ldmatrix: row"));
}

__global__ void write_kernel(float* out, int at) { out[at] = 1.0f; }
__global__ void read_kernel(float* out, const float* x, int at) { out[0] = x[at]; }
__global__ void overrun_kernel(int at) {
  LLMCORE_DYNAMIC_SHARED(room);
  *reinterpret_cast<volatile unsigned char*>(room + at) = 1;
}
__global__ void recursion_kernel(volatile char* out, int depth) {
  struct Deep {
    static int down(volatile char* p, int n) {
      volatile char local[1000];
      local[n % 1000] = p[0];
      return n ? down(p, n - 1) + local[n % 999] : 0;
    }
  };
  out[0] = static_cast<char>(Deep::down(out, depth));
}

float* floats(size_t n) {
  float* p = nullptr;
  cudaMalloc(&p, n * sizeof *p);
  return p;
}
CHILD(overrun) { start(overrun_kernel, 1, 1, 100, 100); }
CHILD(underrun) { start(overrun_kernel, 1, 1, 100, -1); }
CHILD(fits) { start(overrun_kernel, 1, 1, 100, 99); }
CHILD(write_past_end) { start(write_kernel, 1, 1, 0, floats(1000), 1000); }
CHILD(write_before) { start(write_kernel, 1, 1, 0, floats(1000), -1024); }
CHILD(write_end) { start(write_kernel, 1, 1, 0, floats(1000), 999); }
CHILD(write_freed) {
  float* const p = floats(1000);
  cudaFree(p);
  start(write_kernel, 1, 1, 0, p, 0);
}
CHILD(full_stack) { start(recursion_kernel, 1, 1, 0, reinterpret_cast<char*>(floats(1)), 1000); }
CHILD(host_touches) { *const_cast<volatile float*>(floats(10)) = 1.0f; }
CHILD(host_touches_later) {
  float* const p = floats(10);
  start(write_kernel, 1, 1, 0, p, 0);
  *const_cast<volatile float*>(p + 3) = 1.0f;
}
CHILD(host_pointer) {
  static float host[4];
  start(read_kernel, 1, 1, 0, floats(1), host, 1);
}
CHILD(all_in_place) {
  float *p = floats(4), *pinned = nullptr, host[4] = {1, 2, 3, 4};
  cudaHostAlloc(&pinned, 16, 0);
  CHECK(cudaMemcpy(p, host, 16, cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(start(read_kernel, 1, 1, 0, p, pinned, 1) == cudaSuccess);
  CHECK(start(read_kernel, 1, 1, 0, p, p + 4, -1) == cudaSuccess);
  CHECK(cudaMemcpy(host, p, 16, cudaMemcpyDeviceToHost) == cudaSuccess && host[0] == 4);
}

TEST(memory_errors) {
  Outcome o = run_child("overrun");
  CHECK(o.aborted && o.says("byte 100 of 100 was written") && o.says("overrun_kernel"));
  CHECK(run_child("underrun").says("byte -1 was written") && run_child("fits").status == 0);
  const std::vector<std::pair<const char*, const char*>> guard = {{"LLMCORE_EMULATOR_GUARD", "1"}},
                                                         apart = {{"LLMCORE_EMULATOR_APART", "1"}};
  CHECK(run_child("write_end", guard).status == 0);
#if !defined(__SANITIZE_ADDRESS__)  // which reports first
  o = run_child("write_past_end", guard);
  CHECK(o.aborted && o.says("byte 4000 of 4000 bytes of the device: out of bounds") && o.says("write_kernel"));
  CHECK(run_child("write_before", guard).aborted);
  o = run_child("write_freed", guard);
  CHECK(o.aborted && o.says("memory fault") && o.says("write_kernel"));
  o = run_child("full_stack");
  CHECK(o.aborted && o.says("the stack of an emulated thread is full") && o.says("recursion_kernel"));
  for (const char* name : {"host_touches", "host_touches_later"}) {
    o = run_child(name, apart);
    CHECK(o.aborted && o.says("touched by the host"));
  }
#endif
  o = run_child("host_pointer", apart);
  CHECK(o.aborted && o.says("argument 1, byte 0: ") && o.says("an address of the host's memory"));
  CHECK(run_child("all_in_place", apart).status == 0);
}

}  // namespace
