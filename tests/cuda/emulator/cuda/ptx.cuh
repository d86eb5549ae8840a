// csrc/cuda/ptx.cuh for the host: the same functions with the same contract.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "engine.h"

#define LLMCORE_DYNAMIC_SHARED(name) unsigned char* const name = ::llmcore_emulator::dynamic_shared

namespace llmcore {
namespace cuda {

inline void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  llmcore_emulator::MatrixOperand operand{d, a, b};
  llmcore_emulator::collect(llmcore_emulator::kMultiply, 0xffffffffu, &operand);
}

// Products of bytes, kDepth (16 or 32) per sum: operands as in csrc/cuda/ptx.cuh.
struct BytesOperand {
  int* d;
  const uint32_t *a, *b;
  int c;
};
template <bool kUnsigned, int kDepth>
void multiply_bytes(void* const (&operands)[32], uint32_t) {
  int a[16][kDepth], b[kDepth][8];
  const auto byte = [](uint32_t word, int i) { return static_cast<uint8_t>(word >> (8 * i)); };
  for (int lane = 0; lane < 32; ++lane) {
    const BytesOperand& o = *static_cast<const BytesOperand*>(operands[lane]);
    const int row = lane / 4, first = lane % 4 * 4;
    for (int part = 0; part < kDepth / 16; ++part)
      for (int i = 0; i < 4; ++i) {
        const int k = first + 16 * part + i;
        b[k][row] = static_cast<int8_t>(byte(o.b[part], i));
        for (int h = 0; h < 2; ++h) {
          const uint8_t x = byte(o.a[2 * part + h], i);
          a[row + 8 * h][k] = kUnsigned ? x : static_cast<int8_t>(x);
        }
      }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const BytesOperand& o = *static_cast<const BytesOperand*>(operands[lane]);
    for (int e = 0; e < 4; ++e) {
      int sum = o.c;
      for (int k = 0; k < kDepth; ++k) sum += a[lane / 4 + e / 2 * 8][k] * b[k][lane % 4 * 2 + e % 2];
      o.d[e] = sum;
    }
  }
}
template <bool kUnsigned>
void mma_16832(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int c) {
  static const llmcore_emulator::Collective multiply{"mma.m16n8k32", multiply_bytes<kUnsigned, 32>, true};
  BytesOperand operand{d, a, b, c};
  llmcore_emulator::collect(multiply, 0xffffffffu, &operand);
}
template <bool kUnsigned>
void mma_16816_bytes(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, int c) {
  static const llmcore_emulator::Collective multiply{"mma.m16n8k16 of bytes", multiply_bytes<kUnsigned, 16>, true};
  const uint32_t a[2] = {a0, a1};
  BytesOperand operand{d, a, &b, c};
  llmcore_emulator::collect(multiply, 0xffffffffu, &operand);
}

template <bool kUnsigned>
int dot4(uint32_t a, int b, int total) {
  for (int i = 0; i < 4; ++i) {
    const uint8_t x = static_cast<uint8_t>(a >> (8 * i));
    const int8_t y = static_cast<int8_t>(static_cast<uint32_t>(b) >> (8 * i));
    total += (kUnsigned ? x : static_cast<int8_t>(x)) * y;
  }
  return total;
}

inline float half_to_float(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float size = std::ldexp(static_cast<float>(exponent ? mantissa + 1024 : mantissa), (exponent ? exponent : 1) - 25);
  if (exponent == 31) size = mantissa ? NAN : INFINITY;
  return bits & 0x8000 ? -size : size;
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  llmcore_emulator::RowOperand operand{r, row};
  llmcore_emulator::collect(llmcore_emulator::kLoadMatrix, 0xffffffffu, &operand);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  llmcore_emulator::RowOperand operand{r, row};
  llmcore_emulator::collect(llmcore_emulator::kLoadMatrixTransposed, 0xffffffffu, &operand);
}

// The destination holds garbage until the thread has waited.
inline void cp_async_16(void* to, const void* from, bool valid = true) {
  llmcore_emulator::copy_later(to, from, valid);
}
inline void cp_async_commit() { llmcore_emulator::end_copy_group(); }
template <int kPending>
inline void cp_async_wait() {
  llmcore_emulator::wait_for_copies(kPending);
}

inline float exp2_approx(float x) {
  const float y = ::exp2f(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}

inline uint32_t pack_bf16x2(float low, float high) {
  const auto rounded = [](float x) -> uint32_t {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;  // NaN, as the instruction encodes it
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
}

}  // namespace cuda
}  // namespace llmcore
