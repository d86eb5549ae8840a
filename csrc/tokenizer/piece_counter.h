// The distinct pieces of a corpus and how often each occurs: all that training needs to keep of a text.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tokenizer/specials.h"
#include "tokenizer/splitter.h"

namespace llmcore::tok {

struct Piece {
  uint64_t begin;  // in the arena
  uint32_t size;
  int64_t count;
};

class PieceCounter {
 public:
  // Occurrences of `specials` are cut out of the text: they are tokens already, and pieces never span them.
  PieceCounter(Splitter splitter, std::vector<std::string> specials);

  // Counts the pieces of one text; texts are separate, so no piece spans two.
  void feed(const uint8_t* text, size_t n);

  // In order of first occurrence, so that nothing depends on hash values.
  const std::vector<Piece>& pieces() const { return pieces_; }
  const uint8_t* bytes(const Piece& piece) const { return arena_.data() + piece.begin; }

 private:
  void count_segment(const uint8_t* text, size_t n);
  void count(const uint8_t* piece, size_t n);
  void grow();

  Splitter splitter_;
  Specials specials_;
  std::vector<uint8_t> arena_;
  std::vector<Piece> pieces_;
  std::vector<uint64_t> hashes_;  // of pieces_
  std::vector<uint32_t> slots_;   // index into pieces_ plus one; 0 is empty
};

}  // namespace llmcore::tok
