// Parses a regular expression into a tree. Any construct that is not supported is rejected with its name and position.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/unicode/code_set.h"

namespace llmcore::tok {

enum class Dialect {
  kCommon,     // what Oniguruma, fancy-regex (tiktoken) and PyPI `regex` read alike, and an automaton can run
  kOniguruma,  // Ruby's, as in the tokenizer.json of Hugging Face's tokenizers
};

struct RegexNode {
  enum Kind {
    kEmpty,
    kSet,         // one character of `set`
    kLook,        // a character of `set` follows; with `negative`, another one does or the text ends
    kSequence,    // `parts`, one after the other
    kAlternates,  // the first of `parts` that lets the rest match
    kRepeat,      // parts[0], from `least` to `most` times
    // Those that need backtracking:
    kAhead,   // parts[0] follows, or with `negative` does not
    kBehind,  // parts[0] precedes, or with `negative` does not
    kAtomic,  // parts[0] as it matches first
  };
  static constexpr uint32_t kUnbounded = UINT32_MAX;

  Kind kind = kEmpty;
  CodeSet set;
  bool negative = false;
  std::vector<RegexNode> parts;
  uint32_t least = 0, most = 0;
  bool greedy = true;
};

// Throws std::invalid_argument.
RegexNode parse_regex(std::string_view pattern, Dialect dialect);

}  // namespace llmcore::tok
