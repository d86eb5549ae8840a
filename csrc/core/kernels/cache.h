// The cache of keys and values. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

struct Strides3 {
  int64_t b, t, h;  // in elements; the head's D elements are contiguous
};

constexpr int64_t kCacheBlock = 64;  // positions
struct CacheAppendArgs {     // cache[b, lengths[b] - T + t] = x[b, t] for t < T; rows outside [0, S) are not written
  DType dtype, cache_dtype;  // of x; of the cache: float32, bfloat16, or uint8 with scales (see AttentionArgs)
  int64_t B, T, S, H, D;
  const void* x;
  Strides3 x_stride;
  void* cache;            // (B,S,H,D), or blocks (N,64,H,D)
  float* scale;           // (N,64,H) or null
  const int32_t* blocks;  // (B,S/64) or null
  const int32_t* lengths;
};

constexpr int64_t kMostHeadSize = 1024;  // of RopeAppendArgs
struct RopeAppendArgs {  // rotates queries and keys of x (B,T,H+2Hkv,D), appends keys and values to their caches
  int64_t H, D, R;
  const void* x;
  void* q;  // (B,T,H,D)
  DType q_dtype;
  const float* cos;
  const float* sin;
  const int32_t* positions;      // (B,T)
  CacheAppendArgs keys, values;  // their x is not used
};

}  // namespace llmcore
