// Shared by the kernels of sample.cu and its parts: the workspace, a row's parameters, its weights and orders.
#pragma once
#include "core/noise.h"
#include "cuda/common.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kSamplePiece = 1 << 13;  // tokens per block
constexpr int kPieceThreads = 256;
constexpr int kPieceSteps = kSamplePiece / kPieceThreads / 4;  // each of four tokens per thread
constexpr int kMostCandidates = 1 << 12;
constexpr float kLargest = 3.402823466e38f;

struct PieceState {
  float max, sum;  // of the unmodified logits (at least -FLT_MAX); of exp(logit - max)
  float top;       // the largest logit with mask, bias and penalties
  float score;     // the best token's score
  int32_t id;      // and its id
};
struct RowState {
  float lse, top;             // of the unmodified logits; the largest with mask, bias and penalties
  float least;                // tokens that may survive the filters have at least this logit
  uint32_t candidates;        // found so far; if there are more than fit, the row itself is searched
  unsigned long long total;   // mass of the row, if top-p needs it
  bool everything, complete;  // the row itself is searched; only the candidates can survive min-p
};

// The workspace; every array covers all rows.
struct Space {
  RowState* rows;      // (B)
  PieceState* pieces;  // (B,pieces)
  float* maxima;       // (B,pieces,threads): the largest logit of every thread of a piece, if top-k needs them
  float* logit;        // (B,room): the candidates, in no order
  uint32_t* id;
  float* changed;   // (B,stride): logits with mask, bias and penalties; null if no row can have any
  uint32_t* count;  // (B,stride)
  int64_t stride, room;
  int pieces_of_row, threads;  // threads: of a piece's block
  float one;                   // the mass of weight 1, a power of two: sums of a whole row stay below 2^63
};

struct RowParameters {
  float temperature, top_p, min_p, typical_p;
  int64_t top_k;  // 0: off
  uint64_t seed, step;
  __device__ bool filtered() const { return top_k > 0 || top_p < 1.0f || min_p > 0.0f || typical_p < 1.0f; }
};
__device__ __forceinline__ RowParameters row_parameters(const SampleArgs& a, int64_t b) {
  return {a.temperature[b],
          a.top_p[b],
          a.min_p[b],
          a.typical_p[b],
          a.top_k[b] < a.V ? a.top_k[b] : 0,
          a.seed[b],
          static_cast<uint64_t>(a.step[b])};
}

// Whether the row has a mask, a bias or penalties that change anything.
__device__ __forceinline__ bool is_changed(const SampleArgs& a, int64_t b) {
  if (a.mask) return true;
  if (a.bias_offsets && a.bias_offsets[b] < a.bias_offsets[b + 1]) return true;
  return a.history && a.history_lengths[b] > 0 &&
         (a.repetition[b] != 1.0f || a.presence[b] != 0.0f || a.frequency[b] != 0.0f);
}

// ---- weights, masses, orders ----------------------------------------------------------------------
// +inf counts as the largest number, so that differences stay defined; NaN stays NaN and, like -inf, is never a token.
__device__ __forceinline__ float bounded(float x) { return x > kLargest ? kLargest : x; }
__device__ __forceinline__ bool is_token(float x) { return x >= -kLargest; }

struct Scale {  // z = (logit - top) / T <= 0, weight = exp(z): the probability but for the sum
  float top, inverse;
  __device__ float z(float x) const { return __fmul_rn(__fsub_rn(x, top), inverse); }
  __device__ float weight(float x) const {
    const float at = z(x);
    return at < -87.33654f ? 0.0f : expf(at);  // as on the CPU, no weight is subnormal
  }
};
__device__ __forceinline__ Scale scale_of(float top, float temperature) {
  return {top, temperature > 1.0f / kLargest ? 1.0f / temperature : kLargest};
}

// A weight in fixed point: sums of weights are then the same in any order.
__device__ __forceinline__ unsigned long long mass_of(float weight, float one) {
  return weight > 0.0f ? static_cast<unsigned long long>(weight * one) : 0ull;
}

// Decreasing numbers have increasing keys; -0 equals 0.
__device__ __forceinline__ uint32_t order_key(float x) {
  const uint32_t u = __float_as_uint(__fadd_rn(x, 0.0f));
  return u & 0x80000000u ? u : ~(u | 0x80000000u);
}
__device__ __forceinline__ float key_value(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key : ~key & 0x7fffffffu);
}
// A token's place among the others: by decreasing numbers, the lower id first on ties.
__device__ __forceinline__ uint64_t order_of(float x, uint32_t id) {
  return static_cast<uint64_t>(order_key(x)) << 32 | id;
}

// ---- the draw -------------------------------------------------------------------------------------
struct Best {  // the largest score so far and its token, the lowest id on ties
  float score;
  int32_t id;
  __device__ void offer(float s, int32_t i) {
    if (s > score || (s == score && i >= 0 && (id < 0 || i < id))) score = s, id = i;
  }
};

__device__ __forceinline__ unsigned long long warp_total(unsigned long long x) {
#pragma unroll
  for (int step = kWarp / 2; step; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
// Reduces over a block; every thread gets the result. `shared`: room for 32 values.
__device__ __forceinline__ unsigned long long block_total(unsigned long long x, unsigned long long* shared) {
  const int warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  x = warp_total(x);
  if (warps == 1) return x;
  __syncthreads();
  if (lane == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  return warp_total(lane < warps ? shared[lane] : 0ull);
}

__device__ __forceinline__ Best warp_best(Best b) {
#pragma unroll
  for (int step = kWarp / 2; step; step /= 2) {
    const float score = __shfl_xor_sync(kAllLanes, b.score, step);
    const int32_t id = __shfl_xor_sync(kAllLanes, b.id, step);
    b.offer(score, id);
  }
  return b;
}
__device__ __forceinline__ Best block_best(Best b, Best* shared) {
  const int warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  b = warp_best(b);
  if (warps == 1) return b;
  __syncthreads();
  if (lane == 0) shared[threadIdx.x / kWarp] = b;
  __syncthreads();
  return warp_best(lane < warps ? shared[lane] : Best{-INFINITY, -1});
}

// Gumbel-max (Maddison, Tarlow & Minka, "A* sampling", NeurIPS 2014): the token of the largest z + g. The logarithms
// for g are computed only for tokens that may beat the warp's best: z + g > best only if the uniform number that gives
// g is below e^(z - best).
struct Draw {
  Best best{-INFINITY, -1};
  float floor = -INFINITY;      // the warp's best score
  uint32_t most = 0xffffffffu;  // a random word above this cannot win for any z <= 0

  // All lanes take part; z is -inf if there is no token.
  __device__ void offer(float z, uint32_t random, int32_t id) {
    constexpr float kMostNoise = 23.0f;
    const bool maybe = random <= most && z >= floor - kMostNoise && z > -INFINITY;
    if (!__any_sync(kAllLanes, maybe)) return;
    // Leave some room for rounding on both sides.
    const bool hopeful = maybe && uniform_of(random) < 1.001f * expf(fminf(z - floor, 80.0f));
    if (!__any_sync(kAllLanes, hopeful)) return;
    if (hopeful) best.offer(__fadd_rn(z, gumbel_of(random)), id);
    floor = warp_max(best.score);
    const float bound = expf(-floor) * 4.3e9f + 256.0f;
    if (bound < 4.29e9f) most = static_cast<uint32_t>(bound);
  }
};

}  // namespace
}  // namespace cuda
}  // namespace llmcore
