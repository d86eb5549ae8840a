// Token embeddings: rows of a float32 table. Rows gathered and added up, for mixtures of experts.

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

// The same id may stand in many rows: threads share the columns, and each goes through the rows in order.
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

template <class T>
static void gather_rows_typed(const GatherRowsArgs& a) {
  parallel_ranges(a.N, row_grain(a.C), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      memcpy(static_cast<T*>(a.out) + n * a.C, static_cast<const T*>(a.x) + static_cast<int64_t>(a.ids[n]) * a.C,
             static_cast<size_t>(a.C) * sizeof(T));
  });
}
static void gather_rows(const GatherRowsArgs& a) {
  a.dtype == DType::kBF16 ? gather_rows_typed<bf16>(a) : gather_rows_typed<float>(a);
}

template <class T>
static void scatter_rows_typed(const ScatterRowsArgs& a) {
  parallel_ranges(a.M, row_grain(a.C), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      for_lanes(a.C, [&](int64_t c, auto lanes, int) {
        vf sum{};
        for (int64_t i = a.offsets[m]; i < a.offsets[m + 1]; ++i)
          sum += load_n(static_cast<const T*>(a.dout) + a.order[i] * a.C + c, lanes);
        store_n(static_cast<T*>(a.dx) + m * a.C + c, sum, lanes);
      });
  });
}
static void scatter_rows(const ScatterRowsArgs& a) {
  a.dtype == DType::kBF16 ? scatter_rows_typed<bf16>(a) : scatter_rows_typed<float>(a);
}

template <class T>
static void weighted_sum_typed(const WeightedSumArgs& a) {
  parallel_ranges(a.M, row_grain(a.k * a.C), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      for_lanes(a.C, [&](int64_t c, auto lanes, int) {
        vf sum{};
        for (int64_t i = m * a.k; i < (m + 1) * a.k; ++i)
          sum = fma(load_n(static_cast<const T*>(a.y) + i * a.C + c, lanes), splat(a.weight[i]), sum);
        store_n(static_cast<T*>(a.out) + m * a.C + c, sum, lanes);
      });
  });
}
static void weighted_sum(const WeightedSumArgs& a) {
  a.dtype == DType::kBF16 ? weighted_sum_typed<bf16>(a) : weighted_sum_typed<float>(a);
}

template <class T>
static void weighted_sum_backward_typed(const WeightedSumBackwardArgs& b) {
  const WeightedSumArgs& a = b.forward;
  parallel_ranges(a.M * a.k, row_grain(a.C), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T *dout = static_cast<const T*>(b.dout) + i / a.k * a.C, *y = static_cast<const T*>(a.y) + i * a.C;
      T* dy = static_cast<T*>(b.dy) + i * a.C;
      vf dot{};
      for_lanes(a.C, [&](int64_t c, auto lanes, int) {
        const vf d = load_n(dout + c, lanes);
        dot = fma(d, load_n(y + c, lanes), dot);
        store_n(dy + c, d * a.weight[i], lanes);
      });
      b.dweight[i] = sum(dot);
    }
  });
}
static void weighted_sum_backward(const WeightedSumBackwardArgs& b) {
  b.forward.dtype == DType::kBF16 ? weighted_sum_backward_typed<bf16>(b) : weighted_sum_backward_typed<float>(b);
}

static void register_embedding(KernelTable& t) {
  t.gather_rows = gather_rows;
  t.scatter_rows = scatter_rows;
  t.weighted_sum = weighted_sum;
  t.weighted_sum_backward = weighted_sum_backward;
  t.embedding_forward = embedding_forward;
  t.embedding_backward = embedding_backward;
}
