// Elementwise functions and their derivatives: one pass over memory each.
#include "cuda/column_sum.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kThreads = kItemThreads;

// ---- functions ------------------------------------------------------------------------------------

__device__ __forceinline__ float sigmoid(float x) { return times_sigmoid(1.0f, x); }
__device__ __forceinline__ float bounded(float x, float most) {  // NaN passes through, unlike with fminf
  return x < -most ? -most : x > most ? most : x;
}

struct Exp {
  __device__ __forceinline__ float operator()(float x) const { return x < -87.33654f ? 0.0f : expf(x); }
};
struct Log {
  __device__ __forceinline__ float operator()(float x) const { return logf(x); }
};
struct LogOneMinus {
  __device__ __forceinline__ float operator()(float x) const { return log1pf(-x); }
};
struct Sigmoid {
  __device__ __forceinline__ float operator()(float x) const { return sigmoid(x); }
};
struct Same {
  __device__ __forceinline__ float operator()(float x) const { return x; }
};
struct Scale {
  float factor;
  __device__ __forceinline__ float operator()(float x) const { return x * factor; }
};

// tanh-approximated GELU (Hendrycks & Gimpel 2016): x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
struct Gelu {
  static constexpr float kLinear = 2.0f * 0.7978845608f, kCubic = kLinear * 0.044715f;
  __device__ __forceinline__ float operator()(float x) const {
    return times_sigmoid(x, x * fmaf(x * x, kCubic, kLinear));
  }
  // The derivative, and the value. With s = sigmoid(2u): s + x s (1 - s) 2u'. Beyond |x| = 11 s is 0 or 1 in float32;
  // the bound keeps x^2 finite.
  static __device__ __forceinline__ float derivative(float x, float& value) {
    const float z = bounded(x, 11.0f), zz = z * z, s = sigmoid(z * fmaf(zz, kCubic, kLinear));
    value = x * s;
    return fmaf(z * s * (1.0f - s), fmaf(zz, 3.0f * kCubic, kLinear), s);
  }
};

// x Φ(x). Φ by formula 7.1.26 of Abramowitz & Stegun for erf, within 1.5e-7.
struct GeluExact {
  static __device__ __forceinline__ float normal_cdf(float x, float density) {  // density: exp(-x^2 / 2)
    const float t = __fdividef(1.0f, fmaf(fabsf(x), 0.3275911f * 0.70710678f, 1.0f));
    float p = fmaf(1.061405429f, t, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f);
    const float tail = 0.5f * p * t * density;
    return x < 0.0f ? tail : 1.0f - tail;
  }
  __device__ __forceinline__ float operator()(float x) const {
    float value;
    derivative(x, value);
    return value;
  }
  static __device__ __forceinline__ float derivative(float x, float& value) {
    const float z = bounded(x, 13.0f);  // beyond this the density is 0 in float32
    const float density = expf(-0.5f * z * z), cdf = normal_cdf(x, density);
    value = x * cdf;
    return fmaf(z * 0.3989422804f, density, cdf);
  }
};

struct Silu {
  __device__ __forceinline__ float operator()(float x) const { return times_sigmoid(x, x); }
  static __device__ __forceinline__ float derivative(float x, float& value) {
    const float s = sigmoid(x);
    value = x * s;
    return fmaf(value, 1.0f - s, s);
  }
};

struct Softcap {
  float cap, inverse;
  __device__ __forceinline__ float operator()(float x) const { return cap * tanhf(x * inverse); }
};

struct Add {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct Mul {
  __device__ __forceinline__ float operator()(float a, float b) const { return a * b; }
};
template <class Op>
struct Backward {  // of dout and x
  __device__ __forceinline__ float operator()(float dout, float x) const {
    float value;
    return dout * Op::derivative(x, value);
  }
};
struct SoftcapBackward {
  float inverse;
  __device__ __forceinline__ float operator()(float dout, float x) const {
    const float t = tanhf(x * inverse);
    return dout * fmaf(-t, t, 1.0f);
  }
};

// ---- out = f(x), out = f(a, b) --------------------------------------------------------------------

// A thread loads kCount elements of each operand at a time, kEach times: 32 bytes in flight.
template <int kCount>
constexpr int kEach = kCount == 1 ? 8 : 2;

// x, out (n), kCount elements at a time, and the remainder.
template <class F, class S, class O, int kCount>
__global__ void __launch_bounds__(kThreads) unary_kernel(F f, int64_t n, const S* x, O* out) {
  const int64_t vectors = n / kCount, first = first_item<kEach<kCount>>();
  Vec<S, kCount> from[kEach<kCount>];
#pragma unroll
  for (int j = 0; j < kEach<kCount>; ++j)
    if (const int64_t i = first + j * kThreads; i < vectors)
      from[j] = *reinterpret_cast<const Vec<S, kCount>*>(x + i * kCount);
#pragma unroll
  for (int j = 0; j < kEach<kCount>; ++j)
    if (const int64_t i = first + j * kThreads; i < vectors) {
      Floats<kCount> y = as_floats(from[j]);
#pragma unroll
      for (int c = 0; c < kCount; ++c) y.v[c] = f(y.v[c]);
      store(out + i * kCount, y);
    }
  if (kCount > 1 && blockIdx.x == 0 && threadIdx.x < n - vectors * kCount) {
    const int64_t i = vectors * kCount + threadIdx.x;
    out[i] = rounded<O>(f(as_float(x[i])));
  }
}

// a, b, out (n)
template <class F, class T, int kCount>
__global__ void __launch_bounds__(kThreads) binary_kernel(F f, int64_t n, const T* a, const T* b, T* out) {
  const int64_t vectors = n / kCount, first = first_item<kEach<kCount>>();
  Vec<T, kCount> left[kEach<kCount>], right[kEach<kCount>];
#pragma unroll
  for (int j = 0; j < kEach<kCount>; ++j)
    if (const int64_t i = first + j * kThreads; i < vectors) {
      left[j] = *reinterpret_cast<const Vec<T, kCount>*>(a + i * kCount);
      right[j] = *reinterpret_cast<const Vec<T, kCount>*>(b + i * kCount);
    }
#pragma unroll
  for (int j = 0; j < kEach<kCount>; ++j)
    if (const int64_t i = first + j * kThreads; i < vectors) {
      Floats<kCount> y;
#pragma unroll
      for (int c = 0; c < kCount; ++c) y.v[c] = f(as_float(left[j].v[c]), as_float(right[j].v[c]));
      store(out + i * kCount, y);
    }
  if (kCount > 1 && blockIdx.x == 0 && threadIdx.x < n - vectors * kCount) {
    const int64_t i = vectors * kCount + threadIdx.x;
    out[i] = rounded<T>(f(as_float(a[i]), as_float(b[i])));
  }
}

template <int kCount>
unsigned blocks_of_elements(int64_t n) {  // at least one, for the remainder
  const int64_t vectors = n / kCount;
  return n == 0 ? 0 : blocks_of_items<kEach<kCount>>(vectors > 1 ? vectors : 1);
}

template <class S, class O, class F>
void run_unary(const char* op, F f, int64_t n, const void* x, void* out) {
  constexpr int kCount = kVec<S> < kVec<O> ? kVec<S> : kVec<O>;
  const S* from = static_cast<const S*>(x);
  O* to = static_cast<O*>(out);
  if (aligned<float>(0, {x, out}))
    launch(op, unary_kernel<F, S, O, kCount>, blocks_of_elements<kCount>(n), kThreads, 0, f, n, from, to);
  else
    launch(op, unary_kernel<F, S, O, 1>, blocks_of_elements<1>(n), kThreads, 0, f, n, from, to);
}
template <class F>
void unary(const UnaryArgs& a) {
  with_float(a.dtype, [&](auto t) { run_unary<decltype(t), decltype(t)>("elementwise", F{}, a.n, a.x, a.out); });
}

template <class T, class F>
void run_binary(const char* op, F f, int64_t n, const void* a, const void* b, void* out) {
  const T *left = static_cast<const T*>(a), *right = static_cast<const T*>(b);
  T* to = static_cast<T*>(out);
  if (aligned<T>(0, {a, b, out}))
    launch(op, binary_kernel<F, T, kVec<T>>, blocks_of_elements<kVec<T>>(n), kThreads, 0, f, n, left, right, to);
  else
    launch(op, binary_kernel<F, T, 1>, blocks_of_elements<1>(n), kThreads, 0, f, n, left, right, to);
}
template <class F>
void binary(const BinaryArgs& a) {
  with_float(a.dtype, [&](auto t) { run_binary<decltype(t)>("elementwise", F{}, a.n, a.a, a.b, a.out); });
}
template <class Op>
void unary_backward(const UnaryBackwardArgs& a) {
  with_float(a.dtype, [&](auto t) { run_binary<decltype(t)>("elementwise", Backward<Op>{}, a.n, a.dout, a.x, a.dx); });
}

void scale(const ScaleArgs& a) {
  with_float(a.dtype, [&](auto t) { run_unary<decltype(t), decltype(t)>("scale", Scale{a.factor}, a.n, a.x, a.out); });
}

void softcap(const SoftcapArgs& a) {
  const float inverse = 1.0f / a.cap;
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    if (a.dout)
      run_binary<T>("softcap", SoftcapBackward{inverse}, a.n, a.dout, a.x, a.out);
    else
      run_unary<T, T>("softcap", Softcap{a.cap, inverse}, a.n, a.x, a.out);
  });
}

// Exact to the bit, subnormal numbers included: weights pass through here.
void cast(const CastArgs& a) {
  if (a.x_dtype == a.out_dtype) {
    const size_t bytes = static_cast<size_t>(a.n) * size_of(a.x_dtype);
    if (bytes) note("cast", cudaMemcpyAsync(a.out, a.x, bytes, cudaMemcpyDeviceToDevice, stream()));
  } else if (a.x_dtype == DType::kF32) {
    run_unary<float, bf16>("cast", Same{}, a.n, a.x, a.out);
  } else {
    run_unary<bf16, float>("cast", Same{}, a.n, a.x, a.out);
  }
}

// ---- gated ----------------------------------------------------------------------------------------

// x (M,2F) = [gate, up], out (M,F) = Op(gate) * up
template <class Op, class T, int kCount>
__global__ void __launch_bounds__(kThreads) gated_kernel(int64_t M, int64_t F, const T* x, T* out) {
  constexpr int kTimes = kEach<kCount>;
  const int64_t first = first_item<kTimes>(), columns = F / kCount;
  Vec<T, kCount> gate[kTimes], up[kTimes];
#pragma unroll
  for (int j = 0; j < kTimes; ++j)
    if (const int64_t i = first + j * kThreads; i < M * columns) {
      const Split s = split(i, columns);
      const T* from = x + s.row * 2 * F + s.at * kCount;
      gate[j] = *reinterpret_cast<const Vec<T, kCount>*>(from);
      up[j] = *reinterpret_cast<const Vec<T, kCount>*>(from + F);
    }
#pragma unroll
  for (int j = 0; j < kTimes; ++j)
    if (const int64_t i = first + j * kThreads; i < M * columns) {
      Floats<kCount> y;
#pragma unroll
      for (int c = 0; c < kCount; ++c) y.v[c] = Op{}(as_float(gate[j].v[c])) * as_float(up[j].v[c]);
      store(out + i * kCount, y);
    }
}

template <class Op>
void gated(const GatedArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    const T* x = static_cast<const T*>(a.x);
    T* out = static_cast<T*>(a.out);
    if (aligned<T>(a.F, {x, out}))
      launch("gated", gated_kernel<Op, T, kVec<T>>, blocks_of_items<kEach<kVec<T>>>(a.M * (a.F / kVec<T>)), kThreads, 0,
             a.M, a.F, x, out);
    else
      launch("gated", gated_kernel<Op, T, 1>, blocks_of_items<kEach<1>>(a.M * a.F), kThreads, 0, a.M, a.F, x, out);
  });
}

// dout (M,F), x (M,2F), dx (M,2F)
template <class Op, class T, int kCount>
__global__ void __launch_bounds__(kThreads)
    gated_backward_kernel(int64_t M, int64_t F, const T* dout, const T* x, T* dx) {
  constexpr int kTimes = kCount == 1 ? 4 : 1;  // three operands
  const int64_t first = first_item<kTimes>(), columns = F / kCount;
  Vec<T, kCount> gate[kTimes], up[kTimes], d[kTimes];
  int64_t at[kTimes];
#pragma unroll
  for (int j = 0; j < kTimes; ++j)
    if (const int64_t i = first + j * kThreads; i < M * columns) {
      const Split s = split(i, columns);
      at[j] = s.row * 2 * F + s.at * kCount;
      gate[j] = *reinterpret_cast<const Vec<T, kCount>*>(x + at[j]);
      up[j] = *reinterpret_cast<const Vec<T, kCount>*>(x + at[j] + F);
      d[j] = *reinterpret_cast<const Vec<T, kCount>*>(dout + i * kCount);
    }
#pragma unroll
  for (int j = 0; j < kTimes; ++j)
    if (const int64_t i = first + j * kThreads; i < M * columns) {
      Floats<kCount> dgate, dup;
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
        const float dy = as_float(d[j].v[c]);
        float value;
        dgate.v[c] = dy * as_float(up[j].v[c]) * Op::derivative(as_float(gate[j].v[c]), value);
        dup.v[c] = dy * value;
      }
      store(dx + at[j], dgate);
      store(dx + at[j] + F, dup);
    }
}

template <class Op>
void gated_backward(const GatedBackwardArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    const T *dout = static_cast<const T*>(a.dout), *x = static_cast<const T*>(a.x);
    T* dx = static_cast<T*>(a.dx);
    if (aligned<T>(a.F, {dout, x, dx}))
      launch("gated_backward", gated_backward_kernel<Op, T, kVec<T>>, blocks_of_items<1>(a.M * (a.F / kVec<T>)),
             kThreads, 0, a.M, a.F, dout, x, dx);
    else
      launch("gated_backward", gated_backward_kernel<Op, T, 1>, blocks_of_items<4>(a.M * a.F), kThreads, 0, a.M, a.F,
             dout, x, dx);
  });
}

}  // namespace

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

}  // namespace cuda
}  // namespace llmcore
