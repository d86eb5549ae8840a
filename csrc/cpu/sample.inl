// Drawing tokens; the exact semantics stand in ops/sample.h. No sort of the vocabulary: a cheap bound from partial
// maxima or masses picks the few tokens that can survive the filters, and a radix walk over the order-preserving bits
// of their logits cuts them where the rule says.
//
// The draw is Gumbel-max: token = argmax of logit / T + g over the tokens kept, the lowest id on ties, g from
// noise.inl. The noise of a token is the same whatever the filters.

constexpr int64_t kSampleSlots = 16;      // rows in work at a time, each with its own part of the workspace
constexpr int64_t kPartialMaxima = 1024;  // about so many for a row
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

struct Best {  // the largest score so far in each lane, and whose it is
  vf score = splat(-__builtin_inff());
  vi id = vi{} - 1;
  void offer(vf s, vi ids) {
    const vi better = s > score;
    score = better ? s : score;
    id = better ? ids : id;
  }
  int32_t winner() const {
    int best = 0;
    for (int i = 1; i < kW; ++i)
      if (score[i] > score[best] || (score[i] == score[best] && id[i] >= 0 && id[i] < id[best])) best = i;
    return id[best];
  }
};

// What is left of the row after the filters: logits above the cut, and those equal to it up to an id.
struct Cut {
  float logit;
  int32_t last_id;
};

template <class T>
static int32_t draw_from_row(const T* x, int64_t V, const Cut& cut, const Scale& scale, uint64_t seed, uint64_t step) {
  Best best;
  const auto offer = [&](int64_t i, auto lanes, vq random) {
    const vf v = keep_n(logits_n(x + i, lanes), lanes, -__builtin_inff());
    const vi id = lane_numbers() + static_cast<int32_t>(i);
    const vi kept = (v > cut.logit) | ((v == cut.logit) & (id <= cut.last_id));
    best.offer(select(kept, scale.z(v) + gumbel((vu)random), splat(-__builtin_inff())), id);
  };
  int64_t i = 0;
  for (; i + 2 * kW <= V; i += 2 * kW) {
    const Zipped random = random_block(seed, step, i);
    offer(i, All{}, random.low);
    offer(i + kW, All{}, random.high);
  }
  if (i < V) {
    const Zipped random = random_block(seed, step, i);
    const int left = static_cast<int>(V - i);
    offer(i, left < kW ? left : kW, random.low);
    if (left > kW) offer(i + kW, left - kW, random.high);
  }
  return best.winner();
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

// Maxima of disjoint parts of the row, about kPartialMaxima of them (NaN passed over). Returns their number.
template <class T>
static int64_t partial_maxima(const T* x, int64_t V, float* maxima) {
  const int64_t group = (V + kPartialMaxima * kW - 1) / (kPartialMaxima * kW) * kW * kW;
  int64_t count = 0;
  for (int64_t start = 0; start < V; start += group, count += kW) {
    vf most = splat(-__builtin_inff());
    for_lanes(V - start < group ? V - start : group, [&](int64_t i, auto lanes, int) {
      most = max(keep_n(logits_n(x + start + i, lanes), lanes, -__builtin_inff()), most);
    });
    store(maxima + count, most);
  }
  return count;
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
static void collect(const T* x, int64_t V, float least, Candidates& c) {
  c.n = 0;
  least = least > -kLargest ? least : -kLargest;
  for_lanes(V, [&](int64_t i, auto lanes, int) {
    const vf v = keep_n(logits_n(x + i, lanes), lanes, -__builtin_inff());
    for (uint32_t hits = mask_bits(v >= least); hits; hits &= hits - 1) {
      const int lane = __builtin_ctz(hits);
      const float logit = to_float(x[i + lane]);
      c.logit[c.n] = logit < kLargest ? logit : kLargest;
      c.id[c.n++] = static_cast<uint32_t>(i + lane);
    }
  });
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
static Mass row_mass(const T* x, int64_t V, const Scale& scale, double share) {
  constexpr int kCutoffs = 4;
  constexpr int64_t kBlock = 4096;  // float32 within, float64 across
  const float cutoffs[kCutoffs] = {0.05f, 5e-3f, 5e-4f, 2e-5f};
  double total = 0.0, above[kCutoffs] = {};
  for (int64_t start = 0; start < V; start += kBlock) {
    vf sums[kCutoffs + 1] = {};
    for_lanes(V - start < kBlock ? V - start : kBlock, [&](int64_t i, auto lanes, int) {
      vf w = keep_n(scale.weight(logits_n(x + start + i, lanes)), lanes);
      w = select(w >= 0.0f, w, splat(0.0f));  // NaN has no mass
      sums[kCutoffs] += w;
      for (int j = 0; j < kCutoffs; ++j) sums[j] += select(w >= cutoffs[j], w, splat(0.0f));
    });
    total += static_cast<double>(sum(sums[kCutoffs]));
    for (int j = 0; j < kCutoffs; ++j) above[j] += static_cast<double>(sum(sums[j]));
  }
  for (int j = 0; j < kCutoffs; ++j)
    if (above[j] >= share * total * 1.0001) return {total, cutoffs[j]};
  return {total, 0.0f};
}

// ---- one row ----

struct RowParameters {
  float temperature, top_p, min_p;
  int64_t top_k;  // 0 or V: off
  uint64_t seed, step;
};

template <class T>
static void filter_row(const T* x, int64_t V, const Scale& scale, const RowParameters& p, Candidates& c) {
  double total = 0.0;
  if (p.top_k > 0) {
    c.n = partial_maxima(x, V, c.logit);
    // k parts whose maximum is at least b hold k tokens that are.
    const float bound = p.top_k < c.n ? keep_count(c, p.top_k) : -kLargest;
    collect(x, V, bound, c);
    keep_count(c, p.top_k);
    weigh(c, scale);
    total = total_weight(c);
  } else {
    const Mass mass = row_mass(x, V, scale, static_cast<double>(p.top_p));
    const float cutoff = mass.cutoff > p.min_p ? mass.cutoff : p.min_p;
    // A little below the logit whose weight is the cutoff, for the roundings on both sides.
    const float least =
        scale.top - __builtin_fabsf(scale.top) * 1e-6f + (log(splat(cutoff))[0] - 1e-3f) / scale.inverse;
    collect(x, V, least, c);
    weigh(c, scale);
    total = mass.total;
  }
  if (p.top_p < 1.0f) {
    const double limit = (static_cast<double>(p.top_p) - 1e-6) * total;
    keep_before(c, limit > 1e-300 ? limit : 1e-300);
  }
  if (p.min_p > 0.0f) keep_heavy(c, p.min_p);
}

// The noise of single tokens costs four times as much as that of a whole row.
template <class T>
static int32_t draw_from(const Candidates& c, const T* x, int64_t V, const Scale& scale, uint64_t seed, uint64_t step) {
  if (4 * c.n > V) {
    Cut cut = {kLargest, -1};
    for (int64_t i = 0; i < c.n; ++i)
      if (c.logit[i] <= cut.logit) cut = {c.logit[i], static_cast<int32_t>(c.id[i])};
    return draw_from_row(x, V, cut, scale, seed, step);
  }
  Best best;
  for_lanes(c.n, [&](int64_t i, auto lanes, int) {
    uint32_t ids[kW] = {};
    memcpy(ids, c.id + i, sizeof(uint32_t) * static_cast<size_t>(c.n - i < kW ? c.n - i : kW));
    vu id;
    memcpy(&id, ids, sizeof id);
    const vf score = scale.z(load_n(c.logit + i, lanes)) + gumbel(random_of(seed, step, id));
    best.offer(keep_n(score, lanes, -__builtin_inff()), (vi)id);
  });
  return best.winner();
}

// Returns the token, or -1 where every logit is NaN or -inf.
template <class T>
static int32_t sample_row(const T* x, int64_t V, const RowParameters& p, Candidates& c, float* probs) {
  const float top = row_max(x, V, -__builtin_inff());
  if (probs) memset(probs, 0, static_cast<size_t>(V) * sizeof(float));
  if (!(top >= -kLargest)) return -1;
  const Scale scale = {top < kLargest ? top : kLargest,
                       p.temperature > 1.0f / kLargest ? 1.0f / p.temperature : kLargest};
  if (p.temperature == 0.0f) {
    const int32_t token = first_equal(x, V, scale.top);
    if (probs) probs[token] = 1.0f;
    return token;
  }
  if (p.top_k > 0 || p.top_p < 1.0f || p.min_p > 0.0f) {
    filter_row(x, V, scale, p, c);
    if (probs) {
      const double total = total_weight(c);
      for (int64_t i = 0; i < c.n; ++i) probs[c.id[i]] = static_cast<float>(static_cast<double>(c.weight[i]) / total);
    }
    return draw_from(c, x, V, scale, p.seed, p.step);
  }
  if (probs) {
    const float factor = static_cast<float>(1.0 / row_mass(x, V, scale, 1.0).total);
    for_lanes(V, [&](int64_t i, auto lanes, int) {
      const vf w = scale.weight(logits_n(x + i, lanes)) * factor;
      store_n(probs + i, select(w >= 0.0f, w, splat(0.0f)), lanes);
    });
  }
  return draw_from_row(x, V, {-__builtin_inff(), -1}, scale, p.seed, p.step);
}

// ---- the batch ----

static inline int64_t candidate_room(int64_t V) {
  const int64_t most = V > kPartialMaxima + kW ? V : kPartialMaxima + kW;
  return round_up(most, 64);
}

static size_t sample_workspace(const SampleArgs& a) {
  const int64_t slots = a.B < kSampleSlots ? a.B : kSampleSlots;
  return static_cast<size_t>(slots * candidate_room(a.V)) * 3 * sizeof(float);
}

template <class T>
static void sample_typed(const SampleArgs& a) {
  const int64_t V = a.V, room = candidate_room(V);
  parallel(a.B < kSampleSlots ? a.B : kSampleSlots, [&](int64_t slot) {
    float* space = static_cast<float*>(a.workspace) + slot * room * 3;
    for (int64_t b = slot; b < a.B; b += kSampleSlots) {
      const T* x = static_cast<const T*>(a.logits) + b * V;
      Candidates c = {space, reinterpret_cast<uint32_t*>(space + room), space + 2 * room, 0};
      const RowParameters p = {a.temperature[b], a.top_p[b],
                               a.min_p[b],       a.top_k[b] < V ? a.top_k[b] : 0,
                               a.seed[b],        static_cast<uint64_t>(a.step[b])};
      const int32_t token = sample_row(x, V, p, c, a.probs ? a.probs + b * V : nullptr);
      a.token[b] = token;
      if (!a.logprob) continue;
      const MaxSum row = max_sum(x, V);
      a.logprob[b] = token < 0 ? __builtin_nanf("") : to_float(x[token]) - row.max - log(splat(row.sum))[0];
    }
  });
}
static void sample(const SampleArgs& a) { a.dtype == DType::kBF16 ? sample_typed<bf16>(a) : sample_typed<float>(a); }

static void register_sample(KernelTable& t) {
  t.sample_workspace = sample_workspace;
  t.sample = sample;
}
