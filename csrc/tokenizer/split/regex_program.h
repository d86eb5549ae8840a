// An expression as instructions for a machine of many threads, each at one instruction, in order of priority.
#pragma once
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "tokenizer/split/regex_parser.h"

namespace llmcore::tok {

class TooLarge : public std::invalid_argument {
 public:
  TooLarge(const char* what, size_t limit)
      : std::invalid_argument(std::string("[tokenizer] expected a regular expression that needs at most ") +
                              std::to_string(limit) + " " + what + ", got one that needs more") {}
};

struct RegexInstruction {
  // kAhead, kBehind and kAtomic run the instructions at `other` up to a kMatch of their own.
  enum Op { kSet, kLook, kSplit, kMatch, kAhead, kBehind, kAtomic } op;
  uint32_t set = 0;  // for kSet and kLook
  bool negative = false;
  uint32_t next = 0, other = 0;  // kSplit tries `next` first
  uint32_t least = 0, most = 0;  // how many characters kBehind looks back
};

struct RegexProgram {
  using Instruction = RegexInstruction;

  explicit RegexProgram(const RegexNode& node);

  std::vector<Instruction> code;
  std::vector<CodeSet> sets;
  uint32_t start;
  bool backtracks = false;  // whether an automaton cannot run it

 private:
  uint32_t add(Instruction instruction);
  uint32_t set_number(const CodeSet& set);
  uint32_t add_split(bool greedy, uint32_t body, uint32_t skip);
  uint32_t emit(const RegexNode& node, uint32_t next);
  uint32_t emit_repeat(const RegexNode& node, uint32_t next);
  uint32_t emit_apart(Instruction::Op op, const RegexNode& node, uint32_t next);

  std::map<CodeSet, uint32_t> numbers_;
  size_t emitted_ = 0;
};

}  // namespace llmcore::tok
