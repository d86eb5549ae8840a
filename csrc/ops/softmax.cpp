#include "ops/softmax.h"

#include "ops/base/common.h"

namespace llmcore {

Tensor softmax(const Tensor& x_in) {
  const char* op = "softmax";
  check_float(op, "x", x_in);
  check_ndim(op, "x", x_in, 1);
  const Tensor x = x_in.contiguous();
  Tensor out = Tensor::empty_like(x);
  kernel(op, x.device(), &KernelTable::softmax_forward)({x.dtype(), rows_of(x), x.dim(-1), x.data(), out.data()});
  return out;
}

Tensor softmax_backward(const Tensor& dout_in, const Tensor& out_in) {
  const char* op = "softmax_backward";
  check_float(op, "out", out_in);
  check_ndim(op, "out", out_in, 1);
  check_like(op, "dout", dout_in, out_in);
  const Tensor dout = dout_in.contiguous(), out = out_in.contiguous();
  Tensor dx = Tensor::empty_like(out);
  kernel(op, out.device(),
         &KernelTable::softmax_backward)({out.dtype(), rows_of(out), out.dim(-1), dout.data(), out.data(), dx.data()});
  return dx;
}

}  // namespace llmcore
