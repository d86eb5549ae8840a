// Shared by the attention kernels: which keys a query sees, where they are, tiles in shared memory.
#pragma once
#include <climits>
#include <type_traits>

#include "cuda/common.cuh"

namespace llmcore {
namespace cuda {

constexpr int kKeyTile = 64;  // keys; a cache block has the same number
static_assert(kKeyTile == kCacheBlock, "a tile never crosses blocks");
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
// A row's accumulators are rescaled only when its scores (in powers of two) exceed the subtracted base by more than
// this; 2^kSlack * S is far from overflow, and the quotient does not depend on the base.
constexpr float kSlack = 8.0f;

// ---- one entry per family of kernels ----------------------------------------------------------------
void plain_forward(const AttentionArgs&);  // plain.cu: everything
size_t few_queries_workspace(const AttentionArgs&);
bool takes_few_queries(const AttentionArgs&);
void few_queries_forward(const AttentionArgs&);  // decode.cu: a few queries, long caches
bool takes_tiles(const AttentionArgs&);          // whether the tensor-core kernels support this
void tiles_forward(const AttentionArgs&);        // forward.cu: bfloat16, D = 64 or 128

// The data about every query that the backward kernels read, computed once by prepare_backward(). Queries are padded to
// whole tiles, T64 in all; padding, and queries that see nothing, have lse2 = inf, so their probabilities are 0.
constexpr int kQueryTile = 64;
struct Prepared {
  float *lse2, *delta;        // (B,H,T64): lse in powers of two; rowsum(dO o O)
  int32_t* low;               // (B,T64): the first key that the query sees
  int32_t *lowest, *highest;  // (B,T64/64): the smallest and the largest `low` in a tile of queries
  int64_t tiles;              // T64/64
};
void plain_backward(const AttentionBackwardArgs&, const Prepared&);  // plain.cu: everything
bool takes_tiles(const AttentionBackwardArgs&);
void tiles_backward(const AttentionBackwardArgs&, const Prepared&);  // backward.cu

// ---- which keys a query sees ------------------------------------------------------------------------
struct Seen {
  int low, end;  // keys low <= key < end
};
__device__ __forceinline__ int keys_of(const AttentionArgs& a, int64_t b) {
  return a.lengths ? max(0, min(a.lengths[b], static_cast<int>(a.S))) : static_cast<int>(a.S);
}
__device__ __forceinline__ int first_position(const AttentionArgs& a, int64_t b) {  // of query 0
  return (a.lengths ? a.lengths[b] : static_cast<int>(a.S)) - static_cast<int>(a.T);
}
__device__ __forceinline__ Seen seen_by(const AttentionArgs& a, int64_t b, int64_t t) {
  const int keys = keys_of(a, b);
  if (!a.causal) return {0, keys};
  const int position = first_position(a, b) + static_cast<int>(t), start = a.starts ? a.starts[b * a.T + t] : 0;
  return {max(max(start, 0), position - static_cast<int>(a.window) + 1), max(0, min(position + 1, keys))};
}

// Returns where a tile of keys or values of batch row b and key head h begins, in elements.
__device__ __forceinline__ int64_t tile_at(const AttentionArgs& a, const Strides3& stride, int64_t b, int64_t tile,
                                           int64_t h) {
  const int64_t row =
      a.blocks ? a.blocks[b * (a.S / kKeyTile) + tile] * stride.b : b * stride.b + tile * kKeyTile * stride.t;
  return row + h * stride.h;
}
// Returns the address of the scale of the tile's first key, for uint8 keys; the next key's scale is Hkv further on.
__device__ __forceinline__ const float* scale_at(const AttentionArgs& a, const float* scales, int64_t b, int64_t tile,
                                                 int64_t h) {
  return scales + a.blocks[b * (a.S / kKeyTile) + tile] * int64_t{kKeyTile} * a.Hkv + h;
}

// tanh within 1e-6 (absolute error); softcap multiplies the result by a few dozen.
__device__ __forceinline__ float tanh_approx(float x) { return 1.0f - 2.0f / (1.0f + exp2_approx(2.0f * kLog2e * x)); }

// ---- tiles of bfloat16 rows in shared memory, for ldmatrix ------------------------------------------
// The row's last three bits decide where 16 bytes of it are placed, so that 8 rows at one column use 8 different groups
// of banks.
template <int D>
__device__ __forceinline__ int in_tile(int row, int column) {  // column: a multiple of 8
  return row * D + (((column / 8) ^ (row & 7)) * 8);
}

// Asynchronously copies rows of D elements to `to` (kRows,D); rows from `valid` on become zero.
template <int D, int kRows, int kThreads>
__device__ __forceinline__ void copy_rows(bf16* to, const bf16* from, int64_t stride, int valid) {
  constexpr int kPieces = D / 8, kStep = kThreads / kPieces;  // rows at a time
  static_assert(kStep % 8 == 0, "a thread's rows have the same last three bits");
  const int row = static_cast<int>(threadIdx.x) / kPieces, column = static_cast<int>(threadIdx.x) % kPieces * 8;
  bf16* const first = to + in_tile<D>(row, column);
  from += row * stride + column;
#pragma unroll 2
  for (int i = 0; i < kRows; i += kStep, from += kStep * stride) cp_async_16(first + i * D, from, row + i < valid);
}
// The same for bytes with scales.
template <int D, int kRows, int kThreads>
__device__ __forceinline__ void copy_rows(bf16* to, const uint8_t* from, int64_t stride, const float* scale,
                                          int64_t scale_stride, int valid) {
  constexpr int kPieces = D / 8, kStep = kThreads / kPieces;
  const int row = static_cast<int>(threadIdx.x) / kPieces, column = static_cast<int>(threadIdx.x) % kPieces * 8;
  bf16* const first = to + in_tile<D>(row, column);
  from += row * stride + column, scale += row * scale_stride;
#pragma unroll 4
  for (int i = 0; i < kRows; i += kStep, from += kStep * stride, scale += kStep * scale_stride) {
    Vec<uint32_t, 4> two_each{};
    if (row + i < valid) {
      const Vec<uint8_t, 8> bytes = *reinterpret_cast<const Vec<uint8_t, 8>*>(from);
      const float factor = *scale;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        two_each.v[j] = pack_bf16x2(factor * static_cast<float>(int{bytes.v[2 * j]} - 128),
                                    factor * static_cast<float>(int{bytes.v[2 * j + 1]} - 128));
    }
    *reinterpret_cast<Vec<uint32_t, 4>*>(first + i * D) = two_each;
  }
}
// Loads a tile of keys or values with elements C.
template <int D, int kThreads, class C>
__device__ __forceinline__ void copy_tile(bf16* to, const AttentionArgs& a, const void* from, const Strides3& stride,
                                          const float* scales, int64_t b, int64_t tile, int64_t h, int keys) {
  const C* first = static_cast<const C*>(from) + tile_at(a, stride, b, tile, h);
  const int valid = keys - static_cast<int>(tile) * kKeyTile;
  if constexpr (sizeof(C) == 1)
    copy_rows<D, kKeyTile, kThreads>(to, first, stride.t, scale_at(a, scales, b, tile, h), a.Hkv, valid);
  else
    copy_rows<D, kKeyTile, kThreads>(to, first, stride.t, valid);
}

// Load operands of mma_16816 from a tile, from `row` and `column` on. Left: 16 rows x 16 columns.
template <int D>
__device__ __forceinline__ void load_left(uint32_t (&r)[4], const bf16* tile, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  ldmatrix_x4(r, tile + in_tile<D>(row + lane % 16, column + lane / 16 * 8));
}
// Right, transposed: 16 rows are 16 columns of the operand, in two groups of 8: r[0..1] and r[2..3].
template <int D>
__device__ __forceinline__ void load_right(uint32_t (&r)[4], const bf16* tile, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  ldmatrix_x4(r, tile + in_tile<D>(row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8));
}
// Right, not transposed: 16 rows, 16 columns in two groups of 8.
template <int D>
__device__ __forceinline__ void load_right_rows(uint32_t (&r)[4], const bf16* tile, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  ldmatrix_x4_trans(r, tile + in_tile<D>(row + lane % 16, column + lane / 16 * 8));
}
// d += a · b for the two halves of b.
__device__ __forceinline__ void multiply_two(float (&d0)[4], float (&d1)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[4]) {
  const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
  mma_16816(d0, a, b0);
  mma_16816(d1, a, b1);
}
// Returns two adjacent products (16,8) of sums as a left operand (16,16).
__device__ __forceinline__ void as_left(uint32_t (&a)[4], const float (&d0)[4], const float (&d1)[4]) {
  a[0] = pack_bf16x2(d0[0], d0[1]), a[1] = pack_bf16x2(d0[2], d0[3]);
  a[2] = pack_bf16x2(d1[0], d1[1]), a[3] = pack_bf16x2(d1[2], d1[3]);
}

// Reduces over the four lanes that share the rows of a product.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}
__device__ __forceinline__ int warp_min(int x) {
#pragma unroll
  for (int step = kWarp / 2; step; step /= 2) x = min(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}
__device__ __forceinline__ int warp_max(int x) {
#pragma unroll
  for (int step = kWarp / 2; step; step /= 2) x = max(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// Converts scores to powers of two: q·k * factor or, if capped, tanh(q·k * inner) * factor. The factor is never
// negative (the queries are negated instead) or 0, so that a hidden key's -inf stays -inf.
struct ScoreScale {
  float factor, inner;
};
inline ScoreScale score_scale(const AttentionArgs& a) {
  const float scale = fmaxf(fabsf(a.scale), 1e-30f);
  return a.softcap > 0 ? ScoreScale{a.softcap * kLog2e, scale / a.softcap} : ScoreScale{scale * kLog2e, 0};
}
// Flips the signs of the bfloat16 elements.
template <int kThreads>
__device__ __forceinline__ void negate(bf16* x, int n) {
  for (int i = threadIdx.x; i < n / 2; i += kThreads) reinterpret_cast<uint32_t*>(x)[i] ^= 0x80008000u;
}

}  // namespace cuda
}  // namespace llmcore
