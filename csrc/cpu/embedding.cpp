// Token embeddings: rows of a float32 table.
#include "cpu/families.h"
#include "cpu/lanes.h"

namespace llmcore {
namespace LLMCORE_ISA {

template <class T>
static void embedding_forward_typed(const EmbeddingArgs& a) {
  parallel_ranges(a.M, row_grain(a.C), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const float* row = a.table + static_cast<int64_t>(a.ids[m]) * a.C;
      T* out = static_cast<T*>(a.out) + m * a.C;
      for_lanes<4>(a.C, [&](int64_t i, auto lanes, int) { store_n(out + i, load_n(row + i, lanes), lanes); });
    }
  });
}
static void embedding_forward(const EmbeddingArgs& a) {
  a.dtype == DType::kBF16 ? embedding_forward_typed<bf16>(a) : embedding_forward_typed<float>(a);
}

// The same id may occur in many rows, so threads divide the columns, and each goes through the rows in order.
template <class T>
static void embedding_backward_typed(const EmbeddingBackwardArgs& a) {
  const int64_t columns = a.M * a.C < 2 * kGrain ? a.C : 64;
  parallel_ranges(a.C, columns, [&](int64_t begin, int64_t end) {
    for (int64_t m = 0; m < a.M; ++m) {
      float* row = a.dtable + static_cast<int64_t>(a.ids[m]) * a.C + begin;
      const T* dout = static_cast<const T*>(a.dout) + m * a.C + begin;
      for_lanes(end - begin, [&](int64_t i, auto lanes, int) {
        store_n(row + i, load_n(row + i, lanes) + load_n(dout + i, lanes), lanes);
      });
    }
  });
}
static void embedding_backward(const EmbeddingBackwardArgs& a) {
  if (a.C == 0) return;
  a.dtype == DType::kBF16 ? embedding_backward_typed<bf16>(a) : embedding_backward_typed<float>(a);
}

void register_embedding(KernelTable& t) {
  t.embedding_forward = embedding_forward;
  t.embedding_backward = embedding_backward;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
