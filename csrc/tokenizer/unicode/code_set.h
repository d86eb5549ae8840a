// Sets of code points, as patterns write them: [...], \p{..}, \s. Besides Unicode's code points there is one more,
// kIllFormedCode, for bytes that are not a character: only complements and "anything" contain it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {

class CodeSet {
 public:
  static constexpr uint32_t kLimit = kIllFormedCode + 1;

  CodeSet() = default;
  static CodeSet range(uint32_t first, uint32_t last) { return CodeSet({first, last + 1}); }
  // A general category ("L", "Lu") or a script ("Han"); empty for a name that is neither.
  static std::optional<CodeSet> property(const std::string& name);
  // The same by any name that Oniguruma knows ("Uppercase_Letter", "han"), and of its other properties the common ones.
  static std::optional<CodeSet> named(const std::string& name);
  // A class of POSIX, as in [[:alpha:]]; empty for other names.
  static std::optional<CodeSet> posix(const std::string& name);
  static CodeSet other_alphabetic();
  static CodeSet space();    // \s: the White_Space property
  static CodeSet word();     // \w
  static CodeSet newline();  // the one character that . does not match

  bool empty() const { return bounds_.empty(); }
  bool contains(uint32_t code) const;
  CodeSet operator|(const CodeSet& other) const;
  CodeSet operator&(const CodeSet& other) const { return ~(~*this | ~other); }
  CodeSet operator~() const;
  bool operator<(const CodeSet& other) const { return bounds_ < other.bounds_; }

  // The first code point of a range, the first after it, and so on, ascending.
  const std::vector<uint32_t>& bounds() const { return bounds_; }

 private:
  explicit CodeSet(std::vector<uint32_t> bounds) : bounds_(std::move(bounds)) {}

  std::vector<uint32_t> bounds_;
};

}  // namespace llmcore::tok
