// The merge core: applies byte-pair merges to one piece, lowest rank first, leftmost first among equals.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tokenizer/bpe/merge_table.h"
#include "tokenizer/containers/huge_vector.h"

namespace llmcore::tok {

// Memory that merging long pieces reuses from call to call.
struct MergeScratch {
  static constexpr uint32_t kNoBucket = ~0u;
  // Where a pair of one rank may be: from `begin` on in order, and the few that came out of order in a heap.
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
  // A token, at the position of its first byte; its size stands at the position of its last one, too.
  struct Node {
    uint32_t rank, made;  // of the pair that begins here: what it becomes, and when
    uint32_t id, size;
  };
  HugeVector<Node> nodes;
  std::vector<Bucket> buckets;
  std::vector<uint32_t> bucket_of;  // rank -> index into buckets
  std::vector<uint64_t> ranks;      // a heap of rank and bucket, for the buckets that are not empty
};

// ids[0, n) are the first tokens of a piece; merges them in place and returns how many are left. Pieces of up to
// kShortPiece tokens are scanned again for every merge, which beats a heap there; longer ones keep the positions of
// each rank, which long runs of the same produce in order: O(n log n) for any text. n is from 1 to 2^32 - 2.
constexpr size_t kShortPiece = 64;
size_t merge_short(const MergeTable& merges, uint32_t* ids, size_t n);
size_t merge_long(const MergeTable& merges, uint32_t* ids, size_t n, MergeScratch& scratch);
// The same where the tokens are the piece's bytes; byte_merges[left * 256 + right] is what two bytes become.
size_t merge_short(const MergeTable& merges, uint32_t* ids, const uint8_t* piece, const MergeValue* byte_merges,
                   size_t n);
size_t merge_long(const MergeTable& merges, uint32_t* ids, const uint8_t* piece, const MergeValue* byte_merges,
                  size_t n, MergeScratch& scratch);

// The same for n tokens that are all ids[0]: what becomes of them is found by counting, in O(log n) steps. 0, and ids
// as they were, where the ranks do not allow it.
size_t merge_run(const MergeTable& merges, uint32_t* ids, size_t n);

}  // namespace llmcore::tok
