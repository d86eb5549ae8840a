// The part of parsing an expression that is about single characters: escapes, properties and classes.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/split/regex_parser.h"
#include "tokenizer/unicode/code_set.h"

namespace llmcore::tok {

class SetParser {
 protected:
  SetParser(std::string_view pattern, Dialect dialect);

  bool oniguruma() const { return dialect_ == Dialect::kOniguruma; }
  bool done() const { return at_ == text_.size(); }
  uint32_t peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : 0; }
  bool next_is(const char* expected) const;
  bool take(const char* expected);
  // The pattern's text from character `from` to where the parser is.
  std::string taken(size_t from) const;
  [[noreturn]] void refuse(const std::string& what, size_t position) const;
  void enter(size_t position);  // a group or a class, which ends with --depth_

  // The set for a character that stands for itself.
  CodeSet literal(uint32_t code, size_t position) const;
  // Reads an escape that stands for one character or a set of characters.
  CodeSet escape();
  // Reads a class after its '['.
  CodeSet char_class(size_t begin);

  size_t at_ = 0;
  int depth_ = 0;
  bool fold_ = false;     // within (?i:...)
  bool dot_all_ = false;  // within (?m:...), Ruby's name for it

 private:
  CodeSet unfolded(CodeSet set, size_t begin) const;
  CodeSet property(size_t begin, bool negative);
  CodeSet posix(size_t begin);
  CodeSet class_item(size_t begin);
  uint32_t escaped_code();
  uint32_t hex(size_t begin, size_t digits);
  uint32_t class_code();

  std::string_view pattern_;
  Dialect dialect_;
  std::vector<uint32_t> text_;  // its code points
  std::vector<size_t> begins_;  // where each begins in pattern_, and the pattern's size
};

}  // namespace llmcore::tok
