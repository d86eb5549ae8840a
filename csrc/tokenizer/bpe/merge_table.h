// Maps a pair of tokens to what it becomes: a PairTable behind a filter small enough to stay in the processor's cache,
// since most of the pairs looked up are not merges.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "tokenizer/containers/hash.h"
#include "tokenizer/containers/huge_vector.h"
#include "tokenizer/containers/pair_table.h"

namespace llmcore::tok {

// What two neighbouring tokens become: rank in the high half, the resulting id in the low half, so that the smallest
// value is the next merge.
using MergeValue = uint64_t;
constexpr MergeValue kNoMerge = PairTable::kNone;

inline MergeValue merge_value(uint32_t rank, uint32_t id) { return static_cast<uint64_t>(rank) << 32 | id; }
inline uint32_t merge_id(MergeValue value) { return static_cast<uint32_t>(value); }
inline uint32_t merge_rank(MergeValue value) { return static_cast<uint32_t>(value >> 32); }

class MergeTable {
 public:
  explicit MergeTable(size_t expected = 0) : pairs_(expected), filter_(64, 0) {
    while (filter_.size() * 64 < expected * 8) filter_.resize(filter_.size() * 2, 0);
  }

  // Returns the value of a pair, or kNoMerge.
  MergeValue find(uint64_t key) const {
    const size_t bit = filter_bit(key);
    return filter_[bit / 64] >> bit % 64 & 1 ? pairs_.find(key) : kNoMerge;
  }

  // The highest rank plus one.
  size_t ranks() const { return ranks_; }

  // Inserts the value unless the pair is there; returns the pair's value.
  MergeValue insert(uint64_t key, MergeValue value) {
    const size_t bit = filter_bit(key);
    filter_[bit / 64] |= 1ull << bit % 64;
    ranks_ = std::max(ranks_, merge_rank(value) + size_t{1});
    return pairs_.insert(key, value);
  }

 private:
  size_t filter_bit(uint64_t key) const { return mix(key) >> 32 & (filter_.size() * 64 - 1); }

  PairTable pairs_;
  HugeVector<uint64_t> filter_;
  size_t ranks_ = 0;
};

}  // namespace llmcore::tok
