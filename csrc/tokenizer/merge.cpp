#include "tokenizer/merge.h"

#include <algorithm>
#include <cstring>
#include <functional>

namespace llmcore::tok {

size_t merge_short(const PairTable& merges, uint32_t* ids, size_t n) {
  MergeValue values[kShortPiece];  // values[i]: what ids[i] and ids[i + 1] become
  for (size_t i = 0; i + 1 < n; ++i) values[i] = merges.find(pair_key(ids[i], ids[i + 1]));
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (values[i] < values[best]) best = i;
    }
    if (values[best] == kNoMerge) break;
    ids[best] = merge_id(values[best]);
    std::memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof(ids[0]));
    --n;
    if (best + 2 < n) std::memmove(values + best + 1, values + best + 2, (n - best - 2) * sizeof(values[0]));
    if (best + 1 < n) values[best] = merges.find(pair_key(ids[best], ids[best + 1]));
    if (best > 0) values[best - 1] = merges.find(pair_key(ids[best - 1], ids[best]));
  }
  return n;
}

size_t merge_long(const PairTable& merges, uint32_t* ids, size_t n, MergeScratch& scratch) {
  // A node is a position in ids; a merge keeps the left node and unlinks the right one. The heap holds
  // (rank, position), and an entry counts only while it still is what its node says.
  constexpr uint32_t kEnd = ~0u;
  auto& [next, previous, value, heap] = scratch;
  next.resize(n);
  previous.resize(n);
  value.resize(n);
  heap.clear();
  auto update = [&](uint32_t i) {
    value[i] = next[i] == kEnd ? kNoMerge : merges.find(pair_key(ids[i], ids[next[i]]));
    return value[i] != kNoMerge;
  };
  auto entry = [&](uint32_t i) { return static_cast<uint64_t>(merge_rank(value[i])) << 32 | i; };
  for (size_t i = 0; i < n; ++i) {
    next[i] = i + 1 < n ? static_cast<uint32_t>(i + 1) : kEnd;
    previous[i] = i > 0 ? static_cast<uint32_t>(i - 1) : kEnd;
  }
  for (uint32_t i = 0; i < n; ++i) {
    if (update(i)) heap.push_back(entry(i));
  }
  const std::greater<uint64_t> later;
  std::make_heap(heap.begin(), heap.end(), later);
  auto push = [&](uint32_t i) {
    if (!update(i)) return;
    heap.push_back(entry(i));
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const uint64_t top = heap.back();
    heap.pop_back();
    const uint32_t i = static_cast<uint32_t>(top);
    if (value[i] == kNoMerge || merge_rank(value[i]) != top >> 32) continue;
    const uint32_t right = next[i];
    ids[i] = merge_id(value[i]);
    next[i] = next[right];
    if (next[i] != kEnd) previous[next[i]] = i;
    value[right] = kNoMerge;
    push(i);
    if (previous[i] != kEnd) push(previous[i]);
  }
  size_t kept = 0;
  for (uint32_t i = 0; i != kEnd; i = next[i]) ids[kept++] = ids[i];
  return kept;
}

}  // namespace llmcore::tok
