// Token embeddings: rows of a float32 table. The table's gradient is in embedding_backward.cuh.
#include "cuda/embedding_backward.cuh"
#include "cuda/take_rows.cuh"

namespace llmcore {
namespace cuda {
namespace {

void embedding_forward(const EmbeddingArgs& a) {
  with_float(a.dtype, [&](auto t) { take_rows<float, decltype(t)>("embedding", a.M, a.C, a.table, a.ids, a.out); });
}

}  // namespace

void register_embedding(KernelTable& t) {
  t.embedding_forward = embedding_forward;
  t.embedding_backward_workspace = embedding_backward_workspace;
  t.embedding_backward = embedding_backward;
}

}  // namespace cuda
}  // namespace llmcore
