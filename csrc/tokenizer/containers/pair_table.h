// Flat hash tables from a pair of token ids to a 64-bit value: open addressing, linear probing, at most half full.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tokenizer/containers/hash.h"
#include "tokenizer/containers/huge_vector.h"

namespace llmcore::tok {

inline uint64_t pair_key(uint32_t left, uint32_t right) { return static_cast<uint64_t>(left) << 32 | right; }

class PairTable {
 public:
  static constexpr uint64_t kNone = ~0ull;

  explicit PairTable(size_t expected = 0) { rehash(capacity_for(expected)); }

  // Returns the value of a pair, or kNone.
  uint64_t find(uint64_t key) const {
    for (size_t slot = mix(key) & mask_;; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return slots_[slot].value;
      if (slots_[slot].key == kNone) return kNone;
    }
  }

  // Inserts the value unless the pair is there; returns a reference to the pair's value, valid until the next insert.
  uint64_t& insert(uint64_t key, uint64_t value) {
    if ((size_ + 1) * 2 > slots_.size()) rehash(slots_.size() * 2);
    size_t slot = mix(key) & mask_;
    while (slots_[slot].key != kNone) {
      if (slots_[slot].key == key) return slots_[slot].value;
      slot = (slot + 1) & mask_;
    }
    slots_[slot] = {key, value};
    ++size_;
    return slots_[slot].value;
  }

  size_t size() const { return size_; }

 private:
  struct Slot {
    uint64_t key;
    uint64_t value;
  };

  static size_t capacity_for(size_t expected) {
    size_t capacity = 64;
    while (capacity < expected * 2) capacity *= 2;
    return capacity;
  }

  void rehash(size_t capacity) {
    HugeVector<Slot> old(capacity, Slot{kNone, kNone});
    old.swap(slots_);
    mask_ = capacity - 1;
    for (const Slot& entry : old) {
      if (entry.key == kNone) continue;
      size_t slot = mix(entry.key) & mask_;
      while (slots_[slot].key != kNone) slot = (slot + 1) & mask_;
      slots_[slot] = entry;
    }
  }

  HugeVector<Slot> slots_;
  size_t mask_ = 0;
  size_t size_ = 0;
};

}  // namespace llmcore::tok
