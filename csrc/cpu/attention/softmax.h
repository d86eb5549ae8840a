// Online softmax (Milakov & Gimelshein 2018) over a block of queries, one tile of keys at a time.
//
// Everything is in powers of two: t = scale * log2(e) * q·k. `base` is subtracted from t. It is raised only when a
// row's maximum exceeds it by more than kSlack, so the accumulators are seldom rescaled; 2^kSlack * S is far from
// overflow, and the quotient does not depend on the base.
#pragma once
#include "cpu/attention/tiles.h"

namespace llmcore {
namespace LLMCORE_ISA {

constexpr float kSlack = 8.0f;

struct SoftmaxRows {
  float base[kTile];
  float bound[kTile];      // base + kSlack; -inf before the first finite score
  float total[kTile][kW];  // sum of the probabilities so far, by lane
  float sum[kTile], lse[kTile];

  void reset(int64_t count) {
    for (int64_t r = 0; r < count; ++r) {
      base[r] = 0.0f;
      bound[r] = -__builtin_inff();
      store(total[r], vf{});
    }
  }
};

// The part of a tile that a block of rows sees: row r sees the tile's first `visible + r * step` keys (clamped to 0 and
// `keys`) and, if low is not null, of these only the keys from low[r] - first_key on.
struct Sight {
  int64_t keys, visible, step;
  const int32_t* low;
  int64_t first_key;
};

// Makes the new maximum the base and rescales the sums made with the old one.
static void raise_base(SoftmaxRows& rows, int64_t r, float maximum, float* acc, int64_t columns) {
  if (rows.bound[r] > -__builtin_inff()) {
    const vf factor = exp2<float>(splat(rows.base[r] - maximum));
    store(rows.total[r], load(rows.total[r]) * factor);
    for (int64_t i = 0; i < columns; i += kW) store(acc + i, load(acc + i) * factor);
  }
  rows.base[r] = maximum;
  rows.bound[r] = maximum + kSlack;
}

// Adds the results of `count` rows over another stretch of keys: sums and products are rescaled to the higher base.
static void fold_rows(int64_t count, int64_t columns, SoftmaxRows& into, float* acc, const SoftmaxRows& from,
                      const float* products) {
  alignas(64) float old_factors[kTile], new_factors[kTile];
  for (int64_t r = 0; r < count; r += kW) {
    const vf old_base = load(into.base + r), new_base = load(from.base + r), none = splat(-__builtin_inff());
    const vf old_bound = load(into.bound + r), new_bound = load(from.bound + r);
    const vf higher = max(old_base, new_base), one = splat(1.0f);
    // A row that saw no key, or only scores of minus infinity, has no base.
    const auto both = (old_bound > none) & (new_bound > none);
    store(old_factors + r, select(both, exp2<float>(old_base - higher), one));
    store(new_factors + r, select(both, exp2<float>(new_base - higher), one));
    store(into.base + r, select(both, higher, select(new_bound > none, new_base, old_base)));
    store(into.bound + r, max(old_bound, new_bound));
  }
  for (int64_t r = 0; r < count; ++r) {
    const vf old_factor = splat(old_factors[r]), new_factor = splat(new_factors[r]);
    const auto add = [&](float* to, const float* more) {
      store(to, fma(load(more), new_factor, load(to) * old_factor));
    };
    add(into.total[r], from.total[r]);
    for (int64_t i = r * columns; i < (r + 1) * columns; i += kW) add(acc + i, products + i);
  }
}

// Turns the products q·k of a tile into capped scores: softcap * tanh(scale * q·k / softcap).
static void cap_scores(int64_t count, int64_t keys, const AttentionArgs& a, float* scores) {
  const vf factor = splat(a.scale / a.softcap), cap = splat(a.softcap);
  for (int64_t r = 0; r < count; ++r)
    for (int64_t i = 0; i < keys; i += kW) {
      float* at = scores + r * kTile + i;
      store(at, cap * tanh(load(at) * factor));
    }
}

// Turns rows begin..end of the scores into probabilities. Row r sees the first visible + r * step keys of the tile,
// which are in its first kQuarters quarters and, unless masked, fill them; the rest is zero, as are the keys before
// `low`.
template <class T, int kQuarters, bool kMasked, bool kLow = false>
static void softmax_rows(int64_t begin, int64_t end, int64_t visible, int64_t step, vf scale, const float* scores, T* p,
                         SoftmaxRows& rows, float* acc, int64_t columns, [[maybe_unused]] const Sight& sight) {
  constexpr int kQuarter = kTileVectors / 4, kUsed = kQuarters * kQuarter;
  const vi lanes = lane_numbers();
  for (int64_t r = begin; r < end; ++r) {
    const float* from = scores + r * kTile;
    T* to = p + r * kTile;
    const vi limit = vi{} + static_cast<int32_t>(visible + r * step);
    const auto partial = [](int i) { return kLow || (kMasked && i >= kUsed - kQuarter); };
    const auto shown = [&](int i) {
      const vi key = lanes + i * kW;
      if constexpr (kLow) return (key < limit) & (key >= static_cast<int32_t>(sight.low[r] - sight.first_key));
      return key < limit;
    };
    vf s[kUsed];
    vf highest = splat(-__builtin_inff());
    for (int i = 0; i < kUsed; ++i) {
      s[i] = load(from + i * kW);
      const vf t = s[i] * scale;
      highest = max(partial(i) ? select(shown(i), t, highest) : t, highest);
    }
    if (any_greater(highest, splat(rows.bound[r]))) raise_base(rows, r, hmax(highest), acc + r * columns, columns);
    const vf base = splat(rows.base[r]);
    vf total = load(rows.total[r]);
    for (int i = 0; i < kUsed; ++i) {
      // Not s * scale - base: rounding the product would cost large scores their last bits.
      vf e = exp2<T>(fma(s[i], scale, -base));
      if (partial(i)) e = select(shown(i), e, vf{});
      total = total + e;
      store(to + i * kW, e);
    }
    for (int i = kUsed; i < kTileVectors; ++i) store(to + i * kW, vf{});
    store(rows.total[r], total);
  }
}

// Processes a block of rows against one tile. acc: the products so far, `columns` wide.
template <class T>
static void softmax_tile(int64_t count, const Sight& sight, vf scale, const float* scores, T* p, SoftmaxRows& rows,
                         float* acc, int64_t columns) {
  constexpr int64_t kQuarter = kTile / 4;
  const int64_t keys = sight.keys, visible = sight.visible, step = sight.step;
  if (sight.low)
    return softmax_rows<T, 4, true, true>(0, count, visible, step, scale, scores, p, rows, acc, columns, sight);
  // Rows whose visible keys end in the same quarter of the tile are processed together.
  for (int64_t r = 0, end; r < count; r = end) {
    const int64_t seen = visible + r * step, quarters = ceil_div(max_of(0, min_of(seen, keys)), kQuarter);
    const bool all = seen >= keys;
    end = step == 0 || all ? count : min_of(count, min_of(quarters * kQuarter + 1, keys) - visible);
    const auto run = [&](auto function) {
      function(r, end, all ? keys : visible, all ? 0 : step, scale, scores, p, rows, acc, columns, sight);
    };
    if (all && keys == kTile)
      run(softmax_rows<T, 4, false>);
    else if (quarters == 0)
      memset(p + r * kTile, 0, sizeof(T) * static_cast<size_t>((end - r) * kTile));
    else if (quarters == 1)
      run(softmax_rows<T, 1, true>);
    else if (quarters == 2)
      run(softmax_rows<T, 2, true>);
    else if (quarters == 3)
      run(softmax_rows<T, 3, true>);
    else
      run(softmax_rows<T, 4, true>);
  }
}

// Computes the sums and the logarithms of the denominators of `count` rows.
static void sum_rows(int64_t count, SoftmaxRows& rows) {
  for (int64_t r = 0; r < count; ++r) rows.sum[r] = sum(load(rows.total[r]));
  for (int64_t r = 0; r < count; r += kW)
    store(rows.lse + r, fma(load(rows.base + r), splat(kLn2), log(load(rows.sum + r))));
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
