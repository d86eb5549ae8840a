// From a token's bytes to its id: open addressing over ids, at most half full; the bytes stay in the list of tokens.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/hash.h"
#include "tokenizer/huge_vector.h"

namespace llmcore::tok {

class TokenIndex {
 public:
  static constexpr uint32_t kNone = ~0u;

  explicit TokenIndex(size_t tokens) : slots_(64, kNone) {
    while (slots_.size() < tokens * 2) slots_.resize(slots_.size() * 2, kNone);
  }

  // Adds tokens[id], unless a token that spells the same is there; returns the id of the one that is there then.
  uint32_t insert(const std::vector<std::string>& tokens, uint32_t id) {
    uint32_t& slot = slots_[slot_of(tokens, tokens[id])];
    if (slot == kNone) slot = id;
    return slot;
  }

  // The id of a token, or kNone.
  uint32_t find(const std::vector<std::string>& tokens, std::string_view bytes) const {
    return slots_[slot_of(tokens, bytes)];
  }

 private:
  size_t slot_of(const std::vector<std::string>& tokens, std::string_view bytes) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = hash_bytes(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()) & mask;
    while (slots_[slot] != kNone && tokens[slots_[slot]] != bytes) slot = (slot + 1) & mask;
    return slot;
  }

  HugeVector<uint32_t> slots_;
};

}  // namespace llmcore::tok
