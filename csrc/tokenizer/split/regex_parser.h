// Parses a regular expression into a tree. It accepts only constructs that Oniguruma (Hugging Face tokenizers),
// fancy-regex (tiktoken) and PyPI `regex` read alike and that an automaton can run; any other is rejected with its name
// and position.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/unicode/code_set.h"

namespace llmcore::tok {

struct RegexNode {
  enum Kind {
    kEmpty,
    kSet,         // one character of `set`
    kLook,        // a character of `set` follows; with `negative`, another one does or the text ends
    kSequence,    // `parts`, one after the other
    kAlternates,  // the first of `parts` that lets the rest match
    kRepeat,      // parts[0], from `least` to `most` times
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
RegexNode parse_regex(std::string_view pattern);

}  // namespace llmcore::tok
