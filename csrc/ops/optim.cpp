#include "ops/optim.h"

#include <algorithm>
#include <cmath>

#include "ops/base/common.h"
#include "ops/elementwise.h"

namespace llmcore {

namespace {

using State = std::vector<std::pair<const char*, Tensor*>>;

void check_state(const char* op, const Tensor& param, const Tensor& grad, const State& state) {
  check_dtype(op, "param", param, DType::kF32);
  check_like(op, "grad", grad, param);
  check_contiguous(op, "grad", grad);
  for (auto [name, t] : state) {
    check_like(op, name, *t, param);
    check_contiguous(op, name, *t);
    check_in_place(op, name, *t);
  }
}

void check_betas(const char* op, float beta1, float beta2) {
  if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1))
    fail(op, "betas in [0, 1)", std::to_string(beta1) + ", " + std::to_string(beta2));
}

thread_local UpdateBatch* batch = nullptr;

void (*KernelTable::* entry_of(UpdateRule rule))(const UpdateArgs&) {
  return rule == UpdateRule::kAdamW  ? &KernelTable::adamw
         : rule == UpdateRule::kLion ? &KernelTable::lion
                                     : &KernelTable::sgd;
}

// Completes `a` with what all rules share, then runs or collects it. state: the tensors behind a's m and v.
void run(const char* op, UpdateRule rule, UpdateArgs a, Tensor& param, const Tensor& grad, std::vector<Tensor> state,
         const Update& u) {
  a.n = param.size();
  a.p = param.data_as<float>(), a.g = grad.data_as<float>();
  a.lr = u.lr, a.weight_decay = u.weight_decay, a.grad_scale = u.grad_scale;
  std::vector<PackArgs> packs;
  if (!u.panels.empty()) {
    if (param.ndim() != 2) fail(op, "panels only for a matrix", to_string(param.shape()));
    a.rows = param.dim(0), a.columns = param.dim(1);
  }
  for (const Panels& p : u.panels) {
    const Shape shape = p.transposed ? Shape{p.N, p.K} : Shape{p.K, p.N};
    check_shape(op, "param, as its panels are,", param, shape);
    if (p.paired && p.N % kPanelWidth)
      fail(op, "paired panels whose halves have a multiple of 32 rows", std::to_string(p.N / 2));
    packs.push_back({param.data(), DType::kF32, a.columns, p.K, p.N, p.transposed, p.data.data(), p.dtype, p.paired});
  }
  a.packs = packs.data(), a.pack_count = static_cast<int64_t>(packs.size());
  if (!UpdateBatch::collecting() || !kernels(param.device()).updates) {
    kernel(op, param.device(), entry_of(rule))(a);
    return;
  }
  state.insert(state.end(), {param, grad});
  for (const Panels& p : u.panels) state.push_back(p.data);
  UpdateBatch::collecting()->add(rule, param.device(), a, std::move(packs), std::move(state));
}

}  // namespace

UpdateBatch* UpdateBatch::collecting() { return batch; }

void UpdateBatch::begin() {
  if (batch) throw std::runtime_error("[updates] expected one batch at a time, got a second");
  batch = this;
}

void UpdateBatch::cancel() {
  if (batch == this) batch = nullptr;
  updates_.clear();
}

void UpdateBatch::add(UpdateRule rule, Device device, const UpdateArgs& a, std::vector<PackArgs> packs,
                      std::vector<Tensor> kept) {
  updates_.push_back({rule, device, a, std::move(packs), std::move(kept)});
}

void UpdateBatch::end() {
  batch = nullptr;
  const std::vector<Collected> all = std::move(updates_);
  updates_.clear();
  // Adjacent updates of one kind are launched together.
  for (size_t first = 0; first < all.size();) {
    std::vector<UpdateArgs> some;
    size_t at = first;
    for (; at < all.size() && all[at].rule == all[first].rule && all[at].device == all[first].device; ++at) {
      some.push_back(all[at].args);
      some.back().packs = all[at].packs.data();
    }
    kernels(all[first].device).updates(all[first].rule, some.data(), static_cast<int64_t>(some.size()));
    check_cuda("updates");
    first = at;
  }
}

void adamw(Tensor& param, const Tensor& grad, Tensor& m, Tensor& v, float beta1, float beta2, float eps, int64_t step,
           const Update& update) {
  const char* op = "adamw";
  check_state(op, param, grad, {{"param", &param}, {"m", &m}, {"v", &v}});
  if (step < 1) fail(op, "step >= 1", std::to_string(step));
  check_betas(op, beta1, beta2);
  UpdateArgs a{};
  a.m = m.data_as<float>(), a.v = v.data_as<float>();
  a.beta1 = beta1, a.beta2 = beta2, a.eps = eps;
  a.correction1 = static_cast<float>(1.0 - std::pow(static_cast<double>(beta1), static_cast<double>(step)));
  a.correction2 = static_cast<float>(1.0 - std::pow(static_cast<double>(beta2), static_cast<double>(step)));
  run(op, UpdateRule::kAdamW, a, param, grad, {m, v}, update);
}

void lion(Tensor& param, const Tensor& grad, Tensor& m, float beta1, float beta2, const Update& update) {
  const char* op = "lion";
  check_state(op, param, grad, {{"param", &param}, {"m", &m}});
  check_betas(op, beta1, beta2);
  UpdateArgs a{};
  a.m = m.data_as<float>(), a.beta1 = beta1, a.beta2 = beta2;
  run(op, UpdateRule::kLion, a, param, grad, {m}, update);
}

void sgd(Tensor& param, const Tensor& grad, Tensor* m, float momentum, bool nesterov, const Update& update) {
  const char* op = "sgd";
  check_state(op, param, grad, m ? State{{"param", &param}, {"m", m}} : State{{"param", &param}});
  check_betas(op, momentum, 0);
  UpdateArgs a{};
  a.m = m ? m->data_as<float>() : nullptr, a.beta1 = momentum, a.nesterov = nesterov;
  run(op, UpdateRule::kSgd, a, param, grad, m ? std::vector<Tensor>{*m} : std::vector<Tensor>{}, update);
}

Tensor momentum(const Tensor& grad, Tensor& m, float beta, bool nesterov, float grad_scale) {
  const char* op = "momentum";
  check_state(op, m, grad, {{"m", &m}});
  check_betas(op, beta, 0);
  Tensor u = Tensor::empty_like(m);
  kernel(op, m.device(), &KernelTable::momentum)(
      {m.size(), grad.data_as<float>(), m.data_as<float>(), u.data_as<float>(), beta, grad_scale, nesterov});
  return u;
}

double global_norm(const std::vector<Tensor>& tensors) {
  const char* op = "global_norm";
  if (tensors.empty()) return 0;
  const auto pieces = [](const Tensor& t) { return ceil_div(t.size(), kSumChunk); };
  int64_t count = 0;
  for (const Tensor& t : tensors) {
    check_dtype(op, "every tensor", t, DType::kF32);
    check_device(op, "every tensor", t, tensors[0].device());
    count += pieces(t);
  }
  // Queue everything on the device, then read the result once.
  const Tensor partial = Tensor::empty({count * static_cast<int64_t>(sizeof(double))}, DType::kU8, tensors[0].device());
  double* at = partial.data_as<double>();
  for (const Tensor& t : tensors) {
    const Tensor x = t.contiguous();
    kernel(op, x.device(), &KernelTable::sum_squares)({x.size(), x.data_as<float>(), at});
    at += pieces(t);
  }
  const Tensor sums = partial.to(Device::kCPU);
  const double* sum = sums.data_as<double>();
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += sum[i];
  return std::sqrt(total);
}

Tensor orthogonalised(const Tensor& x_in, DType dtype) {
  const char* op = "orthogonalised";
  check_dtype(op, "x", x_in, DType::kF32);
  if (x_in.ndim() != 2) fail(op, "x (m, n)", to_string(x_in.shape()));
  if (dtype != DType::kF32 && dtype != DType::kBF16) fail_type(op, "dtype float32 or bfloat16", name_of(dtype));
  const Tensor given = x_in.contiguous();
  const Device device = given.device();
  if (given.size() == 0) return given;
  const int64_t pieces = ceil_div(given.size(), kSumChunk);
  const Tensor partial = Tensor::empty({pieces * static_cast<int64_t>(sizeof(double))}, DType::kU8, device);
  kernel(op, device, &KernelTable::sum_squares)({given.size(), given.data_as<float>(), partial.data_as<double>()});
  Tensor x = Tensor::empty(given.shape(), dtype, device);
  kernel(op, device, &KernelTable::divide_by_norm)(
      {given.size(), given.data_as<float>(), partial.data_as<double>(), x.data(), dtype});

  const bool wide = x.dim(0) <= x.dim(1);
  const int64_t n = std::min(x.dim(0), x.dim(1));
  const auto times = [](const Tensor& a, const Tensor& b, bool b_transposed, DType out) {
    return linear(a, pack(b, b.dtype(), b_transposed), std::nullopt, std::nullopt, Activation::kNone, false, out).out;
  };
  const auto with_diagonal = [&](const Tensor& a, float factor, float diagonal) {
    const Tensor out = Tensor::empty({n, n}, dtype, device);
    kernel(op, device, &KernelTable::add_diagonal)({n, a.data_as<float>(), out.data(), dtype, factor, diagonal});
    return out;
  };
  constexpr int kRounds = 5;
  constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;
  for (int round = 0; round < kRounds; ++round) {
    const Tensor gram = wide ? times(x, x, true, DType::kF32) : linear_weight_grad(x, x, std::nullopt);
    const Tensor product = times(cast(gram, dtype), with_diagonal(gram, kC, kB), false, DType::kF32);
    const Tensor factor = with_diagonal(product, 1.0f, kA);
    x = wide ? times(factor, x, false, dtype) : times(x, factor, false, dtype);
  }
  return cast(x, DType::kF32);
}

Tensor sum(const Tensor& x_in, double factor) {
  const char* op = "sum";
  check_dtype(op, "x", x_in, DType::kF32);
  const Tensor x = x_in.contiguous();
  const Tensor out = Tensor::empty({}, DType::kF32, x.device());
  kernel(op, x.device(), &KernelTable::sum)({x.size(), x.data_as<float>(), out.data_as<float>(), factor});
  return out;
}

}  // namespace llmcore
