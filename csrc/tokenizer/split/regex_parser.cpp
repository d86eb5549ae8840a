#include "tokenizer/split/regex_parser.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {
namespace {

using Node = RegexNode;

constexpr size_t kMaxPattern = 1 << 14;  // bytes
constexpr int kMaxDepth = 100;           // of nested groups and classes
constexpr uint32_t kMaxCount = 1000;     // in {n,m}

Node set_node(CodeSet set) {
  Node node;
  node.kind = Node::kSet;
  node.set = std::move(set);
  return node;
}

Node look_node(CodeSet set, bool negative) {
  Node node = set_node(std::move(set));
  node.kind = Node::kLook;
  node.negative = negative;
  return node;
}

Node list_node(Node::Kind kind, std::vector<Node> parts) {
  if (parts.size() == 1) return std::move(parts[0]);
  Node node;
  node.kind = parts.empty() ? Node::kEmpty : kind;
  node.parts = std::move(parts);
  return node;
}

bool may_be_empty(const Node& node) {
  switch (node.kind) {
    case Node::kSet:
      return false;
    case Node::kSequence:
      return std::all_of(node.parts.begin(), node.parts.end(), may_be_empty);
    case Node::kAlternates:
      return std::any_of(node.parts.begin(), node.parts.end(), may_be_empty);
    case Node::kRepeat:
      return node.least == 0 || may_be_empty(node.parts[0]);
    default:
      return true;
  }
}

// Whether the node, or one of its alternatives, consists of lookaheads only, which Oniguruma does not repeat.
bool may_only_look(const Node& node) {
  const auto any = [&] { return std::any_of(node.parts.begin(), node.parts.end(), may_only_look); };
  const auto all = [&] { return std::all_of(node.parts.begin(), node.parts.end(), may_only_look); };
  return node.kind == Node::kLook || (node.kind == Node::kSequence && all()) ||
         (node.kind == Node::kAlternates && any());
}

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

class Parser {
 public:
  explicit Parser(std::string_view pattern) {
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

  Node parse() {
    Node node = alternates();
    if (!done()) refuse("')' without '('", at_);
    return node;
  }

 private:
  bool done() const { return at_ == text_.size(); }
  uint32_t peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : 0; }
  bool next_is(const char* expected) const {
    for (size_t i = 0; expected[i]; ++i) {
      if (peek(i) != static_cast<uint8_t>(expected[i])) return false;
    }
    return true;
  }
  bool take(const char* expected) {
    if (!next_is(expected)) return false;
    at_ += std::char_traits<char>::length(expected);
    return true;
  }
  // The pattern's text from character `from` to where the parser is.
  std::string taken(size_t from) const {
    return "'" + std::string(pattern_.substr(begins_[from], begins_[at_] - begins_[from])) + "'";
  }

  [[noreturn]] void refuse(const std::string& what, size_t position) const {
    throw std::invalid_argument("[tokenizer] expected a regular expression of supported constructs, got " + what +
                                " at character " + std::to_string(position));
  }

  void enter(size_t position) {
    if (++depth_ > kMaxDepth) refuse("more than 100 nested groups or classes", position);
  }

  Node alternates() {
    std::vector<Node> parts;
    do parts.push_back(sequence());
    while (take("|"));
    return list_node(Node::kAlternates, std::move(parts));
  }

  Node sequence() {
    std::vector<Node> parts;
    uint32_t previous = 0;  // the previous letter, under (?i)
    while (!done() && peek() != '|' && peek() != ')') {
      const size_t begin = at_;
      const uint32_t letter = fold_ ? peek() | 0x20 : 0;
      for (const char* pair : {"ss", "ff", "fi", "fl", "st"}) {
        if (previous == static_cast<uint8_t>(pair[0]) && letter == static_cast<uint8_t>(pair[1])) {
          refuse("'" + std::string(pair) + "' under (?i), which is one character (a ligature) for some engines",
                 begin - 1);
        }
      }
      parts.push_back(quantified(atom(), begin));
      previous = at_ == begin + 1 ? letter : 0;
    }
    return list_node(Node::kSequence, std::move(parts));
  }

  Node quantified(Node node, size_t begin) {
    const size_t quantifier = at_;
    uint32_t least = 0, most = Node::kUnbounded;
    const bool counted = peek() == '{';
    if (take("?")) {
      most = 1;
    } else if (take("+")) {
      least = 1;
    } else if (counted) {
      counts(least, most);
    } else if (!take("*")) {
      return node;
    }
    if (may_only_look(node)) refuse("a quantifier on a lookahead", quantifier);
    const bool lazy = take("?"), possessive = !lazy && take("+");
    if (counted && lazy && least == most) {
      refuse(taken(quantifier) + ", which engines interpret differently", quantifier);
    }
    if (counted && possessive) {
      refuse(
          taken(quantifier) + ", which is a repeated group in Oniguruma and possessive elsewhere (leave out the '+')",
          quantifier);
    }
    for (const char* more : {"?", "*", "+", "{"}) {
      if (next_is(more)) refuse("a quantifier on a quantifier", at_);
    }
    if (most > 1 && may_be_empty(node)) {  // engines differ on when to stop
      refuse("repetition of " + taken(begin) + ", which can match the empty string,", begin);
    }
    if (possessive && node.kind != Node::kSet) {
      refuse("a possessive quantifier on more than one character", quantifier);
    }
    const CodeSet set = node.set;
    if (possessive && most == 1) {  // the character, or nothing if it does not come next
      return list_node(Node::kAlternates, {std::move(node), look_node(set, true)});
    }
    Node repeat;
    repeat.kind = Node::kRepeat;
    repeat.least = least;
    repeat.most = most;
    repeat.greedy = !lazy;
    repeat.parts.push_back(std::move(node));
    // A run that never gives back is a run that is not followed by more of the same.
    if (possessive) return list_node(Node::kSequence, {std::move(repeat), look_node(set, true)});
    return repeat;
  }

  void counts(uint32_t& least, uint32_t& most) {
    const size_t begin = at_++;
    const auto number = [&](uint32_t& value) {
      const size_t first = at_;
      for (value = 0; peek() >= '0' && peek() <= '9'; ++at_) {
        value = std::min(value * 10 + (peek() - '0'), kMaxCount + 1);
      }
      return at_ > first;
    };
    bool good = number(least);
    most = least;
    if (good && take(",") && !number(most)) most = Node::kUnbounded;
    if (!good || !take("}")) refuse("'{' that does not begin {n}, {n,} or {n,m}", begin);
    if (least > kMaxCount || (most > kMaxCount && most != Node::kUnbounded)) {
      refuse(taken(begin) + ", which repeats more than 1000 times,", begin);
    }
    if (least > most || most == 0) refuse(taken(begin), begin);
  }

  Node atom() {
    const size_t begin = at_;
    if (take("(")) return group(begin);
    if (take("[")) return set_node(char_class(begin));
    if (take(".")) return set_node(~CodeSet::newline());
    if (take("\\z")) return look_node(~CodeSet(), true);
    if (peek() == '\\') return set_node(escape());
    for (const char* unread : {"^", "$"}) {
      if (next_is(unread)) {
        refuse("the anchor '" + std::string(unread) +
                   "', which engines interpret differently (a text's end is \\z or (?![\\s\\S]))",
               begin);
      }
    }
    for (const char* unread : {"*", "+", "?", "{", "}", "]"}) {
      if (next_is(unread)) refuse("'" + std::string(unread) + "' with nothing to apply to", begin);
    }
    const uint32_t code = peek();
    ++at_;
    return set_node(literal(code, begin));
  }

  CodeSet literal(uint32_t code, size_t position) const {
    const CodeSet set = CodeSet::range(code, code);
    if (!fold_) return set;
    if (code >= 0x80) refuse("a character outside ASCII under (?i)", position);
    return fold(set);
  }

  Node group(size_t begin) {
    enter(begin);
    const bool outer_fold = fold_;
    bool ahead = false, negative = false;
    if (take("?=") || (negative = take("?!"))) {
      ahead = true;
    } else if (take("?i:")) {
      fold_ = true;
    } else if (!take("?:") && peek() == '?') {
      while (!done() && peek() != ')' && at_ - begin < 4) ++at_;
      refuse("the group " + taken(begin), begin);
    } else if (peek() == '*') {
      refuse("the group '(*'", begin);
    }
    Node node = alternates();
    if (!take(")")) refuse("'(' without ')'", begin);
    fold_ = outer_fold;
    --depth_;
    if (!ahead) return node;
    CodeSet set;
    if (!only_sets(node, set)) refuse("a lookahead of more than one character, " + taken(begin) + ",", begin);
    return look_node(std::move(set), negative);
  }

  // Whether the node is one character or a choice of several; if so, sets `set` to the characters it matches.
  static bool only_sets(const Node& node, CodeSet& set) {
    if (node.kind == Node::kSet) {
      set = set | node.set;
      return true;
    }
    return node.kind == Node::kAlternates &&
           std::all_of(node.parts.begin(), node.parts.end(), [&](const Node& part) { return only_sets(part, set); });
  }

  // Reads an escape, after the backslash, that stands for one character or a set of characters.
  CodeSet escape() {
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
      default:
        break;
    }
    at_ = begin;
    return literal(escaped_code(), begin);
  }

  CodeSet unfolded(CodeSet set, size_t begin) const {
    if (fold_) refuse(taken(begin) + " under (?i)", begin);
    return set;
  }

  CodeSet property(size_t begin, bool negative) {
    std::string name;
    if (!take("{")) refuse(taken(begin) + " without {name}", begin);
    negative ^= take("^");
    for (; !done() && peek() != '}' && name.size() < 40; ++at_) name += static_cast<char>(std::min(peek(), 0x7Fu));
    std::optional<CodeSet> set;
    if (take("}")) set = CodeSet::property(name);
    if (!set) refuse("the property " + taken(begin), begin);
    return negative ? ~*set : *set;
  }

  // Reads a backslash and an escape that stands for one code point.
  uint32_t escaped_code() {
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
  uint32_t hex(size_t begin, size_t digits) {
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
  CodeSet char_class(size_t begin) {
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
      if (peek() == ']') {
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

  CodeSet class_item(size_t begin) {
    for (const char* unread : {"[:", "--", "~~", "||"}) {
      if (next_is(unread)) refuse("'" + std::string(unread) + "' in a class", begin);
    }
    if (take("[")) return char_class(begin);
    const bool escaped = peek() == '\\';
    const uint32_t letter = escaped ? peek(1) : 0;
    if (letter == 'p' || letter == 'P' || letter == 's' || letter == 'S' || letter == 'd' || letter == 'D' ||
        letter == 'w' || letter == 'W') {
      const CodeSet set = escape();
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

  uint32_t class_code() {
    if (done()) return 0;  // the caller reports the missing ']'
    if (peek() == '\\') return escaped_code();
    return text_[at_++];
  }

  std::string_view pattern_;
  std::vector<uint32_t> text_;  // its code points
  std::vector<size_t> begins_;  // where each begins in pattern_, and the pattern's size
  size_t at_ = 0;
  int depth_ = 0;
  bool fold_ = false;  // within (?i:...)
};

}  // namespace

RegexNode parse_regex(std::string_view pattern) { return Parser(pattern).parse(); }

}  // namespace llmcore::tok
