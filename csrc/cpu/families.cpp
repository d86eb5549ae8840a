#include "cpu/families.h"

#include "cpu/simd.h"

namespace llmcore {
#if defined(LLMCORE_ISA_AVXVNNI)
namespace avx2 {
void fill_table(KernelTable& table);
}
#endif
namespace LLMCORE_ISA {

void fill_table(KernelTable& table) {
#if defined(LLMCORE_ISA_AVXVNNI)  // AVX2 with one more instruction, for dot products of bytes
  avx2::fill_table(table);
  register_machine(table);
  register_quantized(table);
#else
#if defined(LLMCORE_BF16_DOT)
  table.fast_bf16 = true;
#endif
#if defined(LLMCORE_ISA_AMX)
  table.bf16_tiles = true;
#endif
  register_attention(table);
  register_cache(table);
  register_elementwise(table);
  register_embedding(table);
  register_gather(table);
  register_gemm(table);
  register_loss(table);
  register_machine(table);
  register_norm(table);
  register_optim(table);
  register_quantized(table);
  register_rope(table);
  register_sample(table);
  register_softmax(table);
#endif
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
