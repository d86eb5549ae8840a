// The key/value cache, and attention's entries in the table.
static void cache_append(const CacheAppendArgs& a) {
  const size_t size = size_of(a.dtype);
  constexpr int64_t kRowsInPiece = 64;
  parallel_ranges(a.B * a.T, kRowsInPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / a.T, t = i % a.T, at = a.lengths[b] - a.T + t;
      if (at < 0 || at >= a.S) continue;
      const char* from =
          static_cast<const char*>(a.x) + (b * a.x_stride.b + t * a.x_stride.t) * static_cast<int64_t>(size);
      char* to = static_cast<char*>(a.cache) + (b * a.S + at) * a.H * a.D * static_cast<int64_t>(size);
      const int64_t row = a.D * static_cast<int64_t>(size), step = a.x_stride.h * static_cast<int64_t>(size);
      for (int64_t h = 0; h < a.H; ++h) memcpy(to + h * row, from + h * step, static_cast<size_t>(row));
    }
  });
}

static void register_attention(KernelTable& t) {
  t.attention_workspace = attention_workspace;
  t.attention_forward = attention_forward;
  t.attention_backward_workspace = attention_backward_workspace;
  t.attention_backward = attention_backward;
  t.cache_append = cache_append;
}
