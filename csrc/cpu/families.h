// The functions that fill the kernel table for one instruction set: one per family, in the source file of that name.
#pragma once
#include "core/kernel_table.h"

namespace llmcore {
namespace LLMCORE_ISA {

void register_attention(KernelTable&);
void register_cache(KernelTable&);
void register_elementwise(KernelTable&);
void register_embedding(KernelTable&);
void register_gather(KernelTable&);
void register_gemm(KernelTable&);
void register_loss(KernelTable&);
void register_machine(KernelTable&);
void register_norm(KernelTable&);
void register_optim(KernelTable&);
void register_quantized(KernelTable&);
void register_rope(KernelTable&);
void register_sample(KernelTable&);
void register_softmax(KernelTable&);

void fill_table(KernelTable& table);  // calls all of them

}  // namespace LLMCORE_ISA
}  // namespace llmcore
