// Updates of parameters and the sums that gradient clipping and losses need: one pass over memory each. One launch
// updates many parameters: the kernel's arguments contain a list of them.
#include <cmath>

#include "cuda/common.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostCopies = 4;                     // per parameter
constexpr int kMostParameters = 48;                // in one launch, whose arguments are limited to 4 KB
constexpr int64_t kBlockElements = kThreads * 16;  // elements of one parameter that a block updates

struct Parameter {
  int64_t n;
  float* p;
  const float* g;
  float* m;
  float* v;
  void* copies[kMostCopies];  // p in the dtypes that products read
  float keep;                 // factor for p: 1 - lr * weight_decay
  uint8_t copy_count, half;   // half: bit i is set if copies[i] is bfloat16
  bool aligned;
};

// A rule computes the new values of an element of p and of the optimizer state (m, v). p is already decayed and g
// scaled.

struct AdamWRule {  // Loshchilov & Hutter 2019
  static constexpr bool kHasV = true;
  explicit AdamWRule(const UpdateArgs& a)
      : beta1(a.beta1),
        beta2(a.beta2),
        eps(a.eps),
        step(a.lr / a.correction1),
        inverse_root(1.0f / std::sqrt(a.correction2)) {}
  // m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p - lr (wd p + (m / c1) / (sqrt(v / c2) + eps))
  __device__ __forceinline__ float operator()(float p, float g, float& m, float& v, bool) const {
    m = fmaf(g, 1.0f - beta1, m * beta1);
    v = fmaf(g * g, 1.0f - beta2, v * beta2);
    return p - m * step / fmaf(sqrtf(v), inverse_root, eps);
  }
  float beta1, beta2, eps, step, inverse_root;
};

struct LionRule {  // Chen et al. 2023
  static constexpr bool kHasV = false;
  explicit LionRule(const UpdateArgs& a) : beta1(a.beta1), beta2(a.beta2), lr(a.lr) {}
  // p - lr (wd p + sign(b1 m + (1 - b1) g)); m = b2 m + (1 - b2) g
  __device__ __forceinline__ float operator()(float p, float g, float& m, float&, bool) const {
    const float u = fmaf(g, 1.0f - beta1, m * beta1);
    m = fmaf(g, 1.0f - beta2, m * beta2);
    return p - (u > 0.0f ? lr : u < 0.0f ? -lr : u * 0.0f);  // NaN stays NaN
  }
  float beta1, beta2, lr;
};

struct SgdRule {
  static constexpr bool kHasV = false;
  explicit SgdRule(const UpdateArgs& a) : lr(a.lr), beta1(a.beta1), nesterov(a.nesterov) {}
  // p - lr (wd p + u): u = g; with momentum m = b1 m + g and u = m, or g + b1 m (Nesterov; Sutskever et al. 2013)
  __device__ __forceinline__ float operator()(float p, float g, float& m, float&, bool has_m) const {
    if (!has_m) return p - g * lr;
    m = fmaf(m, beta1, g);
    return p - (nesterov ? fmaf(m, beta1, g) : m) * lr;
  }
  float lr, beta1;
  bool nesterov;
};

template <class Rule>
struct Updates {  // the blocks of parameter i are [first[i], first[i + 1])
  Rule rule;
  float grad_scale;
  int count;
  unsigned first[kMostParameters + 1];
  Parameter parameters[kMostParameters];
};
static_assert(sizeof(Updates<AdamWRule>) <= 4096, "the arguments of a kernel");

// Updates elements i to i + kCount of a parameter.
template <int kCount, class Rule>
__device__ __forceinline__ void update(const Rule& rule, const Parameter& a, float grad_scale, int64_t i) {
  using Floats = Vec<float, kCount>;
  const auto load = [i](const float* x) { return *reinterpret_cast<const Floats*>(x + i); };
  const bool has_m = a.m != nullptr;
  Floats p = load(a.p), m{}, v{};
  const Floats g = load(a.g);
  if (has_m) m = load(a.m);
  if (Rule::kHasV) v = load(a.v);
#pragma unroll
  for (int j = 0; j < kCount; ++j) p.v[j] = rule(p.v[j] * a.keep, g.v[j] * grad_scale, m.v[j], v.v[j], has_m);
  put(a.p + i, p);
  if (has_m) put(a.m + i, m);
  if (Rule::kHasV) put(a.v + i, v);
  for (int c = 0; c < a.copy_count; ++c) {
    if (a.half >> c & 1) {
      Vec<bf16, kCount> rounded_p;
#pragma unroll
      for (int j = 0; j < kCount; ++j) rounded_p.v[j] = rounded<bf16>(p.v[j]);
      put(static_cast<bf16*>(a.copies[c]) + i, rounded_p);
    } else {
      put(static_cast<float*>(a.copies[c]) + i, p);
    }
  }
}

template <class Rule>
__global__ void __launch_bounds__(kThreads) update_kernel(const __grid_constant__ Updates<Rule> u) {
  int low = 0, high = u.count;  // first[low] <= block < first[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (u.first[middle] <= blockIdx.x ? low : high) = middle;
  }
  const Parameter& a = u.parameters[low];
  const int64_t begin = int64_t{blockIdx.x - u.first[low]} * kBlockElements;
  const int64_t end = begin + kBlockElements < a.n ? begin + kBlockElements : a.n;
  int64_t rest = begin;
  if (a.aligned) {
    for (int64_t i = begin + threadIdx.x * 4; i + 4 <= end; i += kThreads * 4) update<4>(u.rule, a, u.grad_scale, i);
    rest = end - end % 4;
  }
  for (int64_t i = rest + threadIdx.x; i < end; i += kThreads) update<1>(u.rule, a, u.grad_scale, i);
}

// Returns false if a parameter has more copies than there is room for.
bool describe(const UpdateArgs& a, Parameter& to) {
  to = {};
  to.n = a.n, to.p = a.p, to.g = a.g, to.m = a.m, to.v = a.v;
  to.keep = 1.0f - a.lr * a.weight_decay;
  for (int64_t i = 0; i < a.pack_count; ++i) {
    void* const panels = a.packs[i].panels;
    bool known = panels == a.p;  // a copy serves products with the matrix and with its transpose
    for (int c = 0; c < to.copy_count; ++c) known = known || to.copies[c] == panels;
    if (known) continue;
    if (to.copy_count == kMostCopies) return false;
    if (a.packs[i].dtype == DType::kBF16) to.half = static_cast<uint8_t>(to.half | 1u << to.copy_count);
    to.copies[to.copy_count++] = panels;
  }
  to.aligned = aligned<float>(0, {a.p, a.g, a.m, a.v, to.copies[0], to.copies[1], to.copies[2], to.copies[3]});
  return true;
}

bool same_step(const UpdateArgs& a, const UpdateArgs& b) {  // all but weight_decay, which each parameter has of its own
  return a.lr == b.lr && a.beta1 == b.beta1 && a.beta2 == b.beta2 && a.eps == b.eps && a.correction1 == b.correction1 &&
         a.correction2 == b.correction2 && a.nesterov == b.nesterov && a.grad_scale == b.grad_scale;
}

template <class Rule>
void update_all(const UpdateArgs* a, int64_t count) {
  for (int64_t i = 0; i < count;) {
    const UpdateArgs& step = a[i];
    Updates<Rule> u{Rule(step), step.grad_scale, 0, {}, {}};
    for (; i < count && u.count < kMostParameters && same_step(a[i], step); ++i) {
      if (a[i].n == 0) continue;
      if (!describe(a[i], u.parameters[u.count])) return note("[update] expected at most 4 copies of a parameter");
      u.first[u.count + 1] = u.first[u.count] + ceil_div(a[i].n, kBlockElements);
      ++u.count;
    }
    launch("update", update_kernel<Rule>, u.first[u.count], kThreads, 0, u);
  }
}

template <class Rule>
void update_one(const UpdateArgs& a) {
  update_all<Rule>(&a, 1);
}

void updates(UpdateRule rule, const UpdateArgs* a, int64_t count) {
  switch (rule) {
    case UpdateRule::kAdamW:
      return update_all<AdamWRule>(a, count);
    case UpdateRule::kLion:
      return update_all<LionRule>(a, count);
    case UpdateRule::kSgd:
      return update_all<SgdRule>(a, count);
  }
}

// ---- momentum -------------------------------------------------------------------------------------

template <int kCount>
__global__ void __launch_bounds__(kThreads) momentum_kernel(MomentumArgs a) {
  using Floats = Vec<float, kCount>;
  const float factor = a.scale * (1.0f - a.beta);
  const int64_t stride = int64_t{gridDim.x} * kThreads * kCount;
  for (int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kCount; i < a.n; i += stride) {
    const Floats g = *reinterpret_cast<const Floats*>(a.g + i);
    Floats m = *reinterpret_cast<const Floats*>(a.m + i), u;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const float part = g.v[j] * factor;
      m.v[j] = fmaf(m.v[j], a.beta, part);
      u.v[j] = a.nesterov ? fmaf(m.v[j], a.beta, part) : m.v[j];
    }
    put(a.m + i, m);
    put(a.u + i, u);
  }
}

void momentum(const MomentumArgs& a) {
  if (aligned<float>(a.n, {a.g, a.m, a.u}))
    launch("momentum", momentum_kernel<4>, blocks_for(a.n, kThreads * 4), kThreads, 0, a);
  else
    launch("momentum", momentum_kernel<1>, blocks_for(a.n, kThreads), kThreads, 0, a);
}

// ---- sums -----------------------------------------------------------------------------------------

// Sums f of the n elements of x in float64 with a block of kSize threads: each thread's elements in order, then the
// threads' sums. Every thread gets the result.
template <int kSize, class F>
__device__ __forceinline__ double block_total(const float* x, int64_t n, double* shared, F f) {
  constexpr int kParts = 4;  // loads in flight at a time, and independent sums
  double sums[kParts] = {};
  int64_t at = threadIdx.x;
  if (reinterpret_cast<uintptr_t>(x) % 16 == 0) {
    using Floats = Vec<float, 4>;
    int64_t i = threadIdx.x * 4;
    for (; i + (kParts - 1) * kSize * 4 + 4 <= n; i += kParts * kSize * 4) {
      Floats part[kParts];
#pragma unroll
      for (int k = 0; k < kParts; ++k) part[k] = *reinterpret_cast<const Floats*>(x + i + k * kSize * 4);
#pragma unroll
      for (int k = 0; k < kParts; ++k)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[k] = f(sums[k], static_cast<double>(part[k].v[j]));
    }
    for (; i + 4 <= n; i += kSize * 4) {
      const Floats part = *reinterpret_cast<const Floats*>(x + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[0] = f(sums[0], static_cast<double>(part.v[j]));
    }
    at += n - n % 4;
  }
  for (; at < n; at += kSize) sums[0] = f(sums[0], static_cast<double>(x[at]));
  return block_sum((sums[0] + sums[1]) + (sums[2] + sums[3]), shared);
}

__global__ void __launch_bounds__(kThreads) sum_squares_kernel(SumSquaresArgs a) {  // one block per piece
  __shared__ double shared[kWarp];
  const int64_t begin = int64_t{blockIdx.x} * kSumChunk, left = a.n - begin;
  // The square of a float is exact in float64: none overflows or underflows.
  const double total = block_total<kThreads>(a.x + begin, left < kSumChunk ? left : kSumChunk, shared,
                                             [](double sum, double x) { return sum + x * x; });
  if (threadIdx.x == 0) a.partial[blockIdx.x] = total;
}

void sum_squares(const SumSquaresArgs& a) {
  launch("sum_squares", sum_squares_kernel, ceil_div(a.n, kSumChunk), kThreads, 0, a);
}

constexpr int kSumThreads = 1024;

__global__ void __launch_bounds__(kSumThreads) sum_kernel(SumArgs a) {
  __shared__ double shared[kWarp];
  const double total = block_total<kSumThreads>(a.x, a.n, shared, [](double sum, double x) { return sum + x; });
  if (threadIdx.x == 0) a.out[0] = static_cast<float>(total * a.factor);
}

// One block suffices: it sums losses, one per token, not whole parameters.
void sum(const SumArgs& a) { launch("sum", sum_kernel, 1, kSumThreads, 0, a); }

}  // namespace

void register_optim(KernelTable& t) {
  t.updates = updates;
  t.adamw = update_one<AdamWRule>;
  t.lion = update_one<LionRule>;
  t.sgd = update_one<SgdRule>;
  t.momentum = momentum;
  t.sum_squares = sum_squares;
  t.sum = sum;
}

}  // namespace cuda
}  // namespace llmcore
