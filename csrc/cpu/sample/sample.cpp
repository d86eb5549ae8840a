// Drawing tokens; ops/sample.h gives the exact semantics. The vocabulary is not sorted: a cheap bound from partial
// maxima or masses selects the few tokens that can survive the filters, and a radix walk over the order-preserving bits
// of their logits cuts them where the rule says.
//
// The draw is Gumbel-max: token = argmax of logit / T + g over the tokens kept, the lowest id on ties, g from noise.h.
// A token's noise does not depend on the filters.
//
// Rows are spread over the threads; a single row is spread in pieces of a fixed size, whose results are combined in
// order.
#include "cpu/families.h"
#include "cpu/sample/draw.h"
#include "cpu/sample/filters.h"

namespace llmcore {
namespace LLMCORE_ISA {

constexpr int64_t kSampleSlots = 16;  // rows processed at a time, each with its own part of the workspace

// ---- one row ----

struct RowParameters {
  float temperature, top_p, min_p, typical_p;
  int64_t top_k;  // 0 or V: off
  uint64_t seed, step;
};

// c holds the row's partial maxima.
template <class T>
static void filter_row(const T* x, int64_t V, const Scale& scale, const RowParameters& p, Candidates& c,
                       Piece* pieces) {
  double total = 0.0;
  if (p.top_k > 0) {
    // k parts whose maximum is at least b contain k tokens that are at least b.
    const float bound = p.top_k < c.n ? keep_count(c, p.top_k) : -kLargest;
    collect(x, V, bound, c, pieces);
    keep_count(c, p.top_k);
    weigh(c, scale);
    total = total_weight(c);
  } else {
    const Mass mass = row_mass(x, V, scale, static_cast<double>(p.top_p), pieces);
    const float cutoff = mass.cutoff > p.min_p ? mass.cutoff : p.min_p;
    // A little below the logit whose weight is the cutoff, to allow for rounding on both sides.
    const float least =
        scale.top - __builtin_fabsf(scale.top) * 1e-6f + (log(splat(cutoff))[0] - 1e-3f) / scale.inverse;
    collect(x, V, least, c, pieces);
    weigh(c, scale);
    total = mass.total;
  }
  if (p.top_p < 1.0f) {
    const double limit = (static_cast<double>(p.top_p) - 1e-6) * total;
    keep_before(c, limit > 1e-300 ? limit : 1e-300);
  }
  if (p.min_p > 0.0f) keep_heavy(c, p.min_p);
  if (p.typical_p < 1.0f) keep_typical(c, x, scale, p.typical_p);
}

// The noise of single tokens costs four times as much as that of a whole row.
template <class T>
static int32_t draw_from(const Candidates& c, const T* x, int64_t V, const Scale& scale, const RowParameters& p,
                         Piece* pieces) {
  if (4 * c.n > V && p.typical_p >= 1.0f) {  // only the likeliest, no others
    Cut cut = {kLargest, -1};
    for (int64_t i = 0; i < c.n; ++i)
      if (c.logit[i] <= cut.logit) cut = {c.logit[i], static_cast<int32_t>(c.id[i])};
    return draw_from_row(x, V, cut, scale, p.seed, p.step, pieces);
  }
  Best best;
  for_lanes(c.n, [&](int64_t i, auto lanes, int) {
    uint32_t ids[kW] = {};
    memcpy(ids, c.id + i, sizeof(uint32_t) * static_cast<size_t>(c.n - i < kW ? c.n - i : kW));
    vu id;
    memcpy(&id, ids, sizeof id);
    const vf score = scale.z(load_n(c.logit + i, lanes)) + gumbel(random_of(p.seed, p.step, id));
    best.offer(keep_n(score, lanes, -__builtin_inff()), (vi)id);
  });
  return best.id[best.winner()];
}

// Returns the token, or -1 if every logit is NaN or -inf. space.logit holds `maxima` partial maxima.
template <class T>
static int32_t sample_row(const T* x, int64_t V, const RowParameters& p, int64_t maxima, const Space& space,
                          float* probs) {
  const float top = row_max(space.logit, maxima, -__builtin_inff());
  if (probs) memset(probs, 0, static_cast<size_t>(V) * sizeof(float));
  if (!(top >= -kLargest)) return -1;
  const Scale scale = {top, p.temperature > 1.0f / kLargest ? 1.0f / p.temperature : kLargest};
  if (p.temperature == 0.0f) {
    const int32_t token = first_equal(x, V, scale.top);
    if (probs) probs[token] = 1.0f;
    return token;
  }
  if (p.top_k > 0 || p.top_p < 1.0f || p.min_p > 0.0f || p.typical_p < 1.0f) {
    Candidates c = {space.logit, space.id, space.weight, maxima};
    filter_row(x, V, scale, p, c, space.pieces);
    if (probs) {
      const double total = total_weight(c);
      for (int64_t i = 0; i < c.n; ++i) probs[c.id[i]] = static_cast<float>(static_cast<double>(c.weight[i]) / total);
    }
    return draw_from(c, x, V, scale, p, space.pieces);
  }
  if (probs) {
    const float factor = static_cast<float>(1.0 / row_mass(x, V, scale, 1.0, space.pieces).total);
    for_lanes(V, [&](int64_t i, auto lanes, int) {
      const vf w = scale.weight(logits_n(x + i, lanes)) * factor;
      store_n(probs + i, select(w >= 0.0f, w, splat(0.0f)), lanes);
    });
  }
  return draw_from_row(x, V, {-__builtin_inff(), -1}, scale, p.seed, p.step, space.pieces);
}

// ---- the batch ----

static inline int64_t candidate_room(int64_t V) { return round_up(V + kW, 64); }
static inline size_t slot_bytes(int64_t V) {
  return static_cast<size_t>(candidate_room(V)) * 4 * sizeof(float) + static_cast<size_t>(pieces_of(V)) * sizeof(Piece);
}

static size_t sample_workspace(const SampleArgs& a) {
  return static_cast<size_t>(a.B < kSampleSlots ? a.B : kSampleSlots) * slot_bytes(a.V);
}

template <class T>
static void sample_typed(const SampleArgs& a) {
  const int64_t V = a.V, room = candidate_room(V);
  parallel(a.B < kSampleSlots ? a.B : kSampleSlots, [&](int64_t slot) {
    float* floats =
        reinterpret_cast<float*>(static_cast<char*>(a.workspace) + static_cast<size_t>(slot) * slot_bytes(V));
    const Space space = {floats, reinterpret_cast<uint32_t*>(floats + room), floats + 2 * room, floats + 3 * room,
                         reinterpret_cast<Piece*>(floats + 4 * room)};
    for (int64_t b = slot; b < a.B; b += kSampleSlots) {
      const T* x = static_cast<const T*>(a.logits) + b * V;
      const RowParameters p = {a.temperature[b],
                               a.top_p[b],
                               a.min_p[b],
                               a.typical_p[b],
                               a.top_k[b] < V ? a.top_k[b] : 0,
                               a.seed[b],
                               static_cast<uint64_t>(a.step[b])};
      float* probs = a.probs ? a.probs + b * V : nullptr;
      int64_t maxima = survey(x, V, true, space.logit, space.pieces);
      const float lse = log_sum_exp(space.pieces, pieces_of(V));
      int32_t token;
      if (changes(a, b)) {
        change(a, b, x, space);
        maxima = survey(space.changed, V, false, space.logit, space.pieces);
        token = sample_row(space.changed, V, p, maxima, space, probs);
      } else {
        token = sample_row(x, V, p, maxima, space, probs);
      }
      a.token[b] = token;
      a.logprob[b] = token < 0 ? __builtin_nanf("") : to_float(x[token]) - lse;
    }
  });
}
static void sample(const SampleArgs& a) { a.dtype == DType::kBF16 ? sample_typed<bf16>(a) : sample_typed<float>(a); }

void register_sample(KernelTable& t) {
  t.sample_workspace = sample_workspace;
  t.sample = sample;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
