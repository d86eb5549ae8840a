// Softmax attention, its backward, and the key/value cache.
#pragma once
#include <array>
#include <optional>
#include <utility>

#include "core/tensor.h"

namespace llmcore {

// A cache in blocks of 64 positions: k and v are (N,64,Hkv,D), and row b's keys lie in blocks[b, 0], blocks[b, 1], ...
// With scales (N,64,Hkv) they are uint8 that stand for scale * (q - 128).
struct CacheBlocks {
  Tensor blocks;  // (B,n) int32
  std::optional<Tensor> k_scale, v_scale;
};

// q (B,T,H,D), k and v (B,S,Hkv,D) with H a multiple of Hkv; views with contiguous heads are taken as they are.
// lengths (B) int32: keys valid in each row; query t then stands at position lengths[b] - T + t. Without it T <= S and
// the last query stands at the last key. Causal only: window (at least 1): a query sees so many keys up to its own;
// starts (B,T): the first key that it sees, none after its own. scale: 1/sqrt(D) by default. softcap: scores s become
// softcap * tanh(s / softcap) before the mask. Returns out (B,T,H,D) and
// lse (B,H,T) float32.
std::pair<Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, std::optional<float> scale,
                                    bool causal, const std::optional<Tensor>& lengths, std::optional<int64_t> window,
                                    const std::optional<Tensor>& starts, std::optional<float> softcap,
                                    const std::optional<CacheBlocks>& cache = std::nullopt);

// Gradients of q, k, v. When these are neighbouring views of one (B,T,H+2Hkv,D) tensor, so are the gradients.
std::array<Tensor, 3> attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                         const Tensor& out, const Tensor& lse, std::optional<float> scale, bool causal,
                                         std::optional<int64_t> window, const std::optional<Tensor>& starts,
                                         std::optional<float> softcap);

// cache (B,S,H,D): cache[b, lengths[b] - T + t] = x[b, t], rounded to the cache's dtype. lengths counts the new ones;
// each in [T, S]. With blocks (and a scale) cache is (N,64,H,D) as CacheBlocks has it.
void cache_append(Tensor& cache, const Tensor& x, const Tensor& lengths, const std::optional<Tensor>& blocks,
                  const std::optional<Tensor>& scale);

// What attention with a cache wants of qkv (B,T,H+2Hkv,D): queries and keys turned, as rope() does, keys and values
// written, as cache_append() does, in one pass. Returns the queries (B,T,H,D) in dtype.
Tensor rope_append(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& positions, Tensor& keys,
                   Tensor& values, const Tensor& lengths, const CacheBlocks& cache, DType dtype);

// The tensors joined along `dim`: a view when they lie side by side in one storage, else a copy.
Tensor join(const std::vector<Tensor>& parts, int dim);

}  // namespace llmcore
