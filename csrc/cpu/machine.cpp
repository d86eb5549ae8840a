// Measures how fast this machine can be at best: multiply-adds on registers or tiles, and a sum over memory. These are
// the floors that the kernels are compared with (llmcore.bench.machine).
#include "cpu/families.h"
#include "cpu/gemm/tile_micro.h"

namespace llmcore {
namespace LLMCORE_ISA {

// Hides the origin of a value at no cost, so that the compiler must recompute anything derived from it.
#if defined(__x86_64__) && LLMCORE_VECTOR_BYTES == 64
#define LLMCORE_HIDE(x) asm volatile("" : "+v"(x))
#elif defined(__x86_64__)
#define LLMCORE_HIDE(x) asm volatile("" : "+x"(x))
#elif defined(__aarch64__)
#define LLMCORE_HIDE(x) asm volatile("" : "+w"(x))
#else
#define LLMCORE_HIDE(x) asm volatile("" : "+m"(x))
#endif

constexpr int kChains = 12;  // more than latency times units of any processor; fits in 16 registers with operands

// Runs independent chains x = step(x), `rounds` times each; the result is used so that no chain is optimised away.
template <class Vector, class Step>
static inline void run_chains(int64_t rounds, const Step& step) {
  Vector x[kChains];
  for (int i = 0; i < kChains; ++i) {
    x[i] = Vector{};
    LLMCORE_HIDE(x[i]);
  }
  for (int64_t r = 0; r < rounds; ++r)
    for (int i = 0; i < kChains; ++i) x[i] = step(x[i]);
  for (int i = 0; i < kChains; ++i) LLMCORE_HIDE(x[i]);
}

static double peak_f32(int64_t rounds) {
  vf a = splat(0.5f), b = splat(1.0f);  // converges to 2: no overflow, no subnormal numbers
  LLMCORE_HIDE(a);
  LLMCORE_HIDE(b);
  run_chains<vf>(rounds, [&](vf x) { return fma(x, a, b); });
  return 2.0 * kW * kChains * static_cast<double>(rounds);
}

#if defined(LLMCORE_ISA_AMX)
// Four accumulating tiles hide the latency; the operands are zeros, which take as long as other values.
#define LLMCORE_PEAK_TILES(name, instruction, elements)                                                      \
  static double name(int64_t rounds) {                                                                       \
    MatrixUnit unit;                                                                                         \
    TILE_ZERO(0);                                                                                            \
    TILE_ZERO(1);                                                                                            \
    TILE_ZERO(2);                                                                                            \
    TILE_ZERO(3);                                                                                            \
    TILE_ZERO(4);                                                                                            \
    TILE_ZERO(5);                                                                                            \
    TILE_ZERO(6);                                                                                            \
    TILE_ZERO(7);                                                                                            \
    for (int64_t r = 0; r < rounds; ++r)                                                                     \
      asm volatile(instruction " %tmm6, %tmm4, %tmm0\n\t" instruction " %tmm7, %tmm4, %tmm1\n\t" instruction \
                               " %tmm6, %tmm5, %tmm2\n\t" instruction " %tmm7, %tmm5, %tmm3");               \
    return 2.0 * 16 * 16 * (elements) * 4 * static_cast<double>(rounds);                                     \
  }
LLMCORE_PEAK_TILES(peak_bf16, "tdpbf16ps", 32)
LLMCORE_PEAK_TILES(peak_int8, "tdpbusd", 64)
#undef LLMCORE_PEAK_TILES
#else

#if defined(LLMCORE_BF16_DOT)
static double peak_bf16(int64_t rounds) {
  vf a{}, b{};
  LLMCORE_HIDE(a);
  LLMCORE_HIDE(b);
  run_chains<vf>(rounds, [&](vf x) { return (vf)_mm512_dpbf16_ps((__m512)x, (__m512bh)a, (__m512bh)b); });
  return 4.0 * kW * kChains * static_cast<double>(rounds);
}
#else
static double peak_bf16(int64_t rounds) { return peak_f32(rounds); }  // widened, then multiplied as float32
#endif

// Multiplies bytes by bytes, summed in int32, with the best instruction available.
static double peak_int8(int64_t rounds) {
  vi a{}, b{};
  LLMCORE_HIDE(a);
  LLMCORE_HIDE(b);
  run_chains<vi>(rounds, [&](vi x) -> vi {
    vi left = a;
    LLMCORE_HIDE(left);  // keeps the product from being a loop constant
#if defined(LLMCORE_BF16_DOT)
    return (vi)_mm512_dpbusd_epi32((__m512i)x, (__m512i)left, (__m512i)b);
#elif defined(LLMCORE_ISA_AVXVNNI)
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)x, (__m256i)left, (__m256i)b);
#elif LLMCORE_VECTOR_BYTES == 64
    const __m512i pairs = _mm512_maddubs_epi16((__m512i)left, (__m512i)b);
    return x + (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif LLMCORE_VECTOR_BYTES == 32
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)left, (__m256i)b);
    return x + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__SSE2__)
    return x + (vi)_mm_madd_epi16((__m128i)left, (__m128i)b);  // bytes widened to 16 bits
#else
    return x + left * b;  // widened to 32 bits
#endif
  });
#if LLMCORE_VECTOR_BYTES >= 32
  constexpr double kProducts = 4;
#elif defined(__SSE2__)
  constexpr double kProducts = 2;
#else
  constexpr double kProducts = 1;
#endif
  return 2.0 * kProducts * kW * kChains * static_cast<double>(rounds);
}
#endif

static double machine_peak(DType dtype, int64_t rounds) {
  return dtype == DType::kF32 ? peak_f32(rounds) : dtype == DType::kBF16 ? peak_bf16(rounds) : peak_int8(rounds);
}

// Returns the sum of the 32-bit words modulo 2^32; every byte is read once, in order.
static uint32_t machine_read(const uint32_t* p, int64_t words) {
  constexpr int kStreams = 8;
  vu x[kStreams] = {};
  int64_t i = 0;
  for (; i + kStreams * kW <= words; i += kStreams * kW)
    for (int j = 0; j < kStreams; ++j) {
      vu v;
      memcpy(&v, p + i + j * kW, sizeof v);
      x[j] += v;
    }
  uint32_t sum = 0;
  for (int j = 0; j < kStreams; ++j)
    for (int k = 0; k < kW; ++k) sum += x[j][k];
  for (; i < words; ++i) sum += p[i];
  return sum;
}
#undef LLMCORE_HIDE

void register_machine(KernelTable& t) {
  t.machine_peak = machine_peak;
  t.machine_read = machine_read;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
