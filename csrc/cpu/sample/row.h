// A row of logits: its workspace, its maxima and sums, and the changes made by mask, bias and penalties.
#pragma once
#include "cpu/lanes.h"

namespace llmcore {
namespace LLMCORE_ISA {

constexpr int64_t kSamplePiece = 1 << 13;  // tokens: 32 KB of logits are read again from the nearest cache
constexpr int64_t kPartialMaxima = 1024;   // about this many per row
constexpr float kLargest = 3.402823466e38f;

// +inf counts as the largest number, so that differences stay defined; NaN stays and fails every comparison.
template <class T, class Lanes>
static inline vf logits_n(const T* p, Lanes lanes) {
  return min(splat(kLargest), load_n(p, lanes));
}

struct Scale {  // z = (logit - top) / T <= 0, weight = exp(z): the probability but for the sum
  float top, inverse;
  vf z(vf x) const { return (x - top) * inverse; }
  vf weight(vf x) const { return exp(z(x)); }
};

constexpr int kCutoffs = 4;
struct Piece {     // the results of one piece of the row
  float max, sum;  // of its logits (at least -FLT_MAX); of exp(logit - max)
  double total, above[kCutoffs];
  int64_t collected;
  float score;
  int32_t id;
};

// The workspace of one row.
struct Space {
  float* logit;
  uint32_t* id;
  float* weight;
  float* changed;  // the logits with bias and penalties
  Piece* pieces;
};

static inline int64_t pieces_of(int64_t V) { return ceil_div(V, kSamplePiece); }

// The number of logits that share kW partial maxima: a power of two, so that pieces hold whole groups.
static inline int64_t maxima_group(int64_t V) {
  int64_t group = kW;
  while (group * kPartialMaxima < V * kW && group < 2048) group *= 2;
  return group;
}

// Computes the maxima of disjoint parts of the row (skipping NaN) and the max and sum of every piece. Returns the
// number of maxima.
template <class T>
static int64_t survey(const T* x, int64_t V, bool with_sums, float* maxima, Piece* pieces) {
  const int64_t group = maxima_group(V);
  parallel_ranges(V, kSamplePiece, [&](int64_t begin, int64_t end) {
    vf top = splat(-kLargest);
    for (int64_t start = begin; start < end; start += group) {
      vf most[4];
      for (vf& v : most) v = splat(-__builtin_inff());
      for_lanes<4>(end - start < group ? end - start : group, [&](int64_t i, auto lanes, int u) {
        most[u] = max(keep_n(logits_n(x + start + i, lanes), lanes, -__builtin_inff()), most[u]);
      });
      const vf all = max(max(most[0], most[1]), max(most[2], most[3]));
      store(maxima + start / group * kW, all);
      top = max(all, top);
    }
    Piece& piece = pieces[begin / kSamplePiece];
    piece.max = hmax(top);
    if (!with_sums) return;
    vf total[4] = {};
    for_lanes<4>(end - begin, [&](int64_t i, auto lanes, int u) {
      total[u] += keep_n(exp(load_n(x + begin + i, lanes) - piece.max), lanes);
    });
    piece.sum = sum4(total);
  });
  return ceil_div(V, group) * kW;
}

// Returns log sum exp of the row; NaN if it contains NaN or +inf.
static float log_sum_exp(const Piece* pieces, int64_t n) {
  float top = -kLargest, total = 0.0f;
  for (int64_t i = 0; i < n; ++i) top = pieces[i].max > top ? pieces[i].max : top;
  for (int64_t i = 0; i < n; ++i) total += pieces[i].sum * exp(splat(pieces[i].max - top))[0];
  return total < __builtin_inff() ? top + log(splat(total))[0] : __builtin_nanf("");
}

template <class T>
static int32_t first_equal(const T* x, int64_t V, float value) {
  int64_t found = -1;
  for_lanes(V, [&](int64_t i, auto lanes, int) {
    const uint32_t hits = mask_bits(keep_n(logits_n(x + i, lanes), lanes, -__builtin_inff()) == value);
    if (hits && found < 0) found = i + __builtin_ctz(hits);
  });
  return static_cast<int32_t>(found);
}

// ---- mask, bias and penalties ----

// Writes the row's logits with mask, bias and penalties to space.changed.
template <class T>
static void change(const SampleArgs& a, int64_t b, const T* x, const Space& space) {
  float* out = space.changed;
  parallel_ranges(a.V, kSamplePiece, [&](int64_t begin, int64_t end) {
    const uint32_t* words = a.mask ? a.mask + b * a.mask_words : nullptr;
    for_lanes<4>(end - begin, [&](int64_t i, auto lanes, int) {
      vf v = load_n(x + begin + i, lanes);
      if (words) {
        const vu bits = (vu{} + (words[(begin + i) / 32] >> ((begin + i) % 32))) >> (vu)lane_numbers();
        v = select((vi)(bits & 1u) != 0, v, splat(-__builtin_inff()));
      }
      store_n(out + begin + i, v, lanes);
    });
  });
  if (a.bias_offsets)
    for (int64_t i = a.bias_offsets[b]; i < a.bias_offsets[b + 1]; ++i) out[a.bias_ids[i]] += a.bias_values[i];
  if (!a.history) return;
  const int32_t* tokens = a.history + b * a.history_size;
  const int64_t n = a.history_lengths[b];
  uint32_t* count = space.id;  // of each token in the output; set only for tokens of the history
  constexpr uint32_t kDone = ~0u;
  for (int64_t i = 0; i < n; ++i) count[tokens[i]] = 0;
  for (int64_t i = a.prompt_lengths[b]; i < n; ++i) ++count[tokens[i]];
  for (int64_t i = 0; i < n; ++i) {
    uint32_t& c = count[tokens[i]];
    float& logit = out[tokens[i]];
    if (c == kDone) continue;
    logit = logit > 0.0f ? logit / a.repetition[b] : logit * a.repetition[b];
    if (c > 0) logit -= static_cast<float>(c) * a.frequency[b] + a.presence[b];
    c = kDone;
  }
}

static inline bool is_masked(const SampleArgs& a, int64_t b) {
  if (!a.mask) return false;
  const uint32_t* words = a.mask + b * a.mask_words;
  const uint32_t last = a.V % 32 ? (1u << a.V % 32) - 1 : ~0u;
  uint32_t all = words[a.mask_words - 1] | ~last;
  for (int64_t i = 0; i + 1 < a.mask_words; ++i) all &= words[i];
  return all != ~0u;
}

static inline bool changes(const SampleArgs& a, int64_t b) {
  if (is_masked(a, b)) return true;
  if (a.bias_offsets && a.bias_offsets[b] < a.bias_offsets[b + 1]) return true;
  return a.history && a.history_lengths[b] > 0 &&
         (a.repetition[b] != 1.0f || a.presence[b] != 0.0f || a.frequency[b] != 0.0f);
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
