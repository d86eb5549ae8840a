// AdamW and the sums that gradient clipping needs: one pass over memory each.

// m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p -= lr (wd p + (m / c1) / (sqrt(v / c2) + eps)), for [begin, end)
static inline void adamw_range(const AdamWArgs& a, int64_t begin, int64_t end) {
  const float scale = a.grad_scale ? *a.grad_scale : 1.0f;
  const float step = a.lr / a.correction1, inverse_root = 1.0f / __builtin_sqrtf(a.correction2);
  const float keep = 1.0f - a.lr * a.weight_decay;
  for_lanes<2>(end - begin, [&](int64_t at, auto lanes, int) {
    const int64_t i = begin + at;
    const vf g = load_n(a.g + i, lanes) * scale;
    const vf m = fma(g, splat(1.0f - a.beta1), load_n(a.m + i, lanes) * a.beta1);
    const vf v = fma(g * g, splat(1.0f - a.beta2), load_n(a.v + i, lanes) * a.beta2);
    const vf update = m * step / fma(sqrt(v), splat(inverse_root), splat(a.eps));
    store_n(a.p + i, load_n(a.p + i, lanes) * keep - update, lanes);
    store_n(a.m + i, m, lanes);
    store_n(a.v + i, v, lanes);
  });
}

// Rows [row, row + 64) and columns [begin, end) of p, packed while they are in cache.
template <class T>
static void pack_updated(const PackArgs& g, int64_t row, int64_t begin, int64_t end) {
  const int64_t depth = panel_depth(g.K, g.dtype);
  T* panels = static_cast<T*>(g.panels);
  if (g.transposed) {
    const int64_t stop = end == g.K ? depth : end;
    for (int64_t k = begin; k < stop; k += kPackDepth)
      if (g.paired)  // whose halves hold a multiple of 32 rows each
        for (int64_t r = row; r < least(row + kPanelWidth, g.N); r += kPairedWidth)
          pack_half<float>(g, r, r >= g.N / 2, k, least(k + kPackDepth, stop), panels);
      else
        pack_rows<float>(g, row, g.N, kPanelWidth, k, least(k + kPackDepth, stop), panels + row * depth);
    return;
  }
  for (int64_t column = begin; column < end; column += kPanelWidth)
    pack_columns<float>(g, column, row, least(row + kPanelWidth, depth), panels + column * depth);
}

static void adamw(const AdamWArgs& a) {
  if (a.pack_count == 0)
    return parallel_ranges(a.n, kGrain, [&](int64_t begin, int64_t end) { adamw_range(a, begin, end); });
  constexpr int64_t kColumns = 16 * kPackDepth;  // whole rows as a rule: memory likes long streams
  const int64_t pieces = ceil_div(a.columns, kColumns);
  parallel(ceil_div(a.rows, kPanelWidth) * pieces, [&](int64_t piece) {
    const int64_t row = piece / pieces * kPanelWidth, begin = piece % pieces * kColumns;
    const int64_t end = least(begin + kColumns, a.columns);
    for (int64_t r = row; r < least(row + kPanelWidth, a.rows); ++r)
      adamw_range(a, r * a.columns + begin, r * a.columns + end);
    for (int64_t i = 0; i < a.pack_count; ++i)
      a.packs[i].dtype == DType::kBF16 ? pack_updated<bf16>(a.packs[i], row, begin, end)
                                       : pack_updated<float>(a.packs[i], row, begin, end);
  });
}

// Squares are taken in float64: no float32 value overflows or vanishes there.
static void sum_squares(const SumSquaresArgs& a) {
  typedef float half_vector __attribute__((vector_size(LLMCORE_VECTOR_BYTES / 2)));
  typedef double double_vector __attribute__((vector_size(LLMCORE_VECTOR_BYTES)));
  constexpr int kLanes = kW / 2, kUnroll = 8;
  parallel_ranges(a.n, kSumChunk, [&](int64_t begin, int64_t end) {
    double_vector s[kUnroll] = {};
    int64_t i = begin;
    for (; i + kUnroll * kLanes <= end; i += kUnroll * kLanes)
#pragma GCC unroll 8
      for (int u = 0; u < kUnroll; ++u) {
        half_vector x;
        memcpy(&x, a.x + i + u * kLanes, sizeof x);
        const double_vector d = __builtin_convertvector(x, double_vector);
        s[u] += d * d;
      }
    double total = 0.0;
    for (; i < end; ++i) total += static_cast<double>(a.x[i]) * static_cast<double>(a.x[i]);
    for (int u = 0; u < kUnroll; ++u)
      for (int lane = 0; lane < kLanes; ++lane) total += s[u][lane];
    a.partial[begin / kSumChunk] = total;
  });
}

static void register_optim(KernelTable& t) {
  t.adamw = adamw;
  t.sum_squares = sum_squares;
}
