// Updates of parameters and the sums that gradient clipping needs: one pass over memory each.
#include "cpu/families.h"
#include "cpu/gemm/pack.h"

namespace llmcore {
namespace LLMCORE_ISA {

constexpr int64_t kPackColumns = 4096;    // in a piece of work; usually whole rows: memory favours long streams
constexpr int64_t kStreamFrom = 1 << 18;  // elements: the panels of smaller weights may stay in cache until their use

// A rule returns the new value of element i of p and updates the optimizer state (m, v).

struct AdamWRule {  // Loshchilov & Hutter 2019
  explicit AdamWRule(const UpdateArgs& args)
      : a(args), step(args.lr / args.correction1), inverse_root(1.0f / __builtin_sqrtf(args.correction2)) {}
  // m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p - lr (wd p + (m / c1) / (sqrt(v / c2) + eps))
  template <class Lanes>
  inline vf operator()(vf p, vf g, int64_t i, Lanes lanes) const {
    const vf m = fma(g, splat(1.0f - a.beta1), load_n(a.m + i, lanes) * a.beta1);
    const vf v = fma(g * g, splat(1.0f - a.beta2), load_n(a.v + i, lanes) * a.beta2);
    store_n(a.m + i, m, lanes);
    store_n(a.v + i, v, lanes);
    return p - m * step / fma(sqrt(v), splat(inverse_root), splat(a.eps));
  }
  const UpdateArgs& a;
  const float step, inverse_root;
};

struct LionRule {  // Chen et al. 2023
  explicit LionRule(const UpdateArgs& args) : a(args) {}
  // p - lr (wd p + sign(b1 m + (1 - b1) g)); m = b2 m + (1 - b2) g
  template <class Lanes>
  inline vf operator()(vf p, vf g, int64_t i, Lanes lanes) const {
    const vf m = load_n(a.m + i, lanes), u = fma(g, splat(1.0f - a.beta1), m * a.beta1);
    store_n(a.m + i, fma(g, splat(1.0f - a.beta2), m * a.beta2), lanes);
    return p - select(u > 0.0f, splat(a.lr), select(u < 0.0f, splat(-a.lr), u * 0.0f));  // NaN stays NaN
  }
  const UpdateArgs& a;
};

struct SgdRule {
  explicit SgdRule(const UpdateArgs& args) : a(args) {}
  // p - lr (wd p + u): u = g; with momentum m = b1 m + g and u = m, or g + b1 m (Nesterov; Sutskever et al. 2013)
  template <class Lanes>
  inline vf operator()(vf p, vf g, int64_t i, Lanes lanes) const {
    if (!a.m) return p - g * a.lr;
    const vf m = fma(load_n(a.m + i, lanes), splat(a.beta1), g);
    store_n(a.m + i, m, lanes);
    return p - (a.nesterov ? fma(m, splat(a.beta1), g) : m) * a.lr;
  }
  const UpdateArgs& a;
};

// Updates n elements from `begin` on of kRows rows. If panels are to be packed, also writes the values to `half`, in
// rows of kPackColumns.
template <class Rule, int kRows>
static inline void update_rows(const UpdateArgs& a, int64_t begin, int64_t n, bf16* half) {
  const Rule rule(a);
  const float scale = a.grad_scale;
  const float keep = 1.0f - a.lr * a.weight_decay;
  const float* const streams[] = {a.p, a.g, a.m, a.v};
  for_lanes<2>(n, [&](int64_t at, auto lanes, int) {
    for (int64_t r = 0; r < kRows; ++r) {
      const int64_t i = begin + r * a.columns + at;
      if constexpr (kRows > 1)  // prefetch the next rows: packing these leaves memory idle
        for (const float* x : streams)
          if (x) __builtin_prefetch(x + i + kRows * a.columns, 0, 2);
      const vf p = rule(load_n(a.p + i, lanes) * keep, load_n(a.g + i, lanes) * scale, i, lanes);
      store_n(a.p + i, p, lanes);
      if (half) {
        const vh bits = to_half_exact(p);
        memcpy(half + r * kPackColumns + at, &bits, sizeof bits);
      }
    }
  });
}

// Packs rows [row, row + rows) and columns [begin, end) of g.src while they are in cache.
template <class S, class T, bool kStream>
static void pack_updated(const PackArgs& g, int64_t row, int64_t rows, int64_t begin, int64_t end) {
  const int64_t depth = panel_depth(g.K, g.dtype);
  T* panels = static_cast<T*>(g.panels);
  if (g.transposed) {
    const int64_t stop = end == g.K ? depth : end;
    T* panel =
        panels + row / kPanelWidth * kPanelWidth * depth + row % kPanelWidth * 4 / static_cast<int64_t>(sizeof(T));
    for (int64_t k = begin; k < stop; k += kPackDepth)
      if (g.paired)  // its halves hold whole groups of rows
        pack_half<S, kStream>(g, row, row >= g.N / 2, rows, k, min_of(k + kPackDepth, stop), panels);
      else
        pack_rows<S, kStream>(g, row, g.N, rows, k, min_of(k + kPackDepth, stop), panel);
    return;
  }
  for (int64_t column = begin; column < end; column += kPanelWidth)
    pack_columns<S, kStream>(g, column, row, min_of(row + rows, depth), panels + column * depth);
}

template <class Rule>
static void update(const UpdateArgs& a) {
  if (a.pack_count == 0)
    return parallel_ranges(a.n, kGrain,
                           [&](int64_t begin, int64_t end) { update_rows<Rule, 1>(a, begin, end - begin, nullptr); });
  const int64_t pieces = ceil_div(a.columns, kPackColumns);
  const bool stream = a.n >= kStreamFrom;
  parallel(ceil_div(a.rows, kPanelWidth) * pieces, [&](int64_t piece) {
    alignas(64) bf16 half[kWordGroup * kPackColumns];
    const int64_t first = piece / pieces * kPanelWidth, begin = piece % pieces * kPackColumns;
    const int64_t end = min_of(begin + kPackColumns, a.columns);
    // Sixteen rows fill the lines of a transposed panel, two rows those of the other kind.
    const auto pack_all = [&](bool transposed, int64_t row, int64_t rows) {
      for (int64_t i = 0; i < a.pack_count; ++i) {
        PackArgs g = a.packs[i];
        if (g.transposed != transposed) continue;
        if (g.dtype == DType::kF32) {
          stream ? pack_updated<float, float, true>(g, row, rows, begin, end)
                 : pack_updated<float, float, false>(g, row, rows, begin, end);
          continue;
        }
        // Returns the address at which the matrix would begin if `half` held all of it.
        const int64_t before = row / kWordGroup * kWordGroup * kPackColumns + begin;
        g.src = reinterpret_cast<const bf16*>(reinterpret_cast<uintptr_t>(half) - before * sizeof(bf16));
        g.ld = kPackColumns;
        stream ? pack_updated<bf16, bf16, true>(g, row, rows, begin, end)
               : pack_updated<bf16, bf16, false>(g, row, rows, begin, end);
      }
    };
    for (int64_t group = first; group < first + kPanelWidth; group += kWordGroup) {
      for (int64_t row = group; row < group + kWordGroup; row += 2) {
        bf16* values = half + (row - group) * kPackColumns;
        if (row + 1 < a.rows)
          update_rows<Rule, 2>(a, row * a.columns + begin, end - begin, values);
        else if (row < a.rows)
          update_rows<Rule, 1>(a, row * a.columns + begin, end - begin, values);
        pack_all(false, row, 2);
      }
      pack_all(true, group, kWordGroup);
    }
    end_stream();
  });
}

static void momentum(const MomentumArgs& a) {
  parallel_ranges(a.n, kGrain, [&](int64_t begin, int64_t end) {
    for_lanes<2>(end - begin, [&](int64_t at, auto lanes, int) {
      const int64_t i = begin + at;
      const vf g = load_n(a.g + i, lanes) * (a.scale * (1.0f - a.beta));
      const vf m = fma(load_n(a.m + i, lanes), splat(a.beta), g);
      store_n(a.m + i, m, lanes);
      store_n(a.u + i, a.nesterov ? fma(m, splat(a.beta), g) : m, lanes);
    });
  });
}

// Squares are computed in float64, where no float32 value overflows or underflows.
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

// Sequential: there are few row losses, and their order is the same everywhere.
static void sum(const SumArgs& a) {
  double total = 0.0;
  for (int64_t i = 0; i < a.n; ++i) total += static_cast<double>(a.x[i]);
  a.out[0] = static_cast<float>(total * a.factor);
}

static void divide_by_norm(const DivideByNormArgs& a) {
  double total = 0.0;
  for (int64_t i = 0; i < ceil_div(a.n, kSumChunk); ++i) total += a.partial[i];
  const double factor = total == 0.0 ? 0.0 : 1.0 / __builtin_sqrt(total);
  parallel_ranges(a.n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float y = static_cast<float>(a.x[i] * factor);
      if (a.out_dtype == DType::kBF16)
        static_cast<bf16*>(a.out)[i] = to_bf16(y);
      else
        static_cast<float*>(a.out)[i] = y;
    }
  });
}

template <class T>
static void add_diagonal(const AddDiagonalArgs& a, T* to) {
  parallel(a.n, [&](int64_t row) {
    const float* x = a.x + row * a.n;
    T* out = to + row * a.n;
    for_lanes<2>(a.n, [&](int64_t i, auto lanes, int) { store_n(out + i, load_n(x + i, lanes) * a.factor, lanes); });
    store_n(out + row, splat(x[row] * a.factor + a.diagonal), 1);
  });
}
static void add_diagonal(const AddDiagonalArgs& a) {
  if (a.out_dtype == DType::kBF16)
    add_diagonal(a, static_cast<bf16*>(a.out));
  else
    add_diagonal(a, static_cast<float*>(a.out));
}

void register_optim(KernelTable& t) {
  t.adamw = update<AdamWRule>;
  t.lion = update<LionRule>;
  t.sgd = update<SgdRule>;
  t.momentum = momentum;
  t.sum_squares = sum_squares;
  t.sum = sum;
  t.divide_by_norm = divide_by_norm;
  t.add_diagonal = add_diagonal;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
