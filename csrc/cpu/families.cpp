#include "cpu/families.h"

#include "cpu/simd.h"

namespace llmcore {
namespace LLMCORE_ISA {

void fill_table(KernelTable& table) {
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
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
