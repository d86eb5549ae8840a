// Forward attention (FlashAttention, Dao et al. 2022): a piece of work is a few hundred queries that share a key head.
// Each tile of keys and values is rearranged once and meets the queries block by block; scores never leave the cache.

// Up to kRows queries of one head, or, where there is one position only, that position's heads.
template <class T>
struct QueryBlock {
  int64_t count, position, step;  // row r stands at position + r * step
  int64_t first_tile, tiles;      // of keys: the first that some row sees, and one past the last
  int32_t low[kTile], highest;    // the first key that each row sees, and the last of these
  T* queries;                     // staged
  float* acc;                     // (kRows, D rounded up to 64)
  SoftmaxRows* softmax;
  T* out;
  int64_t out_stride;
  float* lse;  // or null
};

template <class T>
struct ForwardScratch {
  T *keys, *values, *staged;  // the tile at hand
  T* p;                       // (kRows,64)
  float* scores;              // (kRows,64)
  QueryBlock<T>* blocks;

  static constexpr int64_t kRows = query_rows(static_cast<T*>(nullptr));

  int64_t lay_out(char* base, int64_t D, int64_t block_count) {
    Arena arena{base, 0};
    const int64_t staged_rows = round_up(kRows, 16) * staged_columns(D);
    keys = arena.take<T>(kTile * staged_columns(D));
    values = arena.take<T>(depth_panel_elements(D));
    staged = arena.take<T>(kTile * staged_columns(D));
    p = arena.take<T>(round_up(kRows, 16) * kTile);
    scores = arena.take<float>(round_up(kRows, 16) * kTile);
    blocks = arena.take<QueryBlock<T>>(block_count);
    T* queries = arena.take<T>(block_count * staged_rows);
    float* acc = arena.take<float>(block_count * round_up(kRows, 16) * round_up(D, kTile));
    SoftmaxRows* softmax = arena.take<SoftmaxRows>(block_count);
    for (int64_t i = 0; base && i < block_count; ++i) {
      blocks[i].queries = queries + i * staged_rows;
      blocks[i].acc = acc + i * round_up(kRows, 16) * round_up(D, kTile);
      blocks[i].softmax = softmax + i;
    }
    return arena.used;
  }
};

// How the work is cut, from the shapes alone.
struct ForwardPlan {
  int64_t group, span, spans, pieces, blocks, slot;
  explicit ForwardPlan(const AttentionArgs& a) { a.dtype == DType::kF32 ? plan<float>(a) : plan<bf16>(a); }

 private:
  template <class T>
  void plan(const AttentionArgs& a) {
    // So many queries that rearranging the keys for them costs little, so few that they stay in L2.
    constexpr int64_t kRows = ForwardScratch<T>::kRows, kRowsInPiece = 512;
    group = a.H / a.Hkv;
    const int64_t rows = larger(kRows, kRowsInPiece * kTile / larger(kTile, staged_columns(a.D)) / group);
    span = larger(1, smaller(round_up(rows, kRows), a.T));
    spans = (a.T + span - 1) / span;
    pieces = a.B * a.Hkv * spans;
    blocks = a.T == 1 ? (group + kRows - 1) / kRows : group * ((span + kRows - 1) / kRows);
    slot = ForwardScratch<T>{}.lay_out(nullptr, a.D, blocks);
  }
};

// Stages the queries begin..end of batch row b that share key head `kv_head`; returns the number of blocks.
template <class T>
static int64_t take_queries(const AttentionArgs& a, int64_t group, int64_t b, int64_t kv_head, int64_t begin,
                            int64_t end, int64_t keys, const ForwardScratch<T>& s) {
  const int64_t head = kv_head * group, past = (a.lengths ? a.lengths[b] : a.S) - a.T;
  const T* q = static_cast<const T*>(a.q) + b * a.q_stride.b + begin * a.q_stride.t + head * a.q_stride.h;
  T* out = static_cast<T*>(a.out) + b * a.out_stride.b + begin * a.out_stride.t + head * a.out_stride.h;
  float* lse = a.lse ? a.lse + (b * a.H + head) * a.T + begin : nullptr;
  const bool single = a.T == 1;
  const int64_t heads = single ? 1 : group, rows = single ? group : end - begin, step = single ? 0 : 1;
  const int64_t q_stride = single ? a.q_stride.h : a.q_stride.t;
  QueryBlock<T>* block = s.blocks;
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t r = 0; r < rows; r += s.kRows, ++block) {
      block->count = smaller(s.kRows, rows - r);
      block->position = past + begin + r * step;
      block->step = step;
      const int64_t last = block->position + (block->count - 1) * step;
      int64_t lowest = a.S, highest = 0;
      for (int64_t i = 0; i < block->count; ++i) {
        const int64_t t = begin + (r + i) * step, low = first_key(a, b, t, past + t);
        block->low[i] = static_cast<int32_t>(low);
        lowest = smaller(lowest, low), highest = larger(highest, low);
      }
      block->first_tile = larger(0, lowest) / kTile;
      block->highest = static_cast<int32_t>(highest);
      block->tiles = tiles_of(a.causal ? larger(0, smaller(last + 1, keys)) : keys);
      block->out_stride = single ? a.out_stride.h : a.out_stride.t;
      block->out = out + h * a.out_stride.h + r * block->out_stride;
      block->lse = lse ? lse + h * a.T + r : nullptr;
      block->softmax->reset(block->count);
      stage(block->count, product_rows(q, block->count), a.D, q + h * a.q_stride.h + r * q_stride, q_stride,
            block->queries);
    }
  return block - s.blocks;
}

// out and lse of a block: the products divided by the sums of the probabilities.
template <class T>
static void finish_block(const AttentionArgs& a, const QueryBlock<T>& block, int64_t keys) {
  SoftmaxRows& rows = *block.softmax;
  sum_rows(block.count, rows);
  for (int64_t r = 0; r < block.count; ++r) {
    T* to = block.out + r * block.out_stride;
    const int64_t seen = a.causal ? smaller(block.position + r * block.step + 1, keys) : keys;
    if (seen <= 0) {
      memset(to, 0, sizeof(T) * static_cast<size_t>(a.D));
      if (block.lse) block.lse[r] = -__builtin_inff();
      continue;
    }
    const vf inverse = splat(1.0f / rows.sum[r]);
    const float* acc = block.acc + r * round_up(a.D, kTile);
    for_lanes(a.D, [&](int64_t i, auto lanes, int) { store_n(to + i, load(acc + i) * inverse, lanes); });
    if (block.lse) block.lse[r] = rows.lse[r];
  }
}

template <class T>
static void forward_piece(const AttentionArgs& a, const ForwardPlan& plan, int64_t piece, char* scratch) {
  ForwardScratch<T> s;
  s.lay_out(scratch, a.D, plan.blocks);
  // The last queries see the most keys: they come first, so that no long piece is left for the end.
  const int64_t span = plan.spans - 1 - piece / (a.B * a.Hkv), b = piece / a.Hkv % a.B, kv_head = piece % a.Hkv;
  const int64_t begin = span * plan.span, keys = larger(0, smaller(a.lengths ? a.lengths[b] : a.S, a.S));
  const T* k = static_cast<const T*>(a.k) + b * a.k_stride.b + kv_head * a.k_stride.h;
  const T* v = static_cast<const T*>(a.v) + b * a.v_stride.b + kv_head * a.v_stride.h;
  const int64_t blocks = take_queries(a, plan.group, b, kv_head, begin, smaller(begin + plan.span, a.T), keys, s);
  const int64_t columns = round_up(a.D, kTile), depth = product_depth(k, a.D);
  const vf scale = splat(a.scale * kLog2e);
  int64_t tiles = 0, packed_keys = 0, packed_values = 0;
  for (int64_t i = 0; i < blocks; ++i) tiles = larger(tiles, s.blocks[i].tiles);

  struct Step {
    int64_t tile, block;
  };
  const auto after = [&](Step at) {  // the next block that sees keys of this tile, else of a later one
    do {
      if (++at.block == blocks) at = {at.tile + 1, 0};
    } while (at.tile < tiles && (at.tile < s.blocks[at.block].first_tile || at.tile >= s.blocks[at.block].tiles));
    return at;
  };
  const auto tile_keys = [&](int64_t tile) { return smaller(kTile, keys - tile * kTile); };
  const auto multiply = [&](Step at) {  // the scores
    if (at.tile >= packed_keys) {
      const T* from = k + at.tile * kTile * a.k_stride.t;
      if (blocks == 1 && at.tile + 1 < tiles) {  // few queries: bound by how fast keys and values arrive
        prefetch_rows<false>(from + kTile * a.k_stride.t, tile_keys(at.tile + 1), a.k_stride.t, a.D);
        prefetch_rows<false>(v + (at.tile + 1) * kTile * a.v_stride.t, tile_keys(at.tile + 1), a.v_stride.t, a.D);
      }
      pack_as_columns(whole_tile(tile_keys(at.tile), a.D, from, a.k_stride.t, s.staged), s.keys);
      packed_keys = at.tile + 1;
    }
    const QueryBlock<T>& block = s.blocks[at.block];
    panel_product(product_rows(k, block.count), depth, block.queries, staged_columns(a.D), s.keys, s.scores, kTile,
                  false);
  };
  Step at = after({0, -1});
  if (at.tile < tiles) multiply(at);
  while (at.tile < tiles) {
    const QueryBlock<T>& block = s.blocks[at.block];
    const int64_t key = at.tile * kTile, n = tile_keys(at.tile), seen = block.position - key + 1;
    const bool diagonal = a.causal && seen < n;
    const bool ends = at.tile + 1 == block.tiles;
    if (ends) prefetch_rows<true>(block.out, block.count, block.out_stride, a.D);
    const Sight sight{n, diagonal ? seen : n, diagonal ? block.step : 0, block.highest > key ? block.low : nullptr,
                      key};
    softmax_tile(block.count, sight, scale, s.scores, s.p, *block.softmax, block.acc, columns);
    // The next scores come between the probabilities and the product that reads them, so that nothing is read right
    // after it was written.
    const Step next = after(at);
    if (next.tile < tiles) multiply(next);
    if (at.tile >= packed_values) {
      const T* from = v + key * a.v_stride.t;
      pack_as_depth(whole_tile(n, a.D, from, a.v_stride.t, s.staged), s.values);
      packed_values = at.tile + 1;
    }
    const int64_t p_depth = product_depth(k, diagonal ? smaller(n, seen + (block.count - 1) * block.step) : n);
    for (int64_t c = 0; c < a.D; c += kTile)
      panel_product(product_rows(k, block.count), p_depth, s.p, kTile, s.values + c * kTile, block.acc + c, columns,
                    at.tile > block.first_tile);
    if (ends) finish_block(a, block, keys);
    at = next;
  }
  for (int64_t i = 0; i < blocks; ++i)
    if (s.blocks[i].tiles == 0) finish_block(a, s.blocks[i], keys);
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
