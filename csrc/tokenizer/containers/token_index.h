// Maps a token's bytes to its id: open addressing over ids, at most half full; the bytes stay in the list of tokens.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/containers/hash.h"
#include "tokenizer/containers/huge_vector.h"

namespace llmcore::tok {

class TokenIndex {
 public:
  static constexpr uint32_t kNone = ~0u;

  explicit TokenIndex(size_t tokens) {
    size_t capacity = 64;
    while (capacity < tokens * 2) capacity *= 2;
    slots_.resize(capacity, Slot{kNone, 0});
  }

  // Adds tokens[id] unless a token with the same spelling is present; returns the id of the one that is then present.
  uint32_t insert(const std::vector<std::string>& tokens, uint32_t id) {
    const uint64_t hash = hash_of(tokens[id]);
    Slot& slot = slots_[slot_of(tokens, tokens[id], hash)];
    if (slot.id == kNone) slot = {id, tag(hash)};
    return slot.id;
  }

  // Returns the id of a token, or kNone.
  uint32_t find(const std::vector<std::string>& tokens, std::string_view bytes) const {
    return slots_[slot_of(tokens, bytes, hash_of(bytes))].id;
  }

 private:
  // The tag is a part of the hash that does not choose the slot: a token with a different tag need not be fetched to be
  // compared.
  struct Slot {
    uint32_t id, tag;
  };
  static uint32_t tag(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

  static uint64_t hash_of(std::string_view bytes) {
    return hash_bytes(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  }

  size_t slot_of(const std::vector<std::string>& tokens, std::string_view bytes, uint64_t hash) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = hash & mask;
    while (slots_[slot].id != kNone && (slots_[slot].tag != tag(hash) || tokens[slots_[slot].id] != bytes)) {
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  HugeVector<Slot> slots_;
};

}  // namespace llmcore::tok
