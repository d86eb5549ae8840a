// The two passes over the logits, one block per piece of a row: a survey of the maxima, and a scan that draws or finds
// the tokens that may survive the filters.
#pragma once
#include <type_traits>

#include "cuda/sample/sample.cuh"

namespace llmcore {
namespace cuda {
namespace {

// A thread's tokens of a piece: step j has four from 4 (j threads + thread) on, and -inf past the end of the row. Which
// thread has which token depends only on V, and so do the bits of the float sums.
struct Four {
  float v[4];
};
struct PieceSteps {
  int64_t first;  // token of step 0
  int wide;       // tokens from one step to the next
  int steps;      // the same in all threads
};
__device__ __forceinline__ PieceSteps piece_steps(int64_t V, int piece) {
  const int64_t start = static_cast<int64_t>(piece) * kSamplePiece;
  const int count = static_cast<int>(V - start < kSamplePiece ? V - start : kSamplePiece);
  const int wide = 4 * static_cast<int>(blockDim.x);
  return {start + 4 * static_cast<int>(threadIdx.x), wide, (count + wide - 1) / wide};
}

template <class T>
__device__ __forceinline__ Four load_four(const T* row, int64_t V, int64_t i, bool aligned) {
  Four x;
  if (aligned && i + 4 <= V) {
    const Vec<T, 4> four = *reinterpret_cast<const Vec<T, 4>*>(row + i);
#pragma unroll
    for (int u = 0; u < 4; ++u) x.v[u] = as_float(four.v[u]);
  } else {
#pragma unroll
    for (int u = 0; u < 4; ++u) x.v[u] = i + u < V ? as_float(row[i + u]) : -INFINITY;
  }
  return x;
}

// Calls visit(id of the first, four tokens, at most FLT_MAX each) for every step, while the next four are in flight.
template <class T, class Visit>
__device__ __forceinline__ void for_piece(const T* row, int64_t V, int piece, bool aligned, const Visit& visit) {
  const PieceSteps s = piece_steps(V, piece);
  int64_t i = s.first;
  Four next = load_four(row, V, i, aligned);
#pragma unroll 1
  for (int j = 0; j < s.steps; ++j, i += s.wide) {
    Four now = next;
    if (j + 1 < s.steps) next = load_four(row, V, i + s.wide, aligned);
#pragma unroll
    for (float& x : now.v) x = bounded(x);
    visit(static_cast<int32_t>(i), now);
  }
}

// ---- the survey -----------------------------------------------------------------------------------
// Returns a thread's largest number, skipping NaN; -inf if there is no number.
template <class T>
__device__ __forceinline__ float most_of_piece(const T* row, int64_t V, int piece, bool aligned) {
  float most = -INFINITY;
  for_piece(row, V, piece, aligned, [&](int32_t, const Four& x) {
#pragma unroll
    for (float v : x.v) most = fmaxf(most, v);
  });
  return most;
}

// logits (B,V); one block per piece of a row.
template <class T>
__global__ void __launch_bounds__(kPieceThreads, 4) survey_kernel(SampleArgs a, Space space, bool aligned) {
  __shared__ float shared[kWarp];
  const int64_t b = blockIdx.x / space.pieces_of_row;
  const int piece = static_cast<int>(blockIdx.x % space.pieces_of_row);
  const T* row = static_cast<const T*>(a.logits) + b * a.V;
  const PieceSteps s = piece_steps(a.V, piece);
  Four x[kPieceSteps];
#pragma unroll
  for (int j = 0; j < kPieceSteps; ++j)
    x[j] = j < s.steps ? load_four(row, a.V, s.first + j * s.wide, aligned)
                       : Four{{-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
  float most = -INFINITY, sum = 0.0f;
#pragma unroll
  for (int j = 0; j < kPieceSteps; ++j)
#pragma unroll
    for (float v : x[j].v) most = fmaxf(most, bounded(v));
  float top = block_max(most, shared);
  const float max = fmaxf(top, -kLargest);
#pragma unroll
  for (int j = 0; j < kPieceSteps; ++j)
#pragma unroll
    for (float v : x[j].v) sum += expf(v - max);
  sum = block_sum(sum, shared);
  if (is_changed(a, b)) {
    most = most_of_piece(space.changed + b * space.stride, a.V, piece, true);
    top = block_max(most, shared);
  }
  if (a.top_k[b] > 0 && a.top_k[b] < a.V)
    space.maxima[static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x] = most;
  if (threadIdx.x == 0) space.pieces[blockIdx.x] = {max, sum, top, -INFINITY, -1};
}

// ---- the scan -------------------------------------------------------------------------------------
template <class T>
__device__ __forceinline__ Best draw_from_piece(const T* row, int64_t V, int piece, bool aligned, const Scale& scale,
                                                const RowParameters& p) {
  Draw draw;
  for_piece(row, V, piece, aligned, [&](int32_t id, const Four& x) {
    const Philox4 random = philox4x32(p.seed, p.step, static_cast<uint32_t>(id) / 4);
#pragma unroll
    for (int u = 0; u < 4; ++u) draw.offer(is_token(x.v[u]) ? scale.z(x.v[u]) : -INFINITY, random.v[u], id + u);
  });
  return draw.best;
}

template <class T>
__device__ __forceinline__ Best first_of_piece(const T* row, int64_t V, int piece, bool aligned, float top) {
  Best best{-INFINITY, -1};
  for_piece(row, V, piece, aligned, [&](int32_t id, const Four& x) {
#pragma unroll
    for (int u = 0; u < 4; ++u)
      if (x.v[u] == top) best.offer(top, id + u);
  });
  return best;
}

// Adds tokens >= least to the row's candidates, in any order: nothing depends on it. If `sums`, also adds up the mass
// of all tokens.
template <class T>
__device__ __forceinline__ void find_candidates(const T* row, const Space& space, int64_t V, int64_t b, int piece,
                                                bool aligned, const Scale& scale, bool sums) {
  RowState& state = space.rows[b];
  const float least = state.everything ? INFINITY : state.least;
  const int lane = threadIdx.x % kWarp;
  float* logits = space.logit + b * space.room;
  uint32_t* ids = space.id + b * space.room;
  unsigned long long mass = 0;
  for_piece(row, V, piece, aligned, [&](int32_t id, const Four& x) {
    bool some = false;
#pragma unroll
    for (float v : x.v) {
      some = some || v >= least;
      if (sums && is_token(v)) mass += mass_of(scale.weight(v), space.one);
    }
    if (!__any_sync(kAllLanes, some)) return;
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const bool found = x.v[u] >= least;
      const unsigned all = __ballot_sync(kAllLanes, found);
      unsigned slot = 0;
      if (lane == 0 && all) slot = atomicAdd(&state.candidates, static_cast<unsigned>(__popc(all)));
      slot = __shfl_sync(kAllLanes, slot, 0) + static_cast<unsigned>(__popc(all & ((1u << lane) - 1)));
      if (found && slot < space.room) logits[slot] = x.v[u], ids[slot] = static_cast<uint32_t>(id + u);
    }
  });
  if (!sums) return;
  mass = warp_total(mass);
  if (lane == 0 && mass) atomicAdd(&state.total, mass);
}

__device__ __forceinline__ void clear_piece(float* probs, int64_t V, int piece) {
  const int64_t start = static_cast<int64_t>(piece) * kSamplePiece;
  const int64_t end = V - start < kSamplePiece ? V : start + kSamplePiece;
  for (int64_t i = start + threadIdx.x; i < end; i += blockDim.x) probs[i] = 0.0f;
}

template <class T>
__device__ __forceinline__ void scan_piece(const T* logits, const SampleArgs& a, const Space& space, int64_t b,
                                           int piece, bool aligned, const RowParameters& p, Best* shared) {
  const RowState& row = space.rows[b];
  const Scale scale = scale_of(row.top, p.temperature);
  if (p.filtered() && p.temperature != 0.0f) {
    const bool sums = p.top_p < 1.0f && p.top_k == 0;
    if (!row.everything || sums) find_candidates(logits, space, a.V, b, piece, aligned, scale, sums);
    return;
  }
  Best best = p.temperature == 0.0f ? first_of_piece(logits, a.V, piece, aligned, row.top)
                                    : draw_from_piece(logits, a.V, piece, aligned, scale, p);
  best = block_best(best, shared);
  if (threadIdx.x == 0) space.pieces[blockIdx.x].score = best.score, space.pieces[blockIdx.x].id = best.id;
}

// Draws from the piece if nothing filters the row, else finds the candidates. logits (B,V), probs (B,V).
template <class T>
__global__ void __launch_bounds__(kPieceThreads, 4) scan_kernel(SampleArgs a, Space space, bool aligned) {
  __shared__ Best shared[kWarp];
  const int64_t b = blockIdx.x / space.pieces_of_row;
  const int piece = static_cast<int>(blockIdx.x % space.pieces_of_row);
  const RowParameters p = row_parameters(a, b);
  const bool some = is_token(space.rows[b].top);
  if (a.probs && (!some || p.filtered() || p.temperature == 0.0f)) clear_piece(a.probs + b * a.V, a.V, piece);
  if (!some) return;
  const T* logits = static_cast<const T*>(a.logits) + b * a.V;
  const float* changed = is_changed(a, b) ? space.changed + b * space.stride : nullptr;
  if constexpr (std::is_same_v<T, float>)  // once for both
    scan_piece(changed ? changed : logits, a, space, b, piece, aligned || changed, p, shared);
  else if (changed)
    scan_piece(changed, a, space, b, piece, true, p, shared);
  else
    scan_piece(logits, a, space, b, piece, aligned, p, shared);
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
