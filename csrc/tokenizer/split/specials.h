// Special tokens: strings that each stand for one id and are found in the text before it is cut into pieces.
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
  // What else a match includes and which matches do not count, as in Hugging Face's AddedToken.
  enum Flags : uint8_t {
    kStripsLeft = 1,   // whitespace before it
    kStripsRight = 2,  // whitespace after it
    kWord = 4,         // not next to a word character
    kNormalized = 8,   // looked for in normalized text, after those that are looked for in the text as it is
  };
  std::string text;
  uint32_t id;
  bool always = false;  // found in every text, whatever the caller allows
  uint8_t flags = 0;
};

// Part of a text.
struct Stretch {
  const uint8_t* data;
  size_t size;
};

// Finds them with the Aho-Corasick automaton (1975, https://doi.org/10.1145/360825.360855), in time linear in the text,
// however many there are.
class Specials {
 public:
  // Throws std::invalid_argument for a text that is empty, too long, or repeated.
  explicit Specials(std::vector<Special> specials);

  struct Match {
    size_t begin, end;    // including the whitespace it takes; both are the text's length if there is no match
    const Special* what;  // nullptr if there is no match
    size_t next;          // where to look for the next
  };
  // Returns the leftmost special token at or after `from`; the longest if several begin at the same byte. Everything
  // before `taken` belongs to an earlier match.
  Match find(const uint8_t* text, size_t n, size_t from, size_t taken) const;
  Match find(const uint8_t* text, size_t n, size_t from) const { return find(text, n, from, from); }

  // Calls visit(stretch, special, begin) for each stretch of other text and the special token after it, which begins at
  // `begin` (with nullptr at the end).
  template <class Visit>
  void each(Stretch text, Visit&& visit) const {
    for (size_t from = 0, taken = 0;;) {
      const Match match = find(text.data, text.size, from, taken);
      // If a match begins with whitespace that the previous one took, nothing lies between them, and what follows it is
      // text again, as in Hugging Face's tokenizers.
      const size_t end = match.begin > taken ? match.begin : taken;
      visit(Stretch{text.data + taken, end - taken}, match.what, text.data + match.begin);
      if (!match.what) return;
      from = match.next;
      taken = match.end;
    }
  }

  // Returns the special token with exactly this spelling, or nullptr.
  const Special* named(const std::string& text) const;

  const std::vector<Special>& all() const { return specials_; }

 private:
  static constexpr uint32_t kRoot = 0, kNone = UINT32_MAX;

  // A state is the longest suffix of the text read so far that is a prefix of some special token.
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

// Special tokens as Hugging Face's tokenizers look for them: those of raw text first, then, in each stretch between
// them as in a text of its own, those of normalized text.
struct SpecialPhases {
  explicit SpecialPhases(const std::vector<Special>& specials);

  const Special* named(const std::string& text) const {
    const Special* found = raw.named(text);
    return found ? found : normalized.named(text);
  }

  Specials raw, normalized;
};

}  // namespace llmcore::tok
