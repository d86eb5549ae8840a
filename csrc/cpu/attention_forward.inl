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
  T* p;           // (64,64)
  float* scores;  // (64,64)
  float* acc;     // (64, D rounded up to 64)
  SoftmaxRows* softmax;

  static int64_t key_elements(int64_t D) { return kTile * staged_columns(D); }

  int64_t lay_out(char* base, int64_t D, int64_t kept_tiles) {
    Arena arena{base, 0};
    keys = arena.take<T>(kept_tiles * key_elements(D));
    values = arena.take<T>(kept_tiles * depth_panel_elements(D));
    staged = arena.take<T>(key_elements(D));
    queries = arena.take<T>(key_elements(D));
    p = arena.take<T>(kTile * kTile);
    scores = arena.take<float>(kTile * kTile);
    acc = arena.take<float>(depth_panel_elements(D));
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
    const bool one_block = a.T == 1 ? group <= kTile : group == 1 && span <= kTile;
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

// One row of scores to probabilities; only the first `visible` > 0 keys count. acc: the row of the products so far.
template <class T, bool kMasked>
static inline void softmax_row(const float* scores, T* p, vf scale, int64_t visible, SoftmaxRows& rows, int64_t r,
                               float* acc, int64_t columns) {
  const int used = kMasked ? static_cast<int>((visible + kW - 1) / kW) : kTileVectors;
  vf s[kTileVectors];
  vf highest = splat(-__builtin_inff());
  for (int i = 0; i < used; ++i) {
    s[i] = load(scores + i * kW);
    if (kMasked && i == used - 1) {
      const vi shown = lane_numbers() < static_cast<int32_t>(visible - i * kW);
      highest = max(select(shown, s[i] * scale, highest), highest);
    } else {
      highest = max(s[i] * scale, highest);
    }
  }
  if (__builtin_expect(any_greater(highest, splat(rows.bound[r])), 0)) raise_base(rows, r, hmax(highest), acc, columns);
  const vf base = splat(rows.base[r]);
  vf total = load(rows.total[r]);
  for (int i = 0; i < used; ++i) {
    // Not s * scale - base: rounding the product would cost large scores their last bits.
    vf e = exp2<T>(fma(s[i], scale, -base));
    if (kMasked && i == used - 1) e = select(lane_numbers() < static_cast<int32_t>(visible - i * kW), e, vf{});
    total = total + e;
    store(p + i * kW, e);
  }
  for (int i = used; i < kTileVectors; ++i) store(p + i * kW, vf{});
  store(rows.total[r], total);
}

// Rows of queries against one tile of `keys` keys that starts at key `first_key`.
template <class T>
static void softmax_tile(const AttentionArgs& a, const QueryRows& q, int64_t count, int64_t first_key, int64_t keys,
                         const ForwardScratch<T>& s) {
  const int64_t columns = round_up(a.D, kTile);
  const vf scale = splat(a.scale * kLog2e);
  for (int64_t r = 0; r < count; ++r) {
    float *scores = s.scores + r * kTile, *acc = s.acc + r * columns;
    T* p = s.p + r * kTile;
    const int64_t seen = q.first_position + r * q.position_step - first_key + 1;
    const int64_t visible = a.causal ? smaller(seen, keys) : keys;
    if (visible == kTile)
      softmax_row<T, false>(scores, p, scale, kTile, *s.softmax, r, acc, columns);
    else if (visible > 0)
      softmax_row<T, true>(scores, p, scale, visible, *s.softmax, r, acc, columns);
    else
      memset(p, 0, sizeof(T) * kTile);
  }
}

// out and lse of one block: divide by the sum of the probabilities.
template <class T>
static void finish_rows(const AttentionArgs& a, const QueryRows& q, int64_t count, int64_t keys, int64_t tiles,
                        const ForwardScratch<T>& s, T* out, int64_t out_stride, float* lse, int64_t lse_stride) {
  const int64_t columns = round_up(a.D, kTile);
  for (int64_t r = 0; r < count; ++r) {
    const int64_t seen = q.first_position + r * q.position_step + 1;
    T* to = out + r * out_stride;
    if (tiles == 0 || (a.causal ? smaller(seen, keys) : keys) <= 0) {  // sees no key
      memset(to, 0, sizeof(T) * static_cast<size_t>(a.D));
      if (lse) lse[r * lse_stride] = -__builtin_inff();
      continue;
    }
    const float total = sum(load(s.softmax->total[r]));
    const vf inverse = splat(1.0f / total);
    const float* acc = s.acc + r * columns;
    int64_t i = 0;
    for (; i + kW <= a.D; i += kW) store(to + i, load(acc + i) * inverse);
    if (i < a.D) store_n(to + i, load(acc + i) * inverse, static_cast<int>(a.D - i));
    if (lse) lse[r * lse_stride] = s.softmax->base[r] * kLn2 + log(splat(total))[0];
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
  int64_t packed = 0;  // tiles
  for (int64_t h = 0; h < all.heads; ++h)
    for (int64_t row = 0; row < all.rows; row += kTile) {
      const int64_t count = smaller(kTile, all.rows - row), rows = product_rows(k, count);
      const QueryRows block{1, count, all.first_position + row * all.position_step, all.position_step};
      const int64_t last = block.first_position + (count - 1) * block.position_step;
      const int64_t tiles = tiles_of(a.causal ? larger(0, smaller(last + 1, keys)) : keys);
      stage(count, a.D, q + h * a.q_stride.h + row * q_stride, q_stride, s.queries);
      for (int64_t r = 0; r < count; ++r) {
        s.softmax->base[r] = 0.0f;
        s.softmax->bound[r] = -__builtin_inff();
        store(s.softmax->total[r], vf{});
      }
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first_key = tile * kTile, tile_keys = smaller(kTile, keys - first_key);
        const int64_t slot = plan.kept_tiles > 1 ? tile : 0;
        T *key_tile = s.keys + slot * s.key_elements(a.D), *value_tile = s.values + slot * depth_panel_elements(a.D);
        if (tile >= packed) {
          stage(tile_keys, a.D, k + first_key * a.k_stride.t, a.k_stride.t, s.staged);
          pack_as_columns(a.D, s.staged, key_tile);
          stage(tile_keys, a.D, v + first_key * a.v_stride.t, a.v_stride.t, s.staged);
          pack_as_depth(a.D, s.staged, value_tile);
          packed = tile + 1;
        }
        panel_product(rows, depth, s.queries, staged_columns(a.D), key_tile, s.scores, kTile, false);
        softmax_tile(a, block, count, first_key, tile_keys, s);
        for (int64_t c = 0; c < a.D; c += kTile)
          panel_product(rows, kTile, s.p, kTile, value_tile + c * kTile, s.acc + c, columns, tile > 0);
      }
      finish_rows(a, block, count, keys, tiles, s, out + h * a.out_stride.h + row * out_stride, out_stride,
                  lse ? lse + h * a.T + row : nullptr, 1);
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
