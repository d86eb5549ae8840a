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
  // A merge keeps the left node and unlinks the right one. A bucket's position counts only while the pair there still
  // has the bucket's rank.
  constexpr uint32_t kEnd = ~0u;
  constexpr size_t kAhead = 8;  // positions that are fetched from memory before their turn
  const std::greater<uint64_t> later;
  auto& nodes = scratch.nodes;  // not a structured binding: Clang 14 keeps those out of lambdas
  auto& buckets = scratch.buckets;
  auto& ranks = scratch.ranks;
  nodes.resize(n);
  ranks.clear();
  PairTable bucket_of;  // rank -> index into buckets
  size_t used = 0;
  auto push = [&](uint32_t i) {
    auto& node = nodes[i];
    node.value = node.next == kEnd ? kNoMerge : merges.find(pair_key(node.id, nodes[node.next].id));
    if (node.value == kNoMerge) return;
    const uint64_t index = bucket_of.insert(merge_rank(node.value), used);
    if (index == used) {
      buckets.resize(std::max(buckets.size(), ++used));
      buckets[index].clear();
    }
    MergeScratch::Bucket& bucket = buckets[index];
    if (bucket.empty()) {
      ranks.push_back(static_cast<uint64_t>(merge_rank(node.value)) << 32 | index);
      std::push_heap(ranks.begin(), ranks.end(), later);
    }
    if (bucket.in_order.empty() || bucket.in_order.back() < i) return bucket.in_order.push_back(i);
    bucket.heap.push_back(i);
    std::push_heap(bucket.heap.begin(), bucket.heap.end(), later);
  };
  for (size_t i = 0; i < n; ++i) {
    nodes[i] = {kNoMerge, ids[i], i + 1 < n ? static_cast<uint32_t>(i + 1) : kEnd,
                i > 0 ? static_cast<uint32_t>(i - 1) : kEnd};
  }
  for (uint32_t i = 0; i < n; ++i) push(i);
  while (!ranks.empty()) {
    // The next position of the lowest rank; the bucket leaves the heap when it has no more.
    const uint32_t rank = static_cast<uint32_t>(ranks.front() >> 32);
    MergeScratch::Bucket& bucket = buckets[static_cast<uint32_t>(ranks.front())];
    uint32_t i;
    if (bucket.begin < bucket.in_order.size() &&
        (bucket.heap.empty() || bucket.in_order[bucket.begin] < bucket.heap[0])) {
      i = bucket.in_order[bucket.begin++];
    } else {
      std::pop_heap(bucket.heap.begin(), bucket.heap.end(), later);
      i = bucket.heap.back();
      bucket.heap.pop_back();
    }
    if (bucket.empty()) {
      bucket.clear();
      std::pop_heap(ranks.begin(), ranks.end(), later);
      ranks.pop_back();
    } else if (bucket.begin + kAhead < bucket.in_order.size()) {
      __builtin_prefetch(&nodes[bucket.in_order[bucket.begin + kAhead]]);
    }
    auto& node = nodes[i];
    if (node.value == kNoMerge || merge_rank(node.value) != rank) continue;
    auto& right = nodes[node.next];
    node.id = merge_id(node.value);
    node.next = right.next;
    if (node.next != kEnd) nodes[node.next].previous = i;
    right.value = kNoMerge;
    push(i);
    if (node.previous != kEnd) push(node.previous);
  }
  size_t kept = 0;
  for (uint32_t i = 0; i != kEnd; i = nodes[i].next) ids[kept++] = nodes[i].id;
  return kept;
}

}  // namespace llmcore::tok
