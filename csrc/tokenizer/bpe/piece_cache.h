// A bounded cache from pieces to their ids. Almost every piece of real text has been seen before, so this is where an
// encoder's time goes. One thread at a time uses a cache; a CachePool lends them out.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "tokenizer/bpe/merge.h"
#include "tokenizer/containers/hash.h"
#include "tokenizer/containers/huge_vector.h"

namespace llmcore::tok {

// Masks for the bytes of a 16-byte key that a piece of n bytes fills.
struct KeyMasks {
  uint64_t low[16], high[16];
  constexpr KeyMasks() : low{}, high{} {
    for (int n = 0; n < 16; ++n) {
      low[n] = n < 8 ? (1ull << 8 * n) - 1 : ~0ull;
      high[n] = n > 8 ? (1ull << 8 * (n - 8)) - 1 : 0;
    }
  }
};
inline constexpr KeyMasks kKeyMasks{};

class PieceCache {
 public:
  static constexpr size_t kMaxShort = 15;  // bytes of a piece that fits in its key
  static constexpr size_t kMaxLong = 255;  // longer ones are not kept
  static constexpr size_t kMaxIds = 4;     // in an entry; longer lists are in the store

  // A short piece: its bytes, zero-padded, and its length in bits 56 to 59 of `high`. A long one: a hash, and its
  // length in the low bits. Never all zero, which marks an empty entry.
  struct Key {
    uint64_t low, high;
    size_t short_size() const { return high >> 56; }  // 0 for a long piece
  };
  // The key with the number of ids in its topmost bits (0: long), and the ids or their place in the store.
  struct Entry {
    Key key;
    uint32_t ids[kMaxIds];

    bool empty() const { return (key.low | key.high) == 0; }
    bool is(const Key& other) const { return ((key.low ^ other.low) | (key.high ^ other.high) << 4) == 0; }
    size_t count() const { return key.high >> kCountShift; }
  };

  PieceCache() : entries_(kLeastEntries), mask_(kLeastEntries - 2) {}

  // `n` is 1 to kMaxShort, and [piece, end) may be read.
  static Key short_key(const uint8_t* piece, size_t n, const uint8_t* end) {
    Key key{0, 0};
    if (end - piece >= 16) {
      std::memcpy(&key, piece, 16);
      key.low &= kKeyMasks.low[n];
      key.high &= kKeyMasks.high[n];
    } else {
      std::memcpy(&key, piece, n);
    }
    key.high |= static_cast<uint64_t>(n) << 56;
    return key;
  }
  // `n` is above kMaxShort; pieces longer than kMaxLong are not looked up.
  static Key long_key(const uint8_t* piece, size_t n) { return {hash_bytes(piece, n < kMaxLong ? n : kMaxLong), n}; }

  // Where to look for a key first.
  static uint32_t hash(const Key& key) {
    const auto product =
        static_cast<unsigned __int128>(key.low ^ 0x9E3779B97F4A7C15ull) * (key.high ^ 0xC2B2AE3D27D4EB4Full);
    return static_cast<uint32_t>(product) ^ static_cast<uint32_t>(product >> 64);
  }
  void prefetch(uint32_t hash) const { __builtin_prefetch(&entries_[hash & mask_]); }

  // Returns the entry of a piece, or nullptr. For a long piece only the hash is known to match; is_long() tells whether
  // the entry is the piece's.
  const Entry* find(uint32_t hash, const Key& key) const {
    size_t slot = hash & mask_;
    for (int tries = 0; tries < kReach; ++tries, slot = (slot + 2) & mask_) {
      const Entry* pair = &entries_[slot];
      const bool second = pair[1].is(key);
      if (second | pair[0].is(key)) return pair + second;
      if (pair[1].empty()) break;
    }
    return nullptr;
  }

  // Returns the ids of an entry that has more than kMaxIds.
  const uint32_t* stored_ids(const Entry& entry) const { return store_.data() + entry.ids[0]; }
  // Whether this is the entry of the long piece; if so, its long_count() ids are at stored_ids().
  bool is_long(const Entry& entry, const uint8_t* piece, size_t n) const {
    return std::memcmp(stored_ids(entry) + entry.ids[1], piece, n) == 0;
  }
  static size_t long_count(const Entry& entry) { return entry.ids[1]; }

  // Adds a piece that find() did not find. `piece` may be nullptr if it is short. A short piece is kept only if it has
  // at most kMaxShort ids: a space that falls back to the three bytes of U+2581 can give it more.
  void insert(uint32_t hash, const Key& key, const uint8_t* piece, const uint32_t* ids, size_t count) {
    if (key.short_size() > 0 && count > kMaxShort) return;
    Entry entry{key, {0, 0, 0, 0}};
    if (key.short_size() == 0) {
      entry.ids[1] = static_cast<uint32_t>(count);
      entry.ids[0] = store(ids, count, piece, key.high);
    } else {
      entry.key.high |= static_cast<uint64_t>(count) << kCountShift;
      if (count <= kMaxIds) {
        std::memcpy(entry.ids, ids, count * sizeof(uint32_t));
      } else {
        entry.ids[0] = store(ids, count, nullptr, 0);
      }
    }
    if (used_ * 2 >= entries_.size() && entries_.size() < kMostEntries) grow();
    place(hash, entry);
  }

  MergeScratch scratch;

 private:
  static constexpr size_t kLeastEntries = 1 << 12;  // 128 KiB
  static constexpr size_t kMostEntries = 1 << 19;   // 16 MiB
  static constexpr size_t kMostStored = 1 << 21;    // 8 MiB
  static constexpr int kReach = 4;                  // pairs that a piece may be in: a bound for texts made to collide
  static constexpr int kCountShift = 60;

  // Pairs fill from their first entry on. A piece that finds its pair full tries the next one; if all within reach are
  // full, it replaces the last entry of its own pair, since pieces seen early are the frequent ones.
  void place(uint32_t hash, const Entry& entry) {
    size_t slot = hash & mask_;
    for (int tries = 0; tries < kReach; ++tries, slot = (slot + 2) & mask_) {
      for (size_t i : {slot, slot + 1}) {
        if (!entries_[i].empty()) continue;
        entries_[i] = entry;
        ++used_;
        return;
      }
    }
    entries_[(hash & mask_) + 1] = entry;
  }

  void grow() {
    HugeVector<Entry> old(std::min(entries_.size() * 4, kMostEntries));
    old.swap(entries_);
    mask_ = entries_.size() - 2;
    used_ = 0;
    for (const Entry& entry : old) {
      if (entry.empty()) continue;
      Key key = entry.key;
      key.high = key.high << 4 >> 4;
      place(hash(key), entry);
    }
  }

  uint32_t store(const uint32_t* ids, size_t count, const uint8_t* bytes, size_t n) {
    if (store_.size() + count + kMaxLong > kMostStored) {  // clearing everything is the simplest bound, and it is rare
      std::fill(entries_.begin(), entries_.end(), Entry{});
      store_.clear();
      used_ = 0;
    }
    const size_t at = store_.size();
    store_.insert(store_.end(), ids, ids + count);
    store_.resize(store_.size() + (n + 3) / 4);
    if (n > 0) std::memcpy(&store_[at + count], bytes, n);
    return static_cast<uint32_t>(at);
  }

  HugeVector<Entry> entries_;  // pairs of 64 bytes, a cache line
  size_t mask_;                // for the index of a pair's first entry
  size_t used_ = 0;
  std::vector<uint32_t> store_;
};

// Lends caches to threads. A borrower never waits: if another thread is using the pool (possibly one that did not
// survive a fork), it gets a new cache.
class CachePool {
 public:
  class Loan {
   public:
    explicit Loan(CachePool& pool) : pool_(pool) {
      const auto lock = pool_.lock();
      if (lock && !pool_.idle_.empty()) {
        cache_ = std::move(pool_.idle_.back());
        pool_.idle_.pop_back();
      } else {
        cache_ = std::make_unique<PieceCache>();
      }
    }
    ~Loan() {
      const auto lock = pool_.lock();
      if (lock && pool_.idle_.size() < kMaxIdle) pool_.idle_.push_back(std::move(cache_));
    }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    PieceCache& operator*() { return *cache_; }

   private:
    CachePool& pool_;
    std::unique_ptr<PieceCache> cache_;
  };

  CachePool() { idle_.reserve(kMaxIdle); }

 private:
  static constexpr size_t kMaxIdle = 64;

  std::unique_lock<std::mutex> lock() {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    for (int tries = 0; tries < 1000 && !lock; ++tries) lock.try_lock();
    return lock;
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<PieceCache>> idle_;
};

}  // namespace llmcore::tok
