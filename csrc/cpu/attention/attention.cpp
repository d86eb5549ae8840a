// Attention's entries in the table.
#include "cpu/attention/backward.h"
#include "cpu/attention/forward.h"
#include "cpu/families.h"

namespace llmcore {
namespace LLMCORE_ISA {

void register_attention(KernelTable& t) {
  t.attention_workspace = attention_workspace;
  t.attention_forward = attention_forward;
  t.attention_backward_workspace = attention_backward_workspace;
  t.attention_backward = attention_backward;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
