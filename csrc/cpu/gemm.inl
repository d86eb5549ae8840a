// Matrix multiplication on packed panels: blocks of rows x panels on the pool, epilogue while the block is in cache.

// tanh-approximated GELU (Hendrycks & Gimpel 2016): x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
static inline vf gelu(vf x) {
  const vf two_u = x * fma(x * x, splat(2.0f * 0.7978845608f * 0.044715f), splat(2.0f * 0.7978845608f));
  return x * sigmoid(two_u);
}

// One vector of n results at column j of row i. GELU takes the value before pre_activation's rounding to out_dtype.
template <class T>
static inline void epilogue(const GemmArgs& g, int64_t i, int64_t j, int n, vf v) {
  const int64_t at = i * g.ldo + j;
  T* out = static_cast<T*>(g.out) + at;
  if (g.bias) v = v + load_n(g.bias + j, n);
  if (g.pre_activation) store_n(static_cast<T*>(g.pre_activation) + at, v, n);
  if (g.act == Activation::kGelu) v = gelu(v);
  if (g.residual) v = v + load_n(static_cast<const T*>(g.residual) + at, n);
  if (g.accumulate) v = v + load_n(out, n);
  store_n(out, v, n);
}

constexpr int64_t kBlockRows = 96;    // rows in a piece of work: their products with one panel stay in L1
constexpr int64_t kBlockDepth = 384;  // k in one pass over them

template <class T, class O>
static void gemm_block(const GemmArgs& g, int64_t row, int64_t rows, int64_t panel) {
  alignas(64) float c[kBlockRows * kPanelWidth];
  const T* a = static_cast<const T*>(g.a) + row * g.lda;
  const T* b = static_cast<const T*>(g.panels) + panel * kPanelWidth * depth_of(a, g.K);
  for (int64_t k = 0; k < g.K; k += kBlockDepth)
    panel_product(rows, g.K - k < kBlockDepth ? g.K - k : kBlockDepth, a + k, g.lda, b + k * kPanelWidth, c,
                  kPanelWidth, k > 0);
  const int64_t column = panel * kPanelWidth;
  const int64_t columns = g.N - column < kPanelWidth ? g.N - column : kPanelWidth;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; j += kW)
      epilogue<O>(g, row + i, column + j, static_cast<int>(columns - j < kW ? columns - j : kW),
                  load(c + i * kPanelWidth + j));
}

template <class T, class O>
static void gemm_typed(const GemmArgs& g) {
  const int64_t row_blocks = (g.M + kBlockRows - 1) / kBlockRows, panels = (g.N + kPanelWidth - 1) / kPanelWidth;
  parallel(row_blocks * panels, [&](int64_t piece) {
    MatrixUnit unit;
    const int64_t row = piece / panels * kBlockRows;
    gemm_block<T, O>(g, row, g.M - row < kBlockRows ? g.M - row : kBlockRows, piece % panels);
  });
}

static void gemm(const GemmArgs& g) {
  if (g.dtype == DType::kF32) return gemm_typed<float, float>(g);
  if (g.out_dtype == DType::kF32) return gemm_typed<bf16, float>(g);
  gemm_typed<bf16, bf16>(g);
}

static inline float convert(float x, float*) { return x; }
static inline bf16 convert(float x, bf16*) { return to_bf16(x); }

static inline int64_t panel_at(const float*, int64_t k, int64_t n) { return k * kPanelWidth + n; }
static inline int64_t panel_at(const bf16*, int64_t k, int64_t n) { return (k / 2 * kPanelWidth + n) * 2 + k % 2; }

template <class S, class T>
static void pack_typed(const PackArgs& g) {
  const S* src = static_cast<const S*>(g.src);
  const int64_t depth = depth_of(static_cast<T*>(nullptr), g.K);
  const int64_t panels = (g.N + kPanelWidth - 1) / kPanelWidth;
  const int64_t k_stride = g.transposed ? 1 : g.ld, n_stride = g.transposed ? g.ld : 1;
  parallel(panels, [&](int64_t panel) {
    T* dst = static_cast<T*>(g.panels) + panel * kPanelWidth * depth;
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t n = 0; n < kPanelWidth; ++n) {
        const int64_t column = panel * kPanelWidth + n;
        const bool inside = k < g.K && column < g.N;
        dst[panel_at(dst, k, n)] = inside ? convert(to_float(src[k * k_stride + column * n_stride]), dst) : T{};
      }
  });
}

static void pack(const PackArgs& g) {
  const bool from_f32 = g.src_dtype == DType::kF32;
  if (g.dtype == DType::kF32) return from_f32 ? pack_typed<float, float>(g) : pack_typed<bf16, float>(g);
  from_f32 ? pack_typed<float, bf16>(g) : pack_typed<bf16, bf16>(g);
}

template <class T>
static void transpose_typed(const TransposeArgs& g) {
  const T* src = static_cast<const T*>(g.src);
  T* dst = static_cast<T*>(g.dst);
  parallel_ranges(g.cols, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < g.rows; ++j) dst[i * g.ld_dst + j] = src[j * g.ld_src + i];
      for (int64_t j = g.rows; j < g.ld_dst; ++j) dst[i * g.ld_dst + j] = T{};
    }
  });
}

static void transpose(const TransposeArgs& g) {
  g.dtype == DType::kF32 ? transpose_typed<float>(g) : transpose_typed<bf16>(g);
}

static void register_gemm(KernelTable& t) {
  t.pack = pack;
  t.gemm = gemm;
  t.transpose = transpose;
}
