#include "ops/sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/base/common.h"

namespace llmcore {
namespace {

constexpr const char* kOp = "sample";

template <class T>
constexpr DType kTypeOf = std::is_same_v<T, float> ? DType::kF32
                          : sizeof(T) == 4         ? DType::kI32
                                                   : DType::kI64;

// Sends host arrays to the logits' device, all in one copy.
class Arguments {
 public:
  explicit Arguments(Device device) : device_(device) {}

  // Adds n elements at p; send() sets `place` to where the kernel will find them.
  template <class T>
  void add(const T*& place, const T* p, int64_t n) {
    if (device_ == Device::kCPU) {
      place = p;
      return;
    }
    parts_.push_back({reinterpret_cast<const void**>(&place), p, static_cast<size_t>(n) * sizeof(T), bytes_});
    bytes_ += (static_cast<size_t>(n) * sizeof(T) + 15) / 16 * 16;
  }
  // Returns the owner of the memory.
  Tensor send() const {
    if (device_ == Device::kCPU) return {};
    const Tensor host = Tensor::empty({static_cast<int64_t>(bytes_)}, DType::kU8);
    for (const Part& part : parts_)
      if (part.bytes) std::memcpy(host.data_as<char>() + part.offset, part.from, part.bytes);
    const Tensor there = host.to(device_);
    for (const Part& part : parts_) *part.place = there.data_as<char>() + part.offset;
    return there;
  }

 private:
  struct Part {
    const void** place;
    const void* from;
    size_t bytes, offset;
  };
  Device device_;
  std::vector<Part> parts_;
  size_t bytes_ = 0;
};

// Returns the checked values (B) of a parameter; `keep` owns the memory if one number stands for all rows.
template <class T, class Number, class Valid>
const T* each(const char* name, const std::variant<Number, Tensor>& value, int64_t B, const char* expected,
              const Valid& valid, std::vector<T>& keep) {
  const T* p;
  if (const Number* number = std::get_if<Number>(&value)) {
    T given = static_cast<T>(*number);
    if constexpr (std::is_same_v<T, int32_t>) {
      if (*number > INT32_MAX) fail(kOp, std::string(name) + " below 2^31", std::to_string(*number));
      given = static_cast<T>(std::max<int64_t>(*number, INT32_MIN));
    }
    keep.assign(static_cast<size_t>(B), given);
    p = keep.data();
  } else {
    const Tensor& t = std::get<Tensor>(value);
    check_dtype(kOp, name, t, kTypeOf<T>);
    check_shape(kOp, name, t, {B});
    check_contiguous(kOp, name, t);
    check_device(kOp, name, t, Device::kCPU);
    p = t.data_as<T>();
  }
  for (int64_t i = 0; i < B; ++i)
    if (!valid(p[i], i)) fail(kOp, std::string(name) + " " + expected, std::to_string(p[i]));
  return p;
}

void check_tokens(const char* name, const int32_t* ids, int64_t n, int64_t V) {
  for (int64_t i = 0; i < n; ++i)
    if (ids[i] < 0 || ids[i] >= V)
      fail(kOp, std::string(name) + " in [0, " + std::to_string(V) + ")", std::to_string(ids[i]));
}

void set_bias(const SampleBias& bias, SampleArgs& a) {
  check_dtype(kOp, "bias offsets", bias.offsets, DType::kI64);
  check_shape(kOp, "bias offsets", bias.offsets, {a.B + 1});
  check_dtype(kOp, "bias ids", bias.ids, DType::kI32);
  check_ndim(kOp, "bias ids", bias.ids, 1);
  check_dtype(kOp, "bias values", bias.values, DType::kF32);
  check_shape(kOp, "bias values", bias.values, bias.ids.shape());
  for (const Tensor* t : {&bias.offsets, &bias.ids, &bias.values}) {
    check_contiguous(kOp, "bias", *t);
    check_device(kOp, "bias", *t, Device::kCPU);
  }
  const int64_t* offsets = bias.offsets.data_as<int64_t>();
  for (int64_t b = 0; b < a.B; ++b)
    if (offsets[b] < 0 || offsets[b] > offsets[b + 1] || offsets[b + 1] > bias.ids.size())
      fail(kOp, "bias offsets that rise to at most " + std::to_string(bias.ids.size()), std::to_string(offsets[b]));
  check_tokens("bias ids", bias.ids.data_as<int32_t>(), bias.ids.size(), a.V);
  a.bias_offsets = offsets, a.bias_ids = bias.ids.data_as<int32_t>(), a.bias_values = bias.values.data_as<float>();
  for (int64_t i = 0; i < bias.ids.size(); ++i)
    if (!(a.bias_values[i] < INFINITY)) fail(kOp, "bias values below infinity", std::to_string(a.bias_values[i]));
}

}  // namespace

SampleResult sample(const Tensor& logits_in, const SampleParameters& p, const SampleBias* bias,
                    const SamplePenalties* penalties, const Tensor* mask, bool want_probs) {
  check_float(kOp, "logits", logits_in);
  if (logits_in.ndim() != 2) fail(kOp, "logits (B, V)", to_string(logits_in.shape()));
  SampleArgs a{};
  const int64_t B = a.B = logits_in.dim(0), V = a.V = logits_in.dim(1);
  if (V < 1) fail(kOp, "at least one logit", to_string(logits_in.shape()));
  std::vector<float> temperature, top_p, min_p, typical_p, repetition, presence, frequency;
  std::vector<int32_t> top_k, lengths, prompt_lengths;
  std::vector<int64_t> seed, step;
  const auto finite = [](float x, int64_t) { return std::isfinite(x); };
  const auto any = [](int64_t, int64_t) { return true; };
  a.temperature = each<float>(
      "temperature", p.temperature, B, ">= 0", [](float t, int64_t) { return t >= 0 && std::isfinite(t); },
      temperature);
  a.top_k = each<int32_t>("top_k", p.top_k, B, ">= 0 (0 is off)", [](int32_t k, int64_t) { return k >= 0; }, top_k);
  a.top_p = each<float>("top_p", p.top_p, B, "in (0, 1]", [](float t, int64_t) { return t > 0 && t <= 1; }, top_p);
  a.min_p = each<float>("min_p", p.min_p, B, "in [0, 1]", [](float t, int64_t) { return t >= 0 && t <= 1; }, min_p);
  a.typical_p = each<float>(
      "typical_p", p.typical_p, B, "in (0, 1]", [](float t, int64_t) { return t > 0 && t <= 1; }, typical_p);
  a.seed = reinterpret_cast<const uint64_t*>(each<int64_t>("seed", p.seed, B, "", any, seed));
  a.step = each<int64_t>("step", p.step, B, "", any, step);
  if (bias) set_bias(*bias, a);
  if (penalties) {
    const Tensor& history = penalties->history;
    check_dtype(kOp, "history", history, DType::kI32);
    if (history.ndim() != 2 || history.dim(0) != B)
      fail(kOp, "history (" + std::to_string(B) + ", L)", to_string(history.shape()));
    check_contiguous(kOp, "history", history);
    check_device(kOp, "history", history, Device::kCPU);
    a.history = history.data_as<int32_t>(), a.history_size = history.dim(1);
    a.history_lengths = each<int32_t>(
        "history_lengths", penalties->lengths, B, "in [0, L]",
        [&](int32_t n, int64_t) { return n >= 0 && n <= a.history_size; }, lengths);
    a.prompt_lengths = each<int32_t>(
        "prompt_lengths", penalties->prompt_lengths, B, "in [0, history_lengths]",
        [&](int32_t n, int64_t i) { return n >= 0 && n <= a.history_lengths[i]; }, prompt_lengths);
    a.repetition = each<float>(
        "repetition_penalty", penalties->repetition, B, "> 0",
        [](float r, int64_t) { return r > 0 && std::isfinite(r); }, repetition);
    a.presence = each<float>("presence_penalty", penalties->presence, B, "a finite number", finite, presence);
    a.frequency = each<float>("frequency_penalty", penalties->frequency, B, "a finite number", finite, frequency);
    for (int64_t b = 0; b < B; ++b) check_tokens("history", a.history + b * a.history_size, a.history_lengths[b], V);
  }
  if (mask) {
    check_dtype(kOp, "mask", *mask, DType::kU32);
    check_shape(kOp, "mask", *mask, {B, (V + 31) / 32});
    check_contiguous(kOp, "mask", *mask);
    check_device(kOp, "mask", *mask, Device::kCPU);
    a.mask = mask->data_as<uint32_t>(), a.mask_words = mask->dim(1);
  }
  const Tensor logits = logits_in.contiguous();
  const Device device = logits.device();
  Arguments arguments(device);
  arguments.add(a.temperature, a.temperature, B);
  arguments.add(a.top_k, a.top_k, B);
  arguments.add(a.top_p, a.top_p, B);
  arguments.add(a.min_p, a.min_p, B);
  arguments.add(a.typical_p, a.typical_p, B);
  arguments.add(a.seed, a.seed, B);
  arguments.add(a.step, a.step, B);
  if (bias) {
    arguments.add(a.bias_offsets, a.bias_offsets, B + 1);
    arguments.add(a.bias_ids, a.bias_ids, bias->ids.size());
    arguments.add(a.bias_values, a.bias_values, bias->values.size());
  }
  if (penalties) {
    arguments.add(a.history, a.history, B * a.history_size);
    arguments.add(a.history_lengths, a.history_lengths, B);
    arguments.add(a.prompt_lengths, a.prompt_lengths, B);
    arguments.add(a.repetition, a.repetition, B);
    arguments.add(a.presence, a.presence, B);
    arguments.add(a.frequency, a.frequency, B);
  }
  if (mask) arguments.add(a.mask, a.mask, B * a.mask_words);
  const Tensor sent = arguments.send();
  // Token and log-probability are adjacent, so that the host fetches both at once.
  const Tensor drawn = Tensor::empty({2, B}, DType::kI32, device);
  a.dtype = logits.dtype(), a.logits = logits.data();
  a.token = drawn.data_as<int32_t>(), a.logprob = drawn.data_as<float>() + B;
  SampleResult r;
  if (want_probs) {
    r.probs = Tensor::empty({B, V}, DType::kF32, device);
    a.probs = r.probs.data_as<float>();
  }
  const Tensor workspace =
      Tensor::empty({static_cast<int64_t>(kernel(kOp, device, &KernelTable::sample_workspace)(a))}, DType::kU8, device);
  a.workspace = workspace.data();
  kernel(kOp, device, &KernelTable::sample)(a);
  const Tensor here = drawn.to(Device::kCPU);
  r.token = here.narrow(0, 0, 1).reshape({B});
  r.logprob = Tensor::wrap(here.data_as<float>() + B, {B}, {1}, DType::kF32, here.storage(), true);
  const int32_t* token = r.token.data_as<int32_t>();
  for (int64_t i = 0; i < B; ++i)
    if (token[i] < 0) fail(kOp, "a finite logit in every row", "row " + std::to_string(i) + " without one");
  return r;
}

}  // namespace llmcore
