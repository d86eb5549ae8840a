// A bounded UTF-8 decoder: never reads at or past `end`, and turns every ill-formed byte into a one-byte character.
#pragma once
#include <cstdint>

#include "tokenizer/unicode/tables.h"

namespace llmcore::tok {

// One character of a text, as its code point or its class bits, and its length in bytes.
struct CodePoint {
  uint32_t code;
  uint8_t length;
};
struct Char {
  uint8_t cls;
  uint8_t length;
};

// Stands for a byte that begins no well-formed sequence. It belongs to no class, so scanners treat it like punctuation.
constexpr uint32_t kIllFormedCode = 0x110000;
constexpr CodePoint kIllFormed{kIllFormedCode, 1};

// Decodes the character at p, where p < end and *p >= 0x80. Well-formed means Unicode's table 3-7: no overlong forms,
// no surrogates, nothing above U+10FFFF.
inline CodePoint multibyte_code_at(const uint8_t* p, const uint8_t* end) {
  const uint8_t lead = p[0];
  const auto left = end - p;
  auto continues = [](uint8_t byte) { return (byte & 0xC0) == 0x80; };
  if (lead < 0xC2 || lead > 0xF4 || left < 2 || !continues(p[1])) return kIllFormed;
  if (lead < 0xE0) return {(lead & 0x1Fu) << 6 | (p[1] & 0x3Fu), 2};
  if (left < 3 || !continues(p[2])) return kIllFormed;
  if (lead < 0xF0) {
    const uint32_t code = (lead & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    if (code < 0x800 || (code >= 0xD800 && code < 0xE000)) return kIllFormed;
    return {code, 3};
  }
  if (left < 4 || !continues(p[3])) return kIllFormed;
  const uint32_t code = (lead & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
  if (code < 0x10000 || code > 0x10FFFF) return kIllFormed;
  return {code, 4};
}
inline CodePoint code_at(const uint8_t* p, const uint8_t* end) {
  return *p < 0x80 ? CodePoint{*p, 1} : multibyte_code_at(p, end);
}

// Returns the character that ends where p > begin is; an ill-formed byte if none does.
inline CodePoint code_before(const uint8_t* begin, const uint8_t* p) {
  for (uint8_t size = 1; size <= 4 && size <= p - begin; ++size) {
    const CodePoint c = code_at(p - size, p);
    if (c.code != kIllFormedCode && c.length == size) return c;
  }
  return kIllFormed;
}

// The same as code_at, giving the class.
inline Char multibyte_char_at(const uint8_t* p, const uint8_t* end) {
  const CodePoint c = multibyte_code_at(p, end);
  return {c.code == kIllFormedCode ? uint8_t{0} : char_class(c.code), c.length};
}
inline Char char_at(const uint8_t* p, const uint8_t* end) {
  return *p < 0x80 ? Char{ascii_class(*p), 1} : multibyte_char_at(p, end);
}

}  // namespace llmcore::tok
