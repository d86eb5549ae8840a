// Matrices that stay quantized: the block types of GGUF files, repacked once and without loss for the kernels.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/kernel_table.h"
#include "core/tensor.h"

namespace llmcore {

// (N,K), K a multiple of 32 (of 256 for the K types): stacked parts, each of one type.
class QuantizedMatrix {
 public:
  explicit QuantizedMatrix(int64_t K, Device device = Device::kCPU);
  // Adds rows in the blocks of a GGUF type: blocks (rows, bytes per row) uint8.
  void add(const std::string& type, const Tensor& blocks);

  int64_t N() const { return N_; }
  int64_t K() const { return K_; }
  Device device() const { return device_; }
  int64_t bytes() const;

  struct Part {
    QuantLayout layout;
    int64_t first, rows;  // of the matrix
    Tensor data;
  };
  const std::vector<Part>& parts() const { return parts_; }

 private:
  int64_t N_ = 0, K_;
  Device device_;
  std::vector<Part> parts_;
};

// The left-hand side: x (..., K), its RMS norm, or silu(gate) · up or gelu(gate) · up of x (..., 2K) = [gate, up].
struct QuantizedInput {
  ActivationSource source = ActivationSource::kRows;
  std::optional<Tensor> norm_weight = std::nullopt;  // (K) float32, of an RMS norm
  float eps = 0.0f;
};

// out (..., N) = residual + act(x (..., K) · weightᵀ + bias (N)), as in linear(), with x (or what `input` computes from
// it) rounded to int8 in blocks of 32.
Tensor quantized_linear(const Tensor& x, const QuantizedMatrix& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& residual, Activation act, DType out_dtype,
                        const QuantizedInput& input = {});

// Returns the rows of the matrix for integer ids (...): (..., K) in dtype.
Tensor quantized_rows(const QuantizedMatrix& weight, const Tensor& ids, DType dtype);
// Returns the whole matrix: (N, K) in dtype.
Tensor quantized_values(const QuantizedMatrix& weight, DType dtype);

}  // namespace llmcore
