// Rotary position embedding (Su et al. 2021), rotate-half form: pairs are (i, i + R/2) of the first R dimensions. out
// may be x.

// One head: its halves of R dimensions turned against each other, the rest copied.
template <class T, class O>
static inline void turn_head(const T* x, O* out, const float* cosine, const float* sine, int64_t half, int64_t D,
                             float sign) {
  for_lanes(half, [&](int64_t i, auto lanes, int) {
    const vf c = load_n(cosine + i, lanes), s = load_n(sine + i, lanes) * sign;
    const vf x1 = load_n(x + i, lanes), x2 = load_n(x + half + i, lanes);
    store_n(out + i, x1 * c - x2 * s, lanes);
    store_n(out + half + i, x2 * c + x1 * s, lanes);
  });
  if (static_cast<const void*>(x) != out && D > 2 * half) append_row(x + 2 * half, D - 2 * half, out + 2 * half);
}

template <class T>
static void rope_typed(const RopeArgs& a) {
  const int64_t half = a.R / 2, row = a.H * a.D;
  parallel_ranges(a.B * a.T, row_grain(row), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const int64_t position = a.positions ? a.positions[token] : token % a.T;
      const float* cosine = a.cos + position * half;
      const float* sine = a.sin + position * half;
      const float sign = a.inverse ? -1.0f : 1.0f;
      const T* x = static_cast<const T*>(a.x) + token * row;
      T* out = static_cast<T*>(a.out) + token * row;
      for (int64_t h = 0; h < a.rotated; ++h, x += a.D, out += a.D) turn_head(x, out, cosine, sine, half, a.D, sign);
      if (x != out) memcpy(out, x, static_cast<size_t>((a.H - a.rotated) * a.D) * sizeof(T));
    }
  });
}

static void rope(const RopeArgs& a) { a.dtype == DType::kBF16 ? rope_typed<bf16>(a) : rope_typed<float>(a); }

// Keys are rounded to x's dtype before they are to the cache's, as if they had been in memory.
template <class T, class O>
static void rope_append_typed(const RopeAppendArgs& a) {
  const int64_t half = a.R / 2, row = (a.H + 2 * a.keys.H) * a.D;
  parallel_ranges(a.keys.B * a.keys.T, row_grain(row), [&](int64_t begin, int64_t end) {
    T turned[kMostHeadSize];
    for (int64_t token = begin; token < end; ++token) {
      const int64_t b = token / a.keys.T, to = cache_row(a.keys, b, token % a.keys.T);
      const float *cosine = a.cos + a.positions[token] * half, *sine = a.sin + a.positions[token] * half;
      const T* x = static_cast<const T*>(a.x) + token * row;
      O* q = static_cast<O*>(a.q) + token * a.H * a.D;
      for (int64_t h = 0; h < a.H; ++h, x += a.D, q += a.D) turn_head(x, q, cosine, sine, half, a.D, 1.0f);
      for (int64_t h = 0; h < a.keys.H; ++h, x += a.D) {
        turn_head(x, turned, cosine, sine, half, a.D, 1.0f);
        if (to >= 0) append_head(a.keys, turned, to, h);
      }
      for (int64_t h = 0; h < a.keys.H; ++h, x += a.D)
        if (to >= 0) append_head(a.values, x, to, h);
    }
  });
}
static void rope_append(const RopeAppendArgs& a) {
  if (a.keys.dtype == DType::kBF16)
    a.q_dtype == DType::kBF16 ? rope_append_typed<bf16, bf16>(a) : rope_append_typed<bf16, float>(a);
  else
    a.q_dtype == DType::kBF16 ? rope_append_typed<float, bf16>(a) : rope_append_typed<float, float>(a);
}

static void register_rope(KernelTable& t) {
  t.rope = rope;
  t.rope_append = rope_append;
}
