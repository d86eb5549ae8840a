// The key/value cache, and attention's entries in the table.
// A nan or infinity makes the scale one, and so all that is read of the row.
template <class T>
static void append_bytes(const T* x, int64_t D, uint8_t* to, float* scale) {
  vf most{}, odd{};
  for_lanes(D, [&](int64_t i, auto lanes, int) {
    const vf v = keep_n(load_n(x + i, lanes), lanes);
    most = max(abs(v), most);
    odd += v - v;
  });
  const float largest = hmax(most), inverse = largest > 1e-35f && sum(odd) == 0.0f ? 127.0f / largest : 0.0f;
  *scale = sum(odd) == 0.0f ? largest / 127.0f : __builtin_nanf("");
  for_lanes(D, [&](int64_t i, auto lanes, int) {
    const vf v = keep_n(load_n(x + i, lanes), lanes);
    const vi q = inverse > 0.0f ? (vi)(max(splat(-127.0f), min(splat(127.0f), v * inverse)) + 0x1.8p23f) - 0x4b400000
                                : vi{};  // rounded by adding a number at which floats are integers apart
    int8_t bytes[kW];
    store_bytes(bytes, q + 128);
    memcpy(to + i, bytes, static_cast<size_t>(smaller(kW, D - i)));
  });
}
template <class T, class C>
static void append_row(const T* x, int64_t D, C* to) {
  if constexpr (sizeof(T) == sizeof(C))
    memcpy(to, x, sizeof(T) * static_cast<size_t>(D));
  else
    for_lanes(D, [&](int64_t i, auto lanes, int) { store_n(to + i, load_n(x + i, lanes), lanes); });
}
// Where the cache has token t of row b, or -1 where it has no room.
static int64_t cache_row(const CacheAppendArgs& a, int64_t b, int64_t t) {
  const int64_t at = a.lengths[b] - a.T + t;
  if (at < 0 || at >= a.S) return -1;
  if (!a.blocks) return b * a.S + at;
  return a.blocks[b * (a.S / kCacheBlock) + at / kCacheBlock] * kCacheBlock + at % kCacheBlock;
}
template <class T>
static void append_head(const CacheAppendArgs& a, const T* x, int64_t row, int64_t h) {
  const int64_t to = (row * a.H + h) * a.D;
  if (a.cache_dtype == DType::kU8)
    append_bytes(x, a.D, static_cast<uint8_t*>(a.cache) + to, a.scale + row * a.H + h);
  else if (a.cache_dtype == DType::kBF16)
    append_row(x, a.D, static_cast<bf16*>(a.cache) + to);
  else
    append_row(x, a.D, static_cast<float*>(a.cache) + to);
}
template <class T>
static void cache_append_typed(const CacheAppendArgs& a) {
  constexpr int64_t kRowsInPiece = 64;
  parallel_ranges(a.B * a.T, kRowsInPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / a.T, t = i % a.T, row = cache_row(a, b, t);
      for (int64_t h = 0; row >= 0 && h < a.H; ++h)
        append_head(a, static_cast<const T*>(a.x) + b * a.x_stride.b + t * a.x_stride.t + h * a.x_stride.h, row, h);
    }
  });
}
static void cache_append(const CacheAppendArgs& a) {
  a.dtype == DType::kBF16 ? cache_append_typed<bf16>(a) : cache_append_typed<float>(a);
}

static void register_attention(KernelTable& t) {
  t.attention_workspace = attention_workspace;
  t.attention_forward = attention_forward;
  t.attention_backward_workspace = attention_backward_workspace;
  t.attention_backward = attention_backward;
  t.cache_append = cache_append;
}
