// The vocabulary and the merges of a tokenizer.json, which are nearly all of it, read without making an object of every
// token. What is left of the document, and everything that is not as it should be, is for a general reader of JSON.
#pragma once
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/bpe/bpe.h"

namespace llmcore::tok {

class JsonVocabulary {
 public:
  // `document` must outlive the result. Nothing if it is not an object with an object "model", in this an object
  // "vocab" of ids and an array "merges" of pairs, every name there once, all of it well-formed.
  static std::optional<JsonVocabulary> read(std::string_view document);

  // The document with null for both.
  const std::string& rest() const { return rest_; }

  struct Parts {
    std::vector<std::string> tokens;  // by id, as bytes
    std::vector<Merge> merges;
  };
  // The vocabulary without the special tokens, spelled by a byte-level alphabet: byte_of[c] is the byte of code point
  // c, or -1. Nothing if a token is spelled otherwise or empty, ids repeat or exceed their number by more than max_gap,
  // or a merge is of others.
  std::optional<Parts> parts(const std::vector<Special>& specials, const std::vector<int16_t>& byte_of,
                             size_t max_gap) const;

 private:
  using Spelling = std::string_view;
  struct Reader;
  struct Entry {
    Spelling spelling;
    uint32_t id;
  };

  std::string rest_;
  std::vector<Entry> vocab_;
  std::vector<std::pair<Spelling, Spelling>> merges_;
  std::deque<std::string> unescaped_;  // spellings that have escapes in the document
};

}  // namespace llmcore::tok
