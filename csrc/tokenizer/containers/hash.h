// Hashes for the tokenizer's tables: quick, and good enough for open addressing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace llmcore::tok {

inline uint64_t mix(uint64_t key) {
  key *= 0x9E3779B97F4A7C15ull;
  return key ^ key >> 32;
}

inline uint64_t hash_bytes(const uint8_t* p, size_t n) {
  uint64_t hash = n;
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    hash = mix(hash ^ word);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, p, n);
  return mix(hash ^ rest);
}

}  // namespace llmcore::tok
