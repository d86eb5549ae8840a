#include "ops/loss.h"

#include <algorithm>
#include <limits>

#include "ops/base/common.h"

namespace llmcore {
namespace {

// Bytes of a chunk's float32 logits: weights and their gradients are streamed once per chunk.
constexpr int64_t kLogitsBytes = 52 << 20, kCudaLogitsBytes = 896 << 20;
constexpr int64_t kAnyNegative = std::numeric_limits<int32_t>::min();

Tensor checked_targets(const char* op, const Tensor& targets, const Shape& shape, int64_t V, Device device) {
  check_shape(op, "targets", targets, shape);
  return checked_ids(op, "targets", targets, kAnyNegative, V, device);
}

// Depends only on the sizes and the device, so that results depend on nothing else.
int64_t chunk_rows(int64_t V, Device device) {
  const int64_t bytes = device == Device::kCUDA ? kCudaLogitsBytes : kLogitsBytes;
  const int64_t rows = bytes / (std::max<int64_t>(V, 1) * 4);
  return std::clamp<int64_t>(rows / 64 * 64, 64, device == Device::kCUDA ? 16384 : 2048);
}

struct Sweep {
  const char* op;
  Tensor x, targets, loss, lse;
  int64_t M, C, V, ld;  // ld: from row to row of the logits, which begin on cache lines

  Sweep(const char* name, const Tensor& x_in, const Panels& forward, const Tensor& targets_in) : op(name) {
    check_float(op, "x", x_in);
    check_ndim(op, "x", x_in, 1);
    check_dtype(op, "x", x_in, forward.dtype);
    C = forward.K, V = forward.N, ld = round_up(V, 64);
    if (x_in.dim(-1) != C) fail(op, "x (..., " + std::to_string(C) + ")", to_string(x_in.shape()));
    check_device(op, "x, like the weight,", x_in, forward.data.device());
    targets = checked_targets(op, targets_in, Shape(x_in.shape().begin(), x_in.shape().end() - 1), V, x_in.device());
    M = targets.size();
    x = x_in.contiguous().reshape({M, C});
    targets = targets.reshape({M});
    loss = Tensor::empty({M}, DType::kF32, x.device());
    lse = Tensor::empty({M}, DType::kF32, x.device());
  }

  // Computes the logits of rows [start, start + n) in float32, whatever the compute dtype; fills loss and lse of these
  // rows.
  Tensor chunk(const Panels& forward, int64_t start, int64_t n) {
    const Tensor logits = Tensor::empty({n, ld}, DType::kF32, x.device());
    GemmArgs g{};
    g.M = n, g.N = V, g.K = C;
    g.a = x.narrow(0, start, n).data(), g.lda = C;
    g.panels = forward.data.data(), g.panels_transposed = forward.transposed, g.dtype = forward.dtype;
    g.out = logits.data(), g.ldo = ld, g.out_dtype = DType::kF32;
    kernel(op, x.device(), &KernelTable::gemm)(g);
    kernel(op, x.device(), &KernelTable::cross_entropy_forward)(
        {DType::kF32, n, V, ld, logits.data(), targets.data_as<int32_t>() + start, loss.data_as<float>() + start,
         lse.data_as<float>() + start});
    return logits;
  }
};

}  // namespace

CrossEntropyResult cross_entropy(const Tensor& logits_in, const Tensor& targets_in) {
  const char* op = "cross_entropy";
  check_float(op, "logits", logits_in);
  check_ndim(op, "logits", logits_in, 1);
  const Tensor logits = logits_in.contiguous();
  const int64_t V = logits.dim(-1);
  const Device device = logits.device();
  const Tensor targets =
      checked_targets(op, targets_in, Shape(logits.shape().begin(), logits.shape().end() - 1), V, device);
  CrossEntropyResult r{Tensor::empty(targets.shape(), DType::kF32, device),
                       Tensor::empty(targets.shape(), DType::kF32, device)};
  kernel(op, logits.device(), &KernelTable::cross_entropy_forward)({logits.dtype(), targets.size(), V, V, logits.data(),
                                                                    targets.data_as<int32_t>(), r.loss.data_as<float>(),
                                                                    r.lse.data_as<float>()});
  return r;
}

Tensor cross_entropy_backward(const Tensor& dloss_in, const Tensor& logits_in, const Tensor& targets_in,
                              const Tensor& lse) {
  const char* op = "cross_entropy_backward";
  check_float(op, "logits", logits_in);
  check_ndim(op, "logits", logits_in, 1);
  const Tensor logits = logits_in.contiguous(), dloss = dloss_in.contiguous().to(logits.device());
  const int64_t V = logits.dim(-1);
  const Tensor targets =
      checked_targets(op, targets_in, Shape(logits.shape().begin(), logits.shape().end() - 1), V, logits.device());
  check_shape(op, "dloss", dloss, targets.shape());
  check_dtype(op, "dloss", dloss, DType::kF32);
  check_shape(op, "lse", lse, targets.shape());
  check_dtype(op, "lse", lse, DType::kF32);
  check_contiguous(op, "lse", lse);
  check_device(op, "lse", lse, logits.device());
  Tensor dlogits = Tensor::empty_like(logits);
  kernel(op, logits.device(), &KernelTable::cross_entropy_backward)(
      {logits.dtype(), targets.size(), V, V, logits.data(), targets.data_as<int32_t>(), lse.data_as<float>(),
       dloss.data_as<float>(), dlogits.data(), V, dlogits.dtype()});
  return dlogits;
}

Tensor linear_cross_entropy(const Tensor& x, const Panels& forward, const Tensor& targets) {
  Sweep s("linear_cross_entropy", x, forward, targets);
  const int64_t rows = chunk_rows(s.V, s.x.device());
  for (int64_t start = 0; start < s.M; start += rows) s.chunk(forward, start, std::min(rows, s.M - start));
  return s.loss.reshape(targets.shape());
}

LinearCrossEntropyGrad linear_cross_entropy_grad(const Tensor& x, const Panels& forward, const Panels& backward,
                                                 const Tensor& targets, const Tensor& dloss_in, bool weight_grad) {
  Sweep s("linear_cross_entropy", x, forward, targets);
  if (backward.K != s.V || backward.N != s.C || backward.dtype != forward.dtype)
    fail(s.op, "the same weight packed both ways", to_string({backward.K, backward.N}));
  check_dtype(s.op, "dloss", dloss_in, DType::kF32);
  check_shape(s.op, "dloss", dloss_in, targets.shape());
  const Tensor dloss = dloss_in.contiguous().to(s.x.device());
  Tensor dx = Tensor::empty_like(s.x);
  std::optional<Tensor> dw;
  const int64_t rows = chunk_rows(s.V, s.x.device());
  for (int64_t start = 0; start < s.M; start += rows) {
    const int64_t n = std::min(rows, s.M - start);
    const Tensor logits = s.chunk(forward, start, n);
    // Written over the logits: with bfloat16, in the first half of each row.
    const Tensor dlogits = Tensor::wrap(logits.data(), {n, s.V}, {forward.dtype == DType::kF32 ? s.ld : 2 * s.ld, 1},
                                        forward.dtype, logits.storage(), true, logits.device());
    kernel(s.op, x.device(), &KernelTable::cross_entropy_backward)(
        {DType::kF32, n, s.V, s.ld, logits.data(), s.targets.data_as<int32_t>() + start, s.lse.data_as<float>() + start,
         dloss.data_as<float>() + start, dlogits.data(), dlogits.stride(0), dlogits.dtype()});
    GemmArgs g{};
    g.M = n, g.N = s.C, g.K = s.V;
    g.a = dlogits.data(), g.lda = dlogits.stride(0);
    g.panels = backward.data.data(), g.panels_transposed = backward.transposed, g.dtype = backward.dtype;
    g.out = dx.narrow(0, start, n).data(), g.ldo = s.C, g.out_dtype = dx.dtype();
    kernel(s.op, x.device(), &KernelTable::gemm)(g);
    if (weight_grad) dw = linear_weight_grad(dlogits, s.x.narrow(0, start, n), dw);
  }
  if (weight_grad && !dw) dw = Tensor::zeros({s.V, s.C}, DType::kF32, x.device());
  return {s.loss.reshape(targets.shape()), dx.reshape(x.shape()), dw};
}

}  // namespace llmcore
