// Matrix multiplication on packed panels: blocks of rows x panels on the pool, epilogue while the block is in cache.

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
#if defined(LLMCORE_ISA_AMX)
  if (g.dtype == DType::kBF16 && g.K > 0) return gemm_tiles(g);
#endif
  if (g.dtype == DType::kF32) return gemm_typed<float, float>(g);
  if (g.out_dtype == DType::kF32) return gemm_typed<bf16, float>(g);
  gemm_typed<bf16, bf16>(g);
}

static void register_gemm(KernelTable& t) {
  t.pack = pack;
  t.gemm = gemm;
  t.transpose = transpose;
}
