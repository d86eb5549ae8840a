// The distinct pieces of a corpus and how often each occurs: all that training needs to keep of a text.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tokenizer/split/specials.h"
#include "tokenizer/split/splitter.h"
#include "tokenizer/split/text_parts.h"

namespace llmcore::tok {

// Pieces by their bytes, in an open-addressing table.
class PieceTable {
 public:
  PieceTable() : slots_(64, 0) {}

  void add(const uint8_t* piece, size_t n, uint64_t hash, int64_t count);
  size_t size() const { return pieces_.size(); }
  size_t bytes() const { return arena_.size(); }

  // Calls visit(bytes, size, count) for each piece.
  template <class Visit>
  void each(Visit&& visit) const {
    for (const Piece& piece : pieces_) visit(arena_.data() + piece.begin, piece.size, piece.count);
  }

 private:
  struct Piece {
    uint64_t begin;  // in the arena
    int64_t count;
    uint32_t size;
  };
  // Half of the hash, which tells most other pieces apart without reading them, and an index into pieces_ plus one; 0
  // is empty.
  using Slot = uint64_t;

  void grow();

  std::vector<uint8_t> arena_;
  std::vector<Piece> pieces_;
  std::vector<Slot> slots_;
};

class PieceCounter {
 public:
  // Occurrences of `specials` are cut out of the text: they are tokens already, and pieces never span them.
  PieceCounter(Splitter splitter, std::vector<std::string> specials);
  ~PieceCounter();

  // Counts the pieces of some texts, on the threads of the pool; texts are separate, so no piece spans two.
  // progress(bytes done) is called now and then and at the end, and may throw to stop.
  void feed(const std::vector<Text>& texts, const std::function<void(size_t)>& progress);

  const Splitter& splitter() const { return splitter_; }
  // Returns the number of distinct pieces.
  size_t size();
  // Returns the pieces in the order of their hashes, which is not to be relied on. The counter is empty afterwards.
  std::vector<PieceTable> take();

 private:
  struct Recent;
  // Enough that threads seldom compete for one.
  static constexpr size_t kTables = 64;
  struct Shared {
    std::mutex mutex;
    PieceTable pieces;
  };

  static constexpr size_t kStretch = 1 << 25;  // bytes between two calls of progress

  void count(const std::vector<Text>& parts);
  void count_part(Text part, Recent& recent);
  void add(const uint8_t* piece, size_t n, int64_t count);
  void flush();

  Splitter splitter_;
  Specials specials_;
  std::array<Shared, kTables> tables_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Recent>> idle_;
};

}  // namespace llmcore::tok
