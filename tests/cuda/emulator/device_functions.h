// The functions of CUDA C++ that kernels may call.
#pragma once
#include <math.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "engine.h"
#include "races.h"

namespace llmcore_emulator {

template <class To, class From>
inline To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From), "a cast between types of one size");
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

// ---- exchanges within a warp ------------------------------------------------------------------------

struct ShuffleOperand {
  uint64_t in, out;
  int from;  // the lane, or -1 for the lane itself
};
extern LLMCORE_EMULATOR_LOCAL const Collective kShuffle, kShuffleUp, kShuffleDown, kShuffleXor;

template <class T>
LLMCORE_EMULATOR_INLINE T shuffle(const Collective& kind, unsigned lanes, T x, int from) {
  static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "what CUDA has a shuffle for");
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof x);
  ShuffleOperand operand{bits, 0, from};
  collect(kind, lanes, &operand);
  std::memcpy(&x, &operand.out, sizeof x);
  return x;
}

struct VoteOperand {
  bool vote;
  unsigned result;
};
struct MatchOperand {
  uint64_t value;
  unsigned result;
};
extern LLMCORE_EMULATOR_LOCAL const Collective kBallot, kAny, kAll, kMatchAny;
extern LLMCORE_EMULATOR_LOCAL const Collective kReduceAdd, kReduceMin, kReduceMax, kReduceAnd, kReduceOr, kReduceXor;
extern LLMCORE_EMULATOR_LOCAL const Collective kReduceMinSigned, kReduceMaxSigned;

LLMCORE_EMULATOR_INLINE unsigned vote(const Collective& kind, unsigned lanes, bool yes) {
  VoteOperand operand{yes, 0};
  collect(kind, lanes, &operand);
  return operand.result;
}
LLMCORE_EMULATOR_INLINE unsigned reduce(const Collective& kind, unsigned lanes, unsigned x) {
  MatchOperand operand{x, 0};
  collect(kind, lanes, &operand);
  return operand.result;
}

}  // namespace llmcore_emulator

template <class T>
LLMCORE_EMULATOR_INLINE T __shfl_sync(unsigned lanes, T x, int from, int width = 32) {
  const int first = llmcore_emulator::lane_of_thread() & ~(width - 1);
  return llmcore_emulator::shuffle(llmcore_emulator::kShuffle, lanes, x, first | (from & (width - 1)));
}
template <class T>
LLMCORE_EMULATOR_INLINE T __shfl_up_sync(unsigned lanes, T x, unsigned step, int width = 32) {
  const int lane = llmcore_emulator::lane_of_thread(), from = lane - static_cast<int>(step);
  return llmcore_emulator::shuffle(llmcore_emulator::kShuffleUp, lanes, x, from >= (lane & ~(width - 1)) ? from : -1);
}
template <class T>
LLMCORE_EMULATOR_INLINE T __shfl_down_sync(unsigned lanes, T x, unsigned step, int width = 32) {
  const int lane = llmcore_emulator::lane_of_thread(), from = lane + static_cast<int>(step);
  return llmcore_emulator::shuffle(llmcore_emulator::kShuffleDown, lanes, x, from <= (lane | (width - 1)) ? from : -1);
}
template <class T>
LLMCORE_EMULATOR_INLINE T __shfl_xor_sync(unsigned lanes, T x, int mask, int width = 32) {
  const int lane = llmcore_emulator::lane_of_thread(), from = lane ^ mask;
  return llmcore_emulator::shuffle(llmcore_emulator::kShuffleXor, lanes, x, from <= (lane | (width - 1)) ? from : -1);
}
LLMCORE_EMULATOR_INLINE unsigned __ballot_sync(unsigned lanes, int yes) {
  return llmcore_emulator::vote(llmcore_emulator::kBallot, lanes, yes != 0);
}
LLMCORE_EMULATOR_INLINE int __any_sync(unsigned lanes, int yes) {
  return static_cast<int>(llmcore_emulator::vote(llmcore_emulator::kAny, lanes, yes != 0));
}
LLMCORE_EMULATOR_INLINE int __all_sync(unsigned lanes, int yes) {
  return static_cast<int>(llmcore_emulator::vote(llmcore_emulator::kAll, lanes, yes != 0));
}
LLMCORE_EMULATOR_INLINE void __syncwarp(unsigned lanes = 0xffffffffu) {
  llmcore_emulator::collect(llmcore_emulator::kSyncWarp, lanes, nullptr);
}
template <class T>
LLMCORE_EMULATOR_INLINE unsigned __match_any_sync(unsigned lanes, T x) {
  llmcore_emulator::MatchOperand operand{0, 0};
  std::memcpy(&operand.value, &x, sizeof x);
  llmcore_emulator::collect(llmcore_emulator::kMatchAny, lanes, &operand);
  return operand.result;
}
LLMCORE_EMULATOR_INLINE unsigned __reduce_add_sync(unsigned lanes, unsigned x) {
  return llmcore_emulator::reduce(llmcore_emulator::kReduceAdd, lanes, x);
}
LLMCORE_EMULATOR_INLINE int __reduce_add_sync(unsigned lanes, int x) {
  return static_cast<int>(llmcore_emulator::reduce(llmcore_emulator::kReduceAdd, lanes, static_cast<unsigned>(x)));
}
LLMCORE_EMULATOR_INLINE unsigned __reduce_min_sync(unsigned lanes, unsigned x) {
  return llmcore_emulator::reduce(llmcore_emulator::kReduceMin, lanes, x);
}
LLMCORE_EMULATOR_INLINE unsigned __reduce_max_sync(unsigned lanes, unsigned x) {
  return llmcore_emulator::reduce(llmcore_emulator::kReduceMax, lanes, x);
}
LLMCORE_EMULATOR_INLINE int __reduce_min_sync(unsigned lanes, int x) {
  return static_cast<int>(
      llmcore_emulator::reduce(llmcore_emulator::kReduceMinSigned, lanes, static_cast<unsigned>(x)));
}
LLMCORE_EMULATOR_INLINE int __reduce_max_sync(unsigned lanes, int x) {
  return static_cast<int>(
      llmcore_emulator::reduce(llmcore_emulator::kReduceMaxSigned, lanes, static_cast<unsigned>(x)));
}
LLMCORE_EMULATOR_INLINE unsigned __reduce_and_sync(unsigned lanes, unsigned x) {
  return llmcore_emulator::reduce(llmcore_emulator::kReduceAnd, lanes, x);
}
LLMCORE_EMULATOR_INLINE unsigned __reduce_or_sync(unsigned lanes, unsigned x) {
  return llmcore_emulator::reduce(llmcore_emulator::kReduceOr, lanes, x);
}
LLMCORE_EMULATOR_INLINE unsigned __reduce_xor_sync(unsigned lanes, unsigned x) {
  return llmcore_emulator::reduce(llmcore_emulator::kReduceXor, lanes, x);
}

// ---- the block --------------------------------------------------------------------------------------

LLMCORE_EMULATOR_INLINE void __syncthreads() { llmcore_emulator::block_barrier(llmcore_emulator::Vote::kNone, false); }
LLMCORE_EMULATOR_INLINE int __syncthreads_count(int yes) {
  llmcore_emulator::block_barrier(llmcore_emulator::Vote::kCount, yes != 0);
  return llmcore_emulator::votes();
}
LLMCORE_EMULATOR_INLINE int __syncthreads_and(int yes) {
  llmcore_emulator::block_barrier(llmcore_emulator::Vote::kAnd, yes != 0);
  return llmcore_emulator::votes();
}
LLMCORE_EMULATOR_INLINE int __syncthreads_or(int yes) {
  llmcore_emulator::block_barrier(llmcore_emulator::Vote::kOr, yes != 0);
  return llmcore_emulator::votes();
}
inline void __threadfence() {
  asm volatile("" ::: "memory");
  llmcore_emulator::fence();
}
inline void __threadfence_block() { asm volatile("" ::: "memory"); }
inline void __threadfence_system() { asm volatile("" ::: "memory"); }
[[noreturn]] inline void __trap() { llmcore_emulator::fail("__trap()"); }

// ---- atomics: one thread runs at a time ---------------------------------------------------------------

#define LLMCORE_EMULATOR_NOT_ANNOUNCED __attribute__((no_sanitize("thread")))
#define LLMCORE_EMULATOR_ATOMIC(name, type, expression)              \
  LLMCORE_EMULATOR_NOT_ANNOUNCED inline type name(type* p, type x) { \
    llmcore_emulator::touch_atomically(p, sizeof *p);                \
    const type old = *reinterpret_cast<volatile type*>(p);           \
    *reinterpret_cast<volatile type*>(p) = expression;               \
    return old;                                                      \
  }
#define LLMCORE_EMULATOR_ATOMICS(type)                                                  \
  LLMCORE_EMULATOR_ATOMIC(atomicMax, type, old > x ? old : x)                           \
  LLMCORE_EMULATOR_ATOMIC(atomicMin, type, old < x ? old : x)                           \
  LLMCORE_EMULATOR_ATOMIC(atomicOr, type, old | x)                                      \
  LLMCORE_EMULATOR_ATOMIC(atomicAnd, type, old& x)                                      \
  LLMCORE_EMULATOR_ATOMIC(atomicXor, type, old ^ x)                                     \
  LLMCORE_EMULATOR_ATOMIC(atomicExch, type, x)                                          \
  LLMCORE_EMULATOR_NOT_ANNOUNCED inline type atomicCAS(type* p, type compare, type x) { \
    llmcore_emulator::touch_atomically(p, sizeof *p);                                   \
    const type old = *reinterpret_cast<volatile type*>(p);                              \
    if (old == compare) *reinterpret_cast<volatile type*>(p) = x;                       \
    return old;                                                                         \
  }
LLMCORE_EMULATOR_ATOMICS(int)
LLMCORE_EMULATOR_ATOMICS(unsigned)
LLMCORE_EMULATOR_ATOMICS(unsigned long long)
LLMCORE_EMULATOR_ATOMICS(long long)
LLMCORE_EMULATOR_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(x)))
LLMCORE_EMULATOR_ATOMIC(atomicAdd, unsigned, old + x)
LLMCORE_EMULATOR_ATOMIC(atomicAdd, unsigned long long, old + x)
LLMCORE_EMULATOR_ATOMIC(atomicSub, unsigned, old - x)
LLMCORE_EMULATOR_ATOMIC(atomicInc, unsigned, old >= x ? 0 : old + 1)
LLMCORE_EMULATOR_ATOMIC(atomicExch, float, x)
#undef LLMCORE_EMULATOR_ATOMICS
#undef LLMCORE_EMULATOR_ATOMIC

// ---- integers ---------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned select) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned y = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned s = select >> (4 * i);
    const unsigned byte = static_cast<unsigned>(bytes >> (8 * (s & 7u))) & 0xffu;
    y |= (s & 8u ? (byte & 0x80u ? 0xffu : 0u) : byte) << (8 * i);
  }
  return y;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) << (n & 31u) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (n & 31u));
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; ++i) c += (a >> (8 * i) & 0xffu) * (b >> (8 * i) & 0xffu);
  return c;
}

#define LLMCORE_EMULATOR_MIN_MAX(type)                                \
  constexpr inline type min(type a, type b) { return b < a ? b : a; } \
  constexpr inline type max(type a, type b) { return a < b ? b : a; }
LLMCORE_EMULATOR_MIN_MAX(int)
LLMCORE_EMULATOR_MIN_MAX(unsigned)
LLMCORE_EMULATOR_MIN_MAX(long)
LLMCORE_EMULATOR_MIN_MAX(unsigned long)
LLMCORE_EMULATOR_MIN_MAX(long long)
LLMCORE_EMULATOR_MIN_MAX(unsigned long long)
#undef LLMCORE_EMULATOR_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
inline T __ldcg(const T* p) {
  return *p;
}
template <class T>
inline void __stwb(T* p, T x) {
  *p = x;
}
template <class T>
inline void __stcs(T* p, T x) {
  *p = x;
}
template <class T>
inline void __stcg(T* p, T x) {
  *p = x;
}

// ---- floats -----------------------------------------------------------------------------------------

using std::isfinite;
using std::isinf;
using std::isnan;

inline unsigned __float_as_uint(float x) { return llmcore_emulator::bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return llmcore_emulator::bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return llmcore_emulator::bits_as<float>(x); }
inline float __int_as_float(int x) { return llmcore_emulator::bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return llmcore_emulator::bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return llmcore_emulator::bits_as<double>(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline int __float2int_ru(float x) { return static_cast<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return static_cast<unsigned>(x); }
inline long long __float2ll_rn(float x) { return static_cast<long long>(rintf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
// The C library already declares these names.
#define __expf(x) (::expf(x))
#define __exp10f(x) (::powf(10.0f, x))
#define __logf(x) (::logf(x))
#define __log2f(x) (::log2f(x))
#define __log10f(x) (::log10f(x))
#define __powf(x, y) (::powf(x, y))
#define __sinf(x) (::sinf(x))
#define __cosf(x) (::cosf(x))
#define __tanf(x) (::tanf(x))

inline long long clock64() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
