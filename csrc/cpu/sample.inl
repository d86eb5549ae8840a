// Drawing tokens; the exact semantics stand in ops/sample.h. No sort of the vocabulary: a cheap bound from partial
// maxima or masses picks the few tokens that can survive the filters, and a radix walk over the order-preserving bits
// of their logits cuts them where the rule says.
//
// The draw is Gumbel-max: token = argmax of logit / T + g over the tokens kept, the lowest id on ties, g = -log(E).
// E = -log(1 - v) is exponential, v = min((r + 1/2) 2^-32, 1 - 2^-24), and r is word id % 4 of Philox4x32-10 with
// key = seed and counter = (step, id / 4). The noise of a token is the same whatever the filters. Small v makes large
// g, and floats are dense near 0: likely winners do not tie.

constexpr int64_t kSampleSlots = 16;      // rows in work at a time, each with its own part of the workspace
constexpr int64_t kPartialMaxima = 1024;  // about so many for a row
constexpr float kLargest = 3.402823466e38f;

typedef uint64_t vq __attribute__((vector_size(LLMCORE_VECTOR_BYTES)));
typedef uint32_t vu_half __attribute__((vector_size(LLMCORE_VECTOR_BYTES / 2)));

// ---- noise ----

// The 64-bit products of the lower halves of the lanes with m.
static inline vq multiply_low(vq a, uint32_t m) {
  const vq b = vq{} + m;
#if LLMCORE_VECTOR_BYTES == 64
  return (vq)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif LLMCORE_VECTOR_BYTES == 32
  return (vq)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (vq)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * b;
#endif
}

// philox4x32 of core/philox.h for kW / 2 counters; the words are the lower halves of the lanes.
static inline void philox_lanes(uint64_t key, uint64_t counter_lo, vq counter_hi, vq words[4]) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  vq c0 = vq{} + counter_lo, c1 = c0 >> 32, c2 = counter_hi, c3 = c2 >> 32;
  for (int round = 0; round < 10; ++round) {
    const vq p0 = multiply_low(c0, 0xD2511F53u), p1 = multiply_low(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

static inline vf gumbel(vu random) {
  const vf v = (__builtin_convertvector(random, vf) + 0.5f) * 2.3283064365386963e-10f;
  return -log_normal(-log_one_minus(min(v, splat(1.0f - 5.9604645e-8f))));
}

static inline vq first_lanes(uint64_t start) {
  vq v;
  for (int i = 0; i < kW / 2; ++i) v[i] = static_cast<uint64_t>(i);
  return v + start;
}

// Random words of the tokens [start, start + 2 kW), start a multiple of 4.
static inline void random_block(uint64_t seed, uint64_t step, int64_t start, uint32_t* random) {
  vq words[4];
  philox_lanes(seed, step, first_lanes(static_cast<uint64_t>(start) / 4), words);
  const vq pairs[2] = {(words[0] & 0xffffffffu) | words[1] << 32, (words[2] & 0xffffffffu) | words[3] << 32};
  uint64_t lanes[2][kW / 2];
  memcpy(lanes, pairs, sizeof lanes);
  for (int i = 0; i < kW / 2; ++i)
    for (int j = 0; j < 2; ++j) {
      random[4 * i + 2 * j] = static_cast<uint32_t>(lanes[j][i]);
      random[4 * i + 2 * j + 1] = static_cast<uint32_t>(lanes[j][i] >> 32);
    }
}

// Random words of the tokens ids[0 .. kW).
static inline vu random_of(uint64_t seed, uint64_t step, vu ids) {
  vu_half parts[2];
  memcpy(parts, &ids, sizeof ids);
  for (vu_half& part : parts) {
    const vq id = __builtin_convertvector(part, vq), lane = id & 3;
    vq words[4];
    philox_lanes(seed, step, id >> 2, words);
    const vq low = lane == 0 ? words[0] : words[1], high = lane == 2 ? words[2] : words[3];
    part = __builtin_convertvector(lane < 2 ? low : high, vu_half);
  }
  vu random;
  memcpy(&random, parts, sizeof random);
  return random;
}

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

static inline int lanes_left(int64_t n) { return n < 0 ? 0 : n < kW ? static_cast<int>(n) : kW; }

template <class T>
static int32_t draw_from_row(const T* x, int64_t V, const Scale& scale, uint64_t seed, uint64_t step) {
  Best best;
  uint32_t random[2 * kW];
  for (int64_t start = 0; start < V; start += 2 * kW) {
    random_block(seed, step, start, random);
    for (int part = 0; part < 2; ++part) {
      const int64_t i = start + part * kW;
      const int n = lanes_left(V - i);
      vu r;
      memcpy(&r, random + part * kW, sizeof r);
      const vf score = scale.z(logits_n(x + (n ? i : 0), n)) + gumbel(r);
      best.offer(keep_n(score, n, -__builtin_inff()), lane_numbers() + static_cast<int32_t>(i));
    }
  }
  return best.winner();
}

template <class T>
static int32_t first_equal(const T* x, int64_t V, float value) {
  int64_t found = -1;
  for (int64_t i = 0; i < V && found < 0; i += kW) {
    const int n = lanes_left(V - i);
    const uint32_t hits = mask_bits(logits_n(x + i, n) == value) & static_cast<uint32_t>((1ull << n) - 1);
    if (hits) found = i + __builtin_ctz(hits);
  }
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
  for (int64_t i = 0; i < V; i += kW) {
    const int n = lanes_left(V - i);
    const vf v = logits_n(x + i, n);
    for (uint32_t hits = mask_bits(v >= least) & static_cast<uint32_t>((1ull << n) - 1); hits; hits &= hits - 1) {
      const int lane = __builtin_ctz(hits);
      const float logit = to_float(x[i + lane]);
      c.logit[c.n] = logit < kLargest ? logit : kLargest;
      c.id[c.n++] = static_cast<uint32_t>(i + lane);
    }
  }
}

// In the order of falling logits, the lower id first on ties, keeps the tokens before which less than `limit` of weight
// (of tokens, when not weighted) stands. Returns the smallest logit kept. Sums are float64, in order of id.
static float keep_before(Candidates& c, bool weighted, double limit) {
  uint32_t prefix = 0, known = 0;  // the key at the cut, and which of its bits are found
  double before = 0.0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    double mass[256] = {};
    for (int64_t i = 0; i < c.n; ++i) {
      const uint32_t key = order_key(c.logit[i]);
      if ((key & known) == prefix) mass[key >> shift & 255] += weighted ? static_cast<double>(c.weight[i]) : 1.0;
    }
    uint32_t digit = 0;
    while (digit < 255 && before + mass[digit] < limit) before += mass[digit++];
    prefix |= digit << shift;
    known |= 255u << shift;
  }
  int64_t kept = 0;
  float smallest = kLargest;
  for (int64_t i = 0; i < c.n; ++i) {
    const uint32_t key = order_key(c.logit[i]);
    const float weight = weighted ? c.weight[i] : 1.0f;
    if (key > prefix || (key == prefix && !(before < limit))) continue;
    if (key == prefix) before += static_cast<double>(weight);
    if (c.logit[i] < smallest) smallest = c.logit[i];
    c.logit[kept] = c.logit[i], c.id[kept] = c.id[i];
    if (weighted) c.weight[kept] = weight;
    ++kept;
  }
  c.n = kept;
  return smallest;
}

static void keep_heavy(Candidates& c, float least) {
  int64_t kept = 0;
  for (int64_t i = 0; i < c.n; ++i) {
    if (!(c.weight[i] >= least)) continue;
    c.logit[kept] = c.logit[i], c.id[kept] = c.id[i], c.weight[kept] = c.weight[i];
    ++kept;
  }
  c.n = kept;
}

static double weigh(Candidates& c, const Scale& scale) {
  double total = 0.0;
  for_lanes(
      c.n, [&](int64_t i, auto lanes, int) { store_n(c.weight + i, scale.weight(load_n(c.logit + i, lanes)), lanes); });
  for (int64_t i = 0; i < c.n; ++i) total += static_cast<double>(c.weight[i]);
  return total;
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
    const float bound = p.top_k < c.n ? keep_before(c, false, static_cast<double>(p.top_k)) : -kLargest;
    collect(x, V, bound, c);
    keep_before(c, false, static_cast<double>(p.top_k));
    total = weigh(c, scale);
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
    keep_before(c, true, limit > 1e-300 ? limit : 1e-300);
  }
  if (p.min_p > 0.0f) keep_heavy(c, p.min_p);
}

static int32_t draw_from(const Candidates& c, const Scale& scale, uint64_t seed, uint64_t step) {
  Best best;
  for (int64_t i = 0; i < c.n; i += kW) {
    const int n = lanes_left(c.n - i);
    uint32_t ids[kW] = {};
    memcpy(ids, c.id + i, sizeof(uint32_t) * static_cast<size_t>(n));
    vu id;
    memcpy(&id, ids, sizeof id);
    const vf score = scale.z(load_n(c.logit + i, n)) + gumbel(random_of(seed, step, id));
    best.offer(keep_n(score, n, -__builtin_inff()), (vi)id);
  }
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
      double total = 0.0;
      for (int64_t i = 0; i < c.n; ++i) total += static_cast<double>(c.weight[i]);
      for (int64_t i = 0; i < c.n; ++i) probs[c.id[i]] = static_cast<float>(static_cast<double>(c.weight[i]) / total);
    }
    return draw_from(c, scale, p.seed, p.step);
  }
  if (probs) {
    const float factor = static_cast<float>(1.0 / row_mass(x, V, scale, 1.0).total);
    for_lanes(V, [&](int64_t i, auto lanes, int) {
      const vf w = scale.weight(logits_n(x + i, lanes)) * factor;
      store_n(probs + i, select(w >= 0.0f, w, splat(0.0f)), lanes);
    });
  }
  return draw_from_row(x, V, scale, p.seed, p.step);
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
