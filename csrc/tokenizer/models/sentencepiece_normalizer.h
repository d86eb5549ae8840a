// What SentencePiece does to a text before its model sees it
// (https://github.com/google/sentencepiece/blob/master/src/normalizer.cc): rules that replace the longest prefix they
// know, spaces at the ends and in runs left out, one put in front.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/models/trie.h"

namespace llmcore::tok {

class SentencePieceNormalizer {
 public:
  struct Rules {
    std::string charsmap;              // precompiled_charsmap, or empty
    std::vector<std::string> symbols;  // these stay as they are
    bool add_dummy_prefix = true, remove_extra_whitespaces = true;
  };
  // Throws std::invalid_argument for a charsmap that is none.
  explicit SentencePieceNormalizer(Rules rules);

  // Returns the normal form, with U+2581 for spaces. Bytes that are not UTF-8 become U+FFFD.
  std::string normalize(std::string_view text) const;

 private:
  struct Prefix {
    std::string_view normal;
    size_t size;  // of what it stands for
  };
  Prefix next(std::string_view text) const;
  // Returns the longest rule that a text begins with, and its size, which is 0 if there is none.
  Prefix rule(std::string_view text) const;

  Rules rules_;
  Trie symbols_;
  std::vector<uint32_t> units_;    // a double array (Aoe 1989), as in Darts-clone
  std::string_view replacements_;  // each ends with a zero byte
};

}  // namespace llmcore::tok
