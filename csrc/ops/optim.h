// Parameter updates. All tensors float32.
#pragma once
#include <vector>

#include "core/tensor.h"
#include "ops/gemm.h"

namespace llmcore {

// One update, in place on param, its optimizer state (shaped like param) and the panels packed from param. lr *
// weight_decay * param is subtracted too (decoupled decay).
struct Update {
  float lr, weight_decay;
  float grad_scale;  // gradients are multiplied by this first (clipping, accumulation)
  const std::vector<Panels>& panels;
};

// Updates many parameters at once if the device supports it: between begin() and end(), this thread's updates are
// collected, and end() runs them. On the CPU they run immediately.
class UpdateBatch {
 public:
  ~UpdateBatch() { cancel(); }
  void begin();  // throws std::runtime_error if this thread is already collecting
  void end();
  void cancel();  // discards the collected updates

  static UpdateBatch* collecting();
  // kept: tensors that keep a's pointers valid; packs: replaces a.packs.
  void add(UpdateRule rule, Device device, const UpdateArgs& a, std::vector<PackArgs> packs, std::vector<Tensor> kept);

 private:
  struct Collected {
    UpdateRule rule;
    Device device;
    UpdateArgs args;
    std::vector<PackArgs> packs;
    std::vector<Tensor> kept;
  };
  std::vector<Collected> updates_;
};

// Loshchilov & Hutter 2019; step is 1 for the first update.
void adamw(Tensor& param, const Tensor& grad, Tensor& m, Tensor& v, float beta1, float beta2, float eps, int64_t step,
           const Update& update);
// Chen et al. 2023
void lion(Tensor& param, const Tensor& grad, Tensor& m, float beta1, float beta2, const Update& update);
// With momentum, m becomes momentum * m + grad; Nesterov's variant looks ahead (Sutskever et al. 2013).
void sgd(Tensor& param, const Tensor& grad, Tensor* m, float momentum, bool nesterov, const Update& update);

// The matrix that Muon orthogonalises (Jordan et al. 2024): m = beta m + (1 - beta) grad_scale grad, in place; returns
// m, or with nesterov beta m + (1 - beta) grad_scale grad.
Tensor momentum(const Tensor& grad, Tensor& m, float beta, bool nesterov, float grad_scale);

// The square root of the sum of squares over all tensors, summed in float64 in a fixed order.
double global_norm(const std::vector<Tensor>& tensors);
// The matrix x (m, n) float32 with all its singular values moved near 1, float32: X <- (a + b A + c A^2) X, A = X X^T
// on the shorter side, five times, from x / |x| (Newton-Schulz; a, b, c of Jordan et al. 2024). dtype: that of the
// products.
Tensor orthogonalised(const Tensor& x, DType dtype);
// Returns factor times the sum of x (float32) as a tensor with no dimensions; summed in float64 in a fixed order.
Tensor sum(const Tensor& x, double factor);

}  // namespace llmcore
