#include "tokenizer/split/backtracker.h"

#include <algorithm>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {
namespace {

// Fewer than 2^13 instructions.
uint64_t key_of(uint32_t instruction, size_t place) { return static_cast<uint64_t>(place) << 16 | instruction; }

// What was tried already: few places in nearly every match.
class Tried {
 public:
  // Returns false if the pair is there already.
  bool insert(uint32_t instruction, size_t place) {
    const uint64_t key = key_of(instruction, place);
    if (!many_.empty()) return many_.insert(key).second;
    if (std::find(few_.begin(), few_.end(), key) != few_.end()) return false;
    few_.push_back(key);
    if (few_.size() > kFew) many_.insert(few_.begin(), few_.end());
    return true;
  }

 private:
  static constexpr size_t kFew = 24;
  std::vector<uint64_t> few_;
  std::unordered_set<uint64_t> many_;
};

}  // namespace

Backtracker::Backtracker(std::shared_ptr<const RegexProgram> program) : program_(std::move(program)) {
  for (const CodeSet& set : program_->sets) {
    ascii_.emplace_back();
    for (uint32_t code = 0; code < 128; ++code) ascii_.back()[code] = set.contains(code);
  }
}

const uint8_t* Backtracker::match(const uint8_t* begin, const uint8_t* p, const uint8_t* end) const {
  std::unordered_map<uint64_t, const uint8_t*> known;
  return run(program_->start, {begin, end, known}, p, nullptr);
}

const uint8_t* Backtracker::run(uint32_t start, Text text, const uint8_t* p, const uint8_t* must_end) const {
  using Op = RegexInstruction::Op;
  std::vector<std::pair<uint32_t, const uint8_t*>> waiting;  // alternatives, the one to be tried next last
  Tried tried;
  uint32_t at = start;
  const auto fail = [&] {
    if (waiting.empty()) return false;
    std::tie(at, p) = waiting.back();
    waiting.pop_back();
    return true;
  };
  for (;;) {
    const RegexInstruction& now = program_->code[at];
    bool good = true;
    switch (now.op) {
      case Op::kMatch:
        if (!must_end || p == must_end) return p;
        good = false;
        break;
      case Op::kSet:
      case Op::kLook: {
        const CodePoint c = p < text.end ? code_at(p, text.end) : CodePoint{0, 0};
        good = (c.length > 0 && contains(now.set, c.code)) != now.negative;
        if (good && now.op == Op::kSet) p += c.length;
        break;
      }
      case Op::kSplit:
        good = tried.insert(at, static_cast<size_t>(p - text.begin));
        if (good) waiting.emplace_back(now.other, p);
        break;
      case Op::kAhead:
        good = (run_apart(at, text, p) != nullptr) != now.negative;
        break;
      case Op::kBehind:
        good = (run_apart(at, text, p) != nullptr) != now.negative;
        break;
      case Op::kAtomic: {
        const uint8_t* matched = run_apart(at, text, p);
        good = matched != nullptr;
        if (good) p = matched;
        break;
      }
    }
    if (good) {
      at = now.next;
    } else if (!fail()) {
      return nullptr;
    }
  }
}

const uint8_t* Backtracker::run_apart(uint32_t at, Text text, const uint8_t* p) const {
  const uint64_t key = key_of(at, static_cast<size_t>(p - text.begin));
  const auto found = text.known.find(key);
  if (found != text.known.end()) return found->second;
  const RegexInstruction& now = program_->code[at];
  const uint8_t* end = nullptr;
  if (now.op == RegexInstruction::kBehind) {
    if (precedes(now, text, p)) end = p;
  } else {
    end = run(now.other, text, p, nullptr);
  }
  return text.known[key] = end;
}

bool Backtracker::precedes(const RegexInstruction& look, Text text, const uint8_t* p) const {
  const uint8_t* from = p;
  for (uint32_t length = 0;; ++length) {
    if (length >= look.least && run(look.other, text, from, p)) return true;
    if (length == look.most || from == text.begin) return false;
    from -= code_before(text.begin, from).length;
  }
}

}  // namespace llmcore::tok
