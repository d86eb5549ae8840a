// The merge core: applies byte-pair merges to one piece, lowest rank first, leftmost first among equals.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tokenizer/pair_table.h"

namespace llmcore::tok {

// What two neighbouring tokens become: rank in the high half, the resulting id in the low half, so that the smallest
// value is the next merge.
using MergeValue = uint64_t;
constexpr MergeValue kNoMerge = PairTable::kNone;

inline MergeValue merge_value(uint32_t rank, uint32_t id) { return static_cast<uint64_t>(rank) << 32 | id; }
inline uint32_t merge_id(MergeValue value) { return static_cast<uint32_t>(value); }
inline uint32_t merge_rank(MergeValue value) { return static_cast<uint32_t>(value >> 32); }

// Memory that merging long pieces reuses from call to call.
struct MergeScratch {
  // Where a pair of one rank may be: from `begin` on in order, and the few that came out of order in a heap.
  struct Bucket {
    std::vector<uint32_t> in_order, heap;
    size_t begin = 0;

    bool empty() const { return begin == in_order.size() && heap.empty(); }
    void clear() {
      in_order.clear();
      heap.clear();
      begin = 0;
    }
  };
  struct Node {
    MergeValue value;  // of the pair that begins here
    uint32_t id, next, previous;
  };
  std::vector<Node> nodes;
  std::vector<Bucket> buckets;
  std::vector<uint64_t> ranks;  // a heap of rank and bucket, for the buckets that are not empty
};

// ids[0, n) are the tokens of a piece's bytes; merges them in place and returns how many are left. Pieces of up to
// kShortPiece tokens are scanned again for every merge, which beats a heap there; longer ones keep a linked list and
// the positions of each rank, which long runs of the same produce in order: O(n log n) for any text. n is below 2^32
// - 1.
constexpr size_t kShortPiece = 64;
size_t merge_short(const PairTable& merges, uint32_t* ids, size_t n);
size_t merge_long(const PairTable& merges, uint32_t* ids, size_t n, MergeScratch& scratch);

}  // namespace llmcore::tok
