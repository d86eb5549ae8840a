#include "tokenizer/split/regex_parser.h"

#include <algorithm>
#include <string>

#include "tokenizer/split/regex_sets.h"

namespace llmcore::tok {
namespace {

using Node = RegexNode;

constexpr uint32_t kMaxCount = 1000;  // in {n,m}
constexpr uint32_t kMaxBehind = 255;  // characters

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
    case Node::kAtomic:
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

using Lengths = std::pair<uint32_t, uint32_t>;  // in characters, or kUnbounded

Lengths lengths_of(const Node& node) {
  const auto sum = [](uint64_t a, uint64_t b) {
    return static_cast<uint32_t>(std::min<uint64_t>(Node::kUnbounded, a == Node::kUnbounded ? a : a + b));
  };
  Lengths total{0, 0};
  switch (node.kind) {
    case Node::kSet:
      return {1, 1};
    case Node::kAtomic:
    case Node::kSequence:
      for (const Node& part : node.parts) {
        const Lengths lengths = lengths_of(part);
        total = {sum(total.first, lengths.first), sum(total.second, lengths.second)};
      }
      return total;
    case Node::kAlternates:
      total = lengths_of(node.parts[0]);
      for (const Node& part : node.parts) {
        const Lengths lengths = lengths_of(part);
        total = {std::min(total.first, lengths.first), std::max(total.second, lengths.second)};
      }
      return total;
    case Node::kRepeat: {
      const Lengths part = lengths_of(node.parts[0]);
      const auto times = [](uint64_t length, uint64_t n) {
        if (length == 0 || n == 0) return uint32_t{0};
        const bool unbounded = length == Node::kUnbounded || n == Node::kUnbounded;
        return unbounded ? Node::kUnbounded : static_cast<uint32_t>(std::min<uint64_t>(Node::kUnbounded, length * n));
      };
      return {times(part.first, node.least), times(part.second, node.most)};
    }
    default:
      return {0, 0};
  }
}

// Whether the node, or one of its alternatives, consists of lookaheads only, which Oniguruma does not repeat.
bool may_only_look(const Node& node) {
  const auto any = [&] { return std::any_of(node.parts.begin(), node.parts.end(), may_only_look); };
  const auto all = [&] { return std::all_of(node.parts.begin(), node.parts.end(), may_only_look); };
  return node.kind == Node::kLook || node.kind == Node::kAhead || node.kind == Node::kBehind ||
         (node.kind == Node::kSequence && all()) || (node.kind == Node::kAlternates && any());
}

Node part_node(Node::Kind kind, Node part, bool negative = false) {
  Node node;
  node.kind = kind;
  node.negative = negative;
  node.parts.push_back(std::move(part));
  return node;
}

Node repeat_node(Node part, uint32_t least, uint32_t most, bool greedy) {
  Node repeat = part_node(Node::kRepeat, std::move(part));
  repeat.least = least;
  repeat.most = most;
  repeat.greedy = greedy;
  return repeat;
}

Node behind_node(CodeSet set, bool negative) {
  Node node = part_node(Node::kBehind, set_node(std::move(set)), negative);
  node.least = node.most = 1;
  return node;
}

class Parser : SetParser {
 public:
  Parser(std::string_view pattern, Dialect dialect) : SetParser(pattern, dialect) {}

  Node parse() {
    Node node = alternates();
    if (!done()) refuse("')' without '('", at_);
    return node;
  }

 private:
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
      if (take("(?#")) {
        while (!done() && peek() != ')') ++at_;
        if (!oniguruma() || !take(")")) refuse("the group '(?#'", begin);
        continue;
      }
      if (oniguruma() && next_is("(?") && options(1, ')')) {  // for what follows in the group, its alternatives too
        parts.push_back(alternates());
        break;
      }
      parts.push_back(quantified(atom(), begin));
      previous = at_ == begin + 1 ? letter : 0;
    }
    return list_node(Node::kSequence, std::move(parts));
  }

  Node quantified(Node node, size_t begin) {
    for (;;) {
      const size_t quantifier = at_;
      uint32_t least = 0, most = Node::kUnbounded;
      const bool counted = peek() == '{' && (!oniguruma() || is_interval());
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
      const bool lazy = take("?"), possessive = !lazy && !(counted && oniguruma()) && take("+");
      if (counted && lazy && least == most) {
        refuse(taken(quantifier) + ", which engines interpret differently", quantifier);
      }
      if (counted && possessive) {
        refuse(
            taken(quantifier) + ", which is a repeated group in Oniguruma and possessive elsewhere (leave out the '+')",
            quantifier);
      }
      for (const char* more : {"?", "*", "+", "{"}) {
        if (!oniguruma() && next_is(more)) refuse("a quantifier on a quantifier", at_);
      }
      if (most > 1 && may_be_empty(node)) {  // engines differ on when to stop
        refuse("repetition of " + taken(begin) + ", which can match the empty string,", begin);
      }
      if (possessive && node.kind != Node::kSet && !oniguruma()) {
        refuse("a possessive quantifier on more than one character", quantifier);
      }
      node =
          possessive ? possessive_node(std::move(node), least, most) : repeat_node(std::move(node), least, most, !lazy);
      if (!oniguruma()) return node;
    }
  }

  static Node possessive_node(Node node, uint32_t least, uint32_t most) {
    if (node.kind != Node::kSet) return part_node(Node::kAtomic, repeat_node(std::move(node), least, most, true));
    const CodeSet set = node.set;
    if (most == 1) {  // the character, or nothing if it does not come next
      return list_node(Node::kAlternates, {std::move(node), look_node(set, true)});
    }
    // A run that never gives back is a run that is not followed by more of the same.
    return list_node(Node::kSequence, {repeat_node(std::move(node), least, most, true), look_node(set, true)});
  }

  // Whether the '{' begins {n}, {n,}, {,m} or {n,m}: else it stands for itself.
  bool is_interval() const {
    size_t i = 1, digits = 0;
    bool comma = false;
    for (; (peek(i) >= '0' && peek(i) <= '9') || (peek(i) == ',' && !comma); ++i) {
      comma |= peek(i) == ',';
      digits += peek(i) != ',';
    }
    return peek(i) == '}' && digits > 0;
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
    bool good = number(least) || (oniguruma() && peek() == ',');
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
    if (take(".")) return set_node(dot_all_ ? ~CodeSet() : ~CodeSet::newline());
    if (take("\\z")) return look_node(~CodeSet(), true);
    if (oniguruma()) {
      Node anchor;
      if (take_anchor(anchor)) return anchor;
    }
    if (peek() == '\\') return set_node(escape());
    for (const char* unread : {"^", "$"}) {
      if (next_is(unread)) {
        refuse("the anchor '" + std::string(unread) +
                   "', which engines interpret differently (a text's end is \\z or (?![\\s\\S]))",
               begin);
      }
    }
    for (const char* unread : {"*", "+", "?", "{", "}", "]"}) {
      const bool itself = oniguruma() && (*unread == '{' || *unread == '}' || *unread == ']');
      if (next_is(unread) && !itself) refuse("'" + std::string(unread) + "' with nothing to apply to", begin);
    }
    const uint32_t code = peek();
    ++at_;
    return set_node(literal(code, begin));
  }

  bool take_anchor(Node& node) {
    const CodeSet newline = CodeSet::newline(), any = ~CodeSet(), word = CodeSet::word();
    const auto both = [](Node first, Node second) {
      return list_node(Node::kSequence, {std::move(first), std::move(second)});
    };
    if (take("$")) {
      node = look_node(~newline, true);
    } else if (take("^")) {  // after a line's end, but not where the text ends
      node = list_node(Node::kAlternates,
                       {behind_node(any, true), both(behind_node(newline, false), look_node(any, false))});
    } else if (take("\\A")) {
      node = behind_node(any, true);
    } else if (take("\\Z")) {
      node = part_node(Node::kAhead, both(repeat_node(set_node(newline), 0, 1, true), look_node(any, true)));
    } else if (take("\\b")) {
      node = list_node(Node::kAlternates, {both(behind_node(word, false), look_node(word, true)),
                                           both(behind_node(word, true), look_node(word, false))});
    } else if (take("\\B")) {
      node = list_node(Node::kAlternates, {both(behind_node(word, false), look_node(word, false)),
                                           both(behind_node(word, true), look_node(word, true))});
    } else if (take("\\R")) {
      const auto set = [](uint32_t first, uint32_t last) { return set_node(CodeSet::range(first, last)); };
      const CodeSet ends = CodeSet::range('\n', '\r') | CodeSet::range(0x85, 0x85) | CodeSet::range(0x2028, 0x2029);
      node = part_node(Node::kAtomic,
                       list_node(Node::kAlternates, {both(set('\r', '\r'), set('\n', '\n')), set_node(ends)}));
    } else if (take("\\N")) {
      node = set_node(~newline);
    } else if (take("\\O")) {
      node = set_node(any);
    } else {
      return false;
    }
    return true;
  }

  Node group(size_t begin) {
    enter(begin);
    const bool outer_fold = fold_, outer_dot_all = dot_all_;
    bool ahead = false, negative = false, behind = false, atomic = false;
    if (take("?=") || (negative = take("?!"))) {
      ahead = true;
    } else if (take("?i:")) {
      fold_ = true;
    } else if (oniguruma() && (take("?<=") || (negative = take("?<!")))) {
      behind = true;
    } else if (oniguruma() && take("?>")) {
      atomic = true;
    } else if (oniguruma() && next_is("?<") && name()) {
    } else if (oniguruma() && next_is("?") && options(0, ':')) {
    } else if (!take("?:") && peek() == '?') {
      while (!done() && peek() != ')' && at_ - begin < 4) ++at_;
      refuse("the group " + taken(begin), begin);
    } else if (peek() == '*') {
      refuse("the group '(*'", begin);
    }
    Node node = alternates();
    if (!take(")")) refuse("'(' without ')'", begin);
    fold_ = outer_fold;
    dot_all_ = outer_dot_all;
    --depth_;
    if (atomic) return part_node(Node::kAtomic, std::move(node));
    if (behind) {
      const auto [least, most] = lengths_of(node);
      if (most > kMaxBehind) refuse("a lookbehind of unlimited or great length, " + taken(begin) + ",", begin);
      Node look = part_node(Node::kBehind, std::move(node), negative);
      look.least = least;
      look.most = most;
      return look;
    }
    if (!ahead) return node;
    CodeSet set;
    if (only_sets(node, set)) return look_node(std::move(set), negative);
    if (!oniguruma()) refuse("a lookahead of more than one character, " + taken(begin) + ",", begin);
    return part_node(Node::kAhead, std::move(node), negative);
  }

  // Reads the name of a group, which is not used.
  bool name() {
    size_t i = 2;
    while (peek(i) == '_' || (peek(i) >= '0' && peek(i) <= '9') || ((peek(i) | 0x20) >= 'a' && (peek(i) | 0x20) <= 'z'))
      ++i;
    if (i == 2 || peek(i) != '>') return false;
    at_ += i + 1;
    return true;
  }

  // Reads options such as ?im-im up to `last`, from `skipped` characters on; the group around them ends their effect.
  bool options(size_t skipped, char last) {
    size_t i = skipped + 1;
    bool on = true, fold = fold_, dot_all = dot_all_;
    for (; peek(i) == 'i' || peek(i) == 'm' || peek(i) == '-'; ++i) {
      if (peek(i) == '-') on = false;
      if (peek(i) == 'i') fold = on;
      if (peek(i) == 'm') dot_all = on;
    }
    if (i == skipped + 1 || peek(i) != static_cast<uint8_t>(last)) return false;
    at_ += i + 1;
    fold_ = fold;
    dot_all_ = dot_all;
    return true;
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
};

}  // namespace

RegexNode parse_regex(std::string_view pattern, Dialect dialect) { return Parser(pattern, dialect).parse(); }

}  // namespace llmcore::tok
