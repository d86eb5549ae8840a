// Special tokens: strings that stand for one id each and are found in text before it is cut into pieces.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "tokenizer/containers/pair_table.h"

namespace llmcore::tok {

struct Special {
  // What else belongs to a match, and which matches do not count, as Hugging Face's AddedToken has it.
  enum Flags : uint8_t {
    kStripsLeft = 1,   // whitespace before it
    kStripsRight = 2,  // whitespace behind it
    kWord = 4,         // not beside a character of a word
  };
  std::string text;
  uint32_t id;
  bool always = false;  // found in every text, whatever the caller allows
  uint8_t flags = 0;
};

// Finds them with the automaton of Aho and Corasick (1975, https://doi.org/10.1145/360825.360855): in time linear in
// the text, however many there are.
class Specials {
 public:
  // Throws std::invalid_argument for a text that is empty, too long, or there twice.
  explicit Specials(std::vector<Special> specials);

  struct Match {
    size_t begin, end;    // with the whitespace that it takes; == the text's length if there is none
    const Special* what;  // nullptr if there is none
    size_t next;          // where to look for the next
  };
  // The leftmost special token at or after `from`; the longest, where several begin at the same byte. What lies before
  // `taken` belongs to an earlier match.
  Match find(const uint8_t* text, size_t n, size_t from, size_t taken) const;
  Match find(const uint8_t* text, size_t n, size_t from) const { return find(text, n, from, from); }

  // The special token spelled exactly so, or nullptr.
  const Special* named(const std::string& text) const;

  const std::vector<Special>& all() const { return specials_; }

 private:
  static constexpr uint32_t kRoot = 0, kNone = UINT32_MAX;

  // A state is what was read last, as far as some special token begins so.
  struct State {
    uint32_t size;     // of what was read
    uint32_t shorter;  // the state that is its longest proper suffix
    uint32_t found;    // the longest special token that it ends with, an index into specials_, or kNone
  };

  struct Spelled {
    size_t begin;
    const Special* what;
  };
  Spelled spelled(const uint8_t* text, size_t n, size_t from) const;
  uint32_t step(uint32_t state, uint8_t byte) const;
  const uint8_t* first_byte(const uint8_t* p, const uint8_t* end) const;

  std::vector<Special> specials_;
  std::unordered_map<std::string, uint32_t> index_;  // by text, into specials_
  std::vector<State> states_;
  PairTable steps_;  // (state, byte) -> the state with the byte added
  std::array<bool, 256> begins_{};
  int only_begin_ = -1;  // the common case, "<": found with memchr
};

}  // namespace llmcore::tok
