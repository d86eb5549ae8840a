// The kernel table: every kernel behind a function pointer, one table per instruction set of the CPU and one for CUDA
// (csrc/cuda). Kernels take pointers, sizes and strides; they never allocate, throw or see Python. The op (csrc/ops)
// has checked everything before. Pointers are to memory of the device; a CUDA kernel returns before its work is done.
//
// Letters: B batch, T time (queries), S keys, C channels, V vocabulary, H heads, D head size, M rows = B*T, N out, K
// in. "dtype" is kF32 or kBF16 unless said otherwise. Statistics, losses, parameters of norms and biases, and gradients
// of parameters are float32 always. Counts may be 0. All tensors are contiguous unless strides (in elements) are given.
// Results never depend on the number of threads, nor, on the CPU, a row's result on its neighbours.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

// ---- matrix multiplication (gemm.inl) -----------------------------------------------------------
// Panels are the packed form of a (K, N) right-hand matrix. On CUDA (KernelTable::row_panels) the matrix as it is
// stored, without gaps, in the compute dtype. On the CPU columns in groups of kPanelWidth, zero padded:
//   float32  [ceil(N/64)][K][64]
//   bfloat16 [ceil(N/64)][Kp/2][64][2] with Kp = K rounded up to kPanelDepth: pairs of k side by side, for dot products
constexpr int64_t kPanelWidth = 64;
constexpr int64_t kPanelDepth = 32;
constexpr int64_t kPairedWidth = kPanelWidth / 2;

[[maybe_unused]] static inline int64_t round_up(int64_t n, int64_t m) { return (n + m - 1) / m * m; }
[[maybe_unused]] static inline int64_t panel_depth(int64_t K, DType t) {
  return t == DType::kBF16 ? round_up(K, kPanelDepth) : K;
}
[[maybe_unused]] static inline int64_t panel_elements(int64_t K, int64_t N, DType t) {
  return round_up(N, kPanelWidth) * panel_depth(K, t);
}

struct PackArgs {
  const void* src;  // transposed: (N, K) row-major, else (K, N) row-major; row stride ld
  DType src_dtype;
  int64_t ld, K, N;
  bool transposed;
  void* panels;
  DType dtype;  // of the panels
  bool paired;  // transposed only, N = 2F: a panel holds 32 columns of the first F and the same 32 of the others
};

// kGelu: tanh approximation. kSwiGLU: silu(gate) * up of 2F columns [gate, up], in paired panels (PackArgs); out (M,F).
// The others are kernels of their own, gemm does not have them. kGeGLU: gelu(gate) * up.
enum class Activation : uint8_t { kNone, kGelu, kSwiGLU, kGeluExact, kSilu, kGeGLU };

struct GemmArgs {
  // out (M,N) = residual + act(a (M,K) · panels (K,N) + bias)   [+ out, when accumulate]
  int64_t M, N, K;
  const void* a;  // row-major, row stride lda; dtype as the panels
  int64_t lda;
  bool a_transposed;  // a is stored as (K,M), row stride lda
  const void* panels;
  bool panels_transposed;  // stored as (N,K): PackArgs::transposed
  DType dtype;             // of a and panels
  void* out;               // row stride ldo
  int64_t ldo;
  DType out_dtype;       // kF32 or dtype
  bool accumulate;       // out += ...; out_dtype kF32 only, no epilogue
  const float* bias;     // (N) or null
  const void* residual;  // as out; or null
  Activation act;
  void* pre_activation;  // (M,N), out_dtype, row stride ldo (kSwiGLU: N): what act was given; or null
};

// ---- attention (attention.inl) ------------------------------------------------------------------
struct Strides3 {
  int64_t b, t, h;  // in elements; the head's D elements are contiguous
};

struct AttentionArgs {
  // out = softmax(scale * q k^T + mask) v, query head h reads key head h / (H / Hkv)
  DType dtype;
  int64_t B, T, S, H, Hkv, D;
  const void* q;  // (B,T,H,D)
  const void* k;  // (B,S,Hkv,D)
  const void* v;
  void* out;  // (B,T,H,D)
  Strides3 q_stride, k_stride, v_stride, out_stride;
  float* lse;  // (B,H,T): log of the softmax denominator incl. the maximum; may be null
  // keys valid in each row, or null for S. Query t stands at position lengths[b] - T + t; causal: it sees keys up to
  // there.
  const int32_t* lengths;
  float scale;
  float softcap;  // 0, or scores s become softcap * tanh(s / softcap) before the mask
  bool causal;
  int64_t window;  // causal: a query sees the last `window` keys up to its position; S hides none
  // Null, or (B,S/64): k and v are blocks (N,64,Hkv,D), of which row b has these, in order; a stride's b is a block's.
  const int32_t* blocks;
  const float* k_scale;  // (N,64,Hkv) or null. With scales k and v are uint8, x ~ scale * (q - 128)
  const float* v_scale;
  const int32_t* starts;   // (B,T) or null. causal: the first key that the query sees, none after its position
  void* workspace;         // attention_workspace() bytes, 64-byte aligned
  size_t workspace_bytes;  // as many pieces run at a time as it has room for
};

struct AttentionBackwardArgs {
  AttentionArgs forward;  // out and lse as the forward wrote them; lengths is null
  const void* dout;       // (B,T,H,D), contiguous, as is out
  void* dq;               // strides as q, k, v
  void* dk;
  void* dv;
};

constexpr int64_t kCacheBlock = 64;  // positions
struct CacheAppendArgs {     // cache[b, lengths[b] - T + t] = x[b, t] for t < T; rows outside [0, S) are not written
  DType dtype, cache_dtype;  // of x; of the cache: float32, bfloat16, or uint8 with scales (see AttentionArgs)
  int64_t B, T, S, H, D;
  const void* x;
  Strides3 x_stride;
  void* cache;            // (B,S,H,D), or blocks (N,64,H,D)
  float* scale;           // (N,64,H) or null
  const int32_t* blocks;  // (B,S/64) or null
  const int32_t* lengths;
};

// ---- norms (norm.inl) ---------------------------------------------------------------------------
struct NormArgs {
  DType dtype;
  int64_t M, C;
  const void* x;        // (M,C)
  const float* weight;  // (C)
  const float* bias;    // (C); layer norm only, may be null
  void* out;            // (M,C)
  float* mean;          // (M); layer norm only; may be null
  float* rstd;          // (M); may be null
  float eps;
};

// Rows are cut into at most so many fixed pieces, whatever the threads.
constexpr int64_t kNormBackwardChunks = 32, kCudaNormBackwardChunks = 264;

struct NormBackwardArgs {
  DType dtype;
  int64_t M, C;
  const void* dout;
  const void* x;
  const float* weight;
  const float* mean;  // null for rms norm
  const float* rstd;
  const void* residual;  // (M,C), added to dx: the gradient that x has from elsewhere; or null
  void* dx;
  float* dweight;    // (C), added to
  float* dbias;      // (C), added to; may be null
  float* workspace;  // 2 * C floats for each of the device's pieces
};

// ---- elementwise (elementwise.inl) --------------------------------------------------------------
struct UnaryArgs {  // out = f(x)
  DType dtype;
  int64_t n;
  const void* x;
  void* out;
};
struct UnaryBackwardArgs {  // dx = dout * f'(x)
  DType dtype;
  int64_t n;
  const void* dout;
  const void* x;
  void* dx;
};
struct BinaryArgs {
  DType dtype;
  int64_t n;
  const void* a;
  const void* b;
  void* out;
};
struct GatedArgs {  // swiglu: x (M,2F) = [gate, up], out (M,F) = silu(gate) * up
  DType dtype;
  int64_t M, F;
  const void* x;
  void* out;
};
struct GatedBackwardArgs {
  DType dtype;
  int64_t M, F;
  const void* dout;  // (M,F)
  const void* x;     // (M,2F)
  void* dx;          // (M,2F)
};
struct ScaleArgs {  // out = x * factor
  DType dtype;
  int64_t n;
  const void* x;
  void* out;
  float factor;
};
struct SoftcapArgs {  // out = cap * tanh(x / cap), or, where dout is given, its derivative at x times dout
  DType dtype;
  int64_t n;
  const void* x;
  const void* dout;  // or null
  void* out;
  float cap;
};
struct CastArgs {  // kF32 <-> kBF16
  int64_t n;
  const void* x;
  DType x_dtype;
  void* out;
  DType out_dtype;
};
struct ColumnSumArgs {  // out (N) += sum over rows of x (M,N)
  DType dtype;
  int64_t M, N, ld;
  const void* x;
  float* out;
};

// ---- softmax, rotary positions, embedding -------------------------------------------------------
struct SoftmaxArgs {  // rows of x (M,N)
  DType dtype;
  int64_t M, N;
  const void* x;
  void* out;
};
struct SoftmaxBackwardArgs {  // dx = out * (dout - sum(dout * out))
  DType dtype;
  int64_t M, N;
  const void* dout;
  const void* out;
  void* dx;
};
struct RopeArgs {
  // Rotate-half: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), halves of the first R of D dimensions; the first
  // `rotated` of H heads are rotated, all else is copied. cos, sin: (P, R/2). inverse turns the other way (the backward
  // pass).
  DType dtype;
  int64_t B, T, H, D, R, rotated;
  const void* x;  // (B,T,H,D) contiguous
  void* out;
  const float* cos;
  const float* sin;
  const int32_t* positions;  // (B,T), or null for 0..T-1
  bool inverse;
};
constexpr int64_t kMostHeadSize = 1024;  // of RopeAppendArgs
struct RopeAppendArgs {  // of x (B,T,H+2Hkv,D): queries and keys turned, keys and values appended to their caches
  int64_t H, D, R;
  const void* x;
  void* q;  // (B,T,H,D)
  DType q_dtype;
  const float* cos;
  const float* sin;
  const int32_t* positions;      // (B,T)
  CacheAppendArgs keys, values;  // their x is not used
};
struct GatherRowsArgs {  // out (N,C) = x[ids]
  DType dtype;
  int64_t N, C;
  const void* x;       // (M,C)
  const int32_t* ids;  // (N), in [0, M)
  void* out;
};
struct ScatterRowsArgs {  // dx[m] (M,C) = sum of dout[order[i]], offsets[m] <= i < offsets[m + 1], in that order
  DType dtype;
  int64_t M, C;
  const void* dout;        // (N,C)
  const int64_t* offsets;  // (M+1)
  const int64_t* order;    // (N)
  void* dx;
};
struct WeightedSumArgs {  // out[m] = sum over k of weight[m,k] * y[m,k]
  DType dtype;            // of y and out
  int64_t M, k, C;
  const void* y;        // (M,k,C)
  const float* weight;  // (M,k)
  void* out;            // (M,C)
};
struct WeightedSumBackwardArgs {  // dy = weight * dout, dweight = dout · y
  WeightedSumArgs forward;        // out is null
  const void* dout;               // (M,C)
  void* dy;                       // (M,k,C)
  float* dweight;                 // (M,k)
};
struct EmbeddingArgs {  // out (M,C) = table[ids]; the op has checked the ids
  DType dtype;          // of out
  int64_t M, C;
  const float* table;  // (V,C) float32 master weights
  const int32_t* ids;  // (M)
  void* out;
};
struct EmbeddingBackwardArgs {  // dtable[ids[m]] += dout[m], in an order that only the ids decide
  DType dtype;
  int64_t M, C;
  const void* dout;
  const int32_t* ids;
  float* dtable;  // (V,C)
  int64_t V;
  void* workspace;  // embedding_backward_workspace() bytes, 16-byte aligned; null where there is no such entry
};

// ---- losses (loss.inl) --------------------------------------------------------------------------
struct CrossEntropyArgs {  // rows whose target is negative are ignored: loss 0
  DType dtype;
  int64_t M, V;
  int64_t ld;             // row stride of logits
  const void* logits;     // (M,V)
  const int32_t* target;  // (M)
  float* loss;            // (M) = lse - logits[target]
  float* lse;             // (M)
};
struct CrossEntropyBackwardArgs {  // dlogits = (softmax(logits) - onehot(target)) * dloss[m]
  DType dtype;                     // of logits
  int64_t M, V, ld;
  const void* logits;
  const int32_t* target;
  const float* lse;
  const float* dloss;  // (M)
  void* dlogits;       // (M,V), row stride ld_out; may be logits when the dtypes agree
  int64_t ld_out;
  DType out_dtype;
};

// ---- quantized weights (quantized.inl) ----------------------------------------------------------
// A weight is scale * (q - zero) [+ minimum], q unsigned of 8 or 4 bits. Rows lie in strips of 16; a strip is its
// blocks of 32 columns one after the other, each: the scales of the 16 rows (twice, for columns 0..15 and 16..31, where
// there are two halves), the minima likewise, then q as words of 4 columns: word t of all rows side by side holds
// columns 4t..4t+3; with 4 bits its low halves hold those and its high ones columns 16 further.
constexpr int64_t kStripRows = 16, kQuantBlock = 32;
struct QuantLayout {
  int bits;           // 8 or 4
  int zero;           // 128 for 8 bits, 8 for 4; 0 where there are minima
  int halves;         // scales and minima for every 32 columns, or for every 16
  bool float_scales;  // float32 scales and minima, else float16
  bool minima;
};
[[maybe_unused]] static inline int64_t quant_factor_bytes(const QuantLayout& l) {  // of one kind of factor in a block
  return kStripRows * l.halves * (l.float_scales ? 4 : 2);
}
[[maybe_unused]] static inline int64_t quant_block_bytes(const QuantLayout& l) {
  return quant_factor_bytes(l) * (l.minima ? 2 : 1) + kStripRows * kQuantBlock * l.bits / 8;
}
// 32 columns of a row of x on their way into a product: x ~ scale * q, scale the largest magnitude / 127. A cache line.
struct alignas(64) ActivationBlock {
  int8_t q[kQuantBlock];
  float scale;
  int32_t total, sums[2];         // of q, and of its halves
  float scaled_total, scaled[2];  // these times scale
};
// What is rounded: x itself, its RMS norm, or silu(gate) * up or gelu(gate) * up of x = [gate, up]; the last three
// never lie in memory.
enum class ActivationSource : uint8_t { kRows, kRmsNorm, kSwiglu, kGeglu };
struct QuantizeActivationsArgs {
  DType dtype;
  int64_t M, K;
  const void* x;         // (M,K), or (M,2K) of gates
  ActivationBlock* out;  // (M,K/32), row stride ld
  int64_t ld;
  ActivationSource source;
  const float* norm_weight;  // (K), of kRmsNorm
  float eps;
};
struct QuantizedGemmArgs {  // out (M,N) = residual + x · weightᵀ + bias
  int64_t M, N, K;
  QuantLayout layout;
  const uint8_t* weight;     // strips of (N,K)
  const ActivationBlock* x;  // (M,K/32), row stride ldx
  int64_t ldx;
  void* out;  // row stride ldo
  int64_t ldo;
  DType out_dtype;
  const float* bias;     // (N) or null
  const void* residual;  // as out; or null
};
struct DequantizeRowsArgs {  // out (M,K) = rows ids of the matrix
  QuantLayout layout;
  int64_t M, K;
  const uint8_t* weight;
  const int32_t* ids;  // (M)
  void* out;
  DType out_dtype;
};

// ---- optimizer (optim.inl) ----------------------------------------------------------------------
struct UpdateArgs {  // one update of a parameter; all float32
  int64_t n;
  float* p;
  const float* g;
  float* m;  // null for SGD without momentum
  float* v;  // AdamW only
  float lr, beta1, beta2, eps, weight_decay;
  float correction1, correction2;  // AdamW: 1 - beta1^t, 1 - beta2^t
  bool nesterov;                   // SGD
  float grad_scale;                // g is multiplied by this first
  int64_t rows, columns;           // n = rows * columns; only where there are panels
  const PackArgs* packs;           // (on the host) panels of p (rows, columns), which get its new values in this pass
  int64_t pack_count;
};
enum class UpdateRule : uint8_t { kAdamW, kLion, kSgd };
struct MomentumArgs {  // m = beta m + (1 - beta) scale g; u = m, or looking ahead beta m + (1 - beta) scale g again
  int64_t n;
  const float* g;
  float* m;
  float* u;
  float beta, scale;
  bool nesterov;
};
constexpr int64_t kSumChunk = 1 << 15;  // elements in one fixed piece of a sum
struct SumSquaresArgs {                 // partial[i] = sum of squares of piece i (float64); ceil(n / kSumChunk) pieces
  int64_t n;
  const float* x;
  double* partial;
};

struct DivideByNormArgs {  // out = x / sqrt(sum of partial), in float64; 0 where that is 0
  int64_t n;
  const float* x;
  const double* partial;  // as SumSquaresArgs leaves it
  void* out;
  DType out_dtype;
};
struct AddDiagonalArgs {  // out (n,n) = factor * x + diagonal * identity
  int64_t n;
  const float* x;
  void* out;
  DType out_dtype;
  float factor, diagonal;
};
struct SumArgs {  // out[0] = factor * sum of x, added up in float64 in a fixed order
  int64_t n;
  const float* x;
  float* out;
  double factor;
};

// ---- sampling (sample.inl) ----------------------------------------------------------------------
struct SampleArgs {
  // For each row: mask, bias -> penalties -> temperature -> top-k -> top-p -> min-p -> typical -> draw (ops/sample.h:
  // exact semantics)
  DType dtype;
  int64_t B, V;
  const void* logits;           // (B,V)
  const float* temperature;     // (B); 0 = argmax, lowest id on ties
  const int32_t* top_k;         // (B); 0 = off
  const float* top_p;           // (B); >= 1 = off
  const float* min_p;           // (B); 0 = off
  const float* typical_p;       // (B); >= 1 = off
  const uint64_t* seed;         // (B)
  const int64_t* step;          // (B) draw number within the request
  const int64_t* bias_offsets;  // (B+1): row b's biases are [offsets[b], offsets[b+1]) of ids and values; or null
  const int32_t* bias_ids;
  const float* bias_values;
  const int32_t* history;  // (B,history_size): the tokens so far, prompt first; or null: no penalties
  int64_t history_size;
  const int32_t* history_lengths;  // (B): tokens that count
  const int32_t* prompt_lengths;   // (B): those of them that are not output
  const float* repetition;         // (B) each; 1, 0, 0 = off
  const float* presence;
  const float* frequency;
  const uint32_t* mask;  // (B,mask_words) or null: token i may be drawn where bit i % 32 of word i / 32 is set
  int64_t mask_words;
  int32_t* token;   // (B)
  float* logprob;   // (B): of the token under softmax(logits), unmodified
  float* probs;     // (B,V): the filtered, renormalised distribution; may be null
  void* workspace;  // sample_workspace() bytes
};

// -------------------------------------------------------------------------------------------------
struct KernelTable {
  const char* name;
  bool fast_bf16;   // has bfloat16 dot products: bf16 compute is worth it
  bool bf16_tiles;  // gemm multiplies bfloat16 on a matrix unit, and has no kSwiGLU there
  bool row_panels;  // panels are the matrix as it is stored: one copy serves both directions; gemm has no kSwiGLU
  const char* (*error)();  // what went wrong since the last call, or null; null where nothing can

  void (*pack)(const PackArgs&);
  void (*gemm)(const GemmArgs&);

  size_t (*attention_workspace)(const AttentionArgs&);
  void (*attention_forward)(const AttentionArgs&);
  size_t (*attention_backward_workspace)(const AttentionArgs&);
  void (*attention_backward)(const AttentionBackwardArgs&);
  void (*cache_append)(const CacheAppendArgs&);

  void (*layer_norm_forward)(const NormArgs&);
  void (*layer_norm_backward)(const NormBackwardArgs&);
  void (*rms_norm_forward)(const NormArgs&);
  void (*rms_norm_backward)(const NormBackwardArgs&);

  void (*exp)(const UnaryArgs&);
  void (*log)(const UnaryArgs&);
  void (*log_one_minus)(const UnaryArgs&);
  void (*sigmoid)(const UnaryArgs&);
  void (*gelu_forward)(const UnaryArgs&);
  void (*gelu_backward)(const UnaryBackwardArgs&);
  void (*silu_forward)(const UnaryArgs&);
  void (*silu_backward)(const UnaryBackwardArgs&);
  void (*swiglu_forward)(const GatedArgs&);
  void (*swiglu_backward)(const GatedBackwardArgs&);
  void (*gelu_exact_forward)(const UnaryArgs&);
  void (*gelu_exact_backward)(const UnaryBackwardArgs&);
  void (*geglu_forward)(const GatedArgs&);
  void (*geglu_backward)(const GatedBackwardArgs&);
  void (*softcap)(const SoftcapArgs&);
  void (*add)(const BinaryArgs&);
  void (*mul)(const BinaryArgs&);
  void (*scale)(const ScaleArgs&);
  void (*cast)(const CastArgs&);
  void (*column_sum)(const ColumnSumArgs&);

  void (*softmax_forward)(const SoftmaxArgs&);
  void (*softmax_backward)(const SoftmaxBackwardArgs&);
  void (*rope)(const RopeArgs&);
  void (*rope_append)(const RopeAppendArgs&);
  void (*embedding_forward)(const EmbeddingArgs&);
  size_t (*embedding_backward_workspace)(const EmbeddingBackwardArgs&);  // null: none is needed
  void (*embedding_backward)(const EmbeddingBackwardArgs&);
  void (*gather_rows)(const GatherRowsArgs&);
  void (*scatter_rows)(const ScatterRowsArgs&);
  void (*weighted_sum)(const WeightedSumArgs&);
  void (*weighted_sum_backward)(const WeightedSumBackwardArgs&);

  void (*cross_entropy_forward)(const CrossEntropyArgs&);
  void (*cross_entropy_backward)(const CrossEntropyBackwardArgs&);

  void (*quantize_activations)(const QuantizeActivationsArgs&);
  void (*quantized_gemm)(const QuantizedGemmArgs&);
  void (*dequantize_rows)(const DequantizeRowsArgs&);

  void (*adamw)(const UpdateArgs&);
  void (*lion)(const UpdateArgs&);
  void (*sgd)(const UpdateArgs&);
  void (*updates)(UpdateRule, const UpdateArgs*, int64_t count);  // of many parameters at once; null: one by one
  void (*momentum)(const MomentumArgs&);
  void (*sum_squares)(const SumSquaresArgs&);
  void (*sum)(const SumArgs&);
  void (*divide_by_norm)(const DivideByNormArgs&);
  void (*add_diagonal)(const AddDiagonalArgs&);

  size_t (*sample_workspace)(const SampleArgs&);
  void (*sample)(const SampleArgs&);

  double (*machine_peak)(DType dtype, int64_t rounds);  // machine.inl; see ops/machine.h
  uint32_t (*machine_read)(const uint32_t* words, int64_t count);
};

// The table of the device: on the CPU the best instruction set of this machine, or the one named by LLMCORE_CPU_ISA.
// Throws where there is none.
const KernelTable& kernels(Device device);

}  // namespace llmcore
