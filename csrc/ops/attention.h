// Softmax attention and its backward.
#pragma once
#include <array>
#include <optional>
#include <utility>

#include "core/tensor.h"
#include "ops/cache.h"

namespace llmcore {

// q (B,T,H,D), k and v (B,S,Hkv,D) with H a multiple of Hkv; views with contiguous heads need no copy. lengths (B)
// int32: keys valid in each row; query t is then at position lengths[b] - T + t. Without lengths, T <= S and the last
// query is at the last key. Causal only: window (at least 1): a query sees this many keys up to its own; starts (B,T):
// the first key that it sees, not after its own. scale: 1/sqrt(D) by default. softcap: scores s become softcap * tanh(s
// / softcap) before the mask. Returns out (B,T,H,D) and lse (B,H,T) float32.
std::pair<Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, std::optional<float> scale,
                                    bool causal, const std::optional<Tensor>& lengths, std::optional<int64_t> window,
                                    const std::optional<Tensor>& starts, std::optional<float> softcap,
                                    const std::optional<CacheBlocks>& cache = std::nullopt);

// Gradients of q, k, v. When these are neighbouring views of one (B,T,H+2Hkv,D) tensor, so are the gradients.
std::array<Tensor, 3> attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                         const Tensor& out, const Tensor& lse, std::optional<float> scale, bool causal,
                                         std::optional<int64_t> window, const std::optional<Tensor>& starts,
                                         std::optional<float> softcap);

}  // namespace llmcore
