#include "ops/embedding.h"

#include "ops/base/common.h"

namespace llmcore {

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
