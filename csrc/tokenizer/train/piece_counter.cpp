#include "tokenizer/train/piece_counter.h"

#include <cstring>
#include <stdexcept>
#include <utility>

#include "tokenizer/containers/hash.h"

namespace llmcore::tok {
namespace {

std::vector<Special> without_ids(std::vector<std::string> texts) {
  std::vector<Special> specials;
  for (std::string& text : texts) specials.push_back({std::move(text), 0});
  return specials;
}

}  // namespace

void PieceTable::add(const uint8_t* piece, size_t n, uint64_t hash, int64_t count) {
  const size_t mask = slots_.size() - 1;
  const uint64_t tag = hash >> 32 << 32;
  size_t slot = hash & mask;
  for (; slots_[slot] != 0; slot = (slot + 1) & mask) {
    if ((slots_[slot] ^ tag) >> 32 != 0) continue;
    Piece& known = pieces_[static_cast<uint32_t>(slots_[slot]) - 1];
    if (known.size == n && std::memcmp(arena_.data() + known.begin, piece, n) == 0) {
      known.count += count;
      return;
    }
  }
  if (n >= 0xFFFFFFFFull) throw std::invalid_argument("[train] expected pieces of less than 4 GiB");
  if (pieces_.size() >= 0xFFFFFFFEull) throw std::invalid_argument("[train] expected fewer than 2^32 distinct pieces");
  slots_[slot] = tag | (pieces_.size() + 1);
  pieces_.push_back({arena_.size(), count, static_cast<uint32_t>(n)});
  arena_.insert(arena_.end(), piece, piece + n);
  if (pieces_.size() * 4 > slots_.size() * 3) grow();
}

void PieceTable::grow() {
  std::vector<Slot> slots(slots_.size() * 2, 0);
  const size_t mask = slots.size() - 1;
  // The slots keep only half of the hash, and not the half needed here.
  for (size_t index = 0; index < pieces_.size(); ++index) {
    const uint64_t hash = hash_bytes(arena_.data() + pieces_[index].begin, pieces_[index].size);
    size_t slot = hash & mask;
    while (slots[slot] != 0) slot = (slot + 1) & mask;
    slots[slot] = hash >> 32 << 32 | (index + 1);
  }
  slots_.swap(slots);
}

// The short pieces that one thread counted most recently: they cover nearly all of a text without a lookup in the
// shared tables.
struct PieceCounter::Recent {
  static constexpr size_t kMaxBytes = 15;  // of a piece
  static constexpr size_t kEntries = 1 << 15;
  // A piece's bytes, zero-padded, and its size in the topmost byte.
  struct Entry {
    uint64_t low, high;
    int64_t count;

    const uint8_t* bytes() const { return reinterpret_cast<const uint8_t*>(this); }
    size_t size() const { return high >> 56; }
  };
  std::vector<Entry> entries = std::vector<Entry>(kEntries, Entry{0, 0, 0});

  // `n` is 1 to kMaxBytes, and [piece, end) may be read.
  static Entry entry_for(const uint8_t* piece, size_t n, const uint8_t* end) {
    Entry entry{0, 0, 0};
    std::memcpy(&entry, piece, end - piece >= 16 ? 16 : n);
    entry.low &= n < 8 ? (1ull << 8 * n) - 1 : ~0ull;
    entry.high &= n > 8 ? (1ull << 8 * (n - 8)) - 1 : 0;
    entry.high |= static_cast<uint64_t>(n) << 56;
    return entry;
  }
  // The only place where a piece can be.
  Entry& place(const Entry& entry) { return entries[mix(entry.low ^ mix(entry.high)) & (kEntries - 1)]; }
};

PieceCounter::PieceCounter(Splitter splitter, std::vector<std::string> specials)
    : splitter_(std::move(splitter)), specials_(without_ids(std::move(specials))) {}

PieceCounter::~PieceCounter() = default;

void PieceCounter::feed(const std::vector<Text>& texts, const std::function<void(size_t)>& progress) {
  std::vector<Text> parts;
  size_t done = 0, counted = 0;
  for (Text text : texts) {
    for (size_t from = 0; from < text.size;) {
      const Specials::Match match = specials_.find(text.data, text.size, from);
      const size_t after = match.begin + (match.what ? match.what->text.size() : 0);
      Text segment{text.data + from, match.begin - from};
      for (size_t size; segment.size > 0; segment = {segment.data + size, segment.size - size}) {
        size = splitter_.ends_at_line_ends() ? safe_cut(segment) : segment.size;
        parts.push_back({segment.data, size});
        done += size;
        if (done - counted < kStretch) continue;
        count(parts);
        parts.clear();
        progress(counted = done);
      }
      done += after - match.begin;
      from = after;
    }
  }
  count(parts);
  progress(done);
}

void PieceCounter::count(const std::vector<Text>& parts) {
  work_through(parts.size(), [&](auto&& next) {
    std::unique_ptr<Recent> recent;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!idle_.empty()) {
        recent = std::move(idle_.back());
        idle_.pop_back();
      }
    }
    if (!recent) recent = std::make_unique<Recent>();
    for (size_t i; (i = next()) < parts.size();) count_part(parts[i], *recent);
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(recent));
  });
}

void PieceCounter::count_part(Text part, Recent& recent) {
  const uint8_t* end = part.data + part.size;
  splitter_.scan(part.data, end, [&](const uint8_t* piece, const uint8_t* piece_end) {
    const size_t n = static_cast<size_t>(piece_end - piece);
    if (n > Recent::kMaxBytes) return add(piece, n, 1);
    const Recent::Entry entry = Recent::entry_for(piece, n, end);
    Recent::Entry& place = recent.place(entry);
    if (place.low != entry.low || place.high != entry.high) {
      if (place.count) add(place.bytes(), place.size(), place.count);
      place = entry;
    }
    ++place.count;
  });
}

void PieceCounter::add(const uint8_t* piece, size_t n, int64_t count) {
  const uint64_t hash = hash_bytes(piece, n);
  Shared& shared = tables_[hash >> 26 & (kTables - 1)];
  std::lock_guard<std::mutex> lock(shared.mutex);
  shared.pieces.add(piece, n, hash, count);
}

void PieceCounter::flush() {
  for (const auto& recent : idle_) {
    for (Recent::Entry& entry : recent->entries) {
      if (entry.count) add(entry.bytes(), entry.size(), entry.count);
      entry.count = 0;
    }
  }
}

size_t PieceCounter::size() {
  flush();
  size_t size = 0;
  for (const Shared& shared : tables_) size += shared.pieces.size();
  return size;
}

std::vector<PieceTable> PieceCounter::take() {
  flush();
  idle_.clear();
  std::vector<PieceTable> tables;
  for (Shared& shared : tables_) tables.push_back(std::exchange(shared.pieces, PieceTable()));
  return tables;
}

}  // namespace llmcore::tok
