// Kinds of quantized weights and how their blocks are unpacked. core/kernels/quantized.h describes the layout.
#pragma once
#include "cuda/common.cuh"

namespace llmcore {
namespace cuda {
namespace {

// Layouts without minima have their zero in the middle, 128 or 8; those with minima have it at 0.
template <int kBitsOf, bool kTwoHalves, bool kWithMinima>
struct QuantKind {
  static constexpr int kBits = kBitsOf, kHalves = kTwoHalves ? 2 : 1;
  static constexpr bool kMinima = kWithMinima;
  static constexpr int kZero = kMinima ? 0 : kBits == 8 ? 128 : 8;
  static constexpr int kMostBlockBytes = 64 * kHalves * (1 + kMinima) + static_cast<int>(kStripRows) * 4 * kBits;
};

// Calls f(kind) for a layout.
template <int kBits, class F>
void with_bits(const QuantLayout& l, F f) {
  if (l.halves == 2)
    l.minima ? f(QuantKind<kBits, true, true>{}) : f(QuantKind<kBits, true, false>{});
  else
    l.minima ? f(QuantKind<kBits, false, true>{}) : f(QuantKind<kBits, false, false>{});
}
template <class F>
void with_kind(const QuantLayout& l, F f) {
  l.bits == 8 ? with_bits<8>(l, f) : with_bits<4>(l, f);
}

// The sizes of a strip's parts, in bytes.
struct QuantBytes {
  int factor, block;  // one kind of factor in a block; a whole block
  int64_t strip;
  bool wide;  // float32 factors
};
inline QuantBytes quant_bytes(const QuantLayout& l, int64_t K) {
  const int64_t block = quant_block_bytes(l);
  return {static_cast<int>(quant_factor_bytes(l)), static_cast<int>(block), K / kQuantBlock * block, l.float_scales};
}

// Returns factor `at` of a block's scales or minima. There is no branch, so that loads can be in flight together: of
// float16 factors it reads two.
__device__ __forceinline__ float quant_factor(const uint8_t* factors, int at, bool wide) {
  const uint32_t word = reinterpret_cast<const uint32_t*>(factors)[wide ? at : at / 2];
  const float half = half_to_float(static_cast<uint16_t>(at % 2 ? word >> 16 : word & 0xffffu));
  return wide ? __uint_as_float(word) : half;
}

// Returns four numbers q - zero (signed if there are no minima) of a word, from its low or its high bits if it has
// eight.
template <class Kind>
__device__ __forceinline__ uint32_t quant_numbers(uint32_t word, int high) {
  if constexpr (Kind::kBits == 8) return Kind::kMinima ? word : word ^ 0x80808080u;
  const uint32_t four = (word >> (4 * high)) & 0x0f0f0f0fu;
  return Kind::kMinima ? four : ((four | 0x80808080u) - 0x08080808u) ^ 0x80808080u;  // no byte borrows
}

// Adds a half's or a block's part to a sum, as on the CPU, whose results differ only in the order of blocks.
template <class Kind>
__device__ __forceinline__ float add_block(float sum, float scale, float x_scale, float dot, float minimum,
                                           float total) {
  sum = fmaf(__fmul_rn(scale, x_scale), dot, sum);
  return Kind::kMinima ? fmaf(minimum, total, sum) : sum;
}

// ---- the end of a product -------------------------------------------------------------------------
constexpr int kSlices = 8;  // warps per block: slice s sums blocks s, s + 8, ... in order, for any M

__device__ __forceinline__ void store_product(const QuantizedGemmArgs& a, int64_t row, int64_t column, float y) {
  const int64_t at = row * a.ldo + column;
  if (a.bias) y += a.bias[column];
  if (a.out_dtype == DType::kBF16) {
    if (a.residual) y += as_float(static_cast<const bf16*>(a.residual)[at]);
    static_cast<bf16*>(a.out)[at] = rounded<bf16>(y);
  } else {
    if (a.residual) y += static_cast<const float*>(a.residual)[at];
    static_cast<float*>(a.out)[at] = y;
  }
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
