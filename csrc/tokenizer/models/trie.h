// Strings by their prefixes: which of them begin at a place of a text, found byte by byte.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/containers/pair_table.h"

namespace llmcore::tok {

class Trie {
 public:
  static constexpr uint32_t kRoot = 0, kNone = ~0u;

  Trie() : values_(1, kNone) { first_.fill(kNone); }

  // Where a string is inserted twice, the last value counts.
  void insert(std::string_view text, uint32_t value) {
    uint32_t state = kRoot;
    for (const char c : text) {
      const uint8_t byte = static_cast<uint8_t>(c);
      uint32_t next = step(state, byte);
      if (next == kNone) {
        next = static_cast<uint32_t>(values_.size());
        values_.push_back(kNone);
        if (state == kRoot) {
          first_[byte] = next;
        } else {
          steps_.insert(pair_key(state, byte), next);
        }
      }
      state = next;
    }
    values_[state] = value;
  }

  // Returns the state with one more byte, or kNone where no string goes on so.
  uint32_t step(uint32_t state, uint8_t byte) const {
    if (state == kRoot) return first_[byte];
    const uint64_t next = steps_.find(pair_key(state, byte));
    return next == PairTable::kNone ? kNone : static_cast<uint32_t>(next);
  }
  // Returns the state after a whole text.
  uint32_t walk(std::string_view text) const {
    uint32_t state = kRoot;
    for (size_t i = 0; i < text.size() && state != kNone; ++i) state = step(state, static_cast<uint8_t>(text[i]));
    return state;
  }
  // Returns the value of the string that ends in this state, or kNone.
  uint32_t value(uint32_t state) const { return values_[state]; }

 private:
  std::vector<uint32_t> values_;
  std::array<uint32_t, 256> first_;  // from the root, where every search begins
  PairTable steps_;                  // (state, byte) -> the next state
};

}  // namespace llmcore::tok
