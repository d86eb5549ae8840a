#include "tokenizer/piece_counter.h"

#include <cstring>
#include <stdexcept>

#include "tokenizer/hash.h"

namespace llmcore::tok {
namespace {

std::vector<Special> without_ids(std::vector<std::string> texts) {
  std::vector<Special> specials;
  for (std::string& text : texts) specials.push_back({std::move(text), 0});
  return specials;
}

}  // namespace

PieceCounter::PieceCounter(Splitter splitter, std::vector<std::string> specials)
    : splitter_(std::move(splitter)), specials_(without_ids(std::move(specials))), slots_(1 << 12, 0) {}

void PieceCounter::feed(const uint8_t* text, size_t n) {
  size_t from = 0;
  while (from < n) {
    const Specials::Match match = specials_.find(text, n, from);
    count_segment(text + from, match.begin - from);
    from = match.begin + (match.what ? match.what->text.size() : 0);
  }
}

void PieceCounter::count_segment(const uint8_t* text, size_t n) {
  splitter_.scan(text, text + n,
                 [this](const uint8_t* piece, const uint8_t* end) { count(piece, static_cast<size_t>(end - piece)); });
}

void PieceCounter::count(const uint8_t* piece, size_t n) {
  if (n >= 0xFFFFFFFFull) throw std::invalid_argument("[train] expected pieces of less than 4 GiB");
  const uint64_t hash = hash_bytes(piece, n);
  const size_t mask = slots_.size() - 1;
  size_t slot = hash & mask;
  for (; slots_[slot] != 0; slot = (slot + 1) & mask) {
    const uint32_t index = slots_[slot] - 1;
    Piece& known = pieces_[index];
    if (hashes_[index] == hash && known.size == n && std::memcmp(bytes(known), piece, n) == 0) {
      ++known.count;
      return;
    }
  }
  if (pieces_.size() >= 0xFFFFFFFEull) throw std::invalid_argument("[train] expected fewer than 2^32 distinct pieces");
  slots_[slot] = static_cast<uint32_t>(pieces_.size() + 1);
  pieces_.push_back({arena_.size(), static_cast<uint32_t>(n), 1});
  hashes_.push_back(hash);
  arena_.insert(arena_.end(), piece, piece + n);
  if (pieces_.size() * 2 > slots_.size()) grow();
}

void PieceCounter::grow() {
  slots_.assign(slots_.size() * 2, 0);
  const size_t mask = slots_.size() - 1;
  for (uint32_t index = 0; index < hashes_.size(); ++index) {
    size_t slot = hashes_[index] & mask;
    while (slots_[slot] != 0) slot = (slot + 1) & mask;
    slots_[slot] = index + 1;
  }
}

}  // namespace llmcore::tok
