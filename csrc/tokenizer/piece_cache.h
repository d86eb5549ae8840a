// A bounded cache from short pieces to their ids. Almost every piece of real text has been seen before, so this is
// where an encoder's time goes. One thread at a time uses a cache; a CachePool lends them out.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "tokenizer/huge_vector.h"
#include "tokenizer/merge.h"

namespace llmcore::tok {

class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 15;  // of a piece
  static constexpr size_t kMaxIds = 4;

  // A piece's bytes, zero-padded, and its length in the last byte; a length of 0 marks an empty entry.
  struct Key {
    uint64_t low, high;
  };
  // The key with the number of ids added above the length.
  struct Entry {
    Key key;
    uint32_t ids[kMaxIds];
    size_t count() const { return key.high >> kCountShift; }
  };

  PieceCache() : entries_(kEntries), long_entries_(kLongEntries) {}

  // `n` is 1 to kMaxBytes, and [piece, end) may be read.
  static Key key(const uint8_t* piece, size_t n, const uint8_t* end) {
    Key key{0, 0};
    if (end - piece >= 16) {
      std::memcpy(&key, piece, 16);
      key.low &= ~0ull >> (n < 8 ? 64 - 8 * n : 0);
      key.high &= n > 8 ? ~0ull >> (128 - 8 * n) : 0;
    } else {
      std::memcpy(&key, piece, n);
    }
    key.high |= static_cast<uint64_t>(n) << 56;
    return key;
  }

  // The first of the two neighbouring entries that a key may be in.
  static uint32_t slot(const Key& key) {
    const uint64_t hash = (key.low ^ (key.high * 0xC2B2AE3D27D4EB4Full)) * 0x9E3779B97F4A7C15ull;
    return (hash >> 40) & (kEntries - 2);
  }
  void prefetch(uint32_t slot) const { __builtin_prefetch(&entries_[slot]); }

  // The entry of a piece, or nullptr.
  const Entry* find(uint32_t slot, const Key& key) const {
    const Entry* pair = &entries_[slot];
    if (same(pair[0].key, key)) return &pair[0];
    if (same(pair[1].key, key)) return &pair[1];
    return nullptr;
  }

  void insert(uint32_t slot, const Key& key, const uint32_t* ids, size_t n) {
    Entry* pair = &entries_[slot];
    pair[1] = pair[0];
    pair[0].key = {key.low, key.high | static_cast<uint64_t>(n) << kCountShift};
    std::memcpy(pair[0].ids, ids, n * sizeof(uint32_t));
  }

  // A piece that is too long, or has too many ids, for the other entries; n of 0 marks an empty one.
  struct LongEntry {
    static constexpr size_t kMaxBytes = 62, kMaxIds = 16;
    uint8_t n, count;
    uint8_t bytes[kMaxBytes];
    uint32_t ids[kMaxIds];
  };
  // The only one that a piece with this hash may be in.
  LongEntry& long_entry(uint64_t hash) { return long_entries_[hash & (kLongEntries - 1)]; }

  MergeScratch scratch;

 private:
  static constexpr size_t kEntries = 1 << 17;  // 4 MiB
  static constexpr size_t kLongEntries = 1 << 14;
  static constexpr int kCountShift = 60;
  static bool same(const Key& entry, const Key& key) {
    return entry.low == key.low && (entry.high & ((1ull << kCountShift) - 1)) == key.high;
  }

  HugeVector<Entry> entries_;  // pairs of 64 bytes, a cache line
  HugeVector<LongEntry> long_entries_;
};

// Lends caches to threads. It does not wait for ever: if another thread is at the pool, as one may have been when this
// process was forked, the borrower gets a cache of its own.
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
