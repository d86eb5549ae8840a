// The gradient of a table of embeddings: rows of dout are sorted by id, rows with the same id in order of m (a radix
// sort from the lowest digit: stable, independent of scheduling), then every id's rows are summed in one place.
#pragma once
#include "cuda/vectors.cuh"

namespace llmcore {
namespace cuda {
namespace {

constexpr int kDigits = 256, kDigitBits = 8;  // of an id at a time
constexpr int kSortWarps = kDigits / kWarp, kSortEach = 4;
constexpr int64_t kSortTile = kSortWarps * kWarp * kSortEach;  // ids of a block
constexpr int kScanThreads = 1024;

// Rows are counted in 32 bits. counts (digits, tiles): ids per digit and tile; then where they go.
struct SortSpace {
  uint32_t *ids[2], *rows[2], *counts;
};
inline int64_t sort_tiles(int64_t M) { return (M + kSortTile - 1) / kSortTile; }
inline size_t embedding_backward_workspace(const EmbeddingBackwardArgs& a) {
  return static_cast<size_t>(4 * a.M + kDigits * sort_tiles(a.M)) * sizeof(uint32_t);
}
inline SortSpace sort_space(const EmbeddingBackwardArgs& a) {
  uint32_t* const w = static_cast<uint32_t*>(a.workspace);
  return {{w, w + a.M}, {w + 2 * a.M, w + 3 * a.M}, w + 4 * a.M};
}

__device__ __forceinline__ uint32_t digit_of(uint32_t id, int shift) { return id >> shift & (kDigits - 1); }

// One block per tile.
__global__ void __launch_bounds__(kDigits)
    count_digits_kernel(const uint32_t* ids, int64_t M, int shift, uint32_t* counts) {
  __shared__ uint32_t found[kDigits];
  found[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kSortEach; ++j) {
    const int64_t m = blockIdx.x * kSortTile + j * kDigits + threadIdx.x;
    if (m < M) atomicAdd(&found[digit_of(ids[m], shift)], 1u);
  }
  __syncthreads();
  counts[int64_t{threadIdx.x} * gridDim.x + blockIdx.x] = found[threadIdx.x];
}

// Replaces counts (n) with their exclusive prefix sums, in one block.
__global__ void __launch_bounds__(kScanThreads) scan_kernel(uint32_t* counts, int64_t n) {
  __shared__ uint32_t totals[kScanThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t each = (n + kScanThreads - 1) / kScanThreads, begin = threadIdx.x * each;
  const int64_t end = begin + each < n ? begin + each : n;
  uint32_t own = 0;
  for (int64_t i = begin; i < end; ++i) own += counts[i];
  uint32_t sum = own;  // over the warp's lanes up to this one
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const uint32_t before = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += before;
  }
  if (lane == kWarp - 1) totals[warp] = sum;
  __syncthreads();
  uint32_t start = sum - own;
  for (int w = 0; w < warp; ++w) start += totals[w];
  for (int64_t i = begin; i < end; ++i) {
    const uint32_t count = counts[i];
    counts[i] = start;
    start += count;
  }
}

// One block per tile; its warps have adjacent parts of it. rows: null for 0, 1, ...
__global__ void __launch_bounds__(kDigits)
    sort_digits_kernel(const uint32_t* ids, const uint32_t* rows, int64_t M, int shift, const uint32_t* counts,
                       uint32_t* to_ids, uint32_t* to_rows) {
  __shared__ uint32_t found[kSortWarps][kDigits];  // counts in each warp's part; then where they go
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t first = blockIdx.x * kSortTile + warp * (kWarp * kSortEach) + lane;
#pragma unroll
  for (int w = 0; w < kSortWarps; ++w) found[w][threadIdx.x] = 0;
  __syncthreads();
  uint32_t id[kSortEach], rank[kSortEach];  // rank: among the warp's ids with the same digit
#pragma unroll
  for (int j = 0; j < kSortEach; ++j) {
    const int64_t m = first + j * kWarp;
    const bool there = m < M;
    id[j] = there ? ids[m] : 0;
    const uint32_t digit = digit_of(id[j], shift);
    unsigned same = __ballot_sync(kAllLanes, there);
#pragma unroll
    for (int bit = 0; bit < kDigitBits; ++bit) {
      const unsigned set = __ballot_sync(kAllLanes, digit >> bit & 1u);
      same &= digit >> bit & 1u ? set : ~set;
    }
    const unsigned before = same & ((1u << lane) - 1u);
    rank[j] = found[warp][digit] + __popc(before);
    __syncwarp();
    if (there && before == 0) found[warp][digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
  uint32_t start = counts[int64_t{threadIdx.x} * gridDim.x + blockIdx.x];
#pragma unroll
  for (int w = 0; w < kSortWarps; ++w) {
    const uint32_t count = found[w][threadIdx.x];
    found[w][threadIdx.x] = start;
    start += count;
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kSortEach; ++j) {
    const int64_t m = first + j * kWarp;
    if (m >= M) continue;
    const uint32_t to = found[warp][digit_of(id[j], shift)] + rank[j];
    to_ids[to] = id[j];
    to_rows[to] = rows ? rows[m] : static_cast<uint32_t>(m);
  }
}

// ---- sums -----------------------------------------------------------------------------------------

constexpr int64_t kShort = 32;  // rows of one id that a thread sums alone

// ids, rows (M) sorted, dout (M,C), dtable (V,C): kCount columns per thread, which acts at the first row of an id.
template <class T, int kCount>
__global__ void __launch_bounds__(kItemThreads)
    add_short_kernel(const uint32_t* ids, const uint32_t* rows, int64_t M, int64_t C, const T* dout, float* dtable) {
  constexpr int kUnroll = 4;
  const int64_t i = first_item<1>(), columns = C / kCount;
  if (i >= M * columns) return;
  const Split s = split(i, columns);
  const uint32_t id = ids[s.row];
  if (s.row > 0 && ids[s.row - 1] == id) return;
  if (s.row + kShort < M && ids[s.row + kShort] == id) return;  // left to add_long_kernel
  float* const to = dtable + id * C + s.at * kCount;
  dout += s.at * kCount;
  Floats<kCount> sum = load<kCount>(to);
  bool more = true;
  for (int64_t at = s.row; more; at += kUnroll) {
    Floats<kCount> x[kUnroll];
    bool own[kUnroll];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      own[j] = at + j < M && ids[at + j] == id;
      if (own[j]) x[j] = load<kCount>(dout + rows[at + j] * C);
    }
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      if (!own[j]) continue;
#pragma unroll
      for (int c = 0; c < kCount; ++c) sum.v[c] += x[j].v[c];
    }
    more = own[kUnroll - 1];
  }
  store(to, sum);
}

// Handles ids with more rows: grid (M / kShort, columns / (kCount * kWide)), one block per kShort-th place; the block
// at the first of these places with the id sums its rows. Each of the block's lanes takes every kLanes-th row.
template <class T, int kCount, int kWide>
__global__ void __launch_bounds__(kItemThreads, 4)
    add_long_kernel(const uint32_t* ids, const uint32_t* rows, int64_t M, int64_t C, const T* dout, float* dtable) {
  constexpr int kColumns = kCount * kWide, kLanes = kItemThreads / kWide, kUnroll = 4;
  __shared__ float partial[kLanes][kColumns];
  const int64_t place = blockIdx.x * kShort;
  const uint32_t id = ids[place];
  if (place > 0 && ids[place - kShort] == id) return;
  const int64_t before = place - threadIdx.x % kWarp;
  const int64_t begin = place + 1 - __popc(__ballot_sync(kAllLanes, before >= 0 && ids[before] == id));
  if (begin + kShort >= M || ids[begin + kShort] != id) return;

  const int wide = threadIdx.x % kWide, lane = threadIdx.x / kWide;
  const int64_t first = int64_t{blockIdx.y} * kColumns, column = first + wide * kCount;
  Floats<kCount> sum{};
  if (column < C) {
    bool more = true;
    for (int64_t at = begin + lane; more; at += kUnroll * kLanes) {
      Floats<kCount> x[kUnroll];
      bool own[kUnroll];
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        const int64_t from = at + j * kLanes;
        own[j] = from < M && ids[from] == id;
        if (own[j]) x[j] = load<kCount>(dout + rows[from] * C + column);
      }
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        if (!own[j]) continue;
#pragma unroll
        for (int c = 0; c < kCount; ++c) sum.v[c] += x[j].v[c];
      }
      more = own[kUnroll - 1];
    }
  }
#pragma unroll
  for (int c = 0; c < kCount; ++c) partial[lane][wide * kCount + c] = sum.v[c];
  __syncthreads();
  if (threadIdx.x >= kColumns || first + threadIdx.x >= C) return;
  float* const to = dtable + id * C + first + threadIdx.x;
  float total = *to;
  for (int l = 0; l < kLanes; ++l) total += partial[l][threadIdx.x];
  *to = total;
}

template <class T, int kCount, int kWide>
void add_rows(const EmbeddingBackwardArgs& a, const uint32_t* ids, const uint32_t* rows) {
  const T* dout = static_cast<const T*>(a.dout);
  launch("embedding_backward", add_long_kernel<T, kCount, kWide>,
         dim3(ceil_div(a.M, kShort), ceil_div(a.C, kCount * kWide)), kItemThreads, 0, ids, rows, a.M, a.C, dout,
         a.dtable);
  constexpr int kNarrow = kCount == 1 ? 1 : 4;
  launch("embedding_backward", add_short_kernel<T, kNarrow>, blocks_of_items<1>(a.M * (a.C / kNarrow)), kItemThreads, 0,
         ids, rows, a.M, a.C, dout, a.dtable);
}

void embedding_backward(const EmbeddingBackwardArgs& a) {
  if (a.M == 0 || a.C == 0) return;
  if (!a.workspace) return note("[embedding_backward] expected a workspace");
  const SortSpace space = sort_space(a);
  const uint32_t *ids = reinterpret_cast<const uint32_t*>(a.ids), *rows = nullptr;
  const unsigned tiles = static_cast<unsigned>(sort_tiles(a.M));
  int to = 0;
  for (int shift = 0; shift == 0 || (shift < 32 && (a.V - 1) >> shift); shift += kDigitBits, to ^= 1) {
    launch("embedding_backward", count_digits_kernel, tiles, kDigits, 0, ids, a.M, shift, space.counts);
    launch("embedding_backward", scan_kernel, 1, kScanThreads, 0, space.counts, int64_t{kDigits} * tiles);
    launch("embedding_backward", sort_digits_kernel, tiles, kDigits, 0, ids, rows, a.M, shift, space.counts,
           space.ids[to], space.rows[to]);
    ids = space.ids[to], rows = space.rows[to];
  }
  with_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    aligned<T>(a.C, {a.dout, a.dtable}) ? add_rows<T, kVec<T>, 8>(a, ids, rows) : add_rows<T, 1, 32>(a, ids, rows);
  });
}

}  // namespace
}  // namespace cuda
}  // namespace llmcore
