#include "ops/gemm.h"

#include <algorithm>

#include "ops/base/common.h"
#include "ops/elementwise.h"

namespace llmcore {
namespace {

// Rows that a weight gradient takes at a time, so that both rearranged factors stay in cache until they are multiplied.
constexpr int64_t kWeightGradRows = 1024;

// A matrix whose rows may be strided but whose columns are contiguous, as kernels take it.
Tensor with_contiguous_rows(const Tensor& m) { return m.stride(1) == 1 || m.dim(1) == 1 ? m : m.contiguous(); }

void gemm_2d(const Tensor& a, bool a_transposed, const Panels& b, Tensor& out, bool accumulate) {
  GemmArgs g{};
  g.M = a.dim(a_transposed ? 1 : 0), g.N = b.N, g.K = b.K;
  g.a = a.data(), g.lda = a.stride(0), g.a_transposed = a_transposed;
  g.panels = b.data.data(), g.panels_transposed = b.transposed, g.dtype = b.dtype;
  g.out = out.data(), g.ldo = out.stride(0), g.out_dtype = out.dtype();
  g.accumulate = accumulate;
  kernel("matmul", a.device(), &KernelTable::gemm)(g);
}

}  // namespace

Panels pack(const Tensor& w, DType dtype, bool transposed, const Panels* reuse, bool paired) {
  check_float("pack", "weight", w);
  if (w.ndim() != 2) fail("pack", "weight of 2 dimensions", to_string(w.shape()));
  if (dtype != DType::kF32 && dtype != DType::kBF16) fail_type("pack", "dtype float32 or bfloat16", name_of(dtype));
  const Tensor src = with_contiguous_rows(w);
  Panels p;
  p.K = transposed ? w.dim(1) : w.dim(0);
  p.N = transposed ? w.dim(0) : w.dim(1);
  p.dtype = dtype, p.transposed = transposed;
  if (paired && (!transposed || p.N % 2)) fail("pack", "an even number of rows (gate and up)", to_string(w.shape()));
  const KernelTable& table = kernels(w.device());
  p.paired = paired && !table.row_panels && !(dtype == DType::kBF16 && table.bf16_tiles);
  if (table.row_panels && w.dtype() == dtype && w.is_contiguous()) {
    p.data = w;
    return p;
  }
  const int64_t n = table.row_panels ? p.K * p.N : panel_elements(p.K, p.N, dtype);
  p.data = reuse && reuse->dtype == dtype && reuse->data.size() == n && reuse->data.device() == w.device() &&
                   reuse->data.storage() != src.storage()
               ? reuse->data
               : Tensor::empty({n}, dtype, w.device());
  kernel("pack", w.device(), &KernelTable::pack)(
      {src.data(), src.dtype(), src.stride(0), p.K, p.N, transposed, p.data.data(), dtype, p.paired});
  return p;
}

Panels other_direction(const Panels& p) {
  if (!kernels(p.data.device()).row_panels) fail("pack", "panels that serve both directions", "CPU panels");
  Panels other = p;
  std::swap(other.K, other.N);
  other.transposed = !p.transposed;
  return other;
}

LinearResult linear(const Tensor& x_in, const Panels& w, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& residual, Activation act, bool keep_pre_activation, DType out_dtype) {
  const char* op = "linear";
  check_float(op, "x", x_in);
  check_ndim(op, "x", x_in, 1);
  check_dtype(op, "x", x_in, w.dtype);
  check_device(op, "x, like the weight,", x_in, w.data.device());
  if (x_in.dim(-1) != w.K) fail(op, "x (..., " + std::to_string(w.K) + ")", to_string(x_in.shape()));
  if (out_dtype != DType::kF32 && out_dtype != w.dtype)
    fail_type(op, std::string("output float32 or ") + name_of(w.dtype), name_of(out_dtype));
  const bool swiglu = act == Activation::kSwiGLU, gated = swiglu || act == Activation::kGeGLU;
  if (gated && w.N % 2) fail(op, "an even number of outputs (gate and up)", std::to_string(w.N));
  if (w.paired && !swiglu) fail(op, "panels for this activation", "panels paired for swiglu");
  const bool fused = act == Activation::kNone || act == Activation::kGelu || w.paired;
  if (!fused) {
    LinearResult r = linear(x_in, w, bias, std::nullopt, Activation::kNone, false, out_dtype);
    r.pre_activation = r.out, r.out = activate(act, r.out);
    if (residual) {
      check_like(op, "residual", *residual, r.out);
      r.out = binary(op, &KernelTable::add, r.out, *residual);
    }
    return r;
  }
  const Tensor x = x_in.contiguous();
  const int64_t columns = gated ? w.N / 2 : w.N;
  LinearResult r;
  r.out = Tensor::empty(with_last(x, columns), out_dtype, x.device());
  GemmArgs g{};
  g.M = rows_of(x), g.N = w.N, g.K = w.K;
  if (w.K == 0) g.M = leading_rows(x);
  g.a = x.data(), g.lda = w.K;
  g.panels = w.data.data(), g.panels_transposed = w.transposed, g.dtype = w.dtype;
  g.out = r.out.data(), g.ldo = columns, g.out_dtype = out_dtype;
  Tensor b, res;
  if (bias) {
    check_dtype(op, "bias", *bias, DType::kF32);
    check_shape(op, "bias", *bias, {w.N});
    check_device(op, "bias", *bias, x.device());
    b = bias->contiguous();
    g.bias = b.data_as<float>();
  }
  if (residual) {
    check_like(op, "residual", *residual, r.out);
    res = residual->contiguous();
    g.residual = res.data();
  }
  g.act = act;
  if (keep_pre_activation) {
    r.pre_activation = Tensor::empty(with_last(x, w.N), out_dtype, x.device());
    g.pre_activation = r.pre_activation.data();
  }
  kernel(op, x.device(), &KernelTable::gemm)(g);
  return r;
}

Tensor linear_weight_grad(const Tensor& dy, const Tensor& x, const std::optional<Tensor>& given) {
  const char* op = "linear_weight_grad";
  check_float(op, "dy", dy);
  check_ndim(op, "dy", dy, 1);
  check_ndim(op, "x", x, 1);
  check_dtype(op, "x", x, dy.dtype());
  check_device(op, "x", x, dy.device());
  const int64_t M = leading_rows(dy);
  const Shape shape{dy.dim(-1), x.dim(-1)};
  if (given) {
    check_dtype(op, "dw", *given, DType::kF32);
    check_shape(op, "dw", *given, shape);
    check_device(op, "dw", *given, dy.device());
    check_in_place(op, "dw", *given);
  }
  if (leading_rows(x) != M)
    fail(op, "x and dy with the same number of rows", to_string(x.shape()) + " and " + to_string(dy.shape()));
  Tensor dw = given    ? *given
              : M == 0 ? Tensor::zeros(shape, DType::kF32, x.device())
                       : Tensor::empty(shape, DType::kF32, x.device());
  if (M == 0 || dw.size() == 0) return dw;
  const Tensor dy_rows = dy.ndim() == 2 ? with_contiguous_rows(dy) : dy.contiguous().reshape({M, dy.dim(-1)});
  const Tensor x_rows = x.contiguous().reshape({M, x.dim(-1)});
  Panels panels;
  const int64_t rows = kernels(x.device()).row_panels ? M : kWeightGradRows;
  for (int64_t start = 0; start < M; start += rows) {
    const int64_t n = std::min(rows, M - start);
    panels = pack(x_rows.narrow(0, start, n), x.dtype(), /*transposed=*/false, &panels);
    gemm_2d(dy_rows.narrow(0, start, n), /*a_transposed=*/true, panels, dw, /*accumulate=*/given || start > 0);
  }
  return dw;
}

void linear_bias_grad(const Tensor& dy_in, Tensor& db) {
  const char* op = "linear_bias_grad";
  check_float(op, "dy", dy_in);
  check_ndim(op, "dy", dy_in, 1);
  check_dtype(op, "db", db, DType::kF32);
  check_shape(op, "db", db, {dy_in.dim(-1)});
  check_device(op, "db", db, dy_in.device());
  check_in_place(op, "db", db);
  const Tensor dy = dy_in.contiguous();
  kernel(op, dy.device(),
         &KernelTable::column_sum)({dy.dtype(), rows_of(dy), dy.dim(-1), dy.dim(-1), dy.data(), db.data_as<float>()});
}

Tensor matmul(const Tensor& a_in, const Tensor& b_in, bool transpose_a, bool transpose_b) {
  const char* op = "matmul";
  check_float(op, "a", a_in);
  check_dtype(op, "b", b_in, a_in.dtype());
  check_device(op, "b", b_in, a_in.device());
  check_ndim(op, "a", a_in, 2);
  check_ndim(op, "b", b_in, 2);
  Tensor a = a_in.contiguous(), b = b_in.contiguous();
  // A stack of matrices times one matrix is one taller product.
  if (b.ndim() == 2 && a.ndim() > 2 && !transpose_a) {
    const int64_t N = transpose_b ? b.dim(0) : b.dim(1);
    const Tensor flat = a.reshape({leading_rows(a), a.dim(-1)});
    return matmul(flat, b, false, transpose_b).reshape(with_last(a, N));
  }
  const Shape batch(a.shape().begin(), a.shape().end() - 2);
  if (batch != Shape(b.shape().begin(), b.shape().end() - 2))
    fail(op, "a and b with the same leading dimensions", to_string(a.shape()) + " and " + to_string(b.shape()));
  const int64_t M = a.dim(transpose_a ? -1 : -2), K = a.dim(transpose_a ? -2 : -1);
  const int64_t Kb = b.dim(transpose_b ? -1 : -2), N = b.dim(transpose_b ? -2 : -1);
  if (K != Kb)
    fail(op, "inner dimensions that agree",
         to_string(a.shape()) + (transpose_a ? "^T" : "") + " and " + to_string(b.shape()) + (transpose_b ? "^T" : ""));
  Shape shape = batch;
  shape.insert(shape.end(), {M, N});
  Tensor out = K == 0 ? Tensor::zeros(shape, a.dtype(), a.device()) : Tensor::empty(shape, a.dtype(), a.device());
  if (out.size() == 0 || K == 0) return out;
  const int64_t count = out.size() / (M * N);
  a = a.reshape({count, a.dim(-2), a.dim(-1)});
  b = b.reshape({count, b.dim(-2), b.dim(-1)});
  const Tensor all = out.reshape({count, M, N});
  for (int64_t i = 0; i < count; ++i) {
    const Tensor ai = a.narrow(0, i, 1).reshape({a.dim(1), a.dim(2)});
    const Panels panels = pack(b.narrow(0, i, 1).reshape({b.dim(1), b.dim(2)}), b.dtype(), transpose_b);
    Tensor oi = all.narrow(0, i, 1).reshape({M, N});
    gemm_2d(ai, transpose_a, panels, oi, false);
  }
  return out;
}

}  // namespace llmcore
