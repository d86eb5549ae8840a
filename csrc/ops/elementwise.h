// Functions of every element, sums and products of two tensors, casts, and gated activations.
#pragma once
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

// The activation alone: (...) -> (...), or (..., 2F) = [gate, up] -> (..., F) for kSwiGLU and kGeGLU.
Tensor activate(Activation act, const Tensor& x);
Tensor activate_backward(Activation act, const Tensor& dout, const Tensor& x);

}  // namespace llmcore
