// Finds where the filters cut a row: a radix walk over the orders of its tokens, with counts or masses of bins in
// shared memory. All sums are of integers, so the order of additions does not matter.
#pragma once
#include "cuda/sample/sample.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kMostDigit = 11;  // bits
struct Bins {
  uint32_t low[1 << kMostDigit], high[1 << kMostDigit];  // masses, in halves: shared memory adds 32 bits at a time
  uint32_t count[1 << kMostDigit];
  unsigned long long sums[kWarp];  // of warps
  unsigned long long before;       // the total before the cut's bin
  int bin;
};

struct Token {
  uint64_t order;
  unsigned long long mass;
  bool alive;
};

__device__ __forceinline__ void add_mass(Bins& bins, uint32_t bin, unsigned long long mass) {
  const uint32_t low = static_cast<uint32_t>(mass), before = atomicAdd(&bins.low[bin], low);
  const uint32_t high = static_cast<uint32_t>(mass >> 32) + (before + low < low ? 1u : 0u);
  if (high) atomicAdd(&bins.high[bin], high);
}

// The same for all lanes with `counts` set. If many lanes share a bin, they add once.
__device__ __forceinline__ void add_masses(Bins& bins, bool counts, uint32_t bin, unsigned long long mass) {
  constexpr int kMany = 8;
  const int lane = threadIdx.x % kWarp;
  unsigned left = __ballot_sync(kAllLanes, counts);
  while (left) {
    const int leader = __ffs(static_cast<int>(left)) - 1;
    const uint32_t common = __shfl_sync(kAllLanes, bin, leader);
    const unsigned same = __ballot_sync(kAllLanes, counts && bin == common) & left;
    if (__popc(same) < kMany) break;
    const unsigned long long sum = warp_total(same >> lane & 1 ? mass : 0ull);
    if (lane == leader) add_mass(bins, bin, sum);
    left &= ~same;
  }
  if (left >> lane & 1) add_mass(bins, bin, mass);
}

// Among the live tokens item(0..n), in increasing order, finds the order of the last token that is preceded by less
// than `limit` (all ones if that is the very last). kCounting: every mass is 1. id_bits: the number of bits in ids. All
// threads of a block, a power of two, take part.
template <bool kCounting, class Item>
__device__ uint64_t last_kept(int64_t n, unsigned long long limit, int id_bits, Bins& bins, const Item& item) {
  const int threads = blockDim.x, thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int digit = threads >= 256 ? kMostDigit : 8;  // few threads clear few bins
  uint64_t prefix = 0, known = 0;
  unsigned long long before = 0;
  for (int shift = 64; shift > 0;) {
    if (shift == 32) {  // the keys are done: ids decide, and their upper bits are zeros
      if (id_bits == 0) break;
      shift = id_bits;
      known = ~((uint64_t{1} << shift) - 1);
    }
    const int end = shift > 32 ? 32 : 0, width = shift - end < digit ? shift - end : digit,
              mine = (1 << digit) / threads;
    shift -= width;
    const uint32_t mask = (1u << width) - 1;
    for (int i = thread; i < 1 << digit; i += threads) {
      bins.count[i] = 0;
      if (!kCounting) bins.low[i] = 0, bins.high[i] = 0;
    }
    if (thread == 0) bins.bin = -1;
    __syncthreads();
    for (int64_t start = 0; start < n; start += threads) {
      const Token t = start + thread < n ? item(start + thread) : Token{0, 0, false};
      const bool counts = t.alive && (t.order & known) == prefix;
      const uint32_t bin = static_cast<uint32_t>(t.order >> shift) & mask;
      if (counts) atomicAdd(&bins.count[bin], 1u);
      if (!kCounting) add_masses(bins, counts && t.mass, bin, t.mass);
    }
    __syncthreads();
    const auto in_bin = [&](int i) -> unsigned long long {
      return kCounting ? bins.count[i] : static_cast<unsigned long long>(bins.high[i]) << 32 | bins.low[i];
    };
    unsigned long long own = 0;
    for (int i = 0; i < mine; ++i) own += in_bin(thread * mine + i);
    unsigned long long sum = own;  // including the lanes before
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const unsigned long long lower = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= step) sum += lower;
    }
    if (lane == kWarp - 1) bins.sums[warp] = sum;
    __syncthreads();
    unsigned long long reached = before + sum - own;
    for (int w = 0; w < warp; ++w) reached += bins.sums[w];
    if (reached < limit && reached + own >= limit) {  // in at most one thread
      int i = thread * mine;
      for (; reached + in_bin(i) < limit; ++i) reached += in_bin(i);
      bins.bin = i, bins.before = reached;
    }
    __syncthreads();
    const int bin = bins.bin;
    const uint32_t found = bin < 0 ? 0 : bins.count[bin];
    before = bins.before;
    __syncthreads();
    if (bin < 0) return ~uint64_t{0};
    prefix |= static_cast<uint64_t>(bin) << shift;
    known |= static_cast<uint64_t>(mask) << shift;
    if (found == 1 || (kCounting && before + found == limit)) break;  // the bin is kept as a whole
  }
  return prefix | ~known;
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
