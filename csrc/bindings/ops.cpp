// The ops, with the GIL released around every kernel. Arguments are checked in csrc/ops.
#include "bindings/register.h"

#include <pybind11/stl.h>

#include "core/device.h"
#include "ops/attention.h"
#include "ops/cache.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/gather.h"
#include "ops/gemm.h"
#include "ops/loss.h"
#include "ops/norm.h"
#include "ops/optim.h"
#include "ops/quantized.h"
#include "ops/rope.h"
#include "ops/sample.h"
#include "ops/softmax.h"

namespace py = pybind11;

namespace llmcore {
namespace {

using OptionalTensor = std::optional<Tensor>;

// Everything below runs without the GIL.
struct Binder {
  py::module_& m;
  template <class Function, class... Extra>
  Binder& def(const char* name, Function f, const Extra&... extra) {
    m.def(name, f, extra..., py::call_guard<py::gil_scoped_release>());
    return *this;
  }
};

void register_elementwise(Binder& b) {
  py::enum_<Activation>(b.m, "Activation")
      .value("none", Activation::kNone)
      .value("gelu", Activation::kGelu)
      .value("gelu_exact", Activation::kGeluExact)
      .value("silu", Activation::kSilu)
      .value("swiglu", Activation::kSwiGLU)
      .value("geglu", Activation::kGeGLU);
  b.def("activate", &activate, py::arg("activation"), py::arg("x"));
  b.def("activate_backward", &activate_backward, py::arg("activation"), py::arg("dout"), py::arg("x"));
  // The functions that kernels are built from, exposed so that tests can check their stated error bounds (cpu/simd.h).
  b.def("exp", [](const Tensor& x) { return unary("exp", &KernelTable::exp, x); }, py::arg("x"));
  b.def("log", [](const Tensor& x) { return unary("log", &KernelTable::log, x); }, py::arg("x"));
  b.def(
      "log_one_minus", [](const Tensor& x) { return unary("log_one_minus", &KernelTable::log_one_minus, x); },
      py::arg("x"));
  b.def("sigmoid", [](const Tensor& x) { return unary("sigmoid", &KernelTable::sigmoid, x); }, py::arg("x"));
  b.def(
      "add", [](const Tensor& x, const Tensor& y) { return binary("add", &KernelTable::add, x, y); }, py::arg("a"),
      py::arg("b"));
  b.def(
      "mul", [](const Tensor& x, const Tensor& y) { return binary("mul", &KernelTable::mul, x, y); }, py::arg("a"),
      py::arg("b"));
  b.def("scale", &scale, py::arg("x"), py::arg("factor"));
  b.def("cast", &cast, py::arg("x"), py::arg("dtype"));
  b.def("softcap", &softcap, py::arg("x"), py::arg("cap"));
  b.def("softcap_backward", &softcap_backward, py::arg("dout"), py::arg("x"), py::arg("cap"));
}

void register_gemm(Binder& b) {
  py::class_<Panels>(b.m, "Panels", "A matrix packed for the kernels.")
      .def_readonly("K", &Panels::K)
      .def_readonly("N", &Panels::N)
      .def_readonly("dtype", &Panels::dtype)
      .def_readonly("paired", &Panels::paired)
      .def("other_direction", &other_direction, "The same memory for products in the other direction (CUDA only).")
      .def_readonly("data", &Panels::data);
  b.def(
      "pack",
      [](const Tensor& w, DType t, bool transposed, const std::optional<Panels>& reuse, bool paired) {
        return pack(w, t, transposed, reuse ? &*reuse : nullptr, paired);
      },
      py::arg("weight"), py::arg("dtype"), py::arg("transposed"), py::arg("reuse") = std::nullopt,
      py::arg("paired") = false);
  b.def(
      "linear",
      [](const Tensor& x, const Panels& w, const OptionalTensor& bias, const OptionalTensor& residual,
         Activation activation, bool keep_pre_activation, std::optional<DType> out_dtype) {
        LinearResult r = linear(x, w, bias, residual, activation, keep_pre_activation, out_dtype.value_or(w.dtype));
        return std::make_pair(r.out, r.pre_activation.defined() ? OptionalTensor(r.pre_activation) : std::nullopt);
      },
      py::arg("x"), py::arg("weight"), py::arg("bias") = std::nullopt, py::arg("residual") = std::nullopt,
      py::arg("activation") = Activation::kNone, py::arg("keep_pre_activation") = false,
      py::arg("out_dtype") = std::nullopt);
  b.def("linear_weight_grad", &linear_weight_grad, py::arg("dy"), py::arg("x"), py::arg("dw") = std::nullopt);
  b.def("linear_bias_grad", &linear_bias_grad, py::arg("dy"), py::arg("db"));
  b.def("matmul", &matmul, py::arg("a"), py::arg("b"), py::arg("transpose_a") = false, py::arg("transpose_b") = false);
}

void register_quantized(Binder& b) {
  py::class_<QuantizedMatrix>(b.m, "QuantizedMatrix", "A matrix that stays quantized.")
      .def(py::init([](const std::vector<std::pair<std::string, Tensor>>& parts, int64_t K, const std::string& device) {
             auto matrix = std::make_unique<QuantizedMatrix>(K, device_named(device));
             for (const auto& [type, blocks] : parts) matrix->add(type, blocks);
             return matrix;
           }),
           py::arg("parts"), py::arg("K"), py::arg("device") = "cpu", py::call_guard<py::gil_scoped_release>(),
           "Stacks parts of (GGUF type name, uint8 blocks (rows, bytes per row)).")
      .def_property_readonly("shape", [](const QuantizedMatrix& m) { return py::make_tuple(m.N(), m.K()); })
      .def_property_readonly("device", [](const QuantizedMatrix& m) { return name_of(m.device()); })
      .def_property_readonly("nbytes", &QuantizedMatrix::bytes);
  py::enum_<ActivationSource>(b.m, "ActivationSource",
                              "What a product with a quantized matrix first computes from its rows.")
      .value("rows", ActivationSource::kRows)
      .value("rms_norm", ActivationSource::kRmsNorm)
      .value("swiglu", ActivationSource::kSwiglu)
      .value("geglu", ActivationSource::kGeglu);
  b.def(
      "quantized_linear",
      [](const Tensor& x, const QuantizedMatrix& weight, const OptionalTensor& bias, const OptionalTensor& residual,
         Activation activation, DType out_dtype, ActivationSource source, const OptionalTensor& norm_weight,
         float eps) {
        return quantized_linear(x, weight, bias, residual, activation, out_dtype, {source, norm_weight, eps});
      },
      py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("residual"), py::arg("activation"),
      py::arg("out_dtype"), py::arg("source") = ActivationSource::kRows, py::arg("norm_weight") = std::nullopt,
      py::arg("eps") = 0.0f);
  b.def("quantized_rows", &quantized_rows, py::arg("weight"), py::arg("ids"), py::arg("dtype"));
  b.def("quantized_values", &quantized_values, py::arg("weight"), py::arg("dtype"));
}

void register_softmax(Binder& b) {
  b.def("softmax", &softmax, py::arg("x"));
  b.def("softmax_backward", &softmax_backward, py::arg("dout"), py::arg("out"));
}

void register_rope(Binder& b) {
  b.def("rope", &rope, py::arg("x"), py::arg("cos"), py::arg("sin"), py::arg("positions"), py::arg("heads"),
        py::arg("inverse"));
}

void register_embedding(Binder& b) {
  b.def("embedding", &embedding, py::arg("table"), py::arg("ids"), py::arg("dtype"));
  b.def("embedding_backward", &embedding_backward, py::arg("dout"), py::arg("ids"), py::arg("dtable"));
}

void register_gather(Binder& b) {
  b.def("take", &take, py::arg("x"), py::arg("ids"));
  b.def("take_backward", &take_backward, py::arg("dout"), py::arg("ids"), py::arg("rows"));
  b.def("weighted_sum", &weighted_sum, py::arg("y"), py::arg("weight"));
  b.def("weighted_sum_backward", &weighted_sum_backward, py::arg("dout"), py::arg("y"), py::arg("weight"));
}

void register_cache(Binder& b) {
  py::class_<CacheBlocks>(b.m, "CacheBlocks", "Where the keys and values of a batch's rows are in a pool.")
      .def(py::init([](const Tensor& blocks, const OptionalTensor& k_scale, const OptionalTensor& v_scale) {
             return CacheBlocks{blocks, k_scale, v_scale};
           }),
           py::arg("blocks"), py::arg("k_scale") = std::nullopt, py::arg("v_scale") = std::nullopt);
  b.def("cache_append", &cache_append, py::arg("cache"), py::arg("x"), py::arg("lengths"),
        py::arg("blocks") = std::nullopt, py::arg("scale") = std::nullopt);
  b.def("rope_append", &rope_append, py::arg("qkv"), py::arg("cos"), py::arg("sin"), py::arg("positions"),
        py::arg("keys"), py::arg("values"), py::arg("lengths"), py::arg("cache"), py::arg("dtype"));
}

void register_attention(Binder& b) {
  b.def("attention", &attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("scale"), py::arg("causal"),
        py::arg("lengths") = std::nullopt, py::arg("window") = std::nullopt, py::arg("starts") = std::nullopt,
        py::arg("softcap") = std::nullopt, py::arg("cache") = std::nullopt);
  b.def("attention_backward", &attention_backward, py::arg("dout"), py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("out"), py::arg("lse"), py::arg("scale"), py::arg("causal"), py::arg("window") = std::nullopt,
        py::arg("starts") = std::nullopt, py::arg("softcap") = std::nullopt);
}

void register_norm(Binder& b) {
  b.def(
      "layer_norm",
      [](const Tensor& x, const Tensor& w, const OptionalTensor& bias, float eps) {
        NormResult r = layer_norm(x, w, bias, eps);
        return std::make_tuple(r.out, r.mean, r.rstd);
      },
      py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("eps"));
  b.def(
      "rms_norm",
      [](const Tensor& x, const Tensor& w, float eps) {
        NormResult r = rms_norm(x, w, eps);
        return std::make_pair(r.out, r.rstd);
      },
      py::arg("x"), py::arg("weight"), py::arg("eps"));
  b.def("norm_backward", &norm_backward, py::arg("dout"), py::arg("x"), py::arg("weight"), py::arg("mean"),
        py::arg("rstd"), py::arg("dweight"), py::arg("dbias"), py::arg("residual") = std::nullopt);
}

void register_loss(Binder& b) {
  b.def(
      "cross_entropy",
      [](const Tensor& logits, const Tensor& targets) {
        CrossEntropyResult r = cross_entropy(logits, targets);
        return std::make_pair(r.loss, r.lse);
      },
      py::arg("logits"), py::arg("targets"));
  b.def("cross_entropy_backward", &cross_entropy_backward, py::arg("dloss"), py::arg("logits"), py::arg("targets"),
        py::arg("lse"));
  b.def("linear_cross_entropy", &linear_cross_entropy, py::arg("x"), py::arg("forward"), py::arg("targets"));
  b.def(
      "linear_cross_entropy_grad",
      [](const Tensor& x, const Panels& forward, const Panels& backward, const Tensor& targets, const Tensor& dloss,
         bool weight_grad) {
        LinearCrossEntropyGrad r = linear_cross_entropy_grad(x, forward, backward, targets, dloss, weight_grad);
        return std::make_tuple(r.loss, r.dx, r.dw);
      },
      py::arg("x"), py::arg("forward"), py::arg("backward"), py::arg("targets"), py::arg("dloss"),
      py::arg("weight_grad") = true);
}

void register_optim(Binder& b) {
  py::class_<UpdateBatch>(b.m, "UpdateBatch",
                          "Sends the updates in its `with` block to the device together; on the CPU, one by one.")
      .def(py::init<>())
      .def("__enter__", &UpdateBatch::begin)
      .def("__exit__", [](UpdateBatch& batch, const py::object& error, const py::object&, const py::object&) {
        const bool failed = !error.is_none();
        py::gil_scoped_release release;
        failed ? batch.cancel() : batch.end();
      });
  const auto no_panels = std::vector<Panels>{};
  b.def(
      "adamw",
      [](Tensor& p, const Tensor& g, Tensor& m, Tensor& v, float lr, float beta1, float beta2, float eps,
         float weight_decay, int64_t step, float grad_scale, const std::vector<Panels>& panels) {
        adamw(p, g, m, v, beta1, beta2, eps, step, {lr, weight_decay, grad_scale, panels});
      },
      py::arg("param"), py::arg("grad"), py::arg("m"), py::arg("v"), py::arg("lr"), py::arg("beta1"), py::arg("beta2"),
      py::arg("eps"), py::arg("weight_decay"), py::arg("step"), py::arg("grad_scale"), py::arg("panels") = no_panels);
  b.def(
      "lion",
      [](Tensor& p, const Tensor& g, Tensor& m, float lr, float beta1, float beta2, float weight_decay,
         float grad_scale,
         const std::vector<Panels>& panels) { lion(p, g, m, beta1, beta2, {lr, weight_decay, grad_scale, panels}); },
      py::arg("param"), py::arg("grad"), py::arg("m"), py::arg("lr"), py::arg("beta1"), py::arg("beta2"),
      py::arg("weight_decay"), py::arg("grad_scale"), py::arg("panels") = no_panels);
  b.def(
      "sgd",
      [](Tensor& p, const Tensor& g, std::optional<Tensor> m, float lr, float momentum, bool nesterov,
         float weight_decay, float grad_scale, const std::vector<Panels>& panels) {
        sgd(p, g, m ? &*m : nullptr, momentum, nesterov, {lr, weight_decay, grad_scale, panels});
      },
      py::arg("param"), py::arg("grad"), py::arg("m"), py::arg("lr"), py::arg("momentum"), py::arg("nesterov"),
      py::arg("weight_decay"), py::arg("grad_scale"), py::arg("panels") = no_panels);
  b.def("momentum", &momentum, py::arg("grad"), py::arg("m"), py::arg("beta"), py::arg("nesterov"),
        py::arg("grad_scale"));
  b.def("global_norm", &global_norm, py::arg("tensors"));
  b.def("orthogonalised", &orthogonalised, py::arg("x"), py::arg("dtype"));
  b.def("sum", &sum, py::arg("x"), py::arg("factor") = 1.0);
}

void register_sample(Binder& b) {
  b.def(
      "sample",
      [](const Tensor& logits, EachFloat temperature, EachInt top_k, EachFloat top_p, EachFloat min_p, EachInt seed,
         EachInt step, bool want_probs, const std::optional<std::array<Tensor, 3>>& bias, const OptionalTensor& history,
         EachInt history_lengths, EachInt prompt_lengths, EachFloat repetition_penalty, EachFloat presence_penalty,
         EachFloat frequency_penalty, EachFloat typical_p, const OptionalTensor& mask) {
        SampleBias biases;
        if (bias) biases = {(*bias)[0], (*bias)[1], (*bias)[2]};
        SamplePenalties penalties;
        if (history)
          penalties = {*history,           history_lengths,  prompt_lengths,
                       repetition_penalty, presence_penalty, frequency_penalty};
        SampleResult r =
            sample(logits, {temperature, top_k, top_p, min_p, typical_p, seed, step}, bias ? &biases : nullptr,
                   history ? &penalties : nullptr, mask ? &*mask : nullptr, want_probs);
        return std::make_tuple(r.token, r.logprob, r.probs.defined() ? OptionalTensor(r.probs) : std::nullopt);
      },
      py::arg("logits"), py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("min_p"), py::arg("seed"),
      py::arg("step"), py::arg("want_probs") = false, py::arg("bias") = std::nullopt, py::arg("history") = std::nullopt,
      py::arg("history_lengths") = 0, py::arg("prompt_lengths") = 0, py::arg("repetition_penalty") = 1.0,
      py::arg("presence_penalty") = 0.0, py::arg("frequency_penalty") = 0.0, py::arg("typical_p") = 1.0,
      py::arg("mask") = std::nullopt);
}

}  // namespace

void register_ops(py::module_& m) {
  Binder b{m};
  register_elementwise(b);
  register_gemm(b);
  register_quantized(b);
  register_softmax(b);
  register_rope(b);
  register_embedding(b);
  register_gather(b);
  register_cache(b);
  register_attention(b);
  register_norm(b);
  register_loss(b);
  register_optim(b);
  register_sample(b);
}

}  // namespace llmcore
