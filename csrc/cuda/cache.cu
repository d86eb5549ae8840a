// Writes keys and values to the cache: unchanged, rounded, or as bytes with one scale per head; and rotates queries and
// keys by their positions on the way.
#include "cuda/vectors.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kThreads = kItemThreads;

// Returns where the cache has token t of row b, or -1 if it has no room.
__device__ __forceinline__ int64_t cache_row(const CacheAppendArgs& a, int64_t b, int64_t t) {
  const int64_t at = a.lengths[b] - a.T + t;
  if (at < 0 || at >= a.S) return -1;
  if (!a.blocks) return b * a.S + at;
  return int64_t{a.blocks[b * (a.S / kCacheBlock) + at / kCacheBlock]} * kCacheBlock + at % kCacheBlock;
}

// ---- cache_append ---------------------------------------------------------------------------------

// Copies x (B,T,H,D) with strides to the rows of cache (rows,H,D): kCount elements of a head per thread.
template <class T, class C, int kCount>
__global__ void __launch_bounds__(kThreads) append_kernel(CacheAppendArgs a, int64_t items) {
  const int64_t i = first_item<1>();
  if (i >= items) return;
  const Split in_head = split(i, a.D / kCount), in_token = split(in_head.row, a.H), in_row = split(in_token.row, a.T);
  const int64_t b = in_row.row, t = in_row.at, h = in_token.at, row = cache_row(a, b, t);
  if (row < 0) return;
  const T* x = static_cast<const T*>(a.x) + b * a.x_stride.b + t * a.x_stride.t + h * a.x_stride.h;
  store(static_cast<C*>(a.cache) + (row * a.H + h) * a.D + in_head.at * kCount, load<kCount>(x + in_head.at * kCount));
}

// A head as stored, or rotated: element i, rounded to T as if it had been written.
template <class T>
struct Head {
  const T* x;
  const float* cos;  // (half) for the position, or null
  const float* sin;
  int64_t half;

  __device__ __forceinline__ float turned(int64_t i) const {
    const float own = as_float(x[i]);
    if (!cos || i >= 2 * half) return own;
    return i < half ? turned_first(own, as_float(x[i + half]), cos[i], sin[i])
                    : turned_second(as_float(x[i - half]), own, cos[i - half], sin[i - half]);
  }
  __device__ __forceinline__ float operator[](int64_t i) const { return as_float(rounded<T>(turned(i))); }
};

// With a warp, writes head x (D) to row, h of the cache.
template <class T, class C>
__device__ __forceinline__ void append(const CacheAppendArgs& a, const Head<T>& x, int64_t row, int64_t h) {
  C* to = static_cast<C*>(a.cache) + (row * a.H + h) * a.D;
  for (int64_t i = threadIdx.x % kWarp; i < a.D; i += kWarp) to[i] = rounded<C>(x[i]);
}
// The same as bytes: x ~ scale * (q - 128). A NaN or infinity makes the scale NaN, and with it everything read from the
// head.
template <class T>
__device__ __forceinline__ void append_bytes(const CacheAppendArgs& a, const Head<T>& x, int64_t row, int64_t h) {
  const int lane = threadIdx.x % kWarp;
  float most = 0.0f;
  bool odd = false;
  for (int64_t i = lane; i < a.D; i += kWarp) {
    const float v = x[i];
    most = fmaxf(most, fabsf(v));
    odd = odd || !(v - v == 0.0f);
  }
  most = warp_max(most), odd = __any_sync(kAllLanes, odd);
  const float inverse = most > 1e-35f && !odd ? 127.0f / most : 0.0f;
  uint8_t* to = static_cast<uint8_t*>(a.cache) + (row * a.H + h) * a.D;
  for (int64_t i = lane; i < a.D; i += kWarp) {
    // Round by adding a number at which adjacent floats are one integer apart.
    const float y = inverse > 0.0f ? fmaxf(-127.0f, fminf(127.0f, x[i] * inverse)) : 0.0f;
    to[i] = static_cast<uint8_t>(__float_as_uint(__fadd_rn(y, 12582912.0f)) - 0x4b400000u + 128u);
  }
  if (lane == 0) a.scale[row * a.H + h] = odd ? NAN : most / 127.0f;
}
template <class T>
__device__ __forceinline__ void append_head(const CacheAppendArgs& a, const Head<T>& x, int64_t row, int64_t h) {
  if (a.cache_dtype == DType::kU8)
    append_bytes(a, x, row, h);
  else if (a.cache_dtype == DType::kBF16)
    append<T, bf16>(a, x, row, h);
  else
    append<T, float>(a, x, row, h);
}

// One warp per head of x (B,T,H,D) with strides.
template <class T>
__global__ void __launch_bounds__(kThreads) append_bytes_kernel(CacheAppendArgs a) {
  const int64_t head = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (head >= a.B * a.T * a.H) return;
  const Split in_token = split(head, a.H), in_row = split(in_token.row, a.T);
  const int64_t row = cache_row(a, in_row.row, in_row.at);
  if (row < 0) return;
  const T* x =
      static_cast<const T*>(a.x) + in_row.row * a.x_stride.b + in_row.at * a.x_stride.t + in_token.at * a.x_stride.h;
  append_bytes(a, Head<T>{x, nullptr, nullptr, 0}, row, in_token.at);
}

template <class T, class C>
void append_all(const CacheAppendArgs& a) {
  constexpr int kWide = kVec<T> < kVec<C> ? kVec<T> : kVec<C>;
  const Strides3& s = a.x_stride;
  const bool wide = aligned<T>(0, {a.x, a.cache}) && a.D % kWide == 0 && s.b % kVec<T> == 0 && s.t % kVec<T> == 0 &&
                    s.h % kVec<T> == 0;
  const int64_t items = a.B * a.T * a.H * (wide ? a.D / kWide : a.D);
  const unsigned blocks = blocks_of_items<1>(items);
  if (wide)
    launch("cache_append", append_kernel<T, C, kWide>, blocks, kThreads, 0, a, items);
  else
    launch("cache_append", append_kernel<T, C, 1>, blocks, kThreads, 0, a, items);
}

void cache_append(const CacheAppendArgs& a) {
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    if (a.cache_dtype == DType::kU8)
      launch("cache_append", append_bytes_kernel<T>, ceil_div(a.B * a.T * a.H, kThreads / kWarp), kThreads, 0, a);
    else
      with_float(a.cache_dtype, [&](auto c) { append_all<T, decltype(c)>(a); });
  });
}

// ---- rope_append ----------------------------------------------------------------------------------

// One warp per head of x (B,T,H+2Hkv,D): rotates queries into q (B,T,H,D), rotates and appends keys, appends values.
template <class T, class O>
__global__ void __launch_bounds__(kThreads) rope_append_kernel(RopeAppendArgs a) {
  const int64_t head = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t heads = a.H + 2 * a.keys.H;
  if (head >= a.keys.B * a.keys.T * heads) return;
  const Split in_token = split(head, heads);
  const int64_t token = in_token.row, h = in_token.at, half = a.R / 2, position = a.positions[token] * half;
  const bool value = h >= a.H + a.keys.H;
  const Head<T> x{static_cast<const T*>(a.x) + head * a.D, value ? nullptr : a.cos + position, a.sin + position, half};
  if (h < a.H) {
    O* q = static_cast<O*>(a.q) + (token * a.H + h) * a.D;
    for (int64_t i = threadIdx.x % kWarp; i < a.D; i += kWarp) q[i] = rounded<O>(x.turned(i));
    return;
  }
  const Split in_row = split(token, a.keys.T);
  const int64_t row = cache_row(a.keys, in_row.row, in_row.at);
  if (row < 0) return;
  append_head(value ? a.values : a.keys, x, row, h - a.H - (value ? a.keys.H : 0));
}

void rope_append(const RopeAppendArgs& a) {
  const unsigned blocks = ceil_div(a.keys.B * a.keys.T * (a.H + 2 * a.keys.H), kThreads / kWarp);
  with_float(a.keys.dtype, [&](auto t) {
    with_float(a.q_dtype, [&](auto o) {
      launch("rope_append", rope_append_kernel<decltype(t), decltype(o)>, blocks, kThreads, 0, a);
    });
  });
}

}  // namespace

void register_cache(KernelTable& t) {
  t.cache_append = cache_append;
  t.rope_append = rope_append;
}

}  // namespace cuda
}  // namespace llmcore
