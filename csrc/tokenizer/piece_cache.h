// A bounded cache from short pieces to their ids. Almost every piece of real text has been seen before, so this is
// where an encoder's time goes. One thread at a time uses a cache; a CachePool lends them out.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "tokenizer/merge.h"

namespace llmcore::tok {

class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 15;  // of a piece
  static constexpr size_t kMaxIds = 4;
  static constexpr uint32_t kUnused = ~0u;

  // A piece's bytes, zero-padded, and its length in the last byte. A length of 0 marks an empty entry.
  struct Key {
    uint64_t low, high;
  };
  struct Entry {
    Key key;
    uint32_t ids[kMaxIds];  // filled up with kUnused
  };

  PieceCache() : entries_(static_cast<Entry*>(std::calloc(kEntries, sizeof(Entry)))) {
    if (!entries_) throw std::bad_alloc();
  }

  // `n` is 1 to kMaxBytes, and [piece, end) may be read.
  static Key key(const uint8_t* piece, size_t n, const uint8_t* end) {
    Key key{0, 0};
    if (end - piece >= 16) {
      std::memcpy(&key, piece, 16);
      if (n < 8) {
        key = {key.low & ((1ull << 8 * n) - 1), 0};
      } else {
        key.high &= (1ull << 8 * (n - 8)) - 1;
      }
    } else {
      std::memcpy(&key, piece, n);
    }
    key.high |= static_cast<uint64_t>(n) << 56;
    return key;
  }

  // The entry of a piece, or nullptr.
  const Entry* find(const Key& key) const {
    const Entry* pair = &entries_[slot(key)];
    if (same(pair[0].key, key)) return &pair[0];
    if (same(pair[1].key, key)) return &pair[1];
    return nullptr;
  }

  void insert(const Key& key, const uint32_t* ids, size_t n) {
    Entry* pair = &entries_[slot(key)];
    pair[1] = pair[0];
    pair[0].key = key;
    for (size_t i = 0; i < kMaxIds; ++i) pair[0].ids[i] = i < n ? ids[i] : kUnused;
  }

  MergeScratch scratch;

 private:
  static constexpr size_t kEntries = 1 << 16;  // 2 MiB, taken from the system only as it fills

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  static bool same(const Key& a, const Key& b) { return a.low == b.low && a.high == b.high; }
  // The first of the two neighbouring entries that a key may be in.
  static size_t slot(const Key& key) {
    const uint64_t hash = (key.low ^ (key.high * 0xC2B2AE3D27D4EB4Full)) * 0x9E3779B97F4A7C15ull;
    return (hash >> 40) & (kEntries - 2);
  }

  std::unique_ptr<Entry[], Free> entries_;
};

// Lends caches to threads. It never waits: if another thread is at the pool, or was when this process was forked, the
// borrower gets a cache of its own.
class CachePool {
 public:
  class Loan {
   public:
    explicit Loan(CachePool& pool) : pool_(pool) {
      std::unique_lock<std::mutex> lock(pool_.mutex_, std::try_to_lock);
      if (lock && !pool_.idle_.empty()) {
        cache_ = std::move(pool_.idle_.back());
        pool_.idle_.pop_back();
      } else {
        cache_ = std::make_unique<PieceCache>();
      }
    }
    ~Loan() {
      std::unique_lock<std::mutex> lock(pool_.mutex_, std::try_to_lock);
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
  static constexpr size_t kMaxIdle = 8;
  std::mutex mutex_;
  std::vector<std::unique_ptr<PieceCache>> idle_;
};

}  // namespace llmcore::tok
