// Reads the vocabulary and the merges of a tokenizer.json, which are nearly all of it, without making an object per
// token. The rest of the document, and every malformed one, is left to a general JSON reader.
#pragma once
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "tokenizer/bpe/bpe.h"

namespace llmcore::tok {

class JsonVocabulary {
 public:
  // `document` must outlive the result. Returns nothing unless the document is a well-formed object with an object
  // "model", which holds an object "vocab" of ids and an array "merges" of pairs, with no name repeated.
  static std::optional<JsonVocabulary> read(std::string_view document);

  // The document with null in place of both.
  const std::string& rest() const { return rest_; }

  size_t size() const { return vocab_.size(); }
  // Returns the ids of some spellings, where the vocabulary has them.
  std::vector<std::optional<uint32_t>> find(const std::vector<std::string>& spellings) const;

  struct Parts {
    std::vector<std::string> tokens;  // by id, as bytes
    std::vector<Merge> merges;
  };
  // Returns the vocabulary, without the special tokens that are nothing else, spelled in a byte-level alphabet:
  // byte_of[c] is the byte of code point c, or -1. Returns nothing if a token is empty or not spelled so, if ids repeat
  // or exceed their number by more than max_gap, or if a merge names anything but these tokens. So also if the specials
  // that are not in the vocabulary do not have the ids after it, in order: `tokenizers` would give them those.
  std::optional<Parts> parts(const std::vector<Special>& specials, const std::vector<int16_t>& byte_of,
                             size_t max_gap) const;

 private:
  using Spelling = std::string_view;
  struct Reader;
  struct Entry {
    Spelling spelling;
    uint32_t id;
  };

  std::unordered_set<std::string> merged_among(const std::vector<Special>& specials) const;

  std::string rest_;
  std::vector<Entry> vocab_;
  std::vector<std::pair<Spelling, Spelling>> merges_;
  std::deque<std::string> unescaped_;  // spellings that have escapes in the document
};

}  // namespace llmcore::tok
