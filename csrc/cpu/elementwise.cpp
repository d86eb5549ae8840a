// Elementwise functions and their derivatives, and sums over rows (gradients of biases).
#include "cpu/activations.h"
#include "cpu/families.h"
#include "cpu/lanes.h"

namespace llmcore {
namespace LLMCORE_ISA {

// x Φ(x). Φ by formula 7.1.26 of Abramowitz & Stegun for erf, within 1.5e-7.
struct GeluExact {
  static vf normal_cdf(vf x, vf density) {  // density: exp(-x^2 / 2)
    const vf t = 1.0f / fma(abs(x), splat(0.3275911f * 0.70710678f), splat(1.0f));
    vf p = fma(splat(1.061405429f), t, splat(-1.453152027f));
    p = fma(p, t, splat(1.421413741f));
    p = fma(p, t, splat(-0.284496736f));
    p = fma(p, t, splat(0.254829592f));
    const vf tail = 0.5f * p * t * density;
    return select(x < 0.0f, tail, 1.0f - tail);
  }
  static vf density(vf x) {
    const vf z = max(splat(-13.0f), min(splat(13.0f), x));  // beyond this the density is 0 in float32
    return exp(-0.5f * z * z);
  }
  static vf value(vf x) { return x * normal_cdf(x, density(x)); }
  static vf derivative(vf x) {
    const vf d = density(x), z = max(splat(-13.0f), min(splat(13.0f), x));
    return fma(z * 0.3989422804f, d, normal_cdf(x, d));
  }
};

struct Exp {
  static vf value(vf x) { return exp(x); }
};
struct Log {
  static vf value(vf x) { return log(x); }
};
struct LogOneMinus {
  static vf value(vf x) { return log_one_minus(x); }
};
struct Sigmoid {
  static vf value(vf x) { return sigmoid(x); }
};

template <class Op, class T>
static void unary_typed(const UnaryArgs& a) {
  parallel_ranges(a.n, kGrain, [&](int64_t begin, int64_t end) {
    const T* x = static_cast<const T*>(a.x) + begin;
    T* out = static_cast<T*>(a.out) + begin;
    for_lanes<2>(end - begin,
                 [&](int64_t i, auto lanes, int) { store_n(out + i, Op::value(load_n(x + i, lanes)), lanes); });
  });
}
template <class Op>
static void unary(const UnaryArgs& a) {
  a.dtype == DType::kBF16 ? unary_typed<Op, bf16>(a) : unary_typed<Op, float>(a);
}

template <class Op, class T>
static void unary_backward_typed(const UnaryBackwardArgs& a) {
  parallel_ranges(a.n, kGrain, [&](int64_t begin, int64_t end) {
    const T* x = static_cast<const T*>(a.x) + begin;
    const T* dout = static_cast<const T*>(a.dout) + begin;
    T* dx = static_cast<T*>(a.dx) + begin;
    for_lanes<2>(end - begin, [&](int64_t i, auto lanes, int) {
      store_n(dx + i, load_n(dout + i, lanes) * Op::derivative(load_n(x + i, lanes)), lanes);
    });
  });
}
template <class Op>
static void unary_backward(const UnaryBackwardArgs& a) {
  a.dtype == DType::kBF16 ? unary_backward_typed<Op, bf16>(a) : unary_backward_typed<Op, float>(a);
}

struct Add {
  static vf value(vf a, vf b) { return a + b; }
};
struct Mul {
  static vf value(vf a, vf b) { return a * b; }
};

template <class Op, class T>
static void binary_typed(const BinaryArgs& a) {
  parallel_ranges(a.n, kGrain, [&](int64_t begin, int64_t end) {
    const T* p = static_cast<const T*>(a.a) + begin;
    const T* q = static_cast<const T*>(a.b) + begin;
    T* out = static_cast<T*>(a.out) + begin;
    for_lanes<4>(end - begin, [&](int64_t i, auto lanes, int) {
      store_n(out + i, Op::value(load_n(p + i, lanes), load_n(q + i, lanes)), lanes);
    });
  });
}
template <class Op>
static void binary(const BinaryArgs& a) {
  a.dtype == DType::kBF16 ? binary_typed<Op, bf16>(a) : binary_typed<Op, float>(a);
}

template <class T>
static void scale_typed(const ScaleArgs& a) {
  const float factor = a.factor;
  parallel_ranges(a.n, kGrain, [&](int64_t begin, int64_t end) {
    const T* x = static_cast<const T*>(a.x) + begin;
    T* out = static_cast<T*>(a.out) + begin;
    for_lanes<4>(end - begin,
                 [&](int64_t i, auto lanes, int) { store_n(out + i, load_n(x + i, lanes) * factor, lanes); });
  });
}
static void scale(const ScaleArgs& a) { a.dtype == DType::kBF16 ? scale_typed<bf16>(a) : scale_typed<float>(a); }

// Conversions are exact to the bit, subnormal numbers included: weights pass through here.
static void cast(const CastArgs& a) {
  if (a.x_dtype == a.out_dtype) {
    memcpy(a.out, a.x, static_cast<size_t>(a.n) * size_of(a.x_dtype));
    return;
  }
  parallel_ranges(a.n, kGrain, [&](int64_t begin, int64_t end) {
    if (a.x_dtype == DType::kBF16) {
      const bf16* x = static_cast<const bf16*>(a.x) + begin;
      float* out = static_cast<float*>(a.out) + begin;
      for_lanes<4>(end - begin, [&](int64_t i, auto lanes, int) { store_n(out + i, load_n(x + i, lanes), lanes); });
      return;
    }
    const float* x = static_cast<const float*>(a.x) + begin;
    bf16* out = static_cast<bf16*>(a.out) + begin;
    int64_t i = 0, n = end - begin;
    for (; i + kW <= n; i += kW) {
      const vh h = to_half_exact(load(x + i));
      memcpy(out + i, &h, sizeof h);
    }
    for (; i < n; ++i) out[i] = to_bf16(x[i]);
  });
}

template <class T>
static void softcap_typed(const SoftcapArgs& a) {
  const vf cap = splat(a.cap), inverse = splat(1.0f / a.cap);
  parallel_ranges(a.n, kGrain, [&](int64_t begin, int64_t end) {
    const T *x = static_cast<const T*>(a.x) + begin, *dout = static_cast<const T*>(a.dout);
    T* out = static_cast<T*>(a.out) + begin;
    for_lanes<2>(end - begin, [&](int64_t i, auto lanes, int) {
      const vf t = tanh(load_n(x + i, lanes) * inverse);
      store_n(out + i, dout ? load_n(dout + begin + i, lanes) * fma(-t, t, splat(1.0f)) : cap * t, lanes);
    });
  });
}
static void softcap(const SoftcapArgs& a) {
  a.dtype == DType::kBF16 ? softcap_typed<bf16>(a) : softcap_typed<float>(a);
}

// Op(gate) * up
template <class Op, class T>
static void gated_typed(const GatedArgs& a) {
  parallel_ranges(a.M, row_grain(a.F), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const T* gate = static_cast<const T*>(a.x) + m * 2 * a.F;
      const T* up = gate + a.F;
      T* out = static_cast<T*>(a.out) + m * a.F;
      for_lanes<2>(a.F, [&](int64_t i, auto lanes, int) {
        store_n(out + i, Op::value(load_n(gate + i, lanes)) * load_n(up + i, lanes), lanes);
      });
    }
  });
}
template <class Op>
static void gated(const GatedArgs& a) {
  a.dtype == DType::kBF16 ? gated_typed<Op, bf16>(a) : gated_typed<Op, float>(a);
}

template <class Op, class T>
static void gated_backward_typed(const GatedBackwardArgs& a) {
  parallel_ranges(a.M, row_grain(a.F), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const T* gate = static_cast<const T*>(a.x) + m * 2 * a.F;
      const T* up = gate + a.F;
      const T* dout = static_cast<const T*>(a.dout) + m * a.F;
      T* dgate = static_cast<T*>(a.dx) + m * 2 * a.F;
      T* dup = dgate + a.F;
      for_lanes<2>(a.F, [&](int64_t i, auto lanes, int) {
        const vf g = load_n(gate + i, lanes), d = load_n(dout + i, lanes);
        store_n(dgate + i, d * load_n(up + i, lanes) * Op::derivative(g), lanes);
        store_n(dup + i, d * Op::value(g), lanes);
      });
    }
  });
}
template <class Op>
static void gated_backward(const GatedBackwardArgs& a) {
  a.dtype == DType::kBF16 ? gated_backward_typed<Op, bf16>(a) : gated_backward_typed<Op, float>(a);
}

// Rows are cut into up to kSumPieces fixed pieces. Each adds its rows eight at a time (whole cache lines, in memory
// order) to a partial sum on the caller's stack, and the partial sums are added in order. Wide matrices are processed
// in column groups.
constexpr int64_t kSumPieces = 16, kSumColumns = 1024, kSumRows = 8;

template <class T>
static void column_sum_typed(const ColumnSumArgs& a) {
  const int64_t even = ceil_div(a.M, kSumPieces), least = 2 * kSumRows;
  const int64_t rows = even > least ? even : least, pieces = ceil_div(a.M, rows);
  float partial[kSumPieces][kSumColumns];
  for (int64_t start = 0; start < a.N; start += kSumColumns) {
    const int64_t columns = a.N - start < kSumColumns ? a.N - start : kSumColumns;
    parallel(pieces, [&](int64_t piece) {
      float* total = partial[piece];
      memset(total, 0, static_cast<size_t>(columns) * sizeof(float));
      const int64_t end = (piece + 1) * rows < a.M ? (piece + 1) * rows : a.M;
      for (int64_t m = piece * rows; m < end; m += kSumRows) {
        const T* x = static_cast<const T*>(a.x) + m * a.ld + start;
        if (end - m >= kSumRows) {
          for_lanes(columns, [&](int64_t i, auto lanes, int) {
            vf s = load_n(x + i, lanes);
#pragma GCC unroll 8
            for (int64_t r = 1; r < kSumRows; ++r) s += load_n(x + r * a.ld + i, lanes);
            store_n(total + i, load_n(total + i, lanes) + s, lanes);
          });
          continue;
        }
        for (int64_t r = 0; r < end - m; ++r)
          for_lanes(columns, [&](int64_t i, auto lanes, int) {
            store_n(total + i, load_n(total + i, lanes) + load_n(x + r * a.ld + i, lanes), lanes);
          });
      }
    });
    for_lanes(columns, [&](int64_t i, auto lanes, int) {
      vf s = load_n(a.out + start + i, lanes);
      for (int64_t piece = 0; piece < pieces; ++piece) s += load_n(partial[piece] + i, lanes);
      store_n(a.out + start + i, s, lanes);
    });
  }
}
static void column_sum(const ColumnSumArgs& a) {
  a.dtype == DType::kBF16 ? column_sum_typed<bf16>(a) : column_sum_typed<float>(a);
}

void register_elementwise(KernelTable& t) {
  t.exp = unary<Exp>;
  t.log = unary<Log>;
  t.log_one_minus = unary<LogOneMinus>;
  t.sigmoid = unary<Sigmoid>;
  t.gelu_forward = unary<Gelu>;
  t.gelu_backward = unary_backward<Gelu>;
  t.silu_forward = unary<Silu>;
  t.silu_backward = unary_backward<Silu>;
  t.swiglu_forward = gated<Silu>;
  t.swiglu_backward = gated_backward<Silu>;
  t.gelu_exact_forward = unary<GeluExact>;
  t.gelu_exact_backward = unary_backward<GeluExact>;
  t.geglu_forward = gated<Gelu>;
  t.geglu_backward = gated_backward<Gelu>;
  t.softcap = softcap;
  t.add = binary<Add>;
  t.mul = binary<Mul>;
  t.scale = scale;
  t.cast = cast;
  t.column_sum = column_sum;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
