// Elementwise ops, the gated activation, softmax, rotary positions and embeddings.
#pragma once
#include <optional>

#include "core/tensor.h"
#include "cpu/kernels.h"

namespace llmcore {

using UnaryEntry = void (*KernelTable::*)(const UnaryArgs&);
using UnaryBackwardEntry = void (*KernelTable::*)(const UnaryBackwardArgs&);
using BinaryEntry = void (*KernelTable::*)(const BinaryArgs&);

Tensor unary(const char* op, UnaryEntry entry, const Tensor& x);
Tensor unary_backward(const char* op, UnaryBackwardEntry entry, const Tensor& dout, const Tensor& x);
Tensor binary(const char* op, BinaryEntry entry, const Tensor& a, const Tensor& b);  // shapes must agree
Tensor scale(const Tensor& x, float factor);
Tensor cast(const Tensor& x, DType dtype);  // float32 <-> bfloat16

Tensor swiglu(const Tensor& x);  // (..., 2F) = [gate, up] -> (..., F) = silu(gate) * up
Tensor swiglu_backward(const Tensor& dout, const Tensor& x);

Tensor softmax(const Tensor& x);  // over the last dimension
Tensor softmax_backward(const Tensor& dout, const Tensor& out);

// x (B,T,H,D): the first `heads` (all by default) are turned by their position; cos, sin (P, D/2); positions (B,T) or
// none.
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const std::optional<Tensor>& positions,
            std::optional<int64_t> heads, bool inverse);

// table (V,C) float32, ids (...) -> (..., C) in dtype
Tensor embedding(const Tensor& table, const Tensor& ids, DType dtype);
void embedding_backward(const Tensor& dout, const Tensor& ids, Tensor& dtable);

}  // namespace llmcore
