// Quantized weights and their products. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

// A weight is scale * (q - zero) [+ minimum], with unsigned q of 8 or 4 bits. Rows are stored in strips of 16; a strip
// is a sequence of blocks of 32 columns. A block holds the scales of the 16 rows (twice, for columns 0..15 and 16..31,
// if there are two halves), the minima likewise, then q as words of 4 columns: word t, stored for all rows side by
// side, holds columns 4t..4t+3; with 4 bits, the low halves hold those columns and the high halves the columns 16
// further on.
constexpr int64_t kStripRows = 16, kQuantBlock = 32;
struct QuantLayout {
  int bits;           // 8 or 4
  int zero;           // 128 for 8 bits, 8 for 4; 0 where there are minima
  int halves;         // scales and minima for every 32 columns, or for every 16
  bool float_scales;  // float32 scales and minima, else float16
  bool minima;
};
[[maybe_unused]] static inline int64_t quant_factor_bytes(const QuantLayout& l) {  // of one kind of factor in a block
  return kStripRows * l.halves * (l.float_scales ? 4 : 2);
}
[[maybe_unused]] static inline int64_t quant_block_bytes(const QuantLayout& l) {
  return quant_factor_bytes(l) * (l.minima ? 2 : 1) + kStripRows * kQuantBlock * l.bits / 8;
}
// 32 columns of a row of x, quantized for a product: x ~ scale * q, where scale is the largest magnitude / 127. One
// cache line.
struct alignas(64) ActivationBlock {
  int8_t q[kQuantBlock];
  float scale;
  int32_t total, sums[2];         // of q, and of its halves
  float scaled_total, scaled[2];  // these times scale
};
// What is rounded: x itself, its RMS norm, or silu(gate) * up or gelu(gate) * up of x = [gate, up]; the last three are
// never materialised.
enum class ActivationSource : uint8_t { kRows, kRmsNorm, kSwiglu, kGeglu };
struct QuantizeActivationsArgs {
  DType dtype;
  int64_t M, K;
  const void* x;         // (M,K), or (M,2K) of gates
  ActivationBlock* out;  // (M,K/32), row stride ld
  int64_t ld;
  ActivationSource source;
  const float* norm_weight;  // (K), of kRmsNorm
  float eps;
};
struct QuantizedGemmArgs {  // out (M,N) = residual + x · weightᵀ + bias
  int64_t M, N, K;
  QuantLayout layout;
  const uint8_t* weight;     // strips of (N,K)
  const ActivationBlock* x;  // (M,K/32), row stride ldx
  int64_t ldx;
  void* out;  // row stride ldo
  int64_t ldo;
  DType out_dtype;
  const float* bias;     // (N) or null
  const void* residual;  // as out; or null
};
struct DequantizeRowsArgs {  // out (M,K) = rows ids of the matrix
  QuantLayout layout;
  int64_t M, K;
  const uint8_t* weight;
  const int32_t* ids;  // (M)
  void* out;
  DType out_dtype;
};

}  // namespace llmcore
