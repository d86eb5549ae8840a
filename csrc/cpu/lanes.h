// Loops over vectors with a tail, and how rows are cut into pieces.
#pragma once
#include "core/arith.h"
#include "core/thread_pool.h"
#include "cpu/simd.h"

namespace llmcore {
namespace LLMCORE_ISA {

// The lanes in use in a step of for_lanes: all of them (known when compiling), or the first n of a tail.
struct All {};

template <class T>
static inline vf load_n(const T* p, All) {
  return load(p);
}
template <class T>
static inline void store_n(T* p, vf v, All) {
  store(p, v);
}

static inline vi lane_numbers() {
  vi v;
  for (int i = 0; i < kW; ++i) v[i] = i;
  return v;
}
// Returns v where the lane is in use, else `other`: keeps tails out of sums and maxima.
static inline vf keep_n(vf v, All, float = 0.0f) { return v; }
static inline vf keep_n(vf v, int n, float other = 0.0f) { return select(lane_numbers() < n, v, splat(other)); }

// Calls body(i, lanes, u) for every vector of [0, n): i is its first element; u cycles through [0, kUnroll), so that a
// body can add to kUnroll independent accumulators without waiting for the previous addition.
template <int kUnroll = 1, class F>
static inline void for_lanes(int64_t n, const F& body) {
  int64_t i = 0;
  for (; i + kUnroll * kW <= n; i += kUnroll * kW)
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) body(i + u * kW, All{}, u);
  if constexpr (kUnroll > 1)
    for (; i + kW <= n; i += kW) body(i, All{}, 0);
  if (i < n) body(i, static_cast<int>(n - i), 0);
}

static inline float sum4(const vf* v) { return sum((v[0] + v[1]) + (v[2] + v[3])); }

constexpr int64_t kGrain =
    1 << 14;  // elements in a piece of work; with fewer than two pieces the pool is not worth waking

// Calls body(begin, end) over [0, n) in fixed pieces of `grain`.
template <class F>
static inline void parallel_ranges(int64_t n, int64_t grain, const F& body) {
  parallel(ceil_div(n, grain), [&](int64_t i) { body(i * grain, (i + 1) * grain < n ? (i + 1) * grain : n); });
}

static inline int64_t row_grain(int64_t columns) { return columns < kGrain ? kGrain / (columns > 0 ? columns : 1) : 1; }

// Returns the maximum of `least` and the numbers in the row (NaN is skipped).
template <class T>
static inline float row_max(const T* x, int64_t n, float least = -3.402823466e38f) {
  vf most[4];
  for (vf& v : most) v = splat(least);
  for_lanes<4>(
      n, [&](int64_t i, auto lanes, int u) { most[u] = max(keep_n(load_n(x + i, lanes), lanes, least), most[u]); });
  return hmax(max(max(most[0], most[1]), max(most[2], most[3])));
}

// Returns the maximum of the row (at least -FLT_MAX) and the sum of exp(x - maximum), in one pass over memory: blocks
// that stay in L1 are read twice. A NaN or +inf in the row makes the sum NaN; a row of -inf has sum 0.
struct MaxSum {
  float max, sum;
};
template <class T>
static inline MaxSum max_sum(const T* x, int64_t n) {
  constexpr int64_t kBlock = 2048;
  float top = -3.402823466e38f;
  vf total[4] = {};
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t count = n - start < kBlock ? n - start : kBlock;
    const T* block = x + start;
    const float next = row_max(block, count, top);
    if (next > top) {
      const vf factor = exp(splat(top - next));
      for (vf& v : total) v *= factor;
      top = next;
    }
    for_lanes<4>(count,
                 [&](int64_t i, auto lanes, int u) { total[u] += keep_n(exp(load_n(block + i, lanes) - top), lanes); });
  }
  return {top, sum4(total)};
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
