// Special tokens: strings that stand for one id each and are found in text before it is cut into pieces.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace llmcore::tok {

struct Special {
  std::string text;
  uint32_t id;
  bool always = false;  // found in every text, whatever the caller allows
};

class Specials {
 public:
  // Throws std::invalid_argument for an empty text or one that occurs twice.
  explicit Specials(std::vector<Special> specials);

  struct Match {
    size_t begin;         // == the text's length if there is none
    const Special* what;  // nullptr if there is none
  };
  // The leftmost special token at or after `from`; the longest, where several begin at the same byte.
  Match find(const uint8_t* text, size_t n, size_t from) const;

  // The special token spelled exactly so, or nullptr.
  const Special* named(const std::string& text) const;

  const std::vector<Special>& all() const { return specials_; }

 private:
  std::vector<Special> specials_;
  std::array<std::vector<uint32_t>, 256> by_first_byte_;  // indices into specials_, longest text first
  int only_first_byte_ = -1;                              // the common case, "<": found with memchr
};

}  // namespace llmcore::tok
