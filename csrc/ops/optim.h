// Parameter updates. All tensors float32.
#pragma once
#include <vector>

#include "core/tensor.h"
#include "ops/gemm.h"

namespace llmcore {

// One update, in place on param, on what is kept of gradients (like param), and on panels that were packed from param.
// lr * weight_decay * param is taken off as well (decoupled decay).
struct Update {
  float lr, weight_decay;
  float grad_scale;  // gradients are multiplied by this first (clipping, accumulation)
  const std::vector<Panels>& panels;
};

// Updates of many parameters at once, where the device has that: between begin() and end() this thread's updates are
// collected, and end() does them. On the CPU they are done as they come.
class UpdateBatch {
 public:
  ~UpdateBatch() { cancel(); }
  void begin();  // std::runtime_error if this thread collects already
  void end();
  void cancel();  // forgets what was collected

  static UpdateBatch* collecting();
  // kept: what the pointers of a need; packs: in place of a.packs.
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
// m (momentum * m + grad) where there is momentum; Nesterov's looks ahead (Sutskever et al. 2013).
void sgd(Tensor& param, const Tensor& grad, Tensor* m, float momentum, bool nesterov, const Update& update);

// What Muon makes orthogonal (Jordan et al. 2024): m = beta m + (1 - beta) grad_scale grad, in place; returns m, or
// with nesterov beta m + (1 - beta) grad_scale grad.
Tensor momentum(const Tensor& grad, Tensor& m, float beta, bool nesterov, float grad_scale);

// sqrt of the sum of squares over all tensors, summed in float64 in a fixed order.
double global_norm(const std::vector<Tensor>& tensors);
// The matrix x (m, n) float32 with all its singular values moved near 1, float32: X <- (a + b A + c A^2) X, A = X X^T
// on the shorter side, five times, from x / |x| (Newton-Schulz; a, b, c of Jordan et al. 2024). dtype: of the products.
Tensor orthogonalised(const Tensor& x, DType dtype);
// factor times the sum of x float32, a tensor of no dimensions; added up in float64 in a fixed order.
Tensor sum(const Tensor& x, double factor);

}  // namespace llmcore
