// Forward attention (FlashAttention, Dao et al. 2022): a piece of work is a few hundred queries that share a key head.
// Each tile of keys and values is rearranged once and used by the queries block by block; scores never leave the cache.
//
// Keys come in segments of fixed length. A query's result combines one partial result per segment that it sees, in
// order. So a few queries against a long cache (decoding) can be cut along the keys into pieces that run in parallel
// (Flash-Decoding, Dao et al. 2023) and still give the same bits as within the whole prompt.
#pragma once
#include "cpu/attention/softmax.h"

namespace llmcore {
namespace LLMCORE_ISA {

constexpr int64_t kSegment = 8;  // tiles

// The partial result of a block of queries, before the division by the sums.
struct Products {
  float* acc;  // (kRows, D rounded up to 64)
  SoftmaxRows* softmax;
};

// Up to kRows queries of one head or, if there is only one position, that position's heads.
template <class T>
struct QueryBlock {
  int64_t key_head;
  int64_t count, position, step;  // row r is at position + r * step
  int64_t first_tile, tiles;      // key tiles: the first that some row sees, and one past the last
  int32_t low[kTile], highest;    // the first key that each row sees, and the largest of these
  T* queries;                     // staged
  Products part, whole;           // for the current segment, and for all segments before it
  bool folded;                    // whether there were any earlier segments
  int64_t row;                    // the first query's index among all (H,T) of its batch row
  T* out;
  int64_t out_stride;
  float* lse;  // or null
};

template <class T>
struct ForwardScratch {
  T *keys, *values, *staged;  // the current tile
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
    const int64_t products = round_up(kRows, 16) * round_up(D, kTile);
    float* acc = arena.take<float>(2 * block_count * products);
    SoftmaxRows* softmax = arena.take<SoftmaxRows>(2 * block_count);
    for (int64_t i = 0; base && i < block_count; ++i) {
      blocks[i].queries = queries + i * staged_rows;
      blocks[i].part = {acc + 2 * i * products, softmax + 2 * i};
      blocks[i].whole = {acc + (2 * i + 1) * products, softmax + 2 * i + 1};
    }
    return arena.used;
  }
};

static inline int64_t segments_of(int64_t keys) { return ceil_div(tiles_of(keys), kSegment); }

// How the work is cut: depends only on the shapes and the longest row of keys.
struct ForwardPlan {
  int64_t group;                 // query heads that share a key head
  int64_t heads, head_groups;    // key heads in a piece, pieces next to each other
  int64_t span, spans;           // queries in a piece, consecutive pieces
  int64_t segments;              // pieces along the keys: more than one for a few queries only
  int64_t pieces, blocks, slot;  // total pieces; blocks of queries and bytes of scratch per piece
  int64_t columns;               // of the products
  int64_t counters, shared;      // bytes of the counters, and of counters plus the partial results of all segments

  ForwardPlan(const AttentionArgs& a, int64_t keys) {
    a.dtype == DType::kF32 ? plan<float>(a, keys) : plan<bf16>(a, keys);
  }

  // Where a piece stores row `row` of (H,T): the products, the sums by lane, base and bound.
  int64_t partial_floats() const { return columns + 2 * kW; }
  float* partial(const AttentionArgs& a, int64_t b, int64_t segment, int64_t row) const {
    float* partials = reinterpret_cast<float*>(static_cast<char*>(a.workspace) + counters);
    return partials + ((b * segments + segment) * a.H * a.T + row) * partial_floats();
  }

 private:
  template <class T>
  void plan(const AttentionArgs& a, int64_t keys) {
    // Enough queries to make rearranging the keys for them cheap, but few enough to stay in L2.
    constexpr int64_t kRows = ForwardScratch<T>::kRows, kRowsInPiece = 512;
    // A few queries are bound by reading keys and values: a piece reads runs of memory long enough to arrive at full
    // speed.
    constexpr int64_t kRun = 3072, kFewBlocks = 32;
    const bool few = a.T <= kRows;
    group = a.H / a.Hkv;
    columns = round_up(a.D, kTile);
    const int64_t rows = max_of(kRows, kRowsInPiece * kTile / max_of(kTile, staged_columns(a.D)) / group);
    span = max_of(1, min_of(round_up(rows, kRows), a.T));
    spans = ceil_div(a.T, span);
    blocks = a.T == 1 ? ceil_div(group, kRows) : group * (ceil_div(span, kRows));
    const int64_t run = min_of(kRun / (a.D * static_cast<int64_t>(sizeof(T))), kFewBlocks / blocks);
    const int64_t most_heads = few ? max_of(1, min_of(run, a.Hkv)) : 1;
    blocks *= most_heads;
    segments = few ? max_of(1, segments_of(keys)) : 1;
    constexpr int64_t kMostPartials = 1 << 24;  // floats; beyond this, enough rows run in parallel anyway
    const double all_partials = static_cast<double>(a.B * segments) * static_cast<double>(a.H * a.T * partial_floats());
    const bool fits = all_partials <= kMostPartials;
    const int64_t partials = segments == 1 ? 0 : fits ? a.B * segments * a.H * a.T * partial_floats() : kMostPartials;
    counters = segments == 1 ? 0 : round_up(a.B * a.Hkv * static_cast<int64_t>(sizeof(int32_t)), 64);
    shared = round_up(counters + partials * static_cast<int64_t>(sizeof(float)), 64);  // also enough for shorter rows
    if (!fits) segments = 1;
    const int64_t enough = few ? ceil_div(num_threads(), a.B * segments) : 1;  // a piece for every thread
    heads = ceil_div(a.Hkv, min_of(a.Hkv, max_of(enough, ceil_div(a.Hkv, most_heads))));
    head_groups = ceil_div(a.Hkv, heads);
    pieces = a.B * spans * segments * head_groups;
    slot = ForwardScratch<T>{}.lay_out(nullptr, a.D, blocks);
  }
};

// Stages the queries begin..end of batch row b that share `key_head` in the blocks from `block` on; returns their end.
template <class T>
static QueryBlock<T>* take_queries(const AttentionArgs& a, int64_t group, int64_t b, int64_t key_head, int64_t begin,
                                   int64_t end, int64_t keys, QueryBlock<T>* block) {
  constexpr int64_t kRows = ForwardScratch<T>::kRows;
  const int64_t head = key_head * group, past = (a.lengths ? a.lengths[b] : a.S) - a.T;
  const T* q = static_cast<const T*>(a.q) + b * a.q_stride.b + begin * a.q_stride.t + head * a.q_stride.h;
  T* out = static_cast<T*>(a.out) + b * a.out_stride.b + begin * a.out_stride.t + head * a.out_stride.h;
  float* lse = a.lse ? a.lse + (b * a.H + head) * a.T + begin : nullptr;
  const bool single = a.T == 1;
  const int64_t heads = single ? 1 : group, rows = single ? group : end - begin, step = single ? 0 : 1;
  const int64_t q_stride = single ? a.q_stride.h : a.q_stride.t;
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t r = 0; r < rows; r += kRows, ++block) {
      block->key_head = key_head;
      block->count = min_of(kRows, rows - r);
      block->position = past + begin + r * step;
      block->step = step;
      const int64_t last = block->position + (block->count - 1) * step;
      int64_t lowest = a.S, highest = 0;
      for (int64_t i = 0; i < block->count; ++i) {
        const int64_t t = begin + (r + i) * step, low = first_key(a, b, t, past + t);
        block->low[i] = static_cast<int32_t>(low);
        lowest = min_of(lowest, low), highest = max_of(highest, low);
      }
      block->first_tile = max_of(0, lowest) / kTile;
      block->highest = static_cast<int32_t>(highest);
      block->tiles = tiles_of(a.causal ? max_of(0, min_of(last + 1, keys)) : keys);
      block->out_stride = single ? a.out_stride.h : a.out_stride.t;
      block->out = out + h * a.out_stride.h + r * block->out_stride;
      block->row = (head + h) * a.T + begin + r;
      block->lse = lse ? lse + h * a.T + r : nullptr;
      block->folded = false;
      block->part.softmax->reset(block->count);
      stage(block->count, product_rows(q, block->count), a.D, q + h * a.q_stride.h + r * q_stride, q_stride,
            block->queries);
    }
  return block;
}

// Adds the current segment to the ones before it.
template <class T>
static void fold_part(QueryBlock<T>& block, int64_t columns) {
  if (!block.folded) {
    const Products first = block.part;
    block.part = block.whole, block.whole = first;
    block.folded = true;
  } else {
    fold_rows(block.count, columns, *block.whole.softmax, block.whole.acc, *block.part.softmax, block.part.acc);
  }
  block.part.softmax->reset(block.count);
}

// Writes out and lse of a block: the products divided by the sums of the probabilities.
template <class T>
static void finish_block(const AttentionArgs& a, const QueryBlock<T>& block, int64_t keys) {
  SoftmaxRows& rows = *block.whole.softmax;
  if (block.folded) sum_rows(block.count, rows);
  for (int64_t r = 0; r < block.count; ++r) {
    T* to = block.out + r * block.out_stride;
    const int64_t seen = a.causal ? min_of(block.position + r * block.step + 1, keys) : keys;
    if (seen <= 0) {
      memset(to, 0, sizeof(T) * static_cast<size_t>(a.D));
      if (block.lse) block.lse[r] = -__builtin_inff();
      continue;
    }
    const vf inverse = splat(1.0f / rows.sum[r]);
    const float* acc = block.whole.acc + r * round_up(a.D, kTile);
    for_lanes(a.D, [&](int64_t i, auto lanes, int) { store_n(to + i, load(acc + i) * inverse, lanes); });
    if (block.lse) block.lse[r] = rows.lse[r];
  }
}

// Moves a block's segment to and from the partial results that pieces share.
template <class T>
static void put_part(const AttentionArgs& a, const ForwardPlan& plan, int64_t b, int64_t segment,
                     const QueryBlock<T>& block) {
  for (int64_t r = 0; r < block.count; ++r) {
    float* to = plan.partial(a, b, segment, block.row + r);
    memcpy(to, block.part.acc + r * plan.columns, sizeof(float) * static_cast<size_t>(plan.columns));
    store(to + plan.columns, load(block.part.softmax->total[r]));
    to[plan.columns + kW] = block.part.softmax->base[r];
    to[plan.columns + kW + 1] = block.part.softmax->bound[r];
  }
}
template <class T>
static void take_part(const AttentionArgs& a, const ForwardPlan& plan, int64_t b, int64_t segment,
                      const QueryBlock<T>& block) {
  for (int64_t r = 0; r < block.count; ++r) {
    const float* from = plan.partial(a, b, segment, block.row + r);
    memcpy(block.part.acc + r * plan.columns, from, sizeof(float) * static_cast<size_t>(plan.columns));
    store(block.part.softmax->total[r], load(from + plan.columns));
    block.part.softmax->base[r] = from[plan.columns + kW];
    block.part.softmax->bound[r] = from[plan.columns + kW + 1];
  }
}

// Describes a piece of work.
struct ForwardPiece {
  int64_t b, begin;  // batch row, first query
  int64_t segment, head_group;
  ForwardPiece(const AttentionArgs& a, const ForwardPlan& plan, int64_t piece) {
    head_group = piece % plan.head_groups, piece /= plan.head_groups;
    segment = piece % plan.segments, piece /= plan.segments;
    b = piece % a.B;
    // The last queries see the most keys, so they are started first and no long piece is left for the end.
    begin = (plan.spans - 1 - piece / a.B) * plan.span;
  }
};

template <class T>
static void forward_piece(const AttentionArgs& a, const ForwardPlan& plan, int64_t number, char* scratch) {
  ForwardScratch<T> s;
  s.lay_out(scratch, a.D, plan.blocks);
  const ForwardPiece piece(a, plan, number);
  const int64_t b = piece.b, keys = max_of(0, min_of(a.lengths ? a.lengths[b] : a.S, a.S));
  const int64_t first_head = piece.head_group * plan.heads, heads = min_of(plan.heads, a.Hkv - first_head);
  QueryBlock<T>* end_block = s.blocks;
  for (int64_t h = 0; h < heads; ++h)
    end_block = take_queries(a, plan.group, b, first_head + h, piece.begin, min_of(piece.begin + plan.span, a.T), keys,
                             end_block);
  const int64_t blocks = end_block - s.blocks;
  const T* const typed = nullptr;
  const int64_t columns = plan.columns, depth = product_depth(typed, a.D);
  const vf scale = splat(kLog2e * (a.softcap > 0 ? 1.0f : a.scale));
  const bool split = plan.segments > 1, few = a.T <= s.kRows;
  int64_t end = 0;
  for (int64_t i = 0; i < blocks; ++i) end = max_of(end, s.blocks[i].tiles);
  if (split) end = min_of(end, (piece.segment + 1) * kSegment);

  struct Step {
    int64_t tile, block;
  };
  const auto after = [&](Step at) {  // the next block that sees keys of this tile, or else of a later one
    do {
      if (++at.block == blocks) at = {at.tile + 1, 0};
    } while (at.tile < end && (at.tile < s.blocks[at.block].first_tile || at.tile >= s.blocks[at.block].tiles));
    return at;
  };
  const auto tile_keys = [&](int64_t tile) { return min_of(kTile, keys - tile * kTile); };
  // Returns where a tile of keys or values begins, in elements.
  const auto tile_at = [&](const Strides3& stride, int64_t tile, int64_t head) {
    const int64_t at =
        a.blocks ? a.blocks[b * (a.S / kTile) + tile] * stride.b : b * stride.b + tile * kTile * stride.t;
    return at + head * stride.h;
  };
  const auto touch_tile = [&](const void* from, const Strides3& stride, int64_t tile) {
    const int64_t at = tile_at(stride, tile, first_head);
    if (few && a.k_scale && tile % kSegment == 0)  // the others were prefetched
      touch_rows(static_cast<const uint8_t*>(from) + at, tile_keys(tile), stride.t, heads * a.D);
    else if (few && !a.k_scale)
      touch_rows(static_cast<const T*>(from) + at, tile_keys(tile), stride.t, heads * a.D);
  };
  const auto take_tile = [&](const void* from, const float* scale, const Strides3& stride, int64_t tile, int64_t head) {
    const int64_t at = tile_at(stride, tile, head), n = tile_keys(tile);
    if (!scale) return whole_tile(n, a.D, static_cast<const T*>(from) + at, stride.t, s.staged);
    const int64_t block = a.blocks[b * (a.S / kTile) + tile];
    const uint8_t* const bytes = static_cast<const uint8_t*>(from);
    const uint8_t* next = few && tile + 1 < end ? bytes + tile_at(stride, tile + 1, head) : nullptr;
    return whole_tile(n, a.D, bytes + at, stride.t, scale + block * kTile * a.Hkv + head, a.Hkv, next, s.staged);
  };
  const auto same_panel = [&](Step x, Step y) {
    return x.tile == y.tile && s.blocks[x.block].key_head == s.blocks[y.block].key_head;
  };
  Step packed_keys{-1, 0}, packed_values{-1, 0};
  const auto multiply = [&](Step at) {  // the scores
    const QueryBlock<T>& block = s.blocks[at.block];
    if (!same_panel(packed_keys, at)) {
      if (at.tile != packed_keys.tile) touch_tile(a.k, a.k_stride, at.tile);
      pack_as_columns(take_tile(a.k, a.k_scale, a.k_stride, at.tile, block.key_head), s.keys);
      packed_keys = at;
    }
    panel_product(product_rows(typed, block.count), depth, block.queries, staged_columns(a.D), s.keys, s.scores, kTile,
                  false);
  };
  Step at = after({piece.segment * kSegment, -1});
  if (at.tile < end) multiply(at);
  while (at.tile < end) {
    QueryBlock<T>& block = s.blocks[at.block];
    const int64_t key = at.tile * kTile, n = tile_keys(at.tile), seen = block.position - key + 1;
    const bool diagonal = a.causal && seen < n;
    const bool ends = at.tile + 1 == block.tiles;
    if (ends) prefetch_rows<true>(block.out, block.count, block.out_stride, a.D);
    if (a.softcap > 0) cap_scores(block.count, n, a, s.scores);
    const Sight sight{n, diagonal ? seen : n, diagonal ? block.step : 0, block.highest > key ? block.low : nullptr,
                      key};
    softmax_tile(block.count, sight, scale, s.scores, s.p, *block.part.softmax, block.part.acc, columns);
    // The next scores are computed between the probabilities and the product that reads them, so that nothing is read
    // right after it was written.
    const Step next = after(at);
    if (next.tile < end) multiply(next);
    if (!same_panel(packed_values, at)) {
      if (at.tile != packed_values.tile) touch_tile(a.v, a.v_stride, at.tile);
      pack_as_depth(take_tile(a.v, a.v_scale, a.v_stride, at.tile, block.key_head), s.values);
      packed_values = at;
    }
    const int64_t p_depth = product_depth(typed, diagonal ? min_of(n, seen + (block.count - 1) * block.step) : n);
    const bool accumulate = at.tile > block.first_tile && at.tile % kSegment;
    for (int64_t c = 0; c < a.D; c += kTile)
      panel_product(product_rows(typed, block.count), p_depth, s.p, kTile, s.values + c * kTile, block.part.acc + c,
                    columns, accumulate);
    const bool segment_ends = ends || (at.tile + 1) % kSegment == 0;
    if (segment_ends && split)
      put_part(a, plan, b, piece.segment, block);
    else if (segment_ends)
      fold_part(block, columns);
    if (ends && !split) finish_block(a, block, keys);
    at = next;
  }
  if (split) {  // the last piece to finish folds all segments
    int32_t* left = static_cast<int32_t*>(a.workspace) + b * plan.head_groups + piece.head_group;
    if (__atomic_sub_fetch(left, 1, __ATOMIC_ACQ_REL) > 0) return;
  }
  for (int64_t i = 0; i < blocks; ++i) {
    QueryBlock<T>& block = s.blocks[i];
    if (!split && block.tiles > 0) continue;  // finished above
    for (int64_t segment = block.first_tile / kSegment; segment < ceil_div(block.tiles, kSegment); ++segment) {
      take_part(a, plan, b, segment, block);
      fold_part(block, columns);
    }
    finish_block(a, block, keys);
  }
}

// Returns the number of workers for pieces that multiply `work` pairs of numbers in total: one if waking the pool would
// cost more.
static int64_t attention_workers(int64_t pieces, double work) {
  constexpr double kWorthWaking = 1 << 19;
  return work < kWorthWaking ? 1 : max_of(1, min_of(pieces, num_threads()));
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
  // Based on S, not on the current lengths: a recorded call is replayed with other lengths.
  const ForwardPlan plan(a, a.S);
  const double work = static_cast<double>(a.B * a.S) * static_cast<double>(a.H * a.T * a.D);
  return static_cast<size_t>(plan.shared + plan.slot * attention_workers(plan.pieces, work));
}

static void attention_forward(const AttentionArgs& a) {
  int64_t longest = a.lengths ? 0 : a.S;
  for (int64_t b = 0; a.lengths && b < a.B; ++b) longest = max_of(longest, min_of(a.lengths[b], a.S));
  const ForwardPlan plan(a, longest);
  const int64_t room = max_of(1, (static_cast<int64_t>(a.workspace_bytes) - plan.shared) / plan.slot);
  const int64_t workers = min_of(room, attention_workers(plan.pieces, attention_work(a)));
  if (plan.segments > 1)
    for (int64_t i = 0; i < a.B * plan.head_groups; ++i)
      static_cast<int32_t*>(a.workspace)[i] = static_cast<int32_t>(plan.segments);
  parallel_workers(plan.pieces, workers, [&](int64_t worker, int64_t piece) {
    char* scratch = static_cast<char*>(a.workspace) + plan.shared + worker * plan.slot;
    if (a.dtype == DType::kF32)
      forward_piece<float>(a, plan, piece, scratch);
    else
      forward_piece<bf16>(a, plan, piece, scratch);
  });
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
