#include "ops/optim.h"

#include <cmath>

#include "ops/common.h"

namespace llmcore {

void adamw(Tensor& param, const Tensor& grad, Tensor& m, Tensor& v, const AdamWStep& s,
           const std::vector<Panels>& panels) {
  const char* op = "adamw";
  check_dtype(op, "param", param, DType::kF32);
  for (auto& [name, t] : {std::pair<const char*, const Tensor&>{"param", param}, {"grad", grad}, {"m", m}, {"v", v}}) {
    check_like(op, name, t, param);
    check_contiguous(op, name, t);
    if (&t != &grad) check_in_place(op, name, t);
  }
  if (s.step < 1) fail(op, "step >= 1", std::to_string(s.step));
  if (!(s.beta1 >= 0 && s.beta1 < 1 && s.beta2 >= 0 && s.beta2 < 1))
    fail(op, "betas in [0, 1)", std::to_string(s.beta1) + ", " + std::to_string(s.beta2));
  AdamWArgs a{};
  a.n = param.size();
  a.p = param.data_as<float>(), a.g = grad.data_as<float>(), a.m = m.data_as<float>(), a.v = v.data_as<float>();
  a.lr = s.lr, a.beta1 = s.beta1, a.beta2 = s.beta2, a.eps = s.eps, a.weight_decay = s.weight_decay;
  a.correction1 = static_cast<float>(1.0 - std::pow(static_cast<double>(s.beta1), static_cast<double>(s.step)));
  a.correction2 = static_cast<float>(1.0 - std::pow(static_cast<double>(s.beta2), static_cast<double>(s.step)));
  a.grad_scale = &s.grad_scale;
  std::vector<PackArgs> packs;
  if (!panels.empty()) {
    if (param.ndim() != 2) fail(op, "panels of a matrix only", to_string(param.shape()));
    a.rows = param.dim(0), a.columns = param.dim(1);
  }
  for (const Panels& p : panels) {
    const Shape shape = p.transposed ? Shape{p.N, p.K} : Shape{p.K, p.N};
    check_shape(op, "param, as its panels are,", param, shape);
    if (p.paired && p.N % kPanelWidth) fail(op, "halves of paired panels of whole 32 rows", std::to_string(p.N / 2));
    packs.push_back({param.data(), DType::kF32, a.columns, p.K, p.N, p.transposed, p.data.data(), p.dtype, p.paired});
  }
  a.packs = packs.data(), a.pack_count = static_cast<int64_t>(packs.size());
  kernel(op, param.device(), &KernelTable::adamw)(a);
}

double global_norm(const std::vector<Tensor>& tensors) {
  const char* op = "global_norm";
  double total = 0;
  std::vector<double> partial;
  for (const Tensor& t : tensors) {
    check_dtype(op, "every tensor", t, DType::kF32);
    const Tensor x = t.contiguous();
    partial.assign(static_cast<size_t>((x.size() + kSumChunk - 1) / kSumChunk), 0.0);
    kernel(op, x.device(), &KernelTable::sum_squares)({x.size(), x.data_as<float>(), partial.data()});
    for (double p : partial) total += p;
  }
  return std::sqrt(total);
}

}  // namespace llmcore
