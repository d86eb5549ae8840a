// All CPU kernels, compiled once for every instruction set (cmake/isas.cmake). Everything lands in a namespace named
// after the ISA; the only symbol that leaves this file is fill_table. The linker may merge weak symbols (inline
// functions, templates) of different objects and keep the AVX-512 copy, so nothing from outside this namespace may be
// instantiated here: no STL, no static initialisers. tests/test_symbols.py guards this.
#include "core/kernel_table.h"

#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns of its own intrinsics (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#endif

#include "core/philox.h"
#include "core/thread_pool.h"

namespace llmcore {
namespace LLMCORE_ISA {

void fill_table(KernelTable& table);

// clang-format off: each family uses those before it (attention is made of small panel products).
#include "cpu/simd.h"
#include "cpu/lanes.h"
#include "cpu/pack.inl"
#include "cpu/gelu.inl"
#include "cpu/gemm_micro.inl"
#include "cpu/tile_micro.inl"
#include "cpu/gemm_tiles.inl"
#include "cpu/gemm.inl"
#include "cpu/attention_tiles.inl"
#include "cpu/attention_softmax.inl"
#include "cpu/attention_forward.inl"
#include "cpu/attention_backward.inl"
#include "cpu/attention.inl"
#include "cpu/elementwise.inl"
#include "cpu/embedding.inl"
#include "cpu/loss.inl"
#include "cpu/machine.inl"
#include "cpu/norm.inl"
#include "cpu/optim.inl"
#include "cpu/quantized.inl"
#include "cpu/rope.inl"
#include "cpu/noise.inl"
#include "cpu/sample.inl"
#include "cpu/softmax.inl"
// clang-format on

void fill_table(KernelTable& table) {
#if defined(LLMCORE_BF16_DOT)
  table.fast_bf16 = true;
#endif
#if defined(LLMCORE_ISA_AMX)
  table.bf16_tiles = true;
#endif
  register_gemm(table);
  register_attention(table);
  register_elementwise(table);
  register_embedding(table);
  register_loss(table);
  register_machine(table);
  register_norm(table);
  register_optim(table);
  register_quantized(table);
  register_rope(table);
  register_sample(table);
  register_softmax(table);
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
