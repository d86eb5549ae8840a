// Attention. Conventions: core/kernel_table.h.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/kernels/cache.h"

namespace llmcore {

struct AttentionArgs {
  // out = softmax(scale * q k^T + mask) v, query head h reads key head h / (H / Hkv)
  DType dtype;
  int64_t B, T, S, H, Hkv, D;
  const void* q;  // (B,T,H,D)
  const void* k;  // (B,S,Hkv,D)
  const void* v;
  void* out;  // (B,T,H,D)
  Strides3 q_stride, k_stride, v_stride, out_stride;
  float* lse;  // (B,H,T): log of the softmax denominator incl. the maximum; may be null
  // Keys valid in each row, or null for S. Query t is at position lengths[b] - T + t; causal: it sees keys up to there.
  const int32_t* lengths;
  float scale;
  float softcap;  // 0, or scores s become softcap * tanh(s / softcap) before the mask
  bool causal;
  int64_t window;  // causal: a query sees the last `window` keys up to its position; S hides none
  // Null, or (B,S/64): k and v are blocks (N,64,Hkv,D), and these are row b's blocks, in order; a stride's b is a
  // block's.
  const int32_t* blocks;
  const float* k_scale;  // (N,64,Hkv) or null. With scales k and v are uint8, x ~ scale * (q - 128)
  const float* v_scale;
  const int32_t* starts;   // (B,T) or null. causal: the first key that the query sees, none after its position
  void* workspace;         // attention_workspace() bytes, 64-byte aligned
  size_t workspace_bytes;  // its size limits how many pieces run at a time
};

struct AttentionBackwardArgs {
  AttentionArgs forward;  // out and lse as the forward wrote them; lengths is null
  const void* dout;       // (B,T,H,D), contiguous, as is out
  void* dq;               // strides as q, k, v
  void* dk;
  void* dv;
};

}  // namespace llmcore
