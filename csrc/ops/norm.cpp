#include "ops/norm.h"

#include "ops/base/common.h"

namespace llmcore {
namespace {

NormArgs checked_args(const char* op, const Tensor& x, const Tensor& weight, float eps) {
  check_float(op, "x", x);
  check_ndim(op, "x", x, 1);
  check_dtype(op, "weight", weight, DType::kF32);
  check_shape(op, "weight", weight, {x.dim(-1)});
  check_device(op, "weight", weight, x.device());
  if (!(eps >= 0)) fail(op, "eps >= 0", std::to_string(eps));
  NormArgs a{};
  a.dtype = x.dtype(), a.M = rows_of(x), a.C = x.dim(-1), a.eps = eps;
  return a;
}

NormResult run(const char* op, void (*KernelTable::*entry)(const NormArgs&), const Tensor& x_in,
               const Tensor& weight_in, const std::optional<Tensor>& bias_in, float eps, bool with_mean) {
  NormArgs a = checked_args(op, x_in, weight_in, eps);
  const Tensor x = x_in.contiguous(), weight = weight_in.contiguous();
  Tensor bias;
  if (bias_in) {
    check_like(op, "bias", *bias_in, weight);
    bias = bias_in->contiguous();
    a.bias = bias.data_as<float>();
  }
  NormResult r;
  r.out = Tensor::empty_like(x);
  r.rstd = Tensor::empty({a.M}, DType::kF32, x.device());
  if (with_mean) r.mean = Tensor::empty({a.M}, DType::kF32, x.device());
  a.x = x.data(), a.weight = weight.data_as<float>(), a.out = r.out.data(), a.rstd = r.rstd.data_as<float>();
  a.mean = with_mean ? r.mean.data_as<float>() : nullptr;
  kernel(op, x.device(), entry)(a);
  return r;
}

}  // namespace

NormResult layer_norm(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, float eps) {
  return run("layer_norm", &KernelTable::layer_norm_forward, x, weight, bias, eps, true);
}

NormResult rms_norm(const Tensor& x, const Tensor& weight, float eps) {
  return run("rms_norm", &KernelTable::rms_norm_forward, x, weight, std::nullopt, eps, false);
}

Tensor norm_backward(const Tensor& dout_in, const Tensor& x_in, const Tensor& weight_in,
                     const std::optional<Tensor>& mean, const Tensor& rstd, Tensor& dweight,
                     const std::optional<Tensor>& dbias, const std::optional<Tensor>& residual_in) {
  const char* op = mean ? "layer_norm_backward" : "rms_norm_backward";
  const NormArgs a = checked_args(op, x_in, weight_in, 0);
  check_like(op, "dout", dout_in, x_in);
  check_like(op, "dweight", dweight, weight_in);
  check_in_place(op, "dweight", dweight);
  check_shape(op, "rstd", rstd, {a.M});
  check_dtype(op, "rstd", rstd, DType::kF32);
  check_contiguous(op, "rstd", rstd);
  check_device(op, "rstd", rstd, x_in.device());
  const Tensor x = x_in.contiguous(), dout = dout_in.contiguous(), weight = weight_in.contiguous();
  Tensor dx = Tensor::empty_like(x);
  NormBackwardArgs b{};
  b.dtype = a.dtype, b.M = a.M, b.C = a.C;
  b.dout = dout.data(), b.x = x.data(), b.weight = weight.data_as<float>(), b.rstd = rstd.data_as<float>();
  b.dx = dx.data(), b.dweight = dweight.data_as<float>();
  if (mean) {
    check_shape(op, "mean", *mean, {a.M});
    check_dtype(op, "mean", *mean, DType::kF32);
    check_contiguous(op, "mean", *mean);
    b.mean = mean->data_as<float>();
  }
  if (dbias) {
    check_like(op, "dbias", *dbias, weight_in);
    check_in_place(op, "dbias", *dbias);
    b.dbias = dbias->data_as<float>();
  }
  Tensor residual;
  if (residual_in) {
    check_like(op, "residual", *residual_in, x_in);
    residual = residual_in->contiguous();
    b.residual = residual.data();
  }
  const int64_t pieces = x.device() == Device::kCUDA ? kCudaNormBackwardChunks : kNormBackwardChunks;
  const Tensor workspace = Tensor::empty({pieces * 2 * a.C}, DType::kF32, x.device());
  b.workspace = workspace.data_as<float>();
  kernel(op, x.device(), mean ? &KernelTable::layer_norm_backward : &KernelTable::rms_norm_backward)(b);
  return dx;
}

}  // namespace llmcore
