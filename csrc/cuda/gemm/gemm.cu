// Matrix products and the copies of weights in the compute dtype that they read. cuBLASLt (blas.cu) handles products of
// many rows, with its epilogues if it has them; a missing epilogue is a pass over the product here. gemv.cuh handles
// products of few rows.
#include "cuda/gemm/blas.cuh"
#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/gemv.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kMostRowBlocks = 65535;  // gridDim.y

// ---- pack -----------------------------------------------------------------------------------------

// Copies src (R,C) with row stride ld to out (R,C) without gaps, kCount elements at a time.
template <class S, class T, int kCount>
__global__ void __launch_bounds__(kThreads) pack_kernel(const S* src, int64_t ld, int64_t R, int64_t C, T* out) {
  const int64_t stride = int64_t{gridDim.x} * kThreads * kCount;
  for (int64_t r = blockIdx.y; r < R; r += gridDim.y)
    for (int64_t c = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kCount; c < C; c += stride) {
      const Vec<S, kCount> x = *reinterpret_cast<const Vec<S, kCount>*>(src + r * ld + c);
      Vec<T, kCount> y;
#pragma unroll
      for (int i = 0; i < kCount; ++i) y.v[i] = rounded<T>(as_float(x.v[i]));
      put(out + r * C + c, y);
    }
}

template <class S, class T>
void convert(const S* src, int64_t ld, int64_t R, int64_t C, T* out) {
  if (ld == C || R == 1) C *= R, R = 1, ld = C;
  const bool wide = C % 4 == 0 && (R == 1 || ld % 4 == 0) && aligned<float>(0, {src, out});
  const dim3 grid(blocks_for(C, kThreads * (wide ? 4 : 1)),
                  static_cast<unsigned>(R < kMostRowBlocks ? R : kMostRowBlocks));
  if (wide)
    launch("pack", pack_kernel<S, T, 4>, grid, kThreads, 0, src, ld, R, C, out);
  else
    launch("pack", pack_kernel<S, T, 1>, grid, kThreads, 0, src, ld, R, C, out);
}

void pack(const PackArgs& g) {
  const int64_t R = g.transposed ? g.N : g.K, C = g.transposed ? g.K : g.N;
  if (g.src == g.panels && g.src_dtype == g.dtype) return;
  with_float(g.src_dtype, [&](auto s) {
    with_float(g.dtype, [&](auto t) {
      using S = decltype(s);
      using T = decltype(t);
      convert(static_cast<const S*>(g.src), g.ld, R, C, static_cast<T*>(g.panels));
    });
  });
}

// ---- gemm -----------------------------------------------------------------------------------------

// Finishes in place the product in e.out (M,N), or a product of zeros; kCount columns at a time.
template <class O, int kCount>
__global__ void __launch_bounds__(kThreads) epilogue_kernel(Epilogue<O> e, int64_t M, int64_t N, bool zeros) {
  const int64_t stride = int64_t{gridDim.x} * kThreads * kCount;
  for (int64_t m = blockIdx.y; m < M; m += gridDim.y)
    for (int64_t n = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kCount; n < N; n += stride) {
      const int64_t at = m * e.ldo + n;
      Vec<O, kCount> product{}, before, residual{};
      Vec<float, kCount> bias{};
      if (!zeros) product = *reinterpret_cast<const Vec<O, kCount>*>(e.out + at);
      if (e.residual) residual = *reinterpret_cast<const Vec<O, kCount>*>(e.residual + at);
      if (e.bias) bias = *reinterpret_cast<const Vec<float, kCount>*>(e.bias + n);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        float x = as_float(product.v[i]) + bias.v[i];
        before.v[i] = rounded<O>(x);
        if (e.gelu) x = gelu_of_sum(x);
        product.v[i] = rounded<O>(x + as_float(residual.v[i]));
      }
      if (e.pre_activation) put(e.pre_activation + at, before);
      put(e.out + at, product);
    }
}

void finish_product(const GemmArgs& g, bool zeros) {
  with_float(g.out_dtype, [&](auto o) {
    using O = decltype(o);
    const bool wide =
        g.N % 4 == 0 && g.ldo % 4 == 0 && aligned<float>(0, {g.out, g.bias, g.residual, g.pre_activation});
    const dim3 grid(ceil_div(g.N, kThreads * (wide ? 4 : 1)),
                    static_cast<unsigned>(g.M < kMostRowBlocks ? g.M : kMostRowBlocks));
    if (wide)
      launch("matmul", epilogue_kernel<O, 4>, grid, kThreads, 0, epilogue_of<O>(g), g.M, g.N, zeros);
    else
      launch("matmul", epilogue_kernel<O, 1>, grid, kThreads, 0, epilogue_of<O>(g), g.M, g.N, zeros);
  });
}

template <class O>
void launch_few_rows(const GemmArgs& g, const GemvArgs<bf16>& x) {
  // Uses two tiles per block if some multiprocessor gets two anyway: x is then read from the L2 cache half as often.
  if (g.N > int64_t{kGemvRows} * multiprocessors())
    launch("matmul", gemv_bf16_kernel<2, O>, ceil_div(g.N, 2 * kGemvRows), kGemvThreads, 0, x, epilogue_of<O>(g));
  else
    launch("matmul", gemv_bf16_kernel<1, O>, ceil_div(g.N, kGemvRows), kGemvThreads, 0, x, epilogue_of<O>(g));
}

template <class O>
void launch_few_rows(const GemmArgs& g, const GemvArgs<float>& x) {
  const auto kernel = g.M == 1   ? gemv_f32_kernel<1, O>
                      : g.M == 2 ? gemv_f32_kernel<2, O>
                      : g.M <= 4 ? gemv_f32_kernel<4, O>
                                 : gemv_f32_kernel<8, O>;
  launch("matmul", kernel, ceil_div(g.N, kGemvRows), kGemvThreads, 0, x, epilogue_of<O>(g));
}

// Whether gemv.cuh handles it. Up to 8 rows fill at most one tensor-core tile next to w, and the time is that of
// reading w; cuBLASLt would split K, with a second kernel, to keep all multiprocessors busy. From 9 rows on, its tiles
// of 16 or more rows make equally good use of the bytes.
bool few_rows(const GemmArgs& g) {
  const int64_t vector = g.dtype == DType::kBF16 ? kVec<bf16> : kVec<float>;
  return g.M <= kFewRows && g.panels_transposed && !g.a_transposed && g.K % vector == 0 &&
         (g.M == 1 || g.lda % vector == 0) && aligned<float>(0, {g.a, g.panels});
}

void gemm_few_rows(const GemmArgs& g) {
  with_float(g.dtype, [&](auto t) {
    using T = decltype(t);
    const GemvArgs<T> x{g.M, g.N, g.K, static_cast<const T*>(g.a), g.lda, static_cast<const T*>(g.panels)};
    if (g.out_dtype == DType::kF32)
      launch_few_rows<float>(g, x);
    else
      launch_few_rows<T>(g, x);
  });
}

// Uses cuBLASLt's epilogue if it has one. cuBLASLt requires bias and pre-activation in the dtype of out, GELU after all
// sums, and rows of the pre-activation that are multiples of 8 elements. Its GELU has an approximate tanh, accurate
// enough for bfloat16 only.
BlasResult gemm_fused(const GemmArgs& g, BlasProduct product) {
  const bool gelu = g.act == Activation::kGelu, half = g.out_dtype == DType::kBF16;
  if (gelu ? !half || g.residual : g.pre_activation != nullptr) return BlasResult::kUnsupported;
  if (g.pre_activation && g.ldo % 8 != 0) return BlasResult::kUnsupported;
  product.gelu = gelu, product.pre_activation = g.pre_activation;
  product.added = g.accumulate ? g.out : g.residual;
  product.bias = g.bias;
  return blas_product(product);
}

void gemm(const GemmArgs& g) {
  if (g.M == 0 || g.N == 0) return;
  if (g.K == 0) {
    if (!g.accumulate) finish_product(g, true);
    return;
  }
  if (few_rows(g)) return gemm_few_rows(g);
  BlasProduct product{};
  product.M = g.M, product.N = g.N, product.K = g.K;
  product.a = g.a, product.lda = g.lda, product.a_transposed = g.a_transposed;
  product.b = g.panels, product.b_transposed = g.panels_transposed, product.dtype = g.dtype;
  product.out = g.out, product.ldo = g.ldo, product.out_dtype = g.out_dtype;
  if (gemm_fused(g, product) != BlasResult::kUnsupported) return;
  // A residual other than out is added after the activation.
  const BlasResult plain = blas_product(product);
  if (plain == BlasResult::kDone) return finish_product(g, false);
  if (plain == BlasResult::kUnsupported) note("cuBLASLt has no kernel for a product with these strides");
}

}  // namespace

void round_bias(const float* bias, int64_t n, bf16* out) { convert(bias, n, 1, n, out); }

void register_gemm(KernelTable& t) {
  t.pack = pack;
  t.gemm = gemm;
}

}  // namespace cuda
}  // namespace llmcore
