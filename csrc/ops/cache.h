// The cache of keys and values.
#pragma once
#include <optional>

#include "core/kernel_table.h"
#include "core/tensor.h"

namespace llmcore {

// A cache in blocks of 64 positions: k and v are (N,64,Hkv,D), and row b's keys are in blocks[b, 0], blocks[b, 1], ...
// With scales (N,64,Hkv), k and v are uint8 values q that stand for scale * (q - 128).
struct CacheBlocks {
  Tensor blocks;  // (B,n) int32
  std::optional<Tensor> k_scale, v_scale;
};

// cache (B,S,H,D): cache[b, lengths[b] - T + t] = x[b, t], rounded to the cache's dtype. lengths includes the new
// positions; each is in [T, S]. With blocks (and a scale), cache is (N,64,H,D) as in CacheBlocks.
void cache_append(Tensor& cache, const Tensor& x, const Tensor& lengths, const std::optional<Tensor>& blocks,
                  const std::optional<Tensor>& scale);

// Prepares qkv (B,T,H+2Hkv,D) for attention with a cache in one pass: rotates queries and keys as rope() does and
// writes keys and values as cache_append() does. Returns the queries (B,T,H,D) in dtype.
Tensor rope_append(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& positions, Tensor& keys,
                   Tensor& values, const Tensor& lengths, const CacheBlocks& cache, DType dtype);

// Shared with attention.
Tensor with_contiguous_heads(const Tensor& t);
Strides3 strides(const Tensor& t);
// Returns the blocks, checked, on the device. A replay of a plan reads blocks again but does not check them: code that
// changes them must keep them in range.
Tensor checked_blocks(const char* op, const Tensor& blocks, int64_t B, int64_t N, Device device);
void check_scale(const char* op, const char* name, const Tensor& scale, const Tensor& of);

}  // namespace llmcore
