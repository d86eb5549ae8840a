// Regular expressions as deterministic automata over characters, built completely when the expression is read:
// immutable, usable by any number of threads, one table lookup per character, no backtracking. Alternatives and
// quantifiers have the priorities of a backtracking engine: of the matches at a position, the result is the one that
// such an engine finds first.
//
// A match takes time linear in the characters examined. An expression that looks far ahead and gives up at every
// position (a+b on a text of a's) is quadratic, as in other engines.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {

class Regex {
 public:
  // Throws std::invalid_argument for an expression that is not supported (see regex_parser.h), can match the empty
  // string, or needs too large an automaton.
  explicit Regex(std::string_view pattern);

  // Returns the end of the match that begins at p < end, or nullptr.
  const uint8_t* match(const uint8_t* p, const uint8_t* end) const {
    const uint8_t* last = nullptr;
    uint32_t state = kStart;
    while (p < end) {
      const CodePoint c = code_at(p, end);
      const uint32_t step = steps_[state * stride_ + kind(c.code)];
      if (step & kMatched) last = p;
      state = step >> 1;
      if (state == kDead) return last;
      p += c.length;
    }
    return steps_[state * stride_ + end_kind_] & kMatched ? end : last;
  }

  // Cuts [p, end) into matches and the stretches between them, and calls visit(begin, end) for each, in order.
  template <class Visit>
  void scan(const uint8_t* p, const uint8_t* end, Visit&& visit) const {
    while (p < end) {
      const uint8_t* begin = p;
      const uint8_t* matched = nullptr;
      while (p < end && !(matched = match(p, end))) p += code_at(p, end).length;
      if (p > begin) visit(begin, p);
      if (matched) visit(p, matched);
      p = matched ? matched : end;
    }
  }

  // Whether a piece ends at every line end between a non-space ASCII character and an ASCII letter or digit.
  bool ends_at_line_ends() const;

 private:
  static constexpr uint32_t kDead = 0, kStart = 1;
  static constexpr uint32_t kMatched = 1;  // the text read is a match, and none of higher priority continues

  // Characters that no set in the expression distinguishes are of one kind.
  uint32_t kind(uint32_t code) const { return kinds_[pages_[code >> 8] * 256u + (code & 255)]; }

  void sort_into_kinds(const std::vector<std::vector<uint32_t>>& bounds);
  uint32_t next(uint32_t state, uint32_t kind) const { return steps_[state * stride_ + kind]; }

  uint32_t stride_ = 0;    // the number of kinds plus one for the end of the text
  uint32_t end_kind_ = 0;  // the last
  std::vector<uint16_t> pages_;
  std::vector<uint8_t> kinds_;
  std::vector<uint32_t> kind_samples_;  // a code point of each kind
  std::vector<uint32_t> steps_;         // [state][kind]: the next state << 1 | kMatched
};

}  // namespace llmcore::tok
