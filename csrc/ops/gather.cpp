#include "ops/gather.h"

#include <numeric>
#include <vector>

#include "ops/base/common.h"

namespace llmcore {
namespace {

WeightedSumArgs checked_args(const char* op, const Tensor& y, const Tensor& weight) {
  check_float(op, "y", y);
  if (y.ndim() != 3) fail(op, "y (M, k, C)", to_string(y.shape()));
  check_dtype(op, "weight", weight, DType::kF32);
  check_shape(op, "weight", weight, {y.dim(0), y.dim(1)});
  WeightedSumArgs a{};
  a.dtype = y.dtype(), a.M = y.dim(0), a.k = y.dim(1), a.C = y.dim(2);
  return a;
}

}  // namespace

Tensor take(const Tensor& x_in, const Tensor& ids_in) {
  const char* op = "take";
  check_float(op, "x", x_in);
  if (x_in.ndim() != 2) fail(op, "x (M, C)", to_string(x_in.shape()));
  if (ids_in.ndim() != 1) fail(op, "ids (N)", to_string(ids_in.shape()));
  const Tensor x = x_in.contiguous(), ids = checked_ids(op, "ids", ids_in, 0, x.dim(0), x.device());
  Tensor out = Tensor::empty({ids.size(), x.dim(1)}, x.dtype(), x.device());
  kernel(op, x.device(),
         &KernelTable::take)({x.dtype(), ids.size(), x.dim(1), x.data(), ids.data_as<int32_t>(), out.data()});
  return out;
}

Tensor take_backward(const Tensor& dout_in, const Tensor& ids_in, int64_t rows) {
  const char* op = "take_backward";
  check_float(op, "dout", dout_in);
  if (dout_in.ndim() != 2) fail(op, "dout (N, C)", to_string(dout_in.shape()));
  if (rows < 0) fail(op, "rows >= 0", std::to_string(rows));
  check_shape(op, "ids", ids_in, {dout_in.dim(0)});
  const Tensor dout = dout_in.contiguous(), ids = checked_ids(op, "ids", ids_in, 0, rows);
  // Sort by id, keeping the order of rows with equal ids.
  const int32_t* id = ids.data_as<int32_t>();
  const Tensor offsets = Tensor::zeros({rows + 1}, DType::kI64), order = Tensor::empty({ids.size()}, DType::kI64);
  int64_t *first = offsets.data_as<int64_t>(), *at = order.data_as<int64_t>();
  for (int64_t n = 0; n < ids.size(); ++n) ++first[id[n] + 1];
  std::partial_sum(first, first + rows + 1, first);
  std::vector<int64_t> next(first, first + rows);
  for (int64_t n = 0; n < ids.size(); ++n) at[next[static_cast<size_t>(id[n])]++] = n;
  const Tensor offsets_there = offsets.to(dout.device()), order_there = order.to(dout.device());
  Tensor dx = Tensor::empty({rows, dout.dim(1)}, dout.dtype(), dout.device());
  kernel(op, dout.device(),
         &KernelTable::scatter)({dout.dtype(), rows, dout.dim(1), dout.data(), offsets_there.data_as<int64_t>(),
                                 order_there.data_as<int64_t>(), dx.data()});
  return dx;
}

Tensor weighted_sum(const Tensor& y_in, const Tensor& weight_in) {
  const char* op = "weighted_sum";
  WeightedSumArgs a = checked_args(op, y_in, weight_in);
  const Tensor y = y_in.contiguous(), weight = weight_in.contiguous().to(y.device());
  Tensor out = Tensor::empty({a.M, a.C}, a.dtype, y.device());
  a.y = y.data(), a.weight = weight.data_as<float>(), a.out = out.data();
  kernel(op, y.device(), &KernelTable::weighted_sum)(a);
  return out;
}

std::pair<Tensor, Tensor> weighted_sum_backward(const Tensor& dout_in, const Tensor& y_in, const Tensor& weight_in) {
  const char* op = "weighted_sum_backward";
  WeightedSumArgs a = checked_args(op, y_in, weight_in);
  check_dtype(op, "dout", dout_in, a.dtype);
  check_shape(op, "dout", dout_in, {a.M, a.C});
  const Tensor dout = dout_in.contiguous(), y = y_in.contiguous(), weight = weight_in.contiguous().to(y.device());
  a.y = y.data(), a.weight = weight.data_as<float>();
  Tensor dy = Tensor::empty_like(y), dweight = Tensor::empty({a.M, a.k}, DType::kF32, y.device());
  kernel(op, y.device(), &KernelTable::weighted_sum_backward)({a, dout.data(), dy.data(), dweight.data_as<float>()});
  return {dy, dweight};
}

}  // namespace llmcore
