#include "ops/sample.h"

#include <cmath>

#include "ops/common.h"

namespace llmcore {
namespace {

template <class T, class Valid>
void check_each(const char* name, const Tensor& t, DType dtype, int64_t B, const char* expected, Valid valid) {
  check_dtype("sample", name, t, dtype);
  check_shape("sample", name, t, {B});
  check_contiguous("sample", name, t);
  for (int64_t i = 0; i < B; ++i)
    if (!valid(t.data_as<T>()[i]))
      fail("sample", std::string(name) + " " + expected, std::to_string(t.data_as<T>()[i]));
}

}  // namespace

SampleResult sample(const Tensor& logits_in, const SampleParameters& p, bool want_probs) {
  const char* op = "sample";
  check_float(op, "logits", logits_in);
  if (logits_in.ndim() != 2) fail(op, "logits (B, V)", to_string(logits_in.shape()));
  const int64_t B = logits_in.dim(0), V = logits_in.dim(1);
  if (V < 1) fail(op, "at least one logit", to_string(logits_in.shape()));
  check_each<float>("temperature", p.temperature, DType::kF32, B, ">= 0",
                    [](float t) { return t >= 0 && std::isfinite(t); });
  check_each<int32_t>("top_k", p.top_k, DType::kI32, B, ">= 0 (0 is off)", [](int32_t k) { return k >= 0; });
  check_each<float>("top_p", p.top_p, DType::kF32, B, "in (0, 1]", [](float t) { return t > 0 && t <= 1; });
  check_each<float>("min_p", p.min_p, DType::kF32, B, "in [0, 1]", [](float t) { return t >= 0 && t <= 1; });
  check_each<int64_t>("seed", p.seed, DType::kI64, B, "", [](int64_t) { return true; });
  check_each<int64_t>("step", p.step, DType::kI64, B, "", [](int64_t) { return true; });
  const Tensor logits = logits_in.contiguous();
  SampleResult r{Tensor::empty({B}, DType::kI32), Tensor::empty({B}, DType::kF32), {}};
  SampleArgs a{};
  a.dtype = logits.dtype(), a.B = B, a.V = V, a.logits = logits.data();
  a.temperature = p.temperature.data_as<float>(), a.top_k = p.top_k.data_as<int32_t>();
  a.top_p = p.top_p.data_as<float>(), a.min_p = p.min_p.data_as<float>();
  a.seed = p.seed.data_as<uint64_t>(), a.step = p.step.data_as<int64_t>();
  a.token = r.token.data_as<int32_t>(), a.logprob = r.logprob.data_as<float>();
  if (want_probs) {
    r.probs = Tensor::empty({B, V}, DType::kF32, logits.device());
    a.probs = r.probs.data_as<float>();
  }
  const Tensor workspace =
      Tensor::empty({static_cast<int64_t>(kernel(op, logits.device(), &KernelTable::sample_workspace)(a))}, DType::kU8);
  a.workspace = workspace.data();
  kernel(op, logits.device(), &KernelTable::sample)(a);
  for (int64_t i = 0; i < B; ++i)
    if (a.token[i] < 0) fail(op, "a finite logit in every row", "row " + std::to_string(i) + " without one");
  return r;
}

}  // namespace llmcore
