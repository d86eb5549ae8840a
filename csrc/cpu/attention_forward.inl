// Forward attention (FlashAttention, Dao et al. 2022): for 64 queries at a time, scores of 64 keys, online softmax,
// product with the values. The scores never leave the cache.
//
// Everything is in powers of two: t = scale * log2(e) * q·k. `base` is what is subtracted from t; it is raised only
// when a row's maximum exceeds it by more than kSlack, so that the accumulators are seldom rescaled; 2^kSlack * S is
// far from overflow, and the quotient does not depend on the base.
constexpr float kSlack = 8.0f;

struct SoftmaxRows {
  float base[kTile];
  float bound[kTile];      // base + kSlack; -inf before the first finite score
  float total[kTile][kW];  // sum of the probabilities so far, by lane
  float sum[kTile], lse[kTile];
};

// Queries that share keys: `heads` times `rows`. A single position has all heads of its group as rows.
struct QueryRows {
  int64_t heads, rows;
  int64_t first_position, position_step;  // of row r: first_position + r * position_step
};

template <class T>
struct ForwardScratch {
  T *keys, *values;  // packed tiles: all of them, or the current one when there is one block of queries only
  T *staged, *queries;
  T* p;           // (kRows,64)
  float* scores;  // (kRows,64)
  float* acc;     // (kRows, D rounded up to 64)
  SoftmaxRows* softmax;

  static constexpr int64_t kRows = query_rows(static_cast<T*>(nullptr));

  static int64_t key_elements(int64_t D) { return kTile * staged_columns(D); }

  int64_t lay_out(char* base, int64_t D, int64_t kept_tiles) {
    Arena arena{base, 0};
    keys = arena.take<T>(kept_tiles * key_elements(D));
    values = arena.take<T>(kept_tiles * depth_panel_elements(D));
    staged = arena.take<T>(key_elements(D));
    queries = arena.take<T>(key_elements(D));
    p = arena.take<T>(kRows * kTile);
    scores = arena.take<float>(kRows * kTile);
    acc = arena.take<float>(kRows * round_up(D, kTile));
    softmax = arena.take<SoftmaxRows>(1);
    return arena.used;
  }
};

// How the work is cut, from the shapes alone.
struct ForwardPlan {
  int64_t group, span, spans, pieces, kept_tiles, slot;
  explicit ForwardPlan(const AttentionArgs& a) {
    constexpr int64_t kManyPieces = 16, kSpan = 256;
    group = a.H / a.Hkv;
    // Few heads: several pieces for each, every one packing the keys for itself.
    span = a.T > kSpan && a.B * a.Hkv < kManyPieces ? kSpan : larger(a.T, 1);
    spans = (a.T + span - 1) / span;
    pieces = a.B * a.Hkv * spans;
    const int64_t rows = a.dtype == DType::kF32 ? ForwardScratch<float>::kRows : ForwardScratch<bf16>::kRows;
    const bool one_block = a.T == 1 ? group <= rows : group == 1 && span <= rows;
    kept_tiles = one_block ? 1 : tiles_of(a.S);
    slot = a.dtype == DType::kF32 ? ForwardScratch<float>{}.lay_out(nullptr, a.D, kept_tiles)
                                  : ForwardScratch<bf16>{}.lay_out(nullptr, a.D, kept_tiles);
  }
};

// The new maximum becomes the base; what was summed against the old one is scaled down to it.
static void raise_base(SoftmaxRows& rows, int64_t r, float maximum, float* acc, int64_t columns) {
  if (rows.bound[r] > -__builtin_inff()) {
    const vf factor = exp2<float>(splat(rows.base[r] - maximum));
    store(rows.total[r], load(rows.total[r]) * factor);
    for (int64_t i = 0; i < columns; i += kW) store(acc + i, load(acc + i) * factor);
  }
  rows.base[r] = maximum;
  rows.bound[r] = maximum + kSlack;
}

// Rows begin..end of the scores to probabilities. Row r sees the first visible + r * step keys of the tile, which lie
// in its first kQuarters quarters and, unless masked, fill them; the rest is zero.
template <class T, int kQuarters, bool kMasked>
static void softmax_rows(int64_t begin, int64_t end, int64_t visible, int64_t step, vf scale, const float* scores, T* p,
                         SoftmaxRows& rows, float* acc, int64_t columns) {
  constexpr int kQuarter = kTileVectors / 4, kUsed = kQuarters * kQuarter;
  const vi lanes = lane_numbers();
  for (int64_t r = begin; r < end; ++r) {
    const float* from = scores + r * kTile;
    T* to = p + r * kTile;
    const vi limit = vi{} + static_cast<int32_t>(visible + r * step);
    const auto partial = [](int i) { return kMasked && i >= kUsed - kQuarter; };
    vf s[kUsed];
    vf highest = splat(-__builtin_inff());
    for (int i = 0; i < kUsed; ++i) {
      s[i] = load(from + i * kW);
      const vf t = s[i] * scale;
      highest = max(partial(i) ? select(lanes + i * kW < limit, t, highest) : t, highest);
    }
    if (any_greater(highest, splat(rows.bound[r]))) raise_base(rows, r, hmax(highest), acc + r * columns, columns);
    const vf base = splat(rows.base[r]);
    vf total = load(rows.total[r]);
    for (int i = 0; i < kUsed; ++i) {
      // Not s * scale - base: rounding the product would cost large scores their last bits.
      vf e = exp2<T>(fma(s[i], scale, -base));
      if (partial(i)) e = select(lanes + i * kW < limit, e, vf{});
      total = total + e;
      store(to + i * kW, e);
    }
    for (int i = kUsed; i < kTileVectors; ++i) store(to + i * kW, vf{});
    store(rows.total[r], total);
  }
}

// Rows of queries against one tile of `keys` keys that starts at key `first_key`.
template <class T>
static void softmax_tile(const AttentionArgs& a, const QueryRows& q, int64_t count, int64_t first_key, int64_t keys,
                         const ForwardScratch<T>& s) {
  constexpr int64_t kQuarter = kTile / 4;
  const bool diagonal = a.causal && q.first_position - first_key + 1 < keys;
  const int64_t visible = diagonal ? q.first_position - first_key + 1 : keys, step = diagonal ? q.position_step : 0;
  SoftmaxRows& rows = *s.softmax;
  const int64_t columns = round_up(a.D, kTile);
  const vf scale = splat(a.scale * kLog2e);
  // Rows whose visible keys end in the same quarter of the tile go together.
  for (int64_t r = 0, end; r < count; r = end) {
    const int64_t seen = visible + r * step, quarters = (larger(0, seen) + kQuarter - 1) / kQuarter;
    const bool all = seen >= keys;
    end = step == 0 || all ? count : smaller(count, smaller(quarters * kQuarter + 1, keys) - visible);
    const auto run = [&](auto function) {
      function(r, end, all ? keys : visible, all ? 0 : step, scale, s.scores, s.p, rows, s.acc, columns);
    };
    if (all && keys == kTile)
      run(softmax_rows<T, 4, false>);
    else if (quarters == 0)
      memset(s.p + r * kTile, 0, sizeof(T) * static_cast<size_t>((end - r) * kTile));
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

// out and lse of one block: divide by the sum of the probabilities.
template <class T>
static void finish_rows(const AttentionArgs& a, const QueryRows& q, int64_t count, int64_t keys, int64_t tiles,
                        const ForwardScratch<T>& s, T* out, int64_t out_stride, float* lse) {
  const int64_t columns = round_up(a.D, kTile);
  SoftmaxRows& rows = *s.softmax;
  for (int64_t r = 0; r < count; ++r) rows.sum[r] = sum(load(rows.total[r]));
  for (int64_t r = 0; r < count; r += kW)
    store(rows.lse + r, fma(load(rows.base + r), splat(kLn2), log(load(rows.sum + r))));
  for (int64_t r = 0; r < count; ++r) {
    const int64_t seen = q.first_position + r * q.position_step + 1;
    T* to = out + r * out_stride;
    if (tiles == 0 || (a.causal ? smaller(seen, keys) : keys) <= 0) {  // sees no key
      memset(to, 0, sizeof(T) * static_cast<size_t>(a.D));
      if (lse) lse[r] = -__builtin_inff();
      continue;
    }
    const vf inverse = splat(1.0f / rows.sum[r]);
    const float* acc = s.acc + r * columns;
    for_lanes(a.D, [&](int64_t i, auto lanes, int) { store_n(to + i, load(acc + i) * inverse, lanes); });
    if (lse) lse[r] = rows.lse[r];
  }
}

template <class T>
static void forward_piece(const AttentionArgs& a, const ForwardPlan& plan, int64_t piece, char* scratch) {
  ForwardScratch<T> s;
  s.lay_out(scratch, a.D, plan.kept_tiles);
  // The last queries see the most keys: they come first, so that no long piece is left for the end.
  const int64_t span = plan.spans - 1 - piece / (a.B * a.Hkv), b = piece / a.Hkv % a.B, kv_head = piece % a.Hkv;
  const int64_t begin = span * plan.span, end = smaller(begin + plan.span, a.T);
  const int64_t length = a.lengths ? a.lengths[b] : a.S, keys = larger(0, smaller(length, a.S));
  const int64_t head = kv_head * plan.group;
  const T* k = static_cast<const T*>(a.k) + b * a.k_stride.b + kv_head * a.k_stride.h;
  const T* v = static_cast<const T*>(a.v) + b * a.v_stride.b + kv_head * a.v_stride.h;
  const T* q = static_cast<const T*>(a.q) + b * a.q_stride.b + begin * a.q_stride.t + head * a.q_stride.h;
  T* out = static_cast<T*>(a.out) + b * a.out_stride.b + begin * a.out_stride.t + head * a.out_stride.h;
  float* lse = a.lse ? a.lse + (b * a.H + head) * a.T + begin : nullptr;

  const bool single = a.T == 1;
  const QueryRows all{single ? 1 : plan.group, single ? plan.group : end - begin, length - a.T + begin, !single};
  const int64_t q_stride = single ? a.q_stride.h : a.q_stride.t, out_stride = single ? a.out_stride.h : a.out_stride.t;
  const int64_t columns = round_up(a.D, kTile), depth = product_depth(k, a.D);
  int64_t packed_keys = 0, packed_values = 0;  // tiles
  const auto slot = [&](int64_t tile) { return plan.kept_tiles > 1 ? tile : 0; };
  const auto tile_keys = [&](int64_t tile) { return smaller(kTile, keys - tile * kTile); };
  for (int64_t h = 0; h < all.heads; ++h)
    for (int64_t row = 0; row < all.rows; row += s.kRows) {
      const int64_t count = smaller(s.kRows, all.rows - row), rows = product_rows(k, count);
      const QueryRows block{1, count, all.first_position + row * all.position_step, all.position_step};
      const int64_t last = block.first_position + (count - 1) * block.position_step;
      const int64_t tiles = tiles_of(a.causal ? larger(0, smaller(last + 1, keys)) : keys);
      stage(count, rows, a.D, q + h * a.q_stride.h + row * q_stride, q_stride, s.queries);
      for (int64_t r = 0; r < count; ++r) {
        s.softmax->base[r] = 0.0f;
        s.softmax->bound[r] = -__builtin_inff();
        store(s.softmax->total[r], vf{});
      }
      const auto multiply = [&](int64_t tile) {  // the scores
        T* key_tile = s.keys + slot(tile) * s.key_elements(a.D);
        if (tile == packed_keys) {
          const T* from = k + tile * kTile * a.k_stride.t;
          pack_as_columns(whole_tile(tile_keys(tile), a.D, from, a.k_stride.t, s.staged), key_tile);
          ++packed_keys;
        }
        panel_product(rows, depth, s.queries, staged_columns(a.D), key_tile, s.scores, kTile, false);
      };
      if (tiles > 0) multiply(0);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first_key = tile * kTile;
        softmax_tile(a, block, count, first_key, tile_keys(tile), s);
        // The next scores come between the probabilities and the product that reads them, so that nothing is read right
        // after it was written.
        if (tile + 1 < tiles) multiply(tile + 1);
        T* value_tile = s.values + slot(tile) * depth_panel_elements(a.D);
        if (tile == packed_values) {
          const T* from = v + first_key * a.v_stride.t;
          pack_as_depth(whole_tile(tile_keys(tile), a.D, from, a.v_stride.t, s.staged), value_tile);
          ++packed_values;
        }
        const int64_t seen = smaller(tile_keys(tile), a.causal ? last + 1 - first_key : kTile);
        for (int64_t c = 0; c < a.D; c += kTile)
          panel_product(rows, product_depth(k, seen), s.p, kTile, value_tile + c * kTile, s.acc + c, columns, tile > 0);
      }
      finish_rows(a, block, count, keys, tiles, s, out + h * a.out_stride.h + row * out_stride, out_stride,
                  lse ? lse + h * a.T + row : nullptr);
    }
}

// Workers for pieces that multiply `work` pairs of numbers in all: one where waking the pool would cost more.
static int64_t attention_workers(int64_t pieces, double work) {
  constexpr double kWorthWaking = 1 << 19;
  return work < kWorthWaking ? 1 : larger(1, smaller(pieces, num_threads()));
}
static double attention_work(const AttentionArgs& a) {
  double keys = static_cast<double>(a.B * a.S);
  if (a.lengths) {
    keys = 0;
    for (int64_t b = 0; b < a.B; ++b) keys += a.lengths[b];
  }
  return keys * static_cast<double>(a.H * a.T * a.D);
}

static size_t attention_workspace(const AttentionArgs& a) {
  const ForwardPlan plan(a);
  // By S, not by the lengths of the moment: a recorded call is repeated with others.
  const double work = static_cast<double>(a.B * a.S) * static_cast<double>(a.H * a.T * a.D);
  return static_cast<size_t>(plan.slot * attention_workers(plan.pieces, work));
}

static void attention_forward(const AttentionArgs& a) {
  const ForwardPlan plan(a);
  const int64_t room = larger(1, static_cast<int64_t>(a.workspace_bytes) / plan.slot);
  const int64_t workers = smaller(room, attention_workers(plan.pieces, attention_work(a)));
  parallel_workers(plan.pieces, workers, [&](int64_t worker, int64_t piece) {
    char* scratch = static_cast<char*>(a.workspace) + worker * plan.slot;
    if (a.dtype == DType::kF32)
      forward_piece<float>(a, plan, piece, scratch);
    else
      forward_piece<bf16>(a, plan, piece, scratch);
  });
}
