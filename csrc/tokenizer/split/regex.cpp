#include "tokenizer/split/regex.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>

#include "tokenizer/split/regex_program.h"

namespace llmcore::tok {
namespace {

constexpr size_t kMaxKinds = 255;
constexpr size_t kMaxStates = 1 << 13;
constexpr size_t kMaxWork = 1 << 24;  // instructions visited while the automaton is built

// A state of the automaton: the instructions at which threads wait for the next character, by priority. A lookahead
// examines that same character, so passing lookaheads and finding matches happen as it is read.
class Builder {
 public:
  // members[set][kind]: whether characters of the kind are in the set; the last kind, the text's end, is in none.
  Builder(const RegexProgram& program, const std::vector<std::vector<char>>& members, uint32_t num_kinds)
      : program_(program), members_(members), seen_(program.code.size(), 0), queued_(seen_) {
    number_of({});  // kDead
    number_of({program.start});
    for (uint32_t state = 0; state < states_.size(); ++state) {
      for (uint32_t kind = 0; kind < num_kinds; ++kind) steps.push_back(step(states_[state]->first, kind));
    }
  }

  std::vector<uint32_t> steps;

 private:
  using State = std::vector<uint32_t>;

  uint32_t number_of(State state) {
    const auto [entry, fresh] = numbers_.emplace(std::move(state), static_cast<uint32_t>(states_.size()));
    if (fresh) {
      if (states_.size() == kMaxStates) throw TooLarge("states", kMaxStates);
      states_.push_back(&*entry);
    }
    return entry->second;
  }

  uint32_t step(const State& state, uint32_t kind) {
    ++generation_;
    State next;
    for (uint32_t thread : state) {
      stack_.push_back(thread);
      while (!stack_.empty()) {
        const uint32_t at = stack_.back();
        stack_.pop_back();
        if (seen_[at] == generation_) continue;
        seen_[at] = generation_;
        if (++work_ == kMaxWork) throw TooLarge("steps to build", kMaxWork);
        const RegexInstruction& instruction = program_.code[at];
        switch (instruction.op) {
          case RegexInstruction::kMatch:  // threads of lower priority no longer count
            stack_.clear();
            return number_of(std::move(next)) << 1 | 1;
          case RegexInstruction::kSplit:
            stack_.push_back(instruction.other);
            stack_.push_back(instruction.next);
            break;
          case RegexInstruction::kLook:
            if (members_[instruction.set][kind] != instruction.negative) stack_.push_back(instruction.next);
            break;
          case RegexInstruction::kSet:
            if (!members_[instruction.set][kind] || queued_[instruction.next] == generation_) break;
            queued_[instruction.next] = generation_;
            next.push_back(instruction.next);
            break;
          default:  // no automaton is built for the others
            break;
        }
      }
    }
    return number_of(std::move(next)) << 1;
  }

  const RegexProgram& program_;
  const std::vector<std::vector<char>>& members_;
  std::map<State, uint32_t> numbers_;
  std::vector<const std::pair<const State, uint32_t>*> states_;
  std::vector<uint32_t> seen_, queued_;  // generations in which an instruction was last visited, put in `next`
  std::vector<uint32_t> stack_;
  uint32_t generation_ = 0;
  size_t work_ = 0;
};

}  // namespace

Regex::Regex(std::string_view pattern, Dialect dialect) {
  auto program = std::make_shared<const RegexProgram>(parse_regex(pattern, dialect));
  const bool common = dialect == Dialect::kCommon;
  try {
    if (program->backtracks || !build(*program, common)) backtracker_ = std::make_shared<const Backtracker>(program);
  } catch (const TooLarge&) {
    if (common) throw;
    backtracker_ = std::make_shared<const Backtracker>(program);
  }
}

// Returns whether every match has at least one character, which an automaton needs.
bool Regex::build(const RegexProgram& program, bool common) {
  std::vector<std::vector<uint32_t>> bounds;
  for (const CodeSet& set : program.sets) bounds.push_back(set.bounds());
  sort_into_kinds(bounds);
  std::vector<std::vector<char>> members;
  for (const CodeSet& set : program.sets) {
    members.emplace_back();
    for (uint32_t code : kind_samples_) members.back().push_back(set.contains(code));
    members.back().push_back(false);
  }
  steps_ = Builder(program, members, stride_).steps;
  for (uint32_t kind = 0; kind < stride_; ++kind) {
    if (!(next(kStart, kind) & kMatched)) continue;
    if (!common) return false;
    throw std::invalid_argument(
        "[tokenizer] expected a regular expression that matches at least one character, got one that can match "
        "the empty string");
  }
  return true;
}

// All code points between two neighbouring bounds are in the same sets.
void Regex::sort_into_kinds(const std::vector<std::vector<uint32_t>>& bounds) {
  std::vector<std::pair<uint32_t, uint32_t>> changes;  // (code point, set) where membership changes
  for (uint32_t set = 0; set < bounds.size(); ++set) {
    for (uint32_t bound : bounds[set]) changes.emplace_back(bound, set);
  }
  std::sort(changes.begin(), changes.end());
  std::vector<bool> inside(bounds.size(), false);
  std::map<std::vector<bool>, uint8_t> numbers;
  std::vector<uint8_t> kind_of(((kIllFormedCode >> 8) + 1) * 256, 0);
  uint32_t code = 0;
  for (size_t i = 0; code <= kIllFormedCode;) {
    for (; i < changes.size() && changes[i].first == code; ++i) inside[changes[i].second] = !inside[changes[i].second];
    const uint32_t until = i < changes.size() ? changes[i].first : kIllFormedCode + 1;
    const auto [entry, fresh] = numbers.emplace(inside, static_cast<uint8_t>(kind_samples_.size()));
    if (fresh) kind_samples_.push_back(code);
    if (kind_samples_.size() > kMaxKinds) throw TooLarge("kinds of characters", kMaxKinds);
    std::fill(kind_of.begin() + code, kind_of.begin() + until, entry->second);
    code = until;
  }
  end_kind_ = static_cast<uint32_t>(kind_samples_.size());
  stride_ = end_kind_ + 1;
  std::map<std::vector<uint8_t>, uint16_t> pages;
  for (size_t page = 0; page < kind_of.size(); page += 256) {
    const std::vector<uint8_t> kinds(kind_of.begin() + static_cast<std::ptrdiff_t>(page),
                                     kind_of.begin() + static_cast<std::ptrdiff_t>(page + 256));
    const auto [entry, fresh] = pages.emplace(kinds, static_cast<uint16_t>(pages.size()));
    if (fresh) kinds_.insert(kinds_.end(), kinds.begin(), kinds.end());
    pages_.push_back(entry->second);
  }
}

bool Regex::ends_at_line_ends() const {
  if (backtracker_) return false;
  // Whether a match that has just taken the line end must stop there, and a match that has not taken it cannot stop.
  const auto ends = [&](uint32_t state) {
    if (state == kDead) return true;
    for (int c = 0; c < 128; ++c) {
      const bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      if (word && next(state, kind(static_cast<uint32_t>(c))) != (kDead << 1 | kMatched)) return false;
    }
    return (next(state, end_kind_) & kMatched) != 0;
  };
  const uint32_t line_end = kind('\n');
  const uint32_t fresh = next(kStart, line_end) >> 1;
  if (fresh == kDead || !ends(fresh)) return false;
  const size_t num_states = steps_.size() / stride_;
  for (uint32_t state = kStart; state < num_states; ++state) {
    for (uint32_t c = '!'; c <= '~'; ++c) {
      if (!ends(next(next(state, kind(c)) >> 1, line_end) >> 1)) return false;
    }
  }
  return true;
}

}  // namespace llmcore::tok
