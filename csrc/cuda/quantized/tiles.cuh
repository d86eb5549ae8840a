// Rows times a quantized weight on tensor cores. A block has a tile of kStrips strips and 8 kTiles rows; each of its
// warps has the whole tile and every eighth block of 32 columns, and copies its data to shared memory itself, so that
// warps wait for each other only at the end. One instruction computes exact dot products of 16 rows of a strip, over
// one block, with 8 rows of x; the layout of a strip is that of the instruction's operand.
#pragma once
#include "cuda/quantized/quantized.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kBlockChunks = sizeof(ActivationBlock) / 16;  // 16 bytes each: q, q, scale and sums, scaled sums

// Returns the byte of a stage at which chunk c of row r of x is stored: the rows of a tile use all banks.
__device__ __forceinline__ int x_place(int r, int c) { return r * 64 + (c ^ (r >> 1 & 3)) * 16; }

// Adding an integer to this number's bits gives the float that is larger by that integer, so no conversion is needed.
constexpr int kMagicBits = 0x4b400000;
constexpr float kMagic = 12582912.0f;

template <int kStrips, int kTiles, int kStages>
size_t tiles_shared_bytes(const QuantBytes& bytes) {
  return static_cast<size_t>(kSlices * kStages) * (kStrips * bytes.block + kTiles * 8 * sizeof(ActivationBlock));
}

// Loads the operand of a strip's block: rows l/4 and l/4 + 8, words l%4 and l%4 + 4.
template <class Kind>
__device__ __forceinline__ void load_operand(uint32_t (&w)[4], const uint32_t* q, int lane) {
  constexpr int kStrip = static_cast<int>(kStripRows);
  const int row = lane / 4, t = lane % 4,
            swap = t >> 1;  // words two further on use the same banks: take the other row first
  const uint32_t* at = q + t * kStrip + row;
  const uint32_t first = at[8 * swap], second = at[8 - 8 * swap];
  const uint32_t low = swap ? second : first, high = swap ? first : second;
  w[0] = quant_numbers<Kind>(low, 0), w[1] = quant_numbers<Kind>(high, 0);
  if constexpr (Kind::kBits == 8) {
    const uint32_t third = at[4 * kStrip + 8 * swap], fourth = at[4 * kStrip + 8 - 8 * swap];
    w[2] = quant_numbers<Kind>(swap ? fourth : third, 0), w[3] = quant_numbers<Kind>(swap ? third : fourth, 0);
  } else {
    w[2] = quant_numbers<Kind>(low, 1), w[3] = quant_numbers<Kind>(high, 1);
  }
}

// out (M,N). A warp's sums are [strip][tile of 8 rows][4]: the strip's rows l/4 (0, 1) and l/4 + 8 (2, 3), x's rows 2
// (l%4) (0, 2) and the next.
template <class Kind, int kStrips, int kTiles, int kStages>
__global__ void __launch_bounds__(kSlices* kWarp, kStrips == 4 && Kind::kHalves == 1 && !Kind::kMinima ? 2 : 1)
    quantized_tiles_kernel(QuantizedGemmArgs a, QuantBytes bytes, int row_tiles) {
  constexpr int kStrip = static_cast<int>(kStripRows), kRows = kTiles * 8;
  constexpr int kCopies = (kStrips * Kind::kMostBlockBytes / 16 + kWarp - 1) / kWarp;
  LLMCORE_DYNAMIC_SHARED(shared);
  const int lane = threadIdx.x % kWarp, slice = threadIdx.x / kWarp;
  const int64_t strip = static_cast<int64_t>(blockIdx.x / row_tiles) * kStrips;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x % row_tiles) * kRows;
  const int blocks = static_cast<int>(a.K / kQuantBlock), steps = (blocks - slice + kSlices - 1) / kSlices;
  const int stage_bytes = kStrips * bytes.block + kRows * static_cast<int>(sizeof(ActivationBlock));
  unsigned char* ring = shared + slice * kStages * stage_bytes;

  // A step's copies: chunk i of the strips' blocks, one block after the other (the last strip's again if there are no
  // more), and chunk l%4 of rows l/4 + 8 i.
  const int block_chunks = bytes.block / 16;
  const int last_strip = static_cast<int>((a.N + kStrip - 1) / kStrip - strip) - 1;
  const uint8_t* from = a.weight + strip * bytes.strip + slice * static_cast<int64_t>(bytes.block);
  uint32_t offset[kCopies];  // four strips are less than 4 GB
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    const int chunk = i * kWarp + lane, s = chunk / block_chunks;
    offset[i] = static_cast<uint32_t>((s < last_strip ? s : last_strip) * bytes.strip + chunk % block_chunks * 16);
  }
  const int64_t x_row = first_row + lane / 4;
  const char* x_from = reinterpret_cast<const char*>(a.x + x_row * a.ldx + slice) + lane % 4 * 16;
  const auto copy = [&](int step) {
    if (step < steps) {
      unsigned char* stage = ring + step % kStages * stage_bytes;
      const uint8_t* blocks_of_step = from + static_cast<int64_t>(step) * (kSlices * bytes.block);
#pragma unroll
      for (int i = 0; i < kCopies; ++i)
        if (i * kWarp + lane < kStrips * block_chunks)
          cp_async_16(stage + (i * kWarp + lane) * 16, blocks_of_step + offset[i]);
      stage += kStrips * bytes.block;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const bool there = x_row + 8 * i < a.M;
        const char* at = x_from + (8 * i * a.ldx + step * kSlices) * static_cast<int64_t>(sizeof(ActivationBlock));
        if (Kind::kMinima || lane % 4 != 3)
          cp_async_16(stage + x_place(lane / 4 + 8 * i, lane % 4), there ? at : static_cast<const void*>(a.x), there);
      }
    }
    cp_async_commit();
  };

  float sum[kStrips][kTiles][4] = {};
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) copy(step);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStages - 2>();
    __syncwarp();  // all lanes' copies have arrived, and all lanes are done with the next stage
    copy(step + kStages - 1);
    const unsigned char* stage = ring + step % kStages * stage_bytes;
    const unsigned char* x = stage + kStrips * bytes.block;
    const int row = lane / 4, t = lane % 4;
    uint32_t b[kTiles][2];
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h) b[n][h] = *reinterpret_cast<const uint32_t*>(x + x_place(8 * n + row, h) + 4 * t);
    float x_scale[kTiles][2], totals[kTiles][2][Kind::kHalves] = {};
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int r = 8 * n + 2 * t + i;
        x_scale[n][i] = *reinterpret_cast<const float*>(x + x_place(r, 2));
        if constexpr (Kind::kMinima) {
          const float* scaled = reinterpret_cast<const float*>(x + x_place(r, 3));
#pragma unroll
          for (int h = 0; h < Kind::kHalves; ++h) totals[n][i][h] = scaled[Kind::kHalves == 1 ? 0 : 1 + h];
        }
      }
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      const unsigned char* block = stage + s * bytes.block;
      uint32_t w[4];
      load_operand<Kind>(w, reinterpret_cast<const uint32_t*>(block + bytes.factor * (1 + Kind::kMinima)), lane);
#pragma unroll
      for (int h = 0; h < Kind::kHalves; ++h) {
        float scale[2], minimum[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          scale[i] = quant_factor(block, h * kStrip + row + 8 * i, bytes.wide);
          minimum[i] = Kind::kMinima ? quant_factor(block + bytes.factor, h * kStrip + row + 8 * i, bytes.wide) : 0.0f;
        }
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          int dot[4];
          if constexpr (Kind::kHalves == 1)
            mma_16832<Kind::kMinima>(dot, w, b[n], kMagicBits);
          else
            mma_16816_bytes<Kind::kMinima>(dot, w[2 * h], w[2 * h + 1], b[n][h], kMagicBits);
#pragma unroll
          for (int e = 0; e < 4; ++e)
            sum[s][n][e] =
                add_block<Kind>(sum[s][n][e], scale[e / 2], x_scale[n][e % 2],
                                __fsub_rn(__int_as_float(dot[e]), kMagic), minimum[e / 2], totals[n][e % 2][h]);
        }
      }
    }
  }

  // Add the slices strip by strip, in the memory of the stages.
  cp_async_wait<0>();
  constexpr int kPitch = kStrip + 4;  // row stride that avoids bank conflicts
  float* slices = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int s = 0; s < kStrips; ++s) {
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        slices[(slice * kRows + 8 * n + 2 * (lane % 4) + e % 2) * kPitch + lane / 4 + e / 2 * 8] = sum[s][n][e];
    __syncthreads();
    for (int i = threadIdx.x; i < kRows * kStrip; i += kSlices * kWarp) {
      const int64_t m = first_row + i / kStrip, column = (strip + s) * kStrip + i % kStrip;
      if (m >= a.M || column >= a.N) continue;
      const float* at = slices + i / kStrip * kPitch + i % kStrip;
      float y = at[0];
#pragma unroll
      for (int k = 1; k < kSlices; ++k) y += at[k * kRows * kPitch];
      store_product(a, m, column, y);
    }
  }
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
