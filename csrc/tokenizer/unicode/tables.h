// Character classes of Unicode 16, one byte per code point, in a two-level table (page -> block -> class bits).
#pragma once
#include <cstdint>

namespace llmcore::tok {

enum CharClass : uint8_t {
  kLetter = 1,    // \p{L}
  kNumber = 2,    // \p{N}
  kSpace = 4,     // \s: the White_Space property
  kMark = 8,      // \p{M}
  kUpper = 16,    // \p{Lu} or \p{Lt}
  kLower = 32,    // \p{Ll}
  kNewline = 64,  // \r or \n
  kSymbol = 128,  // \p{P} or \p{S}
};

extern const uint8_t kPageBlock[];
extern const uint8_t kBlockClasses[];

// The class bits of a code point below 0x110000; 0 for everything that has none of the classes above.
inline uint8_t char_class(uint32_t code_point) {
  return kBlockClasses[kPageBlock[code_point >> 8] * 256u + (code_point & 255)];
}

// The same for ASCII, without the first level: page 0 is always block 0.
inline uint8_t ascii_class(uint8_t byte) { return kBlockClasses[byte]; }

}  // namespace llmcore::tok
