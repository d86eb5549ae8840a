// The merge core: applies byte-pair merges to one piece, lowest rank first, leftmost first among equals.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tokenizer/bpe/merge_table.h"
#include "tokenizer/containers/huge_vector.h"

namespace llmcore::tok {

// Scratch memory for merging long pieces, reused from call to call.
struct MergeScratch {
  static constexpr uint32_t kNoBucket = ~0u;
  // The positions where a pair of one rank may be: in order from `begin` on, and in a heap for the few found out of
  // order.
  struct Bucket {
    std::vector<uint32_t> in_order, heap;
    size_t begin = 0;
    uint32_t rank = 0;

    bool empty() const { return begin == in_order.size() && heap.empty(); }
    void clear() {
      in_order.clear();
      heap.clear();
      begin = 0;
    }
  };
  // A token, stored at the position of its first byte; its size is also stored at the position of its last byte.
  struct Node {
    uint32_t rank, made;  // of the pair that begins here: when it merges, and into what
    uint32_t id, size;
  };
  HugeVector<Node> nodes;
  std::vector<Bucket> buckets;
  std::vector<uint32_t> bucket_of;  // rank -> index into buckets
  std::vector<uint64_t> ranks;      // a heap of (rank, bucket) over the buckets that are not empty
};

// Merges ids[0, n), the initial tokens of a piece, in place and returns how many are left. Pieces of up to kShortPiece
// tokens are rescanned for every merge, which beats a heap at that size. Longer pieces keep the positions of each rank,
// which long repetitive runs produce in order: O(n log n) for any text. n is from 1 to 2^32 - 2.
constexpr size_t kShortPiece = 64;
size_t merge_short(const MergeTable& merges, uint32_t* ids, size_t n);
size_t merge_long(const MergeTable& merges, uint32_t* ids, size_t n, MergeScratch& scratch);
// The same for tokens that are the piece's bytes; byte_merges[left * 256 + right] is what two bytes become.
size_t merge_short(const MergeTable& merges, uint32_t* ids, const uint8_t* piece, const MergeValue* byte_merges,
                   size_t n);
size_t merge_long(const MergeTable& merges, uint32_t* ids, const uint8_t* piece, const MergeValue* byte_merges,
                  size_t n, MergeScratch& scratch);

// The same for n tokens that all equal ids[0]: finds the result by counting, in O(log n) steps. Returns 0 and leaves
// ids unchanged if the ranks do not allow it.
size_t merge_run(const MergeTable& merges, uint32_t* ids, size_t n);

}  // namespace llmcore::tok
