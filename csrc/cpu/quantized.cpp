// Products with quantized weights (core/kernels/quantized.h). Activations become int8 in blocks of 32 columns; a
// block's products are summed exactly, in integers, and blocks are added in float32 in order. So a result depends
// neither on the number of threads nor on the other rows.
#include "cpu/activations.h"
#include "cpu/families.h"
#include "cpu/lanes.h"

namespace llmcore {
namespace LLMCORE_ISA {

typedef int16_t vs __attribute__((vector_size(LLMCORE_VECTOR_BYTES)));

static inline vf load_halves(const uint8_t* p) {
  vh h;
  memcpy(&h, p, sizeof h);
#if LLMCORE_VECTOR_BYTES == 64
  return (vf)_mm512_cvtph_ps((__m256i)h);
#elif LLMCORE_VECTOR_BYTES == 32
  return (vf)_mm256_cvtph_ps((__m128i)h);
#else
  const vu u = __builtin_convertvector(h, vu);
  const vf size = as_float((u & 0x7fffu) << 13) * 0x1p112f;  // exact, subnormal numbers included
  return as_float(as_bits(size) | (u & 0x8000u) << 16);
#endif
}

// The sums of products of unsigned bytes of kW rows of weights, four in a word, with four signed bytes of x, which all
// rows share: exact, over at most kQuantBlock columns.
#if defined(LLMCORE_BF16_DOT) || defined(LLMCORE_ISA_AVXVNNI)
template <int kBits>
struct Products {
  static constexpr int kRegisters = 1;
  static constexpr bool kWaits = true;  // an addition takes several cycles
  vi sums = {};
  void add(vu w, int32_t x) {
#if LLMCORE_VECTOR_BYTES == 64
    sums = (vi)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, _mm512_set1_epi32(x));
#else
    sums = (vi)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)w, _mm256_set1_epi32(x));
#endif
  }
  vi total() const { return sums; }
};
#elif LLMCORE_VECTOR_BYTES >= 32
static inline vs add_pairs(vs sums, vu w, vi x) {
#if LLMCORE_VECTOR_BYTES == 64
  sums += (vs)_mm512_maddubs_epi16((__m512i)w, (__m512i)x);
  asm("" : "+v"(sums));  // else GCC makes all products before it adds any, for which there are not enough registers
#else
  sums += (vs)_mm256_maddubs_epi16((__m256i)w, (__m256i)x);
  asm("" : "+x"(sums));
#endif
  return sums;
}
static inline vi sum_pairs(vs sums, int16_t factor) {
#if LLMCORE_VECTOR_BYTES == 64
  return (vi)_mm512_madd_epi16((__m512i)sums, _mm512_set1_epi16(factor));
#else
  return (vi)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(factor));
#endif
}
// The sum of two products fits in 16 bits if the weights have 4 bits (2 · 15 · 127 = 3,810), and so do eight of these.
// Weights of 8 bits are taken apart.
template <int kBits>
struct Products {
  static constexpr int kRegisters = kBits / 4;
  static constexpr bool kWaits = false;
  vs low = {}, high = {};
  void add(vu w, int32_t x) {
    const vi all = vi{} + x;
    low = add_pairs(low, kBits == 4 ? w : w & 0x0f0f0f0fu, all);
    if constexpr (kBits == 8) high = add_pairs(high, w >> 4 & 0x0f0f0f0fu, all);
  }
  vi total() const {
    if constexpr (kBits == 8) return sum_pairs(low, 1) + sum_pairs(high, 16);
    return sum_pairs(low, 1);
  }
};
#else
template <int kBits>
struct Products {
  static constexpr int kRegisters = 1;
  static constexpr bool kWaits = true;
  vi sums = {};
  void add(vu w, int32_t x) {
    const vs pairs = (vs)(vi{} + x);
    const vs x_even = pairs << 8 >> 8, x_odd = pairs >> 8;
    const vu even = w & 0x00ff00ffu, odd = w >> 8 & 0x00ff00ffu;
#if defined(__SSE2__)
    sums += (vi)_mm_madd_epi16((__m128i)even, (__m128i)x_even) + (vi)_mm_madd_epi16((__m128i)odd, (__m128i)x_odd);
#else
    for (int i = 0; i < 2 * kW; ++i) sums[i / 2] += ((vs)even)[i] * x_even[i] + ((vs)odd)[i] * x_odd[i];
#endif
  }
  vi total() const { return sums; }
};
#endif

template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

// The scales or minima of kW rows of a block.
static inline vf load_factors(const QuantLayout& l, const uint8_t* p, int64_t lane) {
  if (!l.float_scales) return load_halves(p + 2 * lane);
  vf f;
  memcpy(&f, p + 4 * lane, sizeof f);
  return f;
}

// Word t of 8, columns 4t to 4t + 3, of kW rows of a block, from the first of these rows on.
template <int kBits>
static inline vu load_word(const uint8_t* q, int t) {
  vu word;
  memcpy(&word, q + (kBits == 8 ? t : t % 4) * 4 * kStripRows, sizeof word);
  if constexpr (kBits == 8) return word;
  return (t < 4 ? word : word >> 4) & 0x0f0f0f0fu;
}

// The rows of x and the strips in a tile: all their sums of products stay in registers. A wide tile reads less: a word
// of x serves all strips and a word of weights all rows, and the processor reads one vector while it multiplies
// another.
constexpr bool kWide = LLMCORE_VECTOR_BYTES == 64;
constexpr int kTileRows = kWide ? 6 : 4, kTileStrips = kWide ? 2 : 1;

// Multiplies rows [row, row + kRows) of x with kSides vectors of rows, from `lane` on, of kStrips strips. fetch: also
// prefetch the strips after them.
template <int kBits, int kRows, int kStrips, int kSides, bool kHalves, bool kMinima, class O>
static void quantized_tile(const QuantizedGemmArgs& a, int64_t strip, int64_t lane, int64_t row,
                           [[maybe_unused]] bool fetch) {
  const QuantLayout& l = a.layout;
  constexpr int kZeroBits = kBits == 8 ? 7 : 3;  // layouts without minima have 128 or 8 as zero
  constexpr int kVectors = kStrips * kSides, kWords = kHalves ? 4 : 8;
  constexpr int kChains = kRows == 1 && Products<kBits>::kWaits ? 2 : 1;
  const int64_t blocks = a.K / kQuantBlock, factor_bytes = quant_factor_bytes(l), block_bytes = quant_block_bytes(l);
  const int64_t strip_bytes = blocks * block_bytes;
  const uint8_t* block = a.weight + strip * strip_bytes;
  const ActivationBlock* x = a.x + row * a.ldx;
  const auto start = [&](int n) { return n / kSides * strip_bytes; };  // of vector n
  const auto lane_of = [&](int n) { return lane + n % kSides * kW; };
  vf sum[kVectors][kRows] = {};
  for (int64_t b = 0; b < blocks; ++b, block += block_bytes, ++x) {
    if constexpr (kRows >= 4) {  // with fewer rows the processor predicts it better
      if (fetch)
        for (int n = kStrips; n < 2 * kStrips; ++n)
          for (int64_t i = 0; i < block_bytes; i += 64) __builtin_prefetch(block + n * strip_bytes + i, 0, 2);
    }
    const uint8_t* q = block + factor_bytes * (kMinima ? 2 : 1) + 4 * lane;
#pragma GCC unroll 2
    for (int half = 0; half < 1 + kHalves; ++half) {
      Products<kBits> products[kVectors][kRows * kChains];
#pragma GCC unroll 8
      for (int t = half * kWords; t < (half + 1) * kWords; ++t) {
        vu w[kVectors];
        for (int n = 0; n < kVectors; ++n) w[n] = load_word<kBits>(q + start(n) + n % kSides * 4 * kW, t);
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m) {
          int32_t word;
          memcpy(&word, x[m * a.ldx].q + 4 * t, sizeof word);
          for (int n = 0; n < kVectors; ++n) products[n][kChains == 1 ? m : t % 2].add(w[n], word);
        }
      }
      vf scale[kVectors], minimum[kVectors] = {};
      for (int n = 0; n < kVectors; ++n) {
        const int64_t at = half * kStripRows + lane_of(n);
        scale[n] = load_factors(l, block + start(n), at);
        if constexpr (kMinima) minimum[n] = load_factors(l, block + start(n) + factor_bytes, at);
      }
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        const ActivationBlock& by = x[m * a.ldx];
        for (int n = 0; n < kVectors; ++n) {
          vi total = products[n][kChains == 1 ? m : 0].total();
          if constexpr (kChains == 2) total += products[n][1].total();
          if constexpr (!kMinima) total -= (vi{} + (kHalves ? by.sums[half] : by.total)) << kZeroBits;
          sum[n][m] = fma(scale[n] * by.scale, __builtin_convertvector(total, vf), sum[n][m]);
          if constexpr (kMinima)
            sum[n][m] = fma(minimum[n], splat(kHalves ? by.scaled[half] : by.scaled_total), sum[n][m]);
        }
      }
    }
  }
  for (int n = 0; n < kVectors; ++n) {
    const int64_t column = (strip + n / kSides) * kStripRows + lane_of(n);
    const int lanes = static_cast<int>(min_of(kW, a.N - column));
    if (lanes <= 0) return;
    for (int m = 0; m < kRows; ++m) {
      const int64_t at = (row + m) * a.ldo + column;
      vf y = sum[n][m];
      if (a.bias) y += load_n(a.bias + column, lanes);
      if (a.residual) y += load_n(static_cast<const O*>(a.residual) + at, lanes);
      store_n(static_cast<O*>(a.out) + at, y, lanes);
    }
  }
}

// Multiplies rows [begin, end) of x with strips. The last tiles are as equal as possible: 8 rows become two tiles of 4.
template <int kBits, int kStrips, int kSides, bool kHalves, bool kMinima, class O>
static void quantized_strips(const QuantizedGemmArgs& a, int64_t strip, int64_t begin, int64_t end) {
  for (int64_t lane = 0; lane < kStripRows; lane += kSides * kW)
    for (int64_t row = begin; row < end;) {
      const bool fetch = row == begin && lane == 0;
      const auto run = [&](auto rows) {
        constexpr int kRows = decltype(rows)::value;
        quantized_tile<kBits, kRows, kStrips, kSides, kHalves, kMinima, O>(a, strip, lane, row, fetch);
        row += kRows;
      };
      const int64_t left = end - row;
      if (left >= kTileRows + 4 || left == kTileRows || left == kTileRows + 1)
        run(Count<kTileRows>{});
      else if (left >= 4)
        run(Count<4>{});
      else if (left >= 2)
        run(Count<2>{});
      else
        run(Count<1>{});
    }
}

// The strips from `strip` to `last`.
template <int kBits, bool kHalves, bool kMinima, class O>
static void quantized_range(const QuantizedGemmArgs& a, int64_t strip, int64_t last, int64_t begin, int64_t end) {
  constexpr int kAll = LLMCORE_VECTOR_BYTES == 32 ? kStripRows / kW : 1;  // a whole strip, if that fits in registers
  if (end - begin < 4) {  // bound by memory, which the processor predicts better strip by strip
    for (; strip < last; ++strip) quantized_strips<kBits, 1, kAll, kHalves, kMinima, O>(a, strip, begin, end);
    return;
  }
  constexpr int kSides = Products<kBits>::kRegisters == 1 ? kAll : 1;
  for (; strip + kTileStrips <= last; strip += kTileStrips)
    quantized_strips<kBits, kTileStrips, kSides, kHalves, kMinima, O>(a, strip, begin, end);
  for (; strip < last; ++strip) quantized_strips<kBits, 1, kSides, kHalves, kMinima, O>(a, strip, begin, end);
}

template <class O>
static void quantized_gemm_typed(const QuantizedGemmArgs& a) {
  // Pieces of a few microseconds are worth waking a thread for. Every thread gets the same number of pieces, a few if
  // there is enough work, so that none waits long for the others. The rows of x stay in L2 while strips stream past.
  constexpr int64_t kWorthWaking = 1 << 17, kRowBytes = 384 << 10, kPieces = 4;
  const int64_t strips = ceil_div(a.N, kStripRows), threads = num_threads();
  const int64_t rows = max_of(kTileRows, kRowBytes / max_of(1, 2 * a.K) / kTileRows * kTileRows);
  const int64_t row_blocks = ceil_div(a.M, rows), work = strips * kStripRows * a.K * min_of(rows, a.M);
  int64_t groups = min_of(min_of(work / kWorthWaking, strips), kPieces * threads);
  groups = max_of(1, groups >= threads ? groups / threads * threads : groups);
  const auto run = [&](auto range) {
    parallel(row_blocks * groups, [&](int64_t piece) {
      const int64_t row = piece / groups * rows, group = piece % groups;
      range(a, group * strips / groups, (group + 1) * strips / groups, row, min_of(row + rows, a.M));
    });
  };
  const QuantLayout& l = a.layout;
  const int kind = (l.bits == 8) * 4 + (l.halves == 2) * 2 + l.minima;
  switch (kind) {
    case 0:
      return run(quantized_range<4, false, false, O>);
    case 1:
      return run(quantized_range<4, false, true, O>);
    case 2:
      return run(quantized_range<4, true, false, O>);
    case 3:
      return run(quantized_range<4, true, true, O>);
    case 4:
      return run(quantized_range<8, false, false, O>);
    case 5:
      return run(quantized_range<8, false, true, O>);
    case 6:
      return run(quantized_range<8, true, false, O>);
    default:
      return run(quantized_range<8, true, true, O>);
  }
}
static void quantized_gemm(const QuantizedGemmArgs& a) {
  a.out_dtype == DType::kBF16 ? quantized_gemm_typed<bf16>(a) : quantized_gemm_typed<float>(a);
}

static inline int32_t add_lanes(vi v) {
#if LLMCORE_VECTOR_BYTES == 64
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  int32_t total = 0;
  for (int i = 0; i < kW; ++i) total += v[i];
  return total;
#endif
}

// Returns 1 / sqrt(mean square + eps) of a row.
template <class T>
static float rms_rstd(const T* x, int64_t C, float eps) {
  vf q[4] = {};
  for_lanes<4>(C, [&](int64_t i, auto lanes, int u) {
    const vf d = load_n(x + i, lanes);
    q[u] = fma(d, d, q[u]);
  });
  return 1.0f / __builtin_sqrtf(sum4(q) / static_cast<float>(C) + eps);
}

// Rounds to nearest even by adding a number at which adjacent floats are one integer apart.
template <class T, ActivationSource kSource>
static void quantize_activations_typed(const QuantizeActivationsArgs& a) {
  constexpr bool kGated = kSource == ActivationSource::kSwiglu || kSource == ActivationSource::kGeglu;
  const int64_t blocks = a.K / kQuantBlock;
  parallel_ranges(a.M, row_grain(4 * a.K), [&](int64_t begin, int64_t end) {
    float rstd = 1.0f;
    for (int64_t i = begin * blocks; i < end * blocks; ++i) {
      const int64_t row = i / blocks, block = i % blocks;
      const T* whole = static_cast<const T*>(a.x) + row * (kGated ? 2 * a.K : a.K);
      const T* x = whole + block * kQuantBlock;
      if (kSource == ActivationSource::kRmsNorm && block == 0) rstd = rms_rstd(whole, a.K, a.eps);
      ActivationBlock& out = a.out[row * a.ld + block];
      constexpr int kVectors = kQuantBlock / kW;
      vf v[kVectors], most{}, odd{};  // odd: NaN where some number is NaN or infinite
      for (int n = 0; n < kVectors; ++n) {
        const vf given = load(x + n * kW);
        if constexpr (kSource == ActivationSource::kRmsNorm)
          v[n] = given * rstd * load(a.norm_weight + block * kQuantBlock + n * kW);
        else if constexpr (kSource == ActivationSource::kSwiglu)
          v[n] = Silu::value(given) * load(x + a.K + n * kW);
        else if constexpr (kSource == ActivationSource::kGeglu)
          v[n] = Gelu::value(given) * load(x + a.K + n * kW);
        else
          v[n] = given;
        most = max(abs(v[n]), most);
        odd += v[n] - v[n];
      }
      const float largest = hmax(most);
      const bool finite = sum(odd) == 0.0f, usable = finite && largest > 1e-35f;  // smaller magnitudes have no inverse
      const float scale = usable ? largest / 127.0f : 0.0f, inverse = usable ? 127.0f / largest : 0.0f;
      int32_t sums[2] = {};
      for (int n = 0; n < kVectors; ++n) {
        const vf shifted = max(splat(-127.0f), min(splat(127.0f), v[n] * inverse)) + 0x1.8p23f;
        const vi rounded = usable ? (vi)shifted - 0x4b400000 : vi{};
        store_bytes(out.q + n * kW, rounded);
        sums[n * kW / 16] += add_lanes(rounded);
      }
      out.total = sums[0] + sums[1];
      for (int h = 0; h < 2; ++h) out.sums[h] = sums[h], out.scaled[h] = scale * static_cast<float>(sums[h]);
      out.scaled_total = scale * static_cast<float>(out.total);
      out.scale = finite ? scale : __builtin_nanf("");
    }
  });
}
template <ActivationSource kSource>
static void quantize_activations_of(const QuantizeActivationsArgs& a) {
  a.dtype == DType::kBF16 ? quantize_activations_typed<bf16, kSource>(a)
                          : quantize_activations_typed<float, kSource>(a);
}
static void quantize_activations(const QuantizeActivationsArgs& a) {
  switch (a.source) {
    case ActivationSource::kRows:
      return quantize_activations_of<ActivationSource::kRows>(a);
    case ActivationSource::kRmsNorm:
      return quantize_activations_of<ActivationSource::kRmsNorm>(a);
    case ActivationSource::kSwiglu:
      return quantize_activations_of<ActivationSource::kSwiglu>(a);
    case ActivationSource::kGeglu:
      return quantize_activations_of<ActivationSource::kGeglu>(a);
  }
}

static inline float factor_at(const QuantLayout& l, const uint8_t* p, int64_t at) {
  float f[kW];
  if (l.float_scales) {
    memcpy(f, p + 4 * at, sizeof(float));
  } else {
    uint8_t halves[2 * kW] = {};
    memcpy(halves, p + 2 * at, 2);
    store(f, load_halves(halves));
  }
  return f[0];
}

template <class O>
static void dequantize_rows_typed(const DequantizeRowsArgs& a) {
  const QuantLayout& l = a.layout;
  const int64_t blocks = a.K / kQuantBlock, factor_bytes = quant_factor_bytes(l), block_bytes = quant_block_bytes(l);
  parallel_ranges(a.M, row_grain(4 * a.K), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const int64_t strip = a.ids[m] / kStripRows, lane = a.ids[m] % kStripRows;
      const uint8_t* block = a.weight + strip * blocks * block_bytes;
      for (int64_t b = 0; b < blocks; ++b, block += block_bytes) {
        const uint8_t* q = block + factor_bytes * (l.minima ? 2 : 1);
        uint8_t bytes[kQuantBlock];
        const auto word = [&](int64_t w) { __builtin_memcpy(bytes + 4 * w, q + 4 * (w * kStripRows + lane), 4); };
        for (int64_t w = 0; w < 4; ++w) word(w);
        if (l.bits == 8) {
          for (int64_t w = 4; w < 8; ++w) word(w);
        } else {
          for (int64_t c = 0; c < 16; ++c) {
            bytes[c + 16] = static_cast<uint8_t>(bytes[c] >> 4);
            bytes[c] = static_cast<uint8_t>(bytes[c] & 15);
          }
        }
        float values[kQuantBlock];
        for (int64_t half = 0; half < 2; ++half) {
          const int64_t at = (l.halves == 2 ? half * kStripRows : 0) + lane;
          const float scale = factor_at(l, block, at);
          const float least = l.minima ? factor_at(l, block + factor_bytes, at) : 0.0f;
          for (int64_t c = 16 * half; c < 16 * half + 16; ++c) {
            const float scaled = scale * static_cast<float>(bytes[c] - l.zero);
            values[c] = l.minima ? scaled + least : scaled;
          }
        }
        O* out = static_cast<O*>(a.out) + m * a.K + b * kQuantBlock;
        for (int64_t c = 0; c < kQuantBlock; c += kW) store(out + c, load(values + c));
      }
    }
  });
}
static void dequantize_rows(const DequantizeRowsArgs& a) {
  a.out_dtype == DType::kBF16 ? dequantize_rows_typed<bf16>(a) : dequantize_rows_typed<float>(a);
}

void register_quantized(KernelTable& t) {
  t.quantize_activations = quantize_activations;
  t.quantized_gemm = quantized_gemm;
  t.dequantize_rows = dequantize_rows;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
