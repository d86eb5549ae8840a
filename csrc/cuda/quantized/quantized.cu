// Products with quantized weights: activations become int8 in blocks of 32 columns; a block's products are summed
// exactly, in integers, and blocks are added in float32. With few rows the weight is streamed (gemv.cuh); more rows go
// to tensor cores (tiles.cuh). Both add blocks in the same order: a row's result does not depend on M.
#include "cuda/quantized/gemv.cuh"
#include "cuda/quantized/quantized.cuh"
#include "cuda/quantized/tiles.cuh"
#include "cuda/rows.cuh"

namespace llmcore {
namespace cuda {
namespace {

// ---- activations ----------------------------------------------------------------------------------
constexpr int kQuantizeThreads = 256, kGroup = 8;  // kGroup: lanes per block of 32 columns, four columns each

template <class T>
__device__ __forceinline__ Floats<4> load_columns(const T* x, bool aligned) {
  if (aligned) return load<4>(x);
  Floats<4> y;
#pragma unroll
  for (int i = 0; i < 4; ++i) y.v[i] = as_float(x[i]);
  return y;
}

// Reduces over the lanes of a group.
__device__ __forceinline__ float group_max(float x) {
#pragma unroll
  for (int step = kGroup / 2; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// Rounds a lane's four numbers of a block. All lanes of a warp take part; `out` is null for lanes without a block.
__device__ __forceinline__ void quantize_columns(const Floats<4>& x, ActivationBlock* out) {
  const int lane = threadIdx.x % kGroup;
  float most = 0.0f;
  bool odd = false;  // some number is NaN or infinite
#pragma unroll
  for (float v : x.v) most = fmaxf(most, fabsf(v)), odd = odd || !(fabsf(v) < INFINITY);
  const float largest = group_max(most);
  const bool finite = group_max(odd ? 1.0f : 0.0f) == 0.0f;
  const bool usable = finite && largest > 1e-35f;  // smaller magnitudes have no inverse
  const float scale = usable ? __fdiv_rn(largest, 127.0f) : 0.0f, inverse = usable ? __fdiv_rn(127.0f, largest) : 0.0f;
  uint32_t word = 0;
  int sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Round to nearest even by adding a number at which adjacent floats are one integer apart.
    const float shifted = __fadd_rn(fminf(fmaxf(__fmul_rn(x.v[i], inverse), -127.0f), 127.0f), 12582912.0f);
    const int q = usable ? __float_as_int(shifted) - 0x4b400000 : 0;
    word |= (static_cast<uint32_t>(q) & 0xffu) << (8 * i);
    sum += q;
  }
#pragma unroll
  for (int step = kGroup / 4; step; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  const int other = __shfl_xor_sync(kAllLanes, sum, kGroup / 2);
  const int low = lane < kGroup / 2 ? sum : other, high = lane < kGroup / 2 ? other : sum;
  if (!out) return;
  // Each lane stores a word of q and one of the rest.
  reinterpret_cast<uint32_t*>(out->q)[lane] = word;
  const int total = low + high;
  if (lane == 0) out->scale = finite ? scale : NAN;
  if (lane == 1) out->total = total;
  if (lane == 2) out->sums[0] = low;
  if (lane == 3) out->sums[1] = high;
  if (lane == 4) out->scaled_total = __fmul_rn(scale, static_cast<float>(total));
  if (lane == 5) out->scaled[0] = __fmul_rn(scale, static_cast<float>(low));
  if (lane == 6) out->scaled[1] = __fmul_rn(scale, static_cast<float>(high));
}

// silu(gate) * up and gelu(gate) * up, as in elementwise.cu.
template <ActivationSource kSource>
__device__ __forceinline__ float gated(float gate, float up) {
  constexpr float kLinear = 2.0f * 0.7978845608f, kCubic = kLinear * 0.044715f;
  if (kSource == ActivationSource::kSwiglu) return times_sigmoid(gate, gate) * up;
  return times_sigmoid(gate, gate * fmaf(gate * gate, kCubic, kLinear)) * up;
}

// x (M,K), or [gate, up] (M,2K); out (M,K/32).
template <class T, ActivationSource kSource>
__global__ void __launch_bounds__(kQuantizeThreads) quantize_kernel(QuantizeActivationsArgs a, bool aligned) {
  constexpr bool kGated = kSource != ActivationSource::kRows;
  const int64_t blocks = a.K / kQuantBlock, groups = a.M * blocks;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kQuantizeThreads / kGroup);
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kQuantizeThreads + threadIdx.x) / kWarp * (kWarp / kGroup);
  for (int64_t first = warp; first < groups; first += step) {
    const int64_t group = first + threadIdx.x % kWarp / kGroup;
    const bool there = group < groups;
    Floats<4> x{};
    ActivationBlock* out = nullptr;
    if (there) {
      const Split at = split(group, blocks);
      const int64_t column = at.at * kQuantBlock + threadIdx.x % kGroup * 4;
      const T* from = static_cast<const T*>(a.x) + at.row * (kGated ? 2 * a.K : a.K) + column;
      x = load_columns(from, aligned);
      if constexpr (kGated) {
        const Floats<4> up = load_columns(from + a.K, aligned);
#pragma unroll
        for (int i = 0; i < 4; ++i) x.v[i] = gated<kSource>(x.v[i], up.v[i]);
      }
      out = a.out + at.row * a.ld + at.at;
    }
    quantize_columns(x, out);
  }
}

// x (M,K), norm_weight (K), out (M,K/32). One block per row, with as many threads as a row has in norm.cu, so that its
// float32 sum has the same bits as in rms_norm.
constexpr int kMostNormThreads = kMostRowWarps * kWarp;
template <class T>
__global__ void __launch_bounds__(kMostNormThreads) quantize_norm_kernel(QuantizeActivationsArgs a, bool aligned) {
  __shared__ float shared[kWarp];
  const int wide = 4 * static_cast<int>(blockDim.x);
  const int64_t mine = 4 * static_cast<int64_t>(threadIdx.x);
  for (int64_t m = blockIdx.x; m < a.M; m += gridDim.x) {
    const T* row = static_cast<const T*>(a.x) + m * a.K;
    float squares = 0.0f;
    for (int64_t i = mine; i < a.K; i += wide) {
      const Floats<4> x = load_columns(row + i, aligned);
#pragma unroll
      for (float v : x.v) squares = fmaf(v, v, squares);
    }
    squares = block_sum(squares, shared);
    const float rstd = 1.0f / sqrtf(squares / static_cast<float>(a.K) + a.eps);
    for (int64_t start = 0; start < a.K; start += wide) {
      const int64_t i = start + mine;
      Floats<4> x{};
      if (i < a.K) {
        x = load_columns(row + i, aligned);
        const Floats<4> weight = load_columns(a.norm_weight + i, aligned);
#pragma unroll
        for (int c = 0; c < 4; ++c) x.v[c] = x.v[c] * rstd * weight.v[c];
      }
      quantize_columns(x, i < a.K ? a.out + m * a.ld + i / kQuantBlock : nullptr);
    }
  }
}

template <class T>
void quantize_typed(const QuantizeActivationsArgs& a) {
  constexpr const char* kOp = "quantized_linear";
  const bool aligned = reinterpret_cast<uintptr_t>(a.x) % (4 * sizeof(T)) == 0 &&
                       (!a.norm_weight || reinterpret_cast<uintptr_t>(a.norm_weight) % 16 == 0);
  if (a.source == ActivationSource::kRmsNorm) {
    int threads = kMostNormThreads;
    with_row_elements<4>(a.K,
                         [&](auto elements) { threads = row_groups(a.K, decltype(elements)::value).warps * kWarp; });
    return launch(kOp, quantize_norm_kernel<T>, blocks_for(a.M, 1), threads, 0, a, aligned);
  }
  const unsigned blocks = blocks_for(a.M * (a.K / kQuantBlock), kQuantizeThreads / kGroup);
  switch (a.source) {
    case ActivationSource::kSwiglu:
      return launch(kOp, quantize_kernel<T, ActivationSource::kSwiglu>, blocks, kQuantizeThreads, 0, a, aligned);
    case ActivationSource::kGeglu:
      return launch(kOp, quantize_kernel<T, ActivationSource::kGeglu>, blocks, kQuantizeThreads, 0, a, aligned);
    default:
      return launch(kOp, quantize_kernel<T, ActivationSource::kRows>, blocks, kQuantizeThreads, 0, a, aligned);
  }
}
void quantize_activations(const QuantizeActivationsArgs& a) {
  with_float(a.dtype, [&](auto t) { quantize_typed<decltype(t)>(a); });
}

// ---- products -------------------------------------------------------------------------------------
template <class Kind, int kRows>
void gemv(const QuantizedGemmArgs& a, const QuantBytes& bytes) {
  launch("quantized_linear", quantized_gemv_kernel<Kind, kRows>, ceil_div(a.N, kStripRows), kSlices * kWarp, 0, a,
         bytes);
}
template <class Kind, int kStrips, int kTiles, int kStages>
void tiles(const QuantizedGemmArgs& a, const QuantBytes& bytes) {
  const unsigned rows = ceil_div(a.M, 8 * kTiles), strips = ceil_div(a.N, kStripRows * kStrips);
  launch("quantized_linear", quantized_tiles_kernel<Kind, kStrips, kTiles, kStages>, rows * strips, kSlices * kWarp,
         tiles_shared_bytes<kStrips, kTiles, kStages>(bytes), a, bytes, static_cast<int>(rows));
}

void quantized_gemm(const QuantizedGemmArgs& a) {
  if (a.M == 0 || a.N == 0) return;
  const QuantBytes bytes = quant_bytes(a.layout, a.K);
  with_kind(a.layout, [&](auto kind) {
    using Kind = decltype(kind);
    if (a.M == 1) return gemv<Kind, 1>(a, bytes);
    if (a.M == 2) return gemv<Kind, 2>(a, bytes);
    if (a.M <= 4) return gemv<Kind, 4>(a, bytes);
    // Few rows are bound by reading the weight: many stages, and small tiles, so that there are blocks for all
    // processors.
    if (a.M <= 8) return tiles<Kind, 2, 1, 4>(a, bytes);
    if (a.M <= 16) return tiles<Kind, 2, 2, 4>(a, bytes);
    if (a.M <= 32) return tiles<Kind, 2, 4, 3>(a, bytes);
    return tiles<Kind, 4, 4, 2>(a, bytes);
  });
}

// ---- rows -----------------------------------------------------------------------------------------
// ids (M), out (M,K); a thread has four columns: a word of the weight, or half of each of its bytes.
template <class O>
__global__ void __launch_bounds__(256) dequantize_kernel(DequantizeRowsArgs a, QuantBytes bytes, bool aligned) {
  const QuantLayout& l = a.layout;
  const int64_t words = a.K / 4, items = a.M * words;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < items;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const Split at = split(i, words);
    const int id = a.ids[at.row], lane = id % static_cast<int>(kStripRows), word = static_cast<int>(at.at % 8);
    const uint8_t* block = a.weight + id / kStripRows * bytes.strip + at.at / 8 * bytes.block;
    const uint32_t* q = reinterpret_cast<const uint32_t*>(block + bytes.factor * (l.minima ? 2 : 1));
    uint32_t four = __ldg(q + (l.bits == 8 ? word : word % 4) * kStripRows + lane);
    if (l.bits == 4) four = four >> (word < 4 ? 0 : 4) & 0x0f0f0f0fu;
    const int factor = (l.halves == 2 && word >= 4 ? static_cast<int>(kStripRows) : 0) + lane;
    const float scale = quant_factor(block, factor, bytes.wide);
    const float least = l.minima ? quant_factor(block + bytes.factor, factor, bytes.wide) : 0.0f;
    Floats<4> y;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      y.v[c] = __fmul_rn(scale, static_cast<float>(static_cast<int>(four >> (8 * c) & 0xffu) - l.zero));
      if (l.minima) y.v[c] = __fadd_rn(y.v[c], least);
    }
    O* out = static_cast<O*>(a.out) + 4 * i;
    if (aligned) {
      store(out, y);
    } else {
#pragma unroll
      for (int c = 0; c < 4; ++c) out[c] = rounded<O>(y.v[c]);
    }
  }
}

void dequantize_rows(const DequantizeRowsArgs& a) {
  with_float(a.out_dtype, [&](auto t) {
    using O = decltype(t);
    launch("quantized_rows", dequantize_kernel<O>, blocks_for(a.M * a.K / 4, 256), 256, 0, a,
           quant_bytes(a.layout, a.K), reinterpret_cast<uintptr_t>(a.out) % (4 * sizeof(O)) == 0);
  });
}

}  // namespace

void register_quantized(KernelTable& t) {
  t.quantize_activations = quantize_activations;
  t.quantized_gemm = quantized_gemm;
  t.dequantize_rows = dequantize_rows;
}

}  // namespace cuda
}  // namespace llmcore
