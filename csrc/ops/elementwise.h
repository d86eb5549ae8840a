// Elementwise ops, the gated activation, softmax, rotary positions and embeddings.
#pragma once
#include <optional>

#include "core/kernel_table.h"
#include "core/tensor.h"

namespace llmcore {

using UnaryEntry = void (*KernelTable::*)(const UnaryArgs&);
using UnaryBackwardEntry = void (*KernelTable::*)(const UnaryBackwardArgs&);
using BinaryEntry = void (*KernelTable::*)(const BinaryArgs&);
using GatedEntry = void (*KernelTable::*)(const GatedArgs&);
using GatedBackwardEntry = void (*KernelTable::*)(const GatedBackwardArgs&);

Tensor unary(const char* op, UnaryEntry entry, const Tensor& x);
Tensor unary_backward(const char* op, UnaryBackwardEntry entry, const Tensor& dout, const Tensor& x);
Tensor binary(const char* op, BinaryEntry entry, const Tensor& a, const Tensor& b);  // shapes must agree
Tensor scale(const Tensor& x, float factor);
Tensor cast(const Tensor& x, DType dtype);  // float32 <-> bfloat16

Tensor softcap(const Tensor& x, float cap);  // cap * tanh(x / cap)
Tensor softcap_backward(const Tensor& dout, const Tensor& x, float cap);

Tensor gated(const char* op, GatedEntry entry, const Tensor& x);  // (..., 2F) = [gate, up] -> (..., F) = act(gate) * up
Tensor gated_backward(const char* op, GatedBackwardEntry entry, const Tensor& dout, const Tensor& x);

Tensor softmax(const Tensor& x);  // over the last dimension
Tensor softmax_backward(const Tensor& dout, const Tensor& out);

// Tables of a rotation and where tokens stand, checked: cos, sin (P, R/2), positions (B,T) int32 in [0, P), or none for
// T <= P tokens that stand at 0, 1, ...
struct Rotation {
  Tensor cos, sin, positions;
};
Rotation checked_rotation(const char* op, const Tensor& cos, const Tensor& sin, const std::optional<Tensor>& positions,
                          int64_t B, int64_t T, int64_t D, Device device);

// x (B,T,H,D): of the first `heads` (all by default), the first R dimensions are turned by their position; cos, sin
// (P, R/2); positions (B,T) or none.
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const std::optional<Tensor>& positions,
            std::optional<int64_t> heads, bool inverse);

// table (V,C) float32, ids (...) -> (..., C) in dtype
Tensor embedding(const Tensor& table, const Tensor& ids, DType dtype);
void embedding_backward(const Tensor& dout, const Tensor& ids, Tensor& dtable);

}  // namespace llmcore
