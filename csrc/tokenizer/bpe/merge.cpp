#include "tokenizer/bpe/merge.h"

#include <algorithm>
#include <functional>

namespace llmcore::tok {
namespace {

// first_value(i) is what ids[i] and ids[i + 1] become.
template <class FirstValue>
size_t merge_short(const MergeTable& merges, uint32_t* ids, size_t n, FirstValue&& first_value) {
  // A merge keeps the left token and removes the right one from `alive`. turns[i] combines the rank of the pair that
  // begins at i with i itself, so the lowest one is merged next; made[i] is what the pair becomes.
  uint64_t turns[kShortPiece];
  uint32_t made[kShortPiece];
  const auto place = [&](size_t i, MergeValue value) {
    turns[i] = value >> 32 << 32 | i;
    made[i] = merge_id(value);
  };
  for (size_t i = 0; i + 1 < n; ++i) place(i, first_value(i));
  place(n - 1, kNoMerge);
  uint64_t alive = ~0ull >> (kShortPiece - n);
  for (;;) {
    uint64_t next = turns[0];
    for (size_t i = 1; i + 1 < n; ++i) next = std::min(next, turns[i]);
    if (next >> 32 == kNoMerge >> 32) break;
    const size_t i = next & (kShortPiece - 1);
    const uint64_t after = alive & ~1ull << i, before = alive & ((1ull << i) - 1);
    const uint64_t after_right = after & (after - 1);
    alive ^= after ^ after_right;
    place(static_cast<size_t>(__builtin_ctzll(after)), kNoMerge);
    ids[i] = made[i];
    place(i, after_right ? merges.find(pair_key(ids[i], ids[__builtin_ctzll(after_right)])) : kNoMerge);
    if (before) {
      const size_t left = static_cast<size_t>(63 - __builtin_clzll(before));
      place(left, merges.find(pair_key(ids[left], ids[i])));
    }
  }
  size_t kept = 0;
  for (; alive; alive &= alive - 1) ids[kept++] = ids[__builtin_ctzll(alive)];
  return kept;
}

template <class FirstValue>
size_t merge_long(const MergeTable& merges, uint32_t* ids, size_t n, MergeScratch& scratch, FirstValue&& first_value) {
  // A merge keeps the left node and unlinks the right one. A bucket's position counts only while the pair there still
  // has the bucket's rank.
  constexpr size_t kAhead = 8;  // positions that are prefetched before their turn
  const std::greater<uint64_t> later;
  if (!scratch.ranks.empty()) scratch = MergeScratch();  // an exception left it half done
  auto& nodes = scratch.nodes;  // not a structured binding: Clang 14 keeps those out of lambdas
  auto& buckets = scratch.buckets;
  auto& bucket_of = scratch.bucket_of;
  auto& ranks = scratch.ranks;
  nodes.resize(n);
  bucket_of.resize(merges.ranks(), MergeScratch::kNoBucket);
  size_t used = 0;
  auto place = [&](uint32_t i, MergeValue value) {
    nodes[i].rank = merge_rank(value);
    nodes[i].made = merge_id(value);
    if (value == kNoMerge) return;
    uint32_t& index = bucket_of[merge_rank(value)];
    if (index == MergeScratch::kNoBucket) {
      index = static_cast<uint32_t>(used++);
      if (buckets.size() < used) buckets.resize(used);
      buckets[index].rank = merge_rank(value);
    }
    MergeScratch::Bucket& bucket = buckets[index];
    if (bucket.empty()) {
      bucket.clear();
      ranks.push_back(static_cast<uint64_t>(merge_rank(value)) << 32 | index);
      std::push_heap(ranks.begin(), ranks.end(), later);
    }
    if (bucket.in_order.empty() || bucket.in_order.back() < i) return bucket.in_order.push_back(i);
    bucket.heap.push_back(i);
    std::push_heap(bucket.heap.begin(), bucket.heap.end(), later);
  };
  for (uint32_t i = 0; i < n; ++i) {
    nodes[i].id = ids[i];
    nodes[i].size = 1;
    place(i, i + 1 < n ? first_value(i) : kNoMerge);
  }
  while (!ranks.empty()) {
    // Take the next position of the lowest rank; the bucket leaves the heap when it is empty.
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
      std::pop_heap(ranks.begin(), ranks.end(), later);
      ranks.pop_back();
    } else if (bucket.begin + kAhead < bucket.in_order.size()) {
      __builtin_prefetch(&nodes[bucket.in_order[bucket.begin + kAhead]]);
    }
    MergeScratch::Node& node = nodes[i];
    if (node.rank != rank) continue;
    MergeScratch::Node& right = nodes[i + node.size];
    right.rank = merge_rank(kNoMerge);
    node.id = node.made;
    node.size += right.size;
    const size_t after = i + size_t{node.size};
    nodes[after - 1].size = node.size;
    place(i, after < n ? merges.find(pair_key(node.id, nodes[after].id)) : kNoMerge);
    if (i > 0) {
      const uint32_t left = i - nodes[i - 1].size;
      place(left, merges.find(pair_key(nodes[left].id, node.id)));
    }
  }
  for (size_t index = 0; index < used; ++index) bucket_of[buckets[index].rank] = MergeScratch::kNoBucket;
  size_t kept = 0;
  for (size_t i = 0; i < n; i += nodes[i].size) ids[kept++] = nodes[i].id;
  return kept;
}

}  // namespace

size_t merge_long(const MergeTable& merges, uint32_t* ids, const uint8_t* piece, const MergeValue* byte_merges,
                  size_t n, MergeScratch& scratch) {
  return merge_long(merges, ids, n, scratch, [&](size_t i) { return byte_merges[piece[i] * 256u + piece[i + 1]]; });
}

size_t merge_long(const MergeTable& merges, uint32_t* ids, size_t n, MergeScratch& scratch) {
  return merge_long(merges, ids, n, scratch, [&](size_t i) { return merges.find(pair_key(ids[i], ids[i + 1])); });
}

size_t merge_short(const MergeTable& merges, uint32_t* ids, const uint8_t* piece, const MergeValue* byte_merges,
                   size_t n) {
  return merge_short(merges, ids, n, [&](size_t i) { return byte_merges[piece[i] * 256u + piece[i + 1]]; });
}

size_t merge_short(const MergeTable& merges, uint32_t* ids, size_t n) {
  return merge_short(merges, ids, n, [&](size_t i) { return merges.find(pair_key(ids[i], ids[i + 1])); });
}

}  // namespace llmcore::tok
