// Instructions for which CUDA C++ has no function, one wrapper each. tests/cuda/emulator has the same file for the
// host: anything a kernel needs beyond plain CUDA C++ belongs here and nowhere else.
#pragma once
#include <cstdint>

// Shared memory whose size the launch specifies.
#define LLMCORE_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace llmcore {
namespace cuda {

// d (16,8) += a (16,16) · b (16,8): bf16 in, float32 sums. Lane l holds of d rows l/4 and l/4 + 8, columns 2 (l%4) and
// the next: d[0..1] of the first row, d[2..3] of the other; of a in pairs rows l/4 (a[0], a[2]) and l/4 + 8 (a[1],
// a[3]), columns 2 (l%4) (a[0..1]) and 8 further (a[2..3]); of b column l/4, rows 2 (l%4) (b[0]) and 8 further (b[1]).
__device__ __forceinline__ void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d (16,8) = a (16,32) · b (32,8) + c: bytes, in b signed, in a unsigned where kUnsigned, and exact integer sums. Lane
// l holds of d what mma_16816 has; of a in fours rows l/4 (a[0], a[2]) and l/4 + 8 (a[1], a[3]), columns 4 (l%4)
// (a[0..1]) and 16 further (a[2..3]); of b column l/4, rows 4 (l%4) (b[0]) and 16 further (b[1]).
template <bool kUnsigned>
__device__ __forceinline__ void mma_16832(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int c) {
  if constexpr (kUnsigned)
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};\n"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};\n"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c));
}
// The same for the first or the last 16 columns of a and rows of b: a[0], a[1], b[0] or a[2], a[3], b[1].
template <bool kUnsigned>
__device__ __forceinline__ void mma_16816_bytes(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, int c) {
  if constexpr (kUnsigned)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};\n"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a0), "r"(a1), "r"(b), "r"(c));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};\n"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a0), "r"(a1), "r"(b), "r"(c));
}

// Returns total + the dot product of four bytes of a (unsigned if kUnsigned) and four signed bytes.
template <bool kUnsigned>
__device__ __forceinline__ int dot4(uint32_t a, int b, int total) {
  if constexpr (!kUnsigned) return __dp4a(static_cast<int>(a), b, total);
  int r;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(total));
  return r;
}

// Converts a float16's bits to a float.
__device__ __forceinline__ float half_to_float(uint16_t bits) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
  return y;
}

// Loads four 8x8 matrices of 16-bit elements from shared memory: lane l names the row l%8 (16 bytes, aligned) of matrix
// l/8; r[i] holds of matrix i row l/4, columns 2 (l%4) and the next.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
// The same, each matrix transposed on the way: r[i] holds of matrix i column l/4, rows 2 (l%4) and the next.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// Asynchronously copies 16 bytes from global to shared memory, both aligned; writes zeros if !valid (`from` is not
// read).
__device__ __forceinline__ void cp_async_16(void* to, const void* from, bool valid = true) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(at), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most kPending of the groups that this thread committed are in flight; other threads' groups need
// __syncthreads() too.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// 2^x, within 2 ulp; 0 where it is subnormal.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Rounds two floats to bfloat16, to nearest even; low is in the lower half.
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

}  // namespace cuda
}  // namespace llmcore
