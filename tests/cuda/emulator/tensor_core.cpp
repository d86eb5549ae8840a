// The warp collectives that work on matrices, in the layouts of the PTX ISA's mma.m16n8k16 and ldmatrix.
#include <cstring>

#include "engine.h"
#include "races.h"

namespace llmcore_emulator {
namespace {

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__)
#define LLMCORE_CLONES __attribute__((target_clones("avx2", "default"), optimize("O3")))
#else
#define LLMCORE_CLONES
#endif

// Pairs of adjacent elements along k: a (16,8 pairs), b (8 pairs,8). d (16,8) += a · b, each sum in the order of k.
LLMCORE_CLONES void multiply_pairs(const uint32_t (&a)[16][8], const uint32_t (&b)[8][8], float (&d)[16][8]) {
  uint32_t a_bits[2][16][8], b_bits[2][8][8];  // floats of even and of odd k
  float a_values[2][16][8], b_values[2][8][8];
  for (int m = 0; m < 16; ++m)
    for (int p = 0; p < 8; ++p) a_bits[0][m][p] = a[m][p] << 16, a_bits[1][m][p] = a[m][p] & 0xffff0000u;
  for (int p = 0; p < 8; ++p)
    for (int n = 0; n < 8; ++n) b_bits[0][p][n] = b[p][n] << 16, b_bits[1][p][n] = b[p][n] & 0xffff0000u;
  std::memcpy(a_values, a_bits, sizeof a_bits);
  std::memcpy(b_values, b_bits, sizeof b_bits);
  for (int m = 0; m < 16; ++m)
    for (int p = 0; p < 8; ++p)
      for (int odd = 0; odd < 2; ++odd)
        for (int n = 0; n < 8; ++n) d[m][n] += a_values[odd][m][p] * b_values[odd][p][n];
}

void multiply(void* const (&operands)[32], uint32_t) {
  uint32_t a[16][8], b[8][8];
  float d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MatrixOperand& o = *static_cast<const MatrixOperand*>(operands[lane]);
    const int row = lane / 4, pair = lane % 4;
    a[row][pair] = o.a[0], a[row + 8][pair] = o.a[1], a[row][pair + 4] = o.a[2], a[row + 8][pair + 4] = o.a[3];
    b[pair][row] = o.b[0], b[pair + 4][row] = o.b[1];
    std::memcpy(&d[row][2 * pair], o.d, 8);
    std::memcpy(&d[row + 8][2 * pair], o.d + 2, 8);
  }
  multiply_pairs(a, b, d);
  for (int lane = 0; lane < 32; ++lane) {
    const MatrixOperand& o = *static_cast<const MatrixOperand*>(operands[lane]);
    const int row = lane / 4, pair = lane % 4;
    std::memcpy(o.d, &d[row][2 * pair], 8);
    std::memcpy(o.d + 2, &d[row + 8][2 * pair], 8);
  }
}

template <bool kTransposed>
void load(void* const (&operands)[32], uint32_t) {
  uint16_t rows[32][8];  // row l%8 of matrix l/8
  for (int lane = 0; lane < 32; ++lane) {
    const void* const row = static_cast<const RowOperand*>(operands[lane])->row;
    if (reinterpret_cast<uintptr_t>(row) % 16)
      fail("ldmatrix: row %p of lane %d is not aligned to 16 bytes", row, lane);
    touch(current_thread / 32 * 32 + static_cast<unsigned>(lane), row, 16, Access::kRead);
    std::memcpy(rows[lane], row, 16);
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int line = lane / 4, first = lane % 4 * 2;
      const uint32_t low = kTransposed ? rows[i * 8 + first][line] : rows[i * 8 + line][first];
      const uint32_t high = kTransposed ? rows[i * 8 + first + 1][line] : rows[i * 8 + line][first + 1];
      static_cast<const RowOperand*>(operands[lane])->r[i] = low | high << 16;
    }
}

}  // namespace

const Collective kMultiply{"mma.m16n8k16", multiply, true};
const Collective kLoadMatrix{"ldmatrix.x4", load<false>, true};
const Collective kLoadMatrixTransposed{"ldmatrix.x4.trans", load<true>, true};

}  // namespace llmcore_emulator
