// Regular expressions as deterministic automata over characters, built completely when the expression is read:
// immutable, usable by any number of threads, one table lookup per character, no backtracking. (What an automaton
// cannot do is left to a Backtracker: longer looks ahead, looks behind, atomic groups, empty matches.) Alternatives and
// quantifiers have the priorities of a backtracking engine: of the matches at a position, the result is the one that
// such an engine finds first.
//
// A match takes time linear in the characters examined. An expression that looks far ahead and gives up at every
// position (a+b on a text of a's) is quadratic, as in other engines.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/split/backtracker.h"
#include "tokenizer/split/regex_parser.h"
#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {

class Regex {
 public:
  // Throws std::invalid_argument for an expression that is not supported (see regex_parser.h); of the common dialect
  // also for one that can match the empty string, or needs too large an automaton.
  Regex(std::string_view pattern, Dialect dialect);

  // Calls visit(begin, end) for each match in [p, end) that begins before `until` (nullptr: in all), in order. Matches
  // may be empty, but not directly after another.
  template <class Visit>
  void each_match(const uint8_t* p, const uint8_t* end, Visit&& visit, const uint8_t* until) const {
    if (!backtracker_) {
      while (p < end && (!until || p < until)) {
        const uint8_t* matched = match(p, end);
        if (matched) visit(p, matched);
        p = matched ? matched : p + code_at(p, end).length;
      }
      return;
    }
    const uint8_t *const begin = p, *previous = nullptr;
    while (!until || p < until) {
      const uint8_t* matched = backtracker_->match(begin, p, end);
      if (matched && matched == p && p == previous) matched = nullptr;
      if (matched) visit(p, matched);
      if (matched && matched > p) {
        p = previous = matched;
      } else {
        if (matched) previous = p;
        if (p == end) return;
        p += code_at(p, end).length;
      }
    }
  }

  // Cuts [p, end) into matches and the stretches between them, and calls visit(begin, end) for each, in order.
  template <class Visit>
  void scan(const uint8_t* p, const uint8_t* end, Visit&& visit) const {
    const auto cut = [&](const uint8_t* begin, const uint8_t* matched) {
      if (begin > p) visit(p, begin);
      if (matched > begin) visit(begin, matched);
      p = matched;
    };
    each_match(p, end, cut, nullptr);
    if (p < end) visit(p, end);
  }

  // Whether a piece ends at every line end between a non-space ASCII character and an ASCII letter or digit.
  bool ends_at_line_ends() const;

 private:
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

  bool build(const RegexProgram& program, bool common);

  static constexpr uint32_t kDead = 0, kStart = 1;
  static constexpr uint32_t kMatched = 1;  // the text read is a match, and none of higher priority continues

  // Characters that no set in the expression distinguishes are of one kind.
  uint32_t kind(uint32_t code) const { return kinds_[pages_[code >> 8] * 256u + (code & 255)]; }

  void sort_into_kinds(const std::vector<std::vector<uint32_t>>& bounds);
  uint32_t next(uint32_t state, uint32_t kind) const { return steps_[state * stride_ + kind]; }

  std::shared_ptr<const Backtracker> backtracker_;  // or none

  uint32_t stride_ = 0;    // the number of kinds plus one for the end of the text
  uint32_t end_kind_ = 0;  // the last
  std::vector<uint16_t> pages_;
  std::vector<uint8_t> kinds_;
  std::vector<uint32_t> kind_samples_;  // a code point of each kind
  std::vector<uint32_t> steps_;         // [state][kind]: the next state << 1 | kMatched
};

}  // namespace llmcore::tok
