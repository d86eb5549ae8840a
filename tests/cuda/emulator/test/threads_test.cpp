// Threads, barriers, exchanges within a warp, shared memory.
#include <cstdio>
#include <thread>

#include "cuda/ptx.cuh"
#include "test.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;

__global__ void indices_kernel(unsigned* seen) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  seen[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1 + thread;
}

TEST(every_thread_runs_once) {
  const unsigned n = 2 * 3 * 4 * 5 * 6 * 7;
  Array<unsigned> seen(std::vector<unsigned>(n, 0u));
  CHECK(start(indices_kernel, dim3(2, 3, 4), dim3(5, 6, 7), 0, seen.get()) == cudaSuccess);
  const std::vector<unsigned> values = seen.values();
  bool ok = true;
  for (unsigned i = 0; i < n; ++i) ok = ok && values[i] == 1 + i % 210;
  CHECK(ok);
}

__global__ void reverse_kernel(const int* x, int* out, int rounds) {  // x (blocks, threads), out the same
  __shared__ int room[2][1024];
  const int t = threadIdx.x, n = blockDim.x;
  int mine = x[blockIdx.x * n + t];
  for (int i = 0; i < rounds; ++i) {
    room[i % 2][t] = mine;
    __syncthreads();
    mine = room[i % 2][n - 1 - t] + 1;
  }
  out[blockIdx.x * n + t] = mine;
}

TEST(barriers) {
  for (const int n : {1, 31, 32, 33, 100, 256, 1024}) {
    std::vector<int> values(static_cast<size_t>(3 * n));
    for (int i = 0; i < 3 * n; ++i) values[i] = 7 * i;
    Array<int> x(values), out(values.size());
    CHECK(start(reverse_kernel, 3, n, 0, x.get(), out.get(), 5) == cudaSuccess);
    const std::vector<int> found = out.values();
    bool ok = true;
    for (int i = 0; i < 3 * n; ++i) ok = ok && found[i] == values[i / n * n + n - 1 - i % n] + 5;
    CHECK(ok);
  }
}

__global__ void block_votes_kernel(int* out) {  // out (threads,3)
  const int t = threadIdx.x;
  out[3 * t] = __syncthreads_count(t % 3 == 0);
  out[3 * t + 1] = __syncthreads_and(t < 70) + 2 * __syncthreads_and(t < 69);
  out[3 * t + 2] = __syncthreads_or(t == 69) + 2 * __syncthreads_or(t == 70);
}

TEST(block_votes) {
  Array<int> out(3 * 70);
  CHECK(start(block_votes_kernel, 1, 70, 0, out.get()) == cudaSuccess);
  const std::vector<int> found = out.values();
  bool ok = true;
  for (int t = 0; t < 70; ++t) ok = ok && found[3 * t] == 24 && found[3 * t + 1] == 1 && found[3 * t + 2] == 1;
  CHECK(ok);
}

__global__ void leaving_kernel(int* out) {  // waiting threads do not wait for threads that have left
  const int t = threadIdx.x;
  if (t >= 40) return;
  __shared__ int room[64];
  room[t] = t;
  __syncthreads();
  if (t % 2) return;
  out[t] = room[39 - t] + static_cast<int>(__popc(__ballot_sync(kAll, 1)));
}

TEST(threads_that_leave) {
  Array<int> out(std::vector<int>(128, 0));
  CHECK(start(leaving_kernel, 1, 128, 0, out.get()) == cudaSuccess);
  const std::vector<int> found = out.values();
  bool ok = true;
  for (int t = 0; t < 128; ++t) ok = ok && found[t] == (t >= 40 || t % 2 ? 0 : 39 - t + (t < 32 ? 16 : 4));
  CHECK(ok);
}

template <class T>
__global__ void shuffle_kernel(T* out, int width, int step) {  // out (4,64)
  const int t = threadIdx.x;
  const T x = static_cast<T>(t * 3 + 1);
  out[t] = __shfl_sync(kAll, x, t + step, width);
  out[64 + t] = __shfl_up_sync(kAll, x, step, width);
  out[128 + t] = __shfl_down_sync(kAll, x, step, width);
  out[192 + t] = __shfl_xor_sync(kAll, x, step, width);
}

template <class T>
void check_shuffles() {
  for (int width = 1; width <= 32; width *= 2)
    for (const int step : {0, 1, 2, 5, 8, 16, 31}) {
      Array<T> out(256);
      CHECK(start(shuffle_kernel<T>, 1, 64, 0, out.get(), width, step) == cudaSuccess);
      const std::vector<T> found = out.values();
      bool ok = true;
      for (int t = 0; t < 64; ++t) {
        const int group = t / width * width, at = t - group, warp = t / 32 * 32;
        const auto is = [&](int kind, int from) { return found[kind * 64 + t] == static_cast<T>(from * 3 + 1); };
        ok = ok && is(0, group + (at + step) % width) && is(1, at - step >= 0 ? t - step : t) &&
             is(2, at + step < width ? t + step : t);
        const int other = (t - warp) ^ step;  // lanes of a later group cannot be read
        ok = ok && is(3, other < group - warp + width ? warp + other : t);
      }
      CHECK(ok);
    }
}

TEST(shuffles) {
  check_shuffles<int>();
  check_shuffles<float>();
  check_shuffles<double>();
  check_shuffles<unsigned long long>();
}

__global__ void parts_kernel(int* out) {  // two halves of a warp, and a quarter of one of them, each at its own pace
  const int t = threadIdx.x;
  int x = t;
  if (t < 16) {
    for (int i = 0; i < 3; ++i) x += __shfl_xor_sync(0xffffu, x, 1);
    if (t < 8) x += __shfl_sync(0xffu, x, 7);
  } else {
    for (int i = 0; i < 5; ++i) x += __shfl_xor_sync(0xffff0000u, x, 1);
  }
  __syncwarp();
  out[t] = x + __shfl_sync(kAll, x, 31);
}

TEST(parts_of_warp) {
  Array<int> out(32);
  CHECK(start(parts_kernel, 1, 32, 0, out.get()) == cudaSuccess);
  const std::vector<int> found = out.values();
  bool ok = true;
  const auto pair = [](int t, int rounds) { return (t + (t ^ 1)) << (rounds - 1); };
  for (int t = 0; t < 32; ++t) {
    const int x = t < 8 ? pair(t, 3) + pair(7, 3) : t < 16 ? pair(t, 3) : pair(t, 5);
    ok = ok && found[t] == x + pair(31, 5);
  }
  CHECK(ok);
}

__global__ void votes_kernel(unsigned* out) {  // out (8,32)
  const unsigned t = threadIdx.x;
  out[t] = __ballot_sync(kAll, t % 5 == 0);
  out[32 + t] = static_cast<unsigned>(__any_sync(kAll, t == 7) + 2 * __any_sync(kAll, t == 32));
  out[64 + t] = static_cast<unsigned>(__all_sync(kAll, t < 32) + 2 * __all_sync(kAll, t < 31));
  out[96 + t] = __match_any_sync(kAll, t % 3);
  out[128 + t] = __reduce_add_sync(kAll, t);
  out[160 + t] = __reduce_max_sync(kAll, t ^ 21u);
  out[192 + t] = static_cast<unsigned>(__reduce_min_sync(kAll, static_cast<int>(t) - 5));
  out[224 + t] = t < 12 ? __ballot_sync(0xfffu, t & 1) : 0;
}

TEST(votes) {
  Array<unsigned> out(256);
  CHECK(start(votes_kernel, 1, 32, 0, out.get()) == cudaSuccess);
  const std::vector<unsigned> found = out.values();
  bool ok = true;
  for (unsigned t = 0; t < 32; ++t) {
    unsigned same = 0;
    for (unsigned i = t % 3; i < 32; i += 3) same |= 1u << i;
    ok = ok && found[t] == 0x42108421u && found[32 + t] == 1 && found[64 + t] == 1 && found[96 + t] == same &&
         found[128 + t] == 496 && found[160 + t] == 31 && found[192 + t] == ~0u - 4 &&
         found[224 + t] == (t < 12 ? 0xaaau : 0u);
  }
  CHECK(ok);
}

__global__ void atomics_kernel(unsigned* counts, unsigned long long* sum, int* most) {
  atomicAdd(&counts[threadIdx.x % 4], 1u);
  atomicAdd(sum, 1ull << 33);
  atomicMax(most, static_cast<int>(threadIdx.x * blockIdx.x));
  atomicOr(&counts[4], 1u << threadIdx.x % 32);
  if (atomicCAS(&counts[5], 0u, threadIdx.x + 1) == 0u) atomicAdd(&counts[6], 1u);
}

TEST(atomics) {
  Array<unsigned> counts(std::vector<unsigned>(8, 0u));
  Array<unsigned long long> sum(std::vector<unsigned long long>(1, 0));
  Array<int> most(std::vector<int>(1, -5));
  CHECK(start(atomics_kernel, 3, 64, 0, counts.get(), sum.get(), most.get()) == cudaSuccess);
  const std::vector<unsigned> found = counts.values();
  CHECK(found[0] == 48 && found[3] == 48 && found[4] == kAll && found[6] == 1);
  CHECK(sum.values()[0] == 192ull << 33 && most.values()[0] == 126);
}

// ---- garbage ----------------------------------------------------------------------------------------

__device__ __forceinline__ int garbage_of_called(bool write) {
  __shared__ int room[50];
  const int found = room[threadIdx.x];
  if (write) room[threadIdx.x] = 1;
  return found;
}
template <class T>
__global__ void garbage_kernel(int* out) {  // out (blocks, threads)
  LLMCORE_DYNAMIC_SHARED(dynamic);
  __shared__ T room[33];
  const int t = threadIdx.x, at = blockIdx.x * blockDim.x + t;
  const int called = garbage_of_called(true);
  out[at] = room[t] == static_cast<T>(-1) && reinterpret_cast<int*>(dynamic)[t] == -1 && called == -1;
  room[t] = 5;
  reinterpret_cast<int*>(dynamic)[t] = 5;
}

TEST(shared_memory_holds_garbage) {
  for (int i = 0; i < 3; ++i) {
    Array<int> out(33 * 4);
    CHECK(start(garbage_kernel<int64_t>, 4, 33, 33 * 4, out.get()) == cudaSuccess);
    const std::vector<int> found = out.values();
    // Only after its first launch is a kernel known to call a function with its own shared memory.
    for (int b = i ? 0 : 3; b < 4; ++b)
      for (int t = 0; t < 33; ++t)
        if (i) CHECK(found[b * 33 + t]);
  }
  Array<int> fresh(100);
  CHECK(fresh.values()[99] == -1);
}

// ---- order ------------------------------------------------------------------------------------------

__global__ void race_kernel(int* out) {
  __shared__ int last;
  last = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = last;
  out[2] = static_cast<int>(blockIdx.x);
}
CHILD(race) {
  Array<int> out(3);
  CHECK(start(race_kernel, 2, 96, 0, out.get()) == cudaSuccess);
  std::printf("%d %d", out.values()[0], out.values()[2]);
}

TEST(order_shows_races) {
  CHECK(run_child("race", {{"LLMCORE_EMULATOR_ORDER", "forward"}}).output == "95 1");
  CHECK(run_child("race", {{"LLMCORE_EMULATOR_ORDER", "reverse"}}).output == "0 0");
  const Outcome shuffled = run_child("race", {{"LLMCORE_EMULATOR_ORDER", "shuffle"}});
  CHECK(shuffled.status == 0 && shuffled.output != "95 1" && shuffled.output != "0 0");
  const Outcome wrong = run_child("race", {{"LLMCORE_EMULATOR_ORDER", "sideways"}});
  CHECK(wrong.aborted && wrong.says("sideways"));
}

TEST(several_threads_of_the_host) {
  std::vector<std::thread> all;
  bool ok[4] = {};
  for (int k = 0; k < 4; ++k)
    all.emplace_back([&ok, k] {
      ok[k] = true;
      for (int i = 0; i < 20; ++i) {
        std::vector<int> values(128, k);
        Array<int> x(values), out(128);
        ok[k] = ok[k] && start(reverse_kernel, 1, 128, 0, x.get(), out.get(), 4) == cudaSuccess;
        for (const int v : out.values()) ok[k] = ok[k] && v == k + 4;
      }
    });
  for (std::thread& t : all) t.join();
  CHECK(ok[0] && ok[1] && ok[2] && ok[3]);
}

// ---- functions --------------------------------------------------------------------------------------

TEST(integer_functions) {
  CHECK(__popc(0xf0f0u) == 8 && __clz(1) == 31 && __clz(0) == 32 && __ffs(8) == 4 && __ffs(0) == 0);
  CHECK(__clzll(1) == 63 && __ffsll(1ll << 40) == 41 && __brev(1u) == 0x80000000u &&
        __brev(0x12345678u) == 0x1e6a2c48u);
  CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x7531) == 0x77553311u);
  CHECK(__funnelshift_l(0x80000000u, 1u, 1) == 3u && __funnelshift_r(1u, 1u, 1) == 0x80000000u);
  CHECK(__umulhi(0x80000000u, 6u) == 3u && __mulhi(-1, 1) == -1);
  CHECK(__dp4a(static_cast<int>(0x80ff7f01u), 0x02030405, 10) == 10 + 5 + 4 * 127 - 3 - 256);
  CHECK(__dp4a(0xffu, 0xffu, 1u) == 65026u);
}

}  // namespace
