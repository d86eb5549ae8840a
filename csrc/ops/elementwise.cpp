#include "ops/elementwise.h"

#include <cmath>

#include "ops/base/common.h"

namespace llmcore {

Tensor unary(const char* op, UnaryEntry entry, const Tensor& x_in) {
  check_float(op, "x", x_in);
  const Tensor x = x_in.contiguous();
  Tensor out = Tensor::empty_like(x);
  kernel(op, x.device(), entry)({x.dtype(), x.size(), x.data(), out.data()});
  return out;
}

Tensor unary_backward(const char* op, UnaryBackwardEntry entry, const Tensor& dout_in, const Tensor& x_in) {
  check_float(op, "x", x_in);
  check_like(op, "dout", dout_in, x_in);
  const Tensor x = x_in.contiguous(), dout = dout_in.contiguous();
  Tensor dx = Tensor::empty_like(x);
  kernel(op, x.device(), entry)({x.dtype(), x.size(), dout.data(), x.data(), dx.data()});
  return dx;
}

Tensor binary(const char* op, BinaryEntry entry, const Tensor& a_in, const Tensor& b_in) {
  check_float(op, "a", a_in);
  check_like(op, "b", b_in, a_in);
  const Tensor a = a_in.contiguous(), b = b_in.contiguous();
  Tensor out = Tensor::empty_like(a);
  kernel(op, a.device(), entry)({a.dtype(), a.size(), a.data(), b.data(), out.data()});
  return out;
}

Tensor scale(const Tensor& x_in, float factor) {
  check_float("scale", "x", x_in);
  const Tensor x = x_in.contiguous();
  Tensor out = Tensor::empty_like(x);
  kernel("scale", x.device(), &KernelTable::scale)({x.dtype(), x.size(), x.data(), out.data(), factor});
  return out;
}

Tensor cast(const Tensor& x_in, DType dtype) {
  check_float("cast", "x", x_in);
  if (dtype != DType::kF32 && dtype != DType::kBF16) fail_type("cast", "dtype float32 or bfloat16", name_of(dtype));
  if (x_in.dtype() == dtype) return x_in;
  const Tensor x = x_in.contiguous();
  Tensor out = Tensor::empty(x.shape(), dtype, x.device());
  kernel("cast", x.device(), &KernelTable::cast)({x.size(), x.data(), x.dtype(), out.data(), dtype});
  return out;
}

Tensor softcap(const Tensor& x_in, float cap) {
  const char* op = "softcap";
  check_float(op, "x", x_in);
  if (!(cap > 0) || std::isinf(cap)) fail(op, "cap a number > 0", std::to_string(cap));
  const Tensor x = x_in.contiguous();
  Tensor out = Tensor::empty_like(x);
  kernel(op, x.device(), &KernelTable::softcap)({x.dtype(), x.size(), x.data(), nullptr, out.data(), cap});
  return out;
}

Tensor softcap_backward(const Tensor& dout_in, const Tensor& x_in, float cap) {
  const char* op = "softcap_backward";
  check_float(op, "x", x_in);
  check_like(op, "dout", dout_in, x_in);
  const Tensor x = x_in.contiguous(), dout = dout_in.contiguous();
  Tensor dx = Tensor::empty_like(x);
  kernel(op, x.device(), &KernelTable::softcap)({x.dtype(), x.size(), x.data(), dout.data(), dx.data(), cap});
  return dx;
}

Tensor gated(const char* op, GatedEntry entry, const Tensor& x_in) {
  check_float(op, "x", x_in);
  check_ndim(op, "x", x_in, 1);
  if (x_in.dim(-1) % 2) fail(op, "an even last dimension (gate and up side by side)", to_string(x_in.shape()));
  const Tensor x = x_in.contiguous();
  const int64_t F = x.dim(-1) / 2;
  Tensor out = Tensor::empty(with_last(x, F), x.dtype(), x.device());
  kernel(op, x.device(), entry)({x.dtype(), rows_of(x), F, x.data(), out.data()});
  return out;
}

Tensor gated_backward(const char* op, GatedBackwardEntry entry, const Tensor& dout_in, const Tensor& x_in) {
  check_float(op, "x", x_in);
  check_ndim(op, "x", x_in, 1);
  if (x_in.dim(-1) % 2) fail(op, "an even last dimension (gate and up side by side)", to_string(x_in.shape()));
  const int64_t F = x_in.dim(-1) / 2;
  check_shape(op, "dout", dout_in, with_last(x_in, F));
  check_dtype(op, "dout", dout_in, x_in.dtype());
  const Tensor x = x_in.contiguous(), dout = dout_in.contiguous();
  Tensor dx = Tensor::empty_like(x);
  kernel(op, x.device(), entry)({x.dtype(), rows_of(x), F, dout.data(), x.data(), dx.data()});
  return dx;
}

Tensor activate(Activation act, const Tensor& x) {
  switch (act) {
    case Activation::kGelu:
      return unary("gelu", &KernelTable::gelu_forward, x);
    case Activation::kGeluExact:
      return unary("gelu_exact", &KernelTable::gelu_exact_forward, x);
    case Activation::kSilu:
      return unary("silu", &KernelTable::silu_forward, x);
    case Activation::kSwiGLU:
      return gated("swiglu", &KernelTable::swiglu_forward, x);
    case Activation::kGeGLU:
      return gated("geglu", &KernelTable::geglu_forward, x);
    default:
      return x;
  }
}

Tensor activate_backward(Activation act, const Tensor& dout, const Tensor& x) {
  switch (act) {
    case Activation::kGelu:
      return unary_backward("gelu_backward", &KernelTable::gelu_backward, dout, x);
    case Activation::kGeluExact:
      return unary_backward("gelu_exact_backward", &KernelTable::gelu_exact_backward, dout, x);
    case Activation::kSilu:
      return unary_backward("silu_backward", &KernelTable::silu_backward, dout, x);
    case Activation::kSwiGLU:
      return gated_backward("swiglu_backward", &KernelTable::swiglu_backward, dout, x);
    case Activation::kGeGLU:
      return gated_backward("geglu_backward", &KernelTable::geglu_backward, dout, x);
    default:
      return dout;
  }
}

}  // namespace llmcore
