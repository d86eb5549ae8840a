#include "ops/elementwise.h"

#include <cmath>

#include "ops/common.h"

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

Rotation checked_rotation(const char* op, const Tensor& cos, const Tensor& sin, const std::optional<Tensor>& positions,
                          int64_t B, int64_t T, int64_t D, Device device) {
  check_dtype(op, "cos", cos, DType::kF32);
  check_like(op, "sin", sin, cos);
  if (cos.ndim() != 2 || cos.dim(1) > D / 2)
    fail(op, "cos (positions, at most " + std::to_string(D / 2) + ")", to_string(cos.shape()));
  const int64_t P = cos.dim(0);
  Rotation found{cos.contiguous().to(device), sin.contiguous().to(device), {}};
  if (positions) {
    check_shape(op, "positions", *positions, {B, T});
    found.positions = checked_ids(op, "positions", *positions, 0, P, device);
  } else if (T > P) {
    fail(op, "at most " + std::to_string(P) + " positions", std::to_string(T));
  }
  return found;
}

Tensor rope(const Tensor& x_in, const Tensor& cos_in, const Tensor& sin_in, const std::optional<Tensor>& positions,
            std::optional<int64_t> heads, bool inverse) {
  const char* op = "rope";
  check_float(op, "x", x_in);
  if (x_in.ndim() != 4) fail(op, "x (B, T, H, D)", to_string(x_in.shape()));
  const int64_t B = x_in.dim(0), T = x_in.dim(1), H = x_in.dim(2), D = x_in.dim(3);
  const int64_t rotated = heads.value_or(H);
  if (rotated < 0 || rotated > H) fail(op, "0 <= heads <= " + std::to_string(H), std::to_string(rotated));
  const Rotation turn = checked_rotation(op, cos_in, sin_in, positions, B, T, D, x_in.device());
  const Tensor x = x_in.contiguous();
  Tensor out = Tensor::empty_like(x);
  kernel(op, x.device(), &KernelTable::rope)({x.dtype(), B, T, H, D, 2 * turn.cos.dim(1), rotated, x.data(), out.data(),
                                              turn.cos.data_as<float>(), turn.sin.data_as<float>(),
                                              positions ? turn.positions.data_as<int32_t>() : nullptr, inverse});
  return out;
}

Tensor embedding(const Tensor& table_in, const Tensor& ids_in, DType dtype) {
  const char* op = "embedding";
  check_dtype(op, "table", table_in, DType::kF32);
  if (table_in.ndim() != 2) fail(op, "table (V, C)", to_string(table_in.shape()));
  if (dtype != DType::kF32 && dtype != DType::kBF16) fail_type(op, "dtype float32 or bfloat16", name_of(dtype));
  const Tensor table = table_in.contiguous(), ids = checked_ids(op, "ids", ids_in, 0, table.dim(0), table.device());
  Shape shape = ids.shape();
  shape.push_back(table.dim(1));
  Tensor out = Tensor::empty(shape, dtype, table.device());
  kernel(op, table.device(), &KernelTable::embedding_forward)(
      {dtype, ids.size(), table.dim(1), table.data_as<float>(), ids.data_as<int32_t>(), out.data()});
  return out;
}

void embedding_backward(const Tensor& dout_in, const Tensor& ids_in, Tensor& dtable) {
  const char* op = "embedding_backward";
  check_float(op, "dout", dout_in);
  check_dtype(op, "dtable", dtable, DType::kF32);
  if (dtable.ndim() != 2) fail(op, "dtable (V, C)", to_string(dtable.shape()));
  check_in_place(op, "dtable", dtable);
  Shape shape = ids_in.shape();
  shape.push_back(dtable.dim(1));
  check_shape(op, "dout", dout_in, shape);
  check_device(op, "dout", dout_in, dtable.device());
  const Tensor dout = dout_in.contiguous();
  const Tensor ids = checked_ids(op, "ids", ids_in, 0, dtable.dim(0), dtable.device());
  EmbeddingBackwardArgs a{
      dout.dtype(),  ids.size(), dtable.dim(1), dout.data(), ids.data_as<int32_t>(), dtable.data_as<float>(),
      dtable.dim(0), nullptr};
  Tensor workspace;
  if (const auto bytes = kernels(dtable.device()).embedding_backward_workspace) {
    workspace = Tensor::empty({static_cast<int64_t>(bytes(a))}, DType::kU8, dtable.device());
    a.workspace = workspace.data();
  }
  kernel(op, dtable.device(), &KernelTable::embedding_backward)(a);
}

}  // namespace llmcore
