// The filters (top-k, top-p, min-p, typical) and the tokens that may survive them, in order of id.
#pragma once
#include "cpu/sample/row.h"

namespace llmcore {
namespace LLMCORE_ISA {

struct Candidates {
  float* logit;
  uint32_t* id;
  float* weight;
  int64_t n;
};

// Decreasing logits have increasing keys; -0 equals 0.
static inline uint32_t order_key(float x) {
  x += 0.0f;
  uint32_t u;
  memcpy(&u, &x, 4);
  return u & 0x80000000u ? u : ~(u | 0x80000000u);
}

// Collects all tokens whose logit is >= least and not -inf.
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

// Top-p. In order of decreasing logits (the lower id first on ties), keeps the tokens that are preceded by less than
// `limit` of weight. Returns the smallest logit kept. Sums are float64, in order of id: every fourth token adds to the
// same sum, so that tokens of one bin do not wait for each other. No branch depends on a token, except for ties at the
// cut.
static float keep_before(Candidates& c, double limit) {
  constexpr int kBins = 256, kElsewhere = kBins;
  uint32_t prefix = 0, known = 0;  // the key at the cut, and which of its bits are known
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

// Top-k. The same, with a limit on the count: keeps `count` tokens.
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

// Keeps the tokens whose surprise, -log p, is nearest to its expectation, up to `share` of the weight.
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

// Returns the sum of all weights, and a weight small enough that the weights above it certainly hold `share` of the
// sum.
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

}  // namespace LLMCORE_ISA
}  // namespace llmcore
