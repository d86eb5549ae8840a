// The kernel table: every kernel behind a function pointer, one table per instruction set of the CPU and one for CUDA
// (csrc/cuda). Kernels take pointers, sizes and strides; they never allocate, throw or see Python. The op (csrc/ops)
// has checked everything before. Pointers refer to memory of the device; a CUDA kernel returns before its work is done.
//
// Letters: B batch, T time (queries), S keys, C channels, V vocabulary, H heads, D head size, M rows = B*T, N out, K
// in. "dtype" is kF32 or kBF16 unless said otherwise. Statistics, losses, parameters of norms and biases, and gradients
// of parameters are float32 always. Counts may be 0. All tensors are contiguous unless strides (in elements) are given.
// Results never depend on the number of threads; on the CPU, a row's result does not depend on its neighbours either.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/kernels/attention.h"
#include "core/kernels/cache.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/embedding.h"
#include "core/kernels/gather.h"
#include "core/kernels/gemm.h"
#include "core/kernels/loss.h"
#include "core/kernels/norm.h"
#include "core/kernels/optim.h"
#include "core/kernels/quantized.h"
#include "core/kernels/rope.h"
#include "core/kernels/sample.h"
#include "core/kernels/softmax.h"

namespace llmcore {

struct KernelTable {
  const char* name;
  bool fast_bf16;   // has bfloat16 dot products, so bf16 compute pays off
  bool bf16_tiles;  // gemm multiplies bfloat16 on a matrix unit, and has no kSwiGLU there
  bool row_panels;  // panels are the matrix as it is stored: one copy serves both directions; gemm has no kSwiGLU
  const char* (*error)();  // the error since the last call, or null; the entry is null if errors cannot occur

  void (*pack)(const PackArgs&);
  void (*gemm)(const GemmArgs&);

  size_t (*attention_workspace)(const AttentionArgs&);
  void (*attention_forward)(const AttentionArgs&);
  size_t (*attention_backward_workspace)(const AttentionArgs&);
  void (*attention_backward)(const AttentionBackwardArgs&);

  void (*cache_append)(const CacheAppendArgs&);
  void (*rope_append)(const RopeAppendArgs&);

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

  void (*embedding_forward)(const EmbeddingArgs&);
  size_t (*embedding_backward_workspace)(const EmbeddingBackwardArgs&);  // null: no workspace is needed
  void (*embedding_backward)(const EmbeddingBackwardArgs&);

  void (*take)(const TakeArgs&);
  void (*scatter)(const ScatterArgs&);
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

  double (*machine_peak)(DType dtype, int64_t rounds);  // cpu/machine.cpp; see ops/machine.h
  uint32_t (*machine_read)(const uint32_t* words, int64_t count);
};

}  // namespace llmcore
