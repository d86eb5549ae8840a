// cuda/ptx.cuh against the tables of the PTX ISA: "Matrix Fragments for mma.m16n8k16" and others, written down as in
// the manual, by fragment element.
#include <cmath>
#include <cstring>
#include <random>

#include "cuda/ptx.cuh"
#include "test.h"

using namespace llmcore::cuda;

namespace {

uint16_t bf16_of(float x) { return static_cast<uint16_t>(pack_bf16x2(x, 0.0f) & 0xffffu); }

template <class T>
T register_element(const uint32_t* registers, int i) {  // the i-th element of a fragment
  T x;
  std::memcpy(&x, reinterpret_cast<const char*>(registers) + i * static_cast<int>(sizeof(T)), sizeof x);
  return x;
}
template <class T>
void set_element(uint32_t* registers, int i, T x) {
  std::memcpy(reinterpret_cast<char*>(registers) + i * static_cast<int>(sizeof(T)), &x, sizeof x);
}

__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, float* d) {  // a (32,4), b (32,2), d (32,4)
  const int t = threadIdx.x;
  uint32_t ra[4], rb[2];
  float rd[4];
  for (int i = 0; i < 4; ++i) ra[i] = a[4 * t + i], rd[i] = d[4 * t + i];
  for (int i = 0; i < 2; ++i) rb[i] = b[2 * t + i];
  mma_16816(rd, ra, rb);
  for (int i = 0; i < 4; ++i) d[4 * t + i] = rd[i];
}

TEST(mma_m16n8k16) {
  std::mt19937 random(1);
  std::uniform_int_distribution<int> small(-8, 8);  // sums are exact
  float a[16][16], b[16][8], c[16][8];
  for (auto& row : a)
    for (float& x : row) x = static_cast<float>(small(random));
  for (auto& row : b)
    for (float& x : row) x = static_cast<float>(small(random));
  for (auto& row : c)
    for (float& x : row) x = static_cast<float>(small(random));
  std::vector<uint32_t> fa(128), fb(64);
  std::vector<float> fd(128);
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane >> 2, in_group = lane % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
      const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      set_element(&fa[4 * lane], i, bf16_of(a[row][column]));
    }
    for (int i = 0; i < 4; ++i) {
      set_element(&fb[2 * lane], i, bf16_of(b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group]));
      fd[4 * lane + i] = c[i < 2 ? group : group + 8][in_group * 2 + (i & 1)];
    }
  }
  Array<uint32_t> da(fa), db(fb);
  Array<float> dd(fd);
  CHECK(start(mma_kernel, 1, 32, 0, da.get(), db.get(), dd.get()) == cudaSuccess);
  const std::vector<float> found = dd.values();
  bool ok = true;
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = (lane >> 2) + (i < 2 ? 0 : 8), column = lane % 4 * 2 + (i & 1);
      float sum = c[row][column];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      ok = ok && found[4 * lane + i] == sum;
    }
  CHECK(ok);
}

template <bool kUnsigned, int K>
__global__ void bytes_kernel(const uint32_t* a, const uint32_t* b, int* d,
                             int c) {  // a (32,K/8), b (32,K/16), d (32,4)
  const int t = threadIdx.x;
  int rd[4];
  if constexpr (K == 32) {
    const uint32_t ra[4] = {a[4 * t], a[4 * t + 1], a[4 * t + 2], a[4 * t + 3]}, rb[2] = {b[2 * t], b[2 * t + 1]};
    mma_16832<kUnsigned>(rd, ra, rb, c);
  } else {
    mma_16816_bytes<kUnsigned>(rd, a[2 * t], a[2 * t + 1], b[t], c);
  }
  for (int i = 0; i < 4; ++i) d[4 * t + i] = rd[i];
}

template <bool kUnsigned, int K>
void check_bytes() {
  std::mt19937 random(2);
  std::uniform_int_distribution<int> any(0, 255);
  int a[16][K], b[K][8];
  std::vector<uint32_t> fa(32 * K / 8), fb(32 * K / 16);
  for (auto& row : a)
    for (int& x : row) x = kUnsigned ? any(random) : any(random) - 128;
  for (auto& row : b)
    for (int& x : row) x = any(random) - 128;
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane >> 2, in_group = lane % 4;
    for (int i = 0; i < K / 2; ++i) {
      const int row = i < 4 || (8 <= i && i < 12) ? group : group + 8;
      set_element(&fa[lane * K / 8], i, static_cast<uint8_t>(a[row][in_group * 4 + (i & 3) + (i >= 8 ? 16 : 0)]));
    }
    for (int i = 0; i < K / 4; ++i)
      set_element(&fb[lane * K / 16], i, static_cast<uint8_t>(b[in_group * 4 + (i & 3) + (i >= 4 ? 16 : 0)][group]));
  }
  Array<uint32_t> da(fa), db(fb);
  Array<int> dd(128);
  CHECK(start(bytes_kernel<kUnsigned, K>, 1, 32, 0, da.get(), db.get(), dd.get(), -77) == cudaSuccess);
  const std::vector<int> found = dd.values();
  bool ok = true;
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      int sum = -77;
      for (int k = 0; k < K; ++k) sum += a[(lane >> 2) + (i < 2 ? 0 : 8)][k] * b[k][lane % 4 * 2 + (i & 1)];
      ok = ok && found[4 * lane + i] == sum;
    }
  CHECK(ok);
}

TEST(mma_of_bytes) {
  check_bytes<false, 32>();
  check_bytes<true, 32>();
  check_bytes<false, 16>();
  check_bytes<true, 16>();
}

__global__ void ldmatrix_kernel(const uint16_t* x, uint32_t* out, bool transposed) {  // x (4,8,8), out (32,4)
  __shared__ __align__(16) uint16_t room[4][8][8];
  const int t = threadIdx.x;
  for (int i = 0; i < 8; ++i) room[t / 8][t % 8][i] = x[t * 8 + i];
  __syncwarp();
  uint32_t r[4];
  if (transposed)
    ldmatrix_x4_trans(r, room[t / 8][t % 8]);
  else
    ldmatrix_x4(r, room[t / 8][t % 8]);
  for (int i = 0; i < 4; ++i) out[4 * t + i] = r[i];
}

TEST(ldmatrix) {
  std::vector<uint16_t> x(256);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint16_t>(i * 257);
  Array<uint16_t> dx(x);
  for (const bool transposed : {false, true}) {
    Array<uint32_t> out(128);
    CHECK(start(ldmatrix_kernel, 1, 32, 0, dx.get(), out.get(), transposed) == cudaSuccess);
    const std::vector<uint32_t> found = out.values();
    bool ok = true;
    for (int lane = 0; lane < 32; ++lane)
      for (int matrix = 0; matrix < 4; ++matrix)
        for (int e = 0; e < 2; ++e) {  // "Fragment layout for 8x8 matrix": thread l has row l/4, elements 2 (l%4) + e
          const int row = lane / 4, column = lane % 4 * 2 + e;
          const uint16_t expected = x[matrix * 64 + (transposed ? column * 8 + row : row * 8 + column)];
          ok = ok && register_element<uint16_t>(&found[4 * lane + matrix], e) == expected;
        }
    CHECK(ok);
  }
}

__global__ void copies_kernel(const uint4* x, unsigned* out) {  // x (4,32); out (8,32): what is there when
  __shared__ uint4 room[4][32];
  const int t = threadIdx.x;
  const auto look = [&](int row) { return *reinterpret_cast<volatile unsigned*>(&room[row][t]); };
  for (int row = 0; row < 4; ++row) {
    room[row][t] = make_uint4(1, 2, 3, 4);
    cp_async_16(&room[row][t], x + row * 32 + t, row != 2);
    cp_async_commit();
  }
  out[t] = look(0);
  cp_async_wait<3>();
  out[32 + t] = look(0);
  out[64 + t] = look(1);
  cp_async_wait<1>();
  out[96 + t] = look(1);
  out[128 + t] = look(2);
  out[160 + t] = look(3);
  cp_async_wait<0>();
  out[192 + t] = look(3);
  cp_async_16(&room[0][t], x + 64 + t);  // this group is never committed
  cp_async_wait<0>();
  out[224 + t] = look(0);
}

TEST(cp_async) {
  std::vector<uint4> x(128);
  for (unsigned i = 0; i < 128; ++i) x[i] = make_uint4(i + 1, 0, 0, 0);
  Array<uint4> dx(x);
  Array<unsigned> out(256);
  CHECK(start(copies_kernel, 1, 32, 0, dx.get(), out.get()) == cudaSuccess);
  const std::vector<unsigned> found = out.values();
  const unsigned garbage = ~0u;
  bool ok = true;
  for (unsigned t = 0; t < 32; ++t)
    ok = ok && found[t] == garbage && found[32 + t] == t + 1 && found[64 + t] == garbage && found[96 + t] == t + 33 &&
         found[128 + t] == 0 && found[160 + t] == garbage && found[192 + t] == t + 97 && found[224 + t] == garbage;
  CHECK(ok);
}

TEST(conversions) {
  const auto bf16 = [](float x) {
    return pack_bf16x2(x, 1.0f) == (uint32_t{0x3f80} << 16 | bf16_of(x)) ? bf16_of(x) : 0;
  };
  CHECK(bf16(1.0f) == 0x3f80 && bf16(-2.0f) == 0xc000 && bf16(INFINITY) == 0x7f80 && bf16(3.4e38f) == 0x7f80);
  CHECK(bf16(1.0f + 1.0f / 256) == 0x3f80 && bf16(1.0f + 3.0f / 256) == 0x3f82 && bf16(-NAN) == 0x7fff);
  CHECK(bf16(1.0f + 1.0f / 256 + 1e-6f) == 0x3f81);
  CHECK(exp2_approx(3.0f) == 8.0f && exp2_approx(-126.0f) > 0.0f && exp2_approx(-127.0f) == 0.0f);
  CHECK(exp2_approx(-INFINITY) == 0.0f && std::isnan(exp2_approx(NAN)));
  CHECK(half_to_float(0x3c00) == 1.0f && half_to_float(0xc000) == -2.0f && half_to_float(0x7bff) == 65504.0f);
  CHECK(half_to_float(0x0001) == std::ldexp(1.0f, -24) && half_to_float(0x0400) == std::ldexp(1.0f, -14));
  CHECK(half_to_float(0xfc00) == -INFINITY && std::isnan(half_to_float(0x7e00)) && std::signbit(half_to_float(0x8000)));
  CHECK(dot4<true>(0xff020304u, 0x7f010101, 1) == 1 + 255 * 127 + 9);
  CHECK(dot4<false>(0xff020304u, 0x7f010101, 1) == 1 - 127 + 9);
}

}  // namespace
