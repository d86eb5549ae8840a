// Drawing tokens; the exact semantics stand in ops/sample.h. No sort of the vocabulary: a cheap bound from partial
// maxima or masses picks the few tokens that can survive the filters, and a radix walk over the order-preserving bits
// of their logits cuts them where the rule says.
//
// The draw is Gumbel-max: token = argmax of logit / T + g over the tokens kept, the lowest id on ties, g from
// noise.inl. The noise of a token is the same whatever the filters.
//
// Rows are spread over the threads; a single row is spread in pieces of a fixed size, whose results meet in their
// order.

constexpr int64_t kSampleSlots = 16;       // rows in work at a time, each with its own part of the workspace
constexpr int64_t kSamplePiece = 1 << 13;  // tokens: 32 KB of logits are read again from the nearest cache
constexpr int64_t kPartialMaxima = 1024;   // about so many for a row
constexpr float kLargest = 3.402823466e38f;

// ---- the row's logits ----

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
struct Piece {     // what is found in one piece of the row
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

static inline int64_t pieces_of(int64_t V) { return (V + kSamplePiece - 1) / kSamplePiece; }

// Logits that share kW partial maxima: a power of two, so that pieces hold whole groups.
static inline int64_t maxima_group(int64_t V) {
  int64_t group = kW;
  while (group * kPartialMaxima < V * kW && group < 2048) group *= 2;
  return group;
}

// Maxima of disjoint parts of the row (NaN passed over), and max and sum of every piece. Returns the number of maxima.
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
  return (V + group - 1) / group * kW;
}

// log sum exp of the row, -max: NaN where it holds NaN or +inf.
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

// The row's logits with mask, bias and penalties, in space.changed.
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
  uint32_t* count = space.id;  // of a token in the output; only those of the history are set
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

// ---- the draw from a whole row ----

struct Best {  // the largest score so far in each lane, and whose it is
  vf score = splat(-__builtin_inff());
  vi id = vi{} - 1;
  void offer(vf s, vi ids) {
    const vi better = s > score;
    score = better ? s : score;
    id = better ? ids : id;
  }
  int winner() const {  // the lane
    int best = 0;
    for (int i = 1; i < kW; ++i)
      if (score[i] > score[best] || (score[i] == score[best] && id[i] >= 0 && id[i] < id[best])) best = i;
    return best;
  }
};

// What is left of the row after the filters: logits above the cut, and those equal to it up to an id.
struct Cut {
  float logit;
  int32_t last_id;
};

// A number >= e^x (and not far above) for x <= 88: the line between two powers of two lies above the curve.
static inline vf exp_above(vf x) {
  const vf y = max(splat(1.0f), fma(x, splat(1.44269504f), splat(127.001f))) * 8388608.0f;
  return as_float((vu) __builtin_convertvector(y, vi));
}

template <class T>
static int32_t draw_from_row(const T* x, int64_t V, const Cut& cut, const Scale& scale, uint64_t seed, uint64_t step,
                             Piece* pieces) {
  parallel_ranges(V, kSamplePiece, [&](int64_t begin, int64_t end) {
    Best best;
    const auto offer = [&](int64_t i, auto lanes, vq random) {
      const vf v = keep_n(logits_n(x + i, lanes), lanes, -__builtin_inff());
      const vi id = lane_numbers() + static_cast<int32_t>(i);
      const vi kept = (v > cut.logit) | ((v == cut.logit) & (id <= cut.last_id));
      const vf z = select(kept, scale.z(v), splat(-__builtin_inff()));
      // z + g > best only where the uniform number behind g is below e^(z - best): the logarithms are for those.
      const vi hopeful = uniform((vu)random) < exp_above(min(splat(80.0f), z - best.score));
      if (mask_bits(hopeful)) best.offer(z + gumbel((vu)random), id);
    };
    int64_t i = begin;
    for (; i + 2 * kW <= end; i += 2 * kW) {
      const Zipped random = random_block(seed, step, i);
      offer(i, All{}, random.low);
      offer(i + kW, All{}, random.high);
    }
    if (i < end) {
      const Zipped random = random_block(seed, step, i);
      const int left = static_cast<int>(end - i);
      offer(i, left < kW ? left : kW, random.low);
      if (left > kW) offer(i + kW, left - kW, random.high);
    }
    const int lane = best.winner();
    pieces[begin / kSamplePiece].score = best.score[lane], pieces[begin / kSamplePiece].id = best.id[lane];
  });
  int64_t first = 0;
  for (int64_t i = 1; i < pieces_of(V); ++i)
    if (pieces[i].score > pieces[first].score) first = i;
  return pieces[first].id;
}

// ---- the tokens that may survive the filters, in order of id ----

struct Candidates {
  float* logit;
  uint32_t* id;
  float* weight;
  int64_t n;
};

// Falling logits have rising keys; -0 equals 0.
static inline uint32_t order_key(float x) {
  x += 0.0f;
  uint32_t u;
  memcpy(&u, &x, 4);
  return u & 0x80000000u ? u : ~(u | 0x80000000u);
}

// All tokens whose logit is >= least, and not -inf.
template <class T>
static void collect(const T* x, int64_t V, float least, Candidates& c, Piece* pieces) {
  least = least > -kLargest ? least : -kLargest;
  parallel_ranges(V, kSamplePiece, [&](int64_t begin, int64_t end) {
    int64_t n = begin;
    for_lanes<4>(end - begin, [&](int64_t i, auto lanes, int) {
      const vf v = keep_n(logits_n(x + begin + i, lanes), lanes, -__builtin_inff());
      for (uint32_t hits = mask_bits(v >= least); hits; hits &= hits - 1) {
        const int64_t at = begin + i + __builtin_ctz(hits);
        const float logit = to_float(x[at]);
        c.logit[n] = logit < kLargest ? logit : kLargest;
        c.id[n++] = static_cast<uint32_t>(at);
      }
    });
    pieces[begin / kSamplePiece].collected = n - begin;
  });
  c.n = pieces[0].collected;
  for (int64_t i = 1; i < pieces_of(V); ++i) {
    const size_t bytes = static_cast<size_t>(pieces[i].collected) * 4;
    memmove(c.logit + c.n, c.logit + i * kSamplePiece, bytes);
    memmove(c.id + c.n, c.id + i * kSamplePiece, bytes);
    c.n += pieces[i].collected;
  }
}

// In the order of falling logits, the lower id first on ties, keeps the tokens before which less than `limit` of weight
// stands. Returns the smallest logit kept. Sums are float64, in an order of ids: every fourth token adds to the same
// sum, so that tokens of one bin do not wait for each other. No branch depends on a token, but for ties at the cut.
static float keep_before(Candidates& c, double limit) {
  constexpr int kBins = 256, kElsewhere = kBins;
  uint32_t prefix = 0, known = 0;  // the key at the cut, and which of its bits are found
  double before = 0.0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    double mass[4][kBins + 1] = {};
    for (int64_t i = 0; i < c.n; ++i) {
      const uint32_t key = order_key(c.logit[i]);
      const uint32_t bin = (key & known) == prefix ? key >> shift & (kBins - 1) : kElsewhere;
      mass[i & 3][bin] += static_cast<double>(c.weight[i]);
    }
    uint32_t bin = 0;
    for (; bin < kBins - 1; ++bin) {
      const double next = before + ((mass[0][bin] + mass[1][bin]) + (mass[2][bin] + mass[3][bin]));
      if (!(next < limit)) break;
      before = next;
    }
    prefix |= bin << shift;
    known |= (kBins - 1u) << shift;
  }
  int64_t kept = 0;
  float smallest = kLargest;
  for (int64_t i = 0; i < c.n; ++i) {
    const float logit = c.logit[i], weight = c.weight[i];
    const uint32_t key = order_key(logit), id = c.id[i];
    bool keep = key < prefix;
    if (key == prefix) {
      keep = before < limit;
      before += static_cast<double>(weight);
    }
    c.logit[kept] = logit, c.id[kept] = id, c.weight[kept] = weight;
    kept += keep;
    smallest = keep && logit < smallest ? logit : smallest;
  }
  c.n = kept;
  return smallest;
}

// As many as `count`.
static float keep_count(Candidates& c, int64_t count) {
  for_lanes(c.n, [&](int64_t i, auto lanes, int) { store_n(c.weight + i, splat(1.0f), lanes); });
  return keep_before(c, static_cast<double>(count));
}

static void keep_heavy(Candidates& c, float least) {
  int64_t kept = 0;
  for (int64_t i = 0; i < c.n; ++i) {
    const float weight = c.weight[i];
    c.logit[kept] = c.logit[i], c.id[kept] = c.id[i], c.weight[kept] = weight;
    kept += weight >= least;
  }
  c.n = kept;
}

static double total_weight(const Candidates& c) {
  double total[4] = {};
  for (int64_t i = 0; i < c.n; ++i) total[i & 3] += static_cast<double>(c.weight[i]);
  return (total[0] + total[1]) + (total[2] + total[3]);
}

// The tokens whose surprise, -log p, is nearest to what is expected, up to `share` of the weight.
template <class T>
static void keep_typical(Candidates& c, const T* x, const Scale& scale, float share) {
  double total[4] = {}, sum[4] = {};
  for (int64_t i = 0; i < c.n; ++i) {
    const double w = static_cast<double>(c.weight[i]);
    total[i & 3] += w;
    if (w > 0) sum[i & 3] += w * static_cast<double>((c.logit[i] - scale.top) * scale.inverse);
  }
  const double all = (total[0] + total[1]) + (total[2] + total[3]);
  // -log p = log(all) - z, and its mean is log(all) - sum / all: the logarithm cancels.
  const float mean = static_cast<float>(((sum[0] + sum[1]) + (sum[2] + sum[3])) / all);
  for_lanes(c.n, [&](int64_t i, auto lanes, int) {
    store_n(c.logit + i, -abs(scale.z(load_n(c.logit + i, lanes)) - mean), lanes);
  });
  const double limit = (static_cast<double>(share) - 1e-6) * all;
  keep_before(c, limit > 1e-300 ? limit : 1e-300);
  for (int64_t i = 0; i < c.n; ++i) {
    const float logit = to_float(x[c.id[i]]);
    c.logit[i] = logit < kLargest ? logit : kLargest;
  }
}

static void weigh(Candidates& c, const Scale& scale) {
  for_lanes(
      c.n, [&](int64_t i, auto lanes, int) { store_n(c.weight + i, scale.weight(load_n(c.logit + i, lanes)), lanes); });
}

// The sum of all weights, and a weight so small that those above it surely hold `share` of the sum.
struct Mass {
  double total;
  float cutoff;
};
template <class T>
static Mass row_mass(const T* x, int64_t V, const Scale& scale, double share, Piece* pieces) {
  const float cutoffs[kCutoffs] = {0.05f, 5e-3f, 5e-4f, 2e-5f};
  parallel_ranges(V, kSamplePiece, [&](int64_t begin, int64_t end) {
    Piece& piece = pieces[begin / kSamplePiece];
    piece.total = 0.0;
    for (double& above : piece.above) above = 0.0;
    constexpr int64_t kBlock = 2048;  // float32 within, float64 across
    for (int64_t start = begin; start < end; start += kBlock) {
      vf sums[kCutoffs + 1] = {};
      for_lanes(end - start < kBlock ? end - start : kBlock, [&](int64_t i, auto lanes, int) {
        vf w = keep_n(scale.weight(logits_n(x + start + i, lanes)), lanes);
        w = select(w >= 0.0f, w, splat(0.0f));  // NaN has no mass
        sums[kCutoffs] += w;
        for (int j = 0; j < kCutoffs; ++j) sums[j] += select(w >= cutoffs[j], w, splat(0.0f));
      });
      piece.total += static_cast<double>(sum(sums[kCutoffs]));
      for (int j = 0; j < kCutoffs; ++j) piece.above[j] += static_cast<double>(sum(sums[j]));
    }
  });
  double total = 0.0, above[kCutoffs] = {};
  for (int64_t i = 0; i < pieces_of(V); ++i) {
    total += pieces[i].total;
    for (int j = 0; j < kCutoffs; ++j) above[j] += pieces[i].above[j];
  }
  for (int j = 0; j < kCutoffs; ++j)
    if (above[j] >= share * total * 1.0001) return {total, cutoffs[j]};
  return {total, 0.0f};
}

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
    // k parts whose maximum is at least b hold k tokens that are.
    const float bound = p.top_k < c.n ? keep_count(c, p.top_k) : -kLargest;
    collect(x, V, bound, c, pieces);
    keep_count(c, p.top_k);
    weigh(c, scale);
    total = total_weight(c);
  } else {
    const Mass mass = row_mass(x, V, scale, static_cast<double>(p.top_p), pieces);
    const float cutoff = mass.cutoff > p.min_p ? mass.cutoff : p.min_p;
    // A little below the logit whose weight is the cutoff, for the roundings on both sides.
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
  if (4 * c.n > V && p.typical_p >= 1.0f) {  // the likeliest, and no others
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

// Returns the token, or -1 where every logit is NaN or -inf. space.logit holds `maxima` partial maxima.
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

static void register_sample(KernelTable& t) {
  t.sample_workspace = sample_workspace;
  t.sample = sample;
}
