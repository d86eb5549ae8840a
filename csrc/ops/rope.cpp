#include "ops/rope.h"

#include "ops/base/common.h"

namespace llmcore {

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

}  // namespace llmcore
