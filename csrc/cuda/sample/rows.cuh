// The work that one block does for a row: changing the logits before the passes over them, finding a bound between the
// passes, and filtering and drawing from the candidates after them.
#pragma once
#include "cuda/sample/select.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kChangeThreads = 256, kBoundThreads = 512, kMostRowThreads = 1024;

// ---- mask, bias and penalties ---------------------------------------------------------------------
// changed (B,stride) = logits (B,V) where the mask allows, else -inf.
template <class T>
__global__ void __launch_bounds__(kPieceThreads) mask_kernel(SampleArgs a, Space space) {
  const int64_t b = blockIdx.x / space.pieces_of_row;
  if (!is_changed(a, b)) return;
  const int64_t start = static_cast<int64_t>(blockIdx.x % space.pieces_of_row) * kSamplePiece;
  const int64_t end = a.V - start < kSamplePiece ? a.V : start + kSamplePiece;
  const T* x = static_cast<const T*>(a.logits) + b * a.V;
  float* out = space.changed + b * space.stride;
  const uint32_t* words = a.mask ? a.mask + b * a.mask_words : nullptr;
  for (int64_t i = start + threadIdx.x; i < end; i += blockDim.x)
    out[i] = !words || (words[i / 32] >> (i % 32) & 1u) ? as_float(x[i]) : -INFINITY;
}

// Applies biases, then penalties; one block per row. count: how often a token occurs among the biases, then in the
// output.
__global__ void __launch_bounds__(kChangeThreads) change_kernel(SampleArgs a, Space space) {
  const int64_t b = blockIdx.x;
  if (!is_changed(a, b)) return;
  const int threads = blockDim.x;
  float* out = space.changed + b * space.stride;
  uint32_t* count = space.count + b * space.stride;
  if (a.bias_offsets) {
    const int64_t begin = a.bias_offsets[b], end = a.bias_offsets[b + 1];
    for (int64_t i = begin + threadIdx.x; i < end; i += threads) atomicExch(&count[a.bias_ids[i]], 0u);
    __syncthreads();
    for (int64_t i = begin + threadIdx.x; i < end; i += threads) atomicAdd(&count[a.bias_ids[i]], 1u);
    __syncthreads();
    for (int64_t i = begin + threadIdx.x; i < end; i += threads) {
      const int32_t id = a.bias_ids[i];
      bool first = true;  // of several with one id, the first adds all in order
      if (count[id] > 1)
        for (int64_t j = begin; j < i && first; ++j) first = a.bias_ids[j] != id;
      if (!first) continue;
      float x = __fadd_rn(out[id], a.bias_values[i]);
      if (count[id] > 1)
        for (int64_t j = i + 1; j < end; ++j)
          if (a.bias_ids[j] == id) x = __fadd_rn(x, a.bias_values[j]);
      out[id] = x;
    }
    __syncthreads();
  }
  if (!a.history) return;
  const int32_t* tokens = a.history + b * a.history_size;
  const int n = a.history_lengths[b];
  constexpr uint32_t kDone = 1u << 31;
  for (int i = threadIdx.x; i < n; i += threads) atomicExch(&count[tokens[i]], 0u);
  __syncthreads();
  for (int i = a.prompt_lengths[b] + static_cast<int>(threadIdx.x); i < n; i += threads)
    atomicAdd(&count[tokens[i]], 1u);
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += threads) {
    const uint32_t c = atomicOr(&count[tokens[i]], kDone);
    if (c & kDone) continue;  // once per token
    float x = out[tokens[i]];
    x = x > 0.0f ? __fdiv_rn(x, a.repetition[b]) : __fmul_rn(x, a.repetition[b]);
    if (c > 0) x = __fsub_rn(x, __fadd_rn(__fmul_rn(static_cast<float>(c), a.frequency[b]), a.presence[b]));
    out[tokens[i]] = x;
  }
}

// ---- between the passes ---------------------------------------------------------------------------
// Computes log sum exp and maximum of the row, and a bound below which no token survives the filters.
__global__ void __launch_bounds__(kBoundThreads) bound_kernel(SampleArgs a, Space space) {
  __shared__ Bins bins;
  __shared__ float shared[kWarp];
  const int64_t b = blockIdx.x, pieces = space.pieces_of_row;
  const PieceState* piece = space.pieces + b * pieces;
  float max = -kLargest, top = -INFINITY, sum = 0.0f;
  for (int64_t i = threadIdx.x; i < pieces; i += blockDim.x)
    max = fmaxf(max, piece[i].max), top = fmaxf(top, piece[i].top);
  max = block_max(max, shared), top = block_max(top, shared);
  for (int64_t i = threadIdx.x; i < pieces; i += blockDim.x) sum += piece[i].sum * expf(piece[i].max - max);
  sum = block_sum(sum, shared);
  const RowParameters p = row_parameters(a, b);
  float least = -kLargest;
  bool everything = false, complete = true;
  const int64_t maxima = pieces * space.threads;
  if (!is_token(top) || p.temperature == 0.0f) {
    // There is nothing to filter.
  } else if (p.top_k > maxima) {
    everything = true;
  } else if (p.top_k > 0) {  // k threads whose maximum is at least this hold k such tokens
    const float* of_threads = space.maxima + b * maxima;
    const uint64_t cut = last_kept<true>(maxima, static_cast<unsigned long long>(p.top_k), 0, bins,
                                         [&](int64_t i) -> Token { return {order_of(of_threads[i], 0), 1, true}; });
    least = fmaxf(key_value(static_cast<uint32_t>(cut >> 32)), -kLargest);
  } else if (p.top_p < 1.0f || p.min_p > 0.0f) {
    // Tokens this light hardly ever belong to the likeliest top_p; row_kernel checks whether they do.
    const float light = p.top_p < 1.0f ? (1.0f - p.top_p) / 1024.0f : 0.0f, cutoff = fmaxf(light, p.min_p);
    complete = light <= p.min_p;
    // A little below the logit whose weight is the cutoff, to allow for rounding on both sides.
    least = fmaxf(top - fabsf(top) * 1e-6f + (logf(cutoff) - 1e-3f) / scale_of(top, p.temperature).inverse, -kLargest);
  } else {
    everything = p.typical_p < 1.0f;
  }
  if (threadIdx.x == 0)
    space.rows[b] = {sum < INFINITY ? max + logf(sum) : NAN, top, least, 0, 0, everything, complete};
}

// ---- after the passes -----------------------------------------------------------------------------
template <class T>
struct Tokens {  // the candidates, or the row itself
  const T* row;
  const float* floats;  // null: those of the row
  const uint32_t* ids;  // null: 0, 1, ...
  int64_t n;
  __device__ float x(int64_t i) const { return bounded(floats ? floats[i] : as_float(row[i])); }
  __device__ uint32_t id(int64_t i) const { return ids ? ids[i] : static_cast<uint32_t>(i); }
};

struct RowShared {
  Bins bins;
  unsigned long long sums[kWarp];
  float floats[kWarp];
  Best best[kWarp];
};

// What is left of a row after the filters: a prefix of the order of decreasing logits; of these, the tokens that are
// heavy enough; and of these, a prefix of the order by distance from the expected surprise.
struct Kept {
  Scale scale;
  uint64_t last = ~uint64_t{0}, last_typical = ~uint64_t{0};
  float min_p = 0.0f, mean = 0.0f;
  bool typical = false;
  __device__ uint64_t typical_order(float x, uint32_t id) const {
    return order_of(-fabsf(__fsub_rn(scale.z(x), mean)), id);
  }
  __device__ bool holds(float x, uint32_t id) const {
    return is_token(x) && order_of(x, id) <= last && (min_p <= 0.0f || scale.weight(x) >= min_p) &&
           (!typical || typical_order(x, id) <= last_typical);
  }
};

// Returns share - 1e-6 of the total mass, rounded up to an integer; the first token always stays.
__device__ __forceinline__ unsigned long long limit_of(float share, unsigned long long total) {
  const double limit = ceil((static_cast<double>(share) - 1e-6) * static_cast<double>(total));
  return limit > 1.0 ? static_cast<unsigned long long>(limit) : 1ull;
}

template <class T>
__device__ unsigned long long kept_mass(const Tokens<T>& tokens, const Kept& kept, float one, RowShared& shared) {
  unsigned long long mass = 0;
  for (int64_t i = threadIdx.x; i < tokens.n; i += blockDim.x) {
    const float x = tokens.x(i);
    if (kept.holds(x, tokens.id(i))) mass += mass_of(kept.scale.weight(x), one);
  }
  return block_total(mass, shared.sums);
}

// Keeps the tokens whose surprise, -log p, is nearest to its expectation, up to `share` of the mass (Meister et al.,
// "Locally typical sampling", 2023). -log p is log(sum) - z, and its mean log(sum) less the mean of z: the logarithm
// cancels.
template <class T>
__device__ void keep_typical(const Tokens<T>& tokens, float share, int id_bits, const Space& space, Kept& kept,
                             RowShared& shared) {
  float most = 0.0f;  // of weight times surprise, which is tiny at temperatures far from 1
  for (int64_t i = threadIdx.x; i < tokens.n; i += blockDim.x) {
    const float x = tokens.x(i), weight = kept.scale.weight(x);
    if (weight > 0.0f && kept.holds(x, tokens.id(i))) most = fmaxf(most, -weight * kept.scale.z(x));
  }
  most = block_max(most, shared.floats);
  const float unit = __uint_as_float((254u - (__float_as_uint(most) >> 23)) << 23);  // a power of two: most * unit < 2
  unsigned long long mass = 0, moment = 0;
  for (int64_t i = threadIdx.x; i < tokens.n; i += blockDim.x) {
    const float x = tokens.x(i), weight = kept.scale.weight(x);
    if (!(weight > 0.0f) || !kept.holds(x, tokens.id(i))) continue;
    mass += mass_of(weight, space.one);
    moment += mass_of(-weight * kept.scale.z(x) * unit, space.one);
  }
  mass = block_total(mass, shared.sums), moment = block_total(moment, shared.sums);
  const double mean_of = static_cast<double>(moment) / static_cast<double>(mass ? mass : 1);
  const float mean = -static_cast<float>(mean_of / static_cast<double>(unit));
  Kept by = kept;
  by.mean = mean;
  kept.last_typical = last_kept<false>(tokens.n, limit_of(share, mass), id_bits, shared.bins, [&](int64_t i) -> Token {
    const float x = tokens.x(i);
    const uint32_t id = tokens.id(i);
    return {by.typical_order(x, id), mass_of(by.scale.weight(x), space.one), by.holds(x, id)};
  });
  kept.mean = mean, kept.typical = true;
}

// Returns false if the candidates do not include everything that top-p keeps.
template <class T>
__device__ bool filter(const Tokens<T>& tokens, const RowParameters& p, const RowState& row, bool all, int id_bits,
                       const Space& space, Kept& kept, RowShared& shared) {
  if (p.top_k > 0)
    kept.last = last_kept<true>(tokens.n, static_cast<unsigned long long>(p.top_k), id_bits, shared.bins,
                                [&](int64_t i) -> Token {
                                  const float x = tokens.x(i);
                                  return {order_of(x, tokens.id(i)), 1, is_token(x)};
                                });
  if (p.top_p < 1.0f) {
    const unsigned long long total = p.top_k > 0 ? kept_mass(tokens, kept, space.one, shared) : row.total;
    const Kept by = kept;
    const uint64_t last =
        last_kept<false>(tokens.n, limit_of(p.top_p, total), id_bits, shared.bins, [&](int64_t i) -> Token {
          const float x = tokens.x(i);
          const uint32_t id = tokens.id(i);
          return {order_of(x, id), mass_of(by.scale.weight(x), space.one), by.holds(x, id)};
        });
    if (last == ~uint64_t{0} && p.top_k == 0 && !row.complete && !all) return false;
    kept.last = last < kept.last ? last : kept.last;
  }
  kept.min_p = p.min_p;
  if (p.typical_p < 1.0f) keep_typical(tokens, p.typical_p, id_bits, space, kept, shared);
  return true;
}

// Draws the token; writes probs (V) of the kept tokens if requested.
template <class T>
__device__ int32_t draw_kept(const Tokens<T>& tokens, const RowParameters& p, const Kept& kept, float* probs, float one,
                             RowShared& shared) {
  float factor = 0.0f;
  if (probs) {
    const unsigned long long mass = kept_mass(tokens, kept, one, shared);
    factor = static_cast<float>(static_cast<double>(one) / static_cast<double>(mass ? mass : 1));
  }
  Draw draw;
  for (int64_t start = 0; start < tokens.n; start += blockDim.x) {
    const int64_t i = start + threadIdx.x;
    const float x = i < tokens.n ? tokens.x(i) : -INFINITY;
    const uint32_t id = i < tokens.n ? tokens.id(i) : 0;
    const bool holds = kept.holds(x, id);
    if (!__any_sync(kAllLanes, holds)) continue;
    if (probs && holds) probs[id] = kept.scale.weight(x) * factor;
    draw.offer(holds ? kept.scale.z(x) : -INFINITY, random_word(p.seed, p.step, id), static_cast<int32_t>(id));
  }
  return block_best(draw.best, shared.best).id;
}

// Handles a row that nothing filters: the best of its pieces; writes probs (V) if requested.
template <class T>
__device__ int32_t best_of_pieces(const Tokens<T>& whole, const PieceState* pieces, const RowParameters& p,
                                  const Scale& scale, const Space& space, float* probs, RowShared& shared) {
  Best best{-INFINITY, -1};
  for (int64_t i = threadIdx.x; i < space.pieces_of_row; i += blockDim.x) best.offer(pieces[i].score, pieces[i].id);
  best = block_best(best, shared.best);
  if (!probs) return best.id;
  if (p.temperature == 0.0f) {
    if (threadIdx.x == 0) probs[best.id] = 1.0f;
    return best.id;
  }
  unsigned long long mass = 0;
  for (int64_t i = threadIdx.x; i < whole.n; i += blockDim.x) {
    const float x = whole.x(i);
    if (is_token(x)) mass += mass_of(scale.weight(x), space.one);
  }
  mass = block_total(mass, shared.sums);
  const float factor = static_cast<float>(static_cast<double>(space.one) / static_cast<double>(mass));
  for (int64_t i = threadIdx.x; i < whole.n; i += blockDim.x) {
    const float x = whole.x(i);
    probs[i] = is_token(x) ? scale.weight(x) * factor : 0.0f;
  }
  return best.id;
}

template <class T>
__device__ int32_t sample_row(const Tokens<T>& whole, int64_t b, int id_bits, const RowParameters& p,
                              const RowState& row, const Space& space, float* probs, RowShared& shared) {
  if (!is_token(row.top)) return -1;
  const Scale scale = scale_of(row.top, p.temperature);
  if (!p.filtered() || p.temperature == 0.0f)
    return best_of_pieces(whole, space.pieces + b * space.pieces_of_row, p, scale, space, probs, shared);
  for (bool all = row.everything || row.candidates > space.room;; all = true) {
    const int64_t at = b * space.room;
    const Tokens<T> tokens = all ? whole : Tokens<T>{nullptr, space.logit + at, space.id + at, row.candidates};
    Kept kept;
    kept.scale = scale;
    if (filter(tokens, p, row, all, id_bits, space, kept, shared))
      return draw_kept(tokens, p, kept, probs, space.one, shared);
  }
}

// token (B), logprob (B), probs (B,V); one block per row.
template <class T>
__global__ void __launch_bounds__(kMostRowThreads, 1) row_kernel(SampleArgs a, Space space, int id_bits) {
  __shared__ RowShared shared;
  const int64_t b = blockIdx.x;
  const RowParameters p = row_parameters(a, b);
  const RowState row = space.rows[b];
  const T* logits = static_cast<const T*>(a.logits) + b * a.V;
  const float* changed = is_changed(a, b) ? space.changed + b * space.stride : nullptr;
  const int32_t token = sample_row(Tokens<T>{logits, changed, nullptr, a.V}, b, id_bits, p, row, space,
                                   a.probs ? a.probs + b * a.V : nullptr, shared);
  if (threadIdx.x) return;
  a.token[b] = token;
  a.logprob[b] = token < 0 ? NAN : as_float(logits[token]) - row.lse;
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
