// Layer norm (Ba et al. 2016) and RMS norm (Zhang & Sennrich 2019) over the last dimension.
#pragma once
#include <optional>

#include "core/tensor.h"

namespace llmcore {

struct NormResult {
  Tensor out, mean, rstd;  // mean is undefined for rms norm
};
NormResult layer_norm(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, float eps);
NormResult rms_norm(const Tensor& x, const Tensor& weight, float eps);

// Returns dx + residual; adds to dweight and dbias (float32). mean is empty for rms norm.
Tensor norm_backward(const Tensor& dout, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& mean,
                     const Tensor& rstd, Tensor& dweight, const std::optional<Tensor>& dbias,
                     const std::optional<Tensor>& residual);

}  // namespace llmcore
