#include "tokenizer/split/regex_sets.h"

#include <algorithm>
#include <stdexcept>

#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {
namespace {

constexpr size_t kMaxPattern = 1 << 14;  // bytes
constexpr int kMaxDepth = 100;           // of nested groups and classes

// ASCII letters with their other cases; (?i) includes the long s and the kelvin sign among them.
CodeSet fold(const CodeSet& set) {
  CodeSet folded = set;
  for (uint32_t lower = 'a'; lower <= 'z'; ++lower) {
    CodeSet cases = CodeSet::range(lower, lower) | CodeSet::range(lower - 0x20, lower - 0x20);
    if (lower == 's') cases = cases | CodeSet::range(0x17F, 0x17F);
    if (lower == 'k') cases = cases | CodeSet::range(0x212A, 0x212A);
    if (!(cases & set).empty()) folded = folded | cases;
  }
  return folded;
}

}  // namespace

SetParser::SetParser(std::string_view pattern, Dialect dialect) : dialect_(dialect) {
  if (pattern.size() > kMaxPattern) {
    throw std::invalid_argument("[tokenizer] expected a pattern of at most 16384 bytes, got " +
                                std::to_string(pattern.size()));
  }
  const auto* p = reinterpret_cast<const uint8_t*>(pattern.data());
  for (const uint8_t* end = p + pattern.size(); p < end;) {
    const CodePoint c = code_at(p, end);
    if (c.code == kIllFormedCode) refuse("bytes that are not UTF-8", text_.size());
    begins_.push_back(p - reinterpret_cast<const uint8_t*>(pattern.data()));
    text_.push_back(c.code);
    p += c.length;
  }
  begins_.push_back(pattern.size());
  pattern_ = pattern;
}

bool SetParser::next_is(const char* expected) const {
  for (size_t i = 0; expected[i]; ++i) {
    if (peek(i) != static_cast<uint8_t>(expected[i])) return false;
  }
  return true;
}
bool SetParser::take(const char* expected) {
  if (!next_is(expected)) return false;
  at_ += std::char_traits<char>::length(expected);
  return true;
}
// The pattern's text from character `from` to where the parser is.
std::string SetParser::taken(size_t from) const {
  return "'" + std::string(pattern_.substr(begins_[from], begins_[at_] - begins_[from])) + "'";
}

void SetParser::refuse(const std::string& what, size_t position) const {
  throw std::invalid_argument("[tokenizer] expected a regular expression of supported constructs, got " + what +
                              " at character " + std::to_string(position));
}

void SetParser::enter(size_t position) {
  if (++depth_ > kMaxDepth) refuse("more than 100 nested groups or classes", position);
}

CodeSet SetParser::literal(uint32_t code, size_t position) const {
  const CodeSet set = CodeSet::range(code, code);
  if (!fold_) return set;
  if (code >= 0x80) refuse("a character outside ASCII under (?i)", position);
  return fold(set);
}

// Reads an escape, after the backslash, that stands for one character or a set of characters.
CodeSet SetParser::escape() {
  const size_t begin = at_;
  const uint32_t c = peek(1);
  at_ += 2;
  switch (c) {
    case 's':
      return CodeSet::space();
    case 'S':
      return ~CodeSet::space();
    case 'd':
      return *CodeSet::property("Nd");
    case 'D':
      return ~*CodeSet::property("Nd");
    case 'w':
      return unfolded(CodeSet::word(), begin);
    case 'W':
      return unfolded(~CodeSet::word(), begin);
    case 'p':
    case 'P':
      return unfolded(property(begin, c == 'P'), begin);
    case 'h':
    case 'H':
      if (!oniguruma()) break;
      return c == 'h' ? *CodeSet::posix("xdigit") : ~*CodeSet::posix("xdigit");
    default:
      break;
  }
  at_ = begin;
  return literal(escaped_code(), begin);
}

CodeSet SetParser::unfolded(CodeSet set, size_t begin) const {
  if (fold_) refuse(taken(begin) + " under (?i)", begin);
  return set;
}

CodeSet SetParser::property(size_t begin, bool negative) {
  std::string name;
  if (!take("{")) refuse(taken(begin) + " without {name}", begin);
  negative ^= take("^");
  for (; !done() && peek() != '}' && name.size() < 40; ++at_) name += static_cast<char>(std::min(peek(), 0x7Fu));
  std::optional<CodeSet> set;
  if (take("}")) set = oniguruma() ? CodeSet::named(name) : CodeSet::property(name);
  if (!set) refuse("the property " + taken(begin), begin);
  return negative ? ~*set : *set;
}

// Reads a backslash and an escape that stands for one code point.
uint32_t SetParser::escaped_code() {
  const size_t begin = at_++;
  if (done()) refuse("'\\' at the end", begin);
  const uint32_t c = text_[at_++];
  switch (c) {
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case 'a':
    case 'e':
      if (!oniguruma()) break;
      return c == 'a' ? 7 : 27;
    case 'x':
      return peek() == '{' ? hex(begin, 0) : hex(begin, 2);
    case 'u':
      return hex(begin, 4);
    default:
      break;
  }
  const bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  if (word || c >= 0x80 || c == '<' || c == '>') refuse("the escape " + taken(begin), begin);
  return c;
}

// Reads `digits` hexadecimal digits, or 1 to 6 in braces.
uint32_t SetParser::hex(size_t begin, size_t digits) {
  const bool braces = digits == 0;
  if (braces) take("{");
  uint32_t code = 0;
  size_t found = 0;
  for (; found < (braces ? 6 : digits); ++found, ++at_) {
    const uint32_t c = peek(), lower = c | 0x20;
    if (c >= '0' && c <= '9') {
      code = code * 16 + (c - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      code = code * 16 + (lower - 'a' + 10);
    } else {
      break;
    }
  }
  const bool whole = braces ? found > 0 && take("}") : found == digits;
  if (!whole || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) refuse("the escape " + taken(begin), begin);
  return code;
}

// Reads a class after its '[': items, with && between the parts that it intersects.
CodeSet SetParser::char_class(size_t begin) {
  enter(begin);
  const bool negative = take("^");
  std::optional<CodeSet> intersection;
  CodeSet items;
  for (bool first = true;; first = false) {
    const size_t item = at_;
    if (done()) refuse("'[' without ']'", begin);
    if (next_is("&&")) {
      if (first) refuse("'&&' with nothing before it", item);
      at_ += 2;
      intersection = intersection ? *intersection & items : items;
      items = CodeSet();
      if (peek() == ']') refuse("'&&' with nothing after it", item);
      continue;
    }
    if (peek() == ']' && !(first && oniguruma())) {
      if (first) refuse("an empty class, or one that begins with ']',", begin);
      ++at_;
      break;
    }
    items = items | class_item(item);
  }
  --depth_;
  const CodeSet set = intersection ? *intersection & items : items;
  return negative ? ~set : set;
}

// Reads [:name:] or [:^name:] within a class.
CodeSet SetParser::posix(size_t begin) {
  take("[:");
  const bool negative = take("^");
  std::string name;
  for (; peek() >= 'a' && peek() <= 'z' && name.size() < 10; ++at_) name += static_cast<char>(peek());
  std::optional<CodeSet> set;
  if (take(":]")) set = CodeSet::posix(name);
  if (!set) refuse("the class " + taken(begin), begin);
  return unfolded(negative ? ~*set : *set, begin);
}

CodeSet SetParser::class_item(size_t begin) {
  if (oniguruma() && next_is("[:")) return posix(begin);
  for (const char* unread : {"[:", "--", "~~", "||"}) {
    if (next_is(unread)) refuse("'" + std::string(unread) + "' in a class", begin);
  }
  if (take("[")) return char_class(begin);
  const bool escaped = peek() == '\\';
  const uint32_t letter = escaped ? peek(1) : 0;
  if (letter == 'p' || letter == 'P' || letter == 's' || letter == 'S' || letter == 'd' || letter == 'D' ||
      letter == 'w' || letter == 'W' || (oniguruma() && (letter == 'h' || letter == 'H'))) {
    CodeSet set = escape();
    // In a class, Oniguruma's \w does without a few characters that it has elsewhere.
    if (oniguruma() && letter == 'w') set = *CodeSet::posix("word");
    if (oniguruma() && letter == 'W') set = ~*CodeSet::posix("word");
    if (peek() == '-' && peek(1) != ']') refuse("a range that begins with a set", begin);
    return set;
  }
  const uint32_t low = class_code();
  if (peek() != '-' || peek(1) == ']') return literal(low, begin);
  ++at_;
  if (peek() == '[') refuse("a range that ends with a class", begin);
  const uint32_t high = class_code();
  if (high < low) refuse("the range " + taken(begin), begin);
  if (!fold_) return CodeSet::range(low, high);
  if (high >= 0x80) refuse("a character outside ASCII under (?i)", begin);
  return fold(CodeSet::range(low, high));
}

uint32_t SetParser::class_code() {
  if (done()) return 0;  // the caller reports the missing ']'
  if (peek() == '\\') return escaped_code();
  return text_[at_++];
}

}  // namespace llmcore::tok
