// Runs an expression that an automaton cannot, by backtracking. No place of the text is tried twice from the same
// instruction, so a match takes time linear in the characters examined, times those that its looks ahead examine.
#pragma once
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "tokenizer/split/regex_program.h"

namespace llmcore::tok {

class Backtracker {
 public:
  explicit Backtracker(std::shared_ptr<const RegexProgram> program);

  // Returns the end of the match that begins at p, or nullptr. begin: where the text does.
  const uint8_t* match(const uint8_t* begin, const uint8_t* p, const uint8_t* end) const;

 private:
  struct Text {
    const uint8_t *begin, *end;
    // Where the instructions that a look or an atomic group runs apart end, by instruction and place.
    std::unordered_map<uint64_t, const uint8_t*>& known;
  };

  // must_end: where a match has to end, or nullptr.
  const uint8_t* run(uint32_t start, Text text, const uint8_t* p, const uint8_t* must_end) const;
  const uint8_t* run_apart(uint32_t at, Text text, const uint8_t* p) const;
  bool precedes(const RegexInstruction& look, Text text, const uint8_t* p) const;
  bool contains(uint32_t set, uint32_t code) const {
    return code < 128 ? ascii_[set][code] : program_->sets[set].contains(code);
  }

  std::shared_ptr<const RegexProgram> program_;
  std::vector<std::bitset<128>> ascii_;  // what a set contains of it
};

}  // namespace llmcore::tok
