#include "tokenizer/train/trainer.h"

#include <algorithm>
#include <queue>
#include <unordered_map>

#include "tokenizer/containers/pair_table.h"

namespace llmcore::tok {
namespace {

constexpr size_t kBytes = 256;
constexpr size_t kProgressEvery = 64;  // merges
constexpr size_t kAhead = 12;          // words that are prefetched before their turn

// Counts in the heap are upper bounds, which are checked when they reach the top.
struct Candidate {
  int64_t count;
  uint64_t pair;
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

// The neighbours on one side of a token, or of a pair: how often each occurs there, and in which words. Arrays by id,
// since a merge meets the same few neighbours again and again.
class Neighbours {
 public:
  void resize(size_t ids) {
    if (place_.size() < ids) place_.resize(ids, kNone);
  }

  void add(uint32_t id, int64_t count) { counts_[place(id)].count += count; }
  void add(uint32_t id, int64_t count, uint32_t word) {
    const uint32_t place = this->place(id);
    Count& c = counts_[place];
    c.count += count;
    if (c.words != 0 && c.last_word == word) return;
    c.last_word = word;
    ++c.words;
    words_.push_back({place, word});
  }

  // Calls visit(id, count) for each neighbour, then clears everything.
  template <class Visit>
  void take(Visit&& visit) {
    for (const Count& c : counts_) {
      visit(c.id, c.count);
      place_[c.id] = kNone;
    }
    counts_.clear();
    words_.clear();
  }

  // Calls visit(id, count, words) for each neighbour with a count of `least` or more, then clears everything. The words
  // are in the order in which they were added.
  template <class Visit>
  void take_words(int64_t least, Visit&& visit) {
    std::vector<std::vector<uint32_t>> words(counts_.size());
    for (size_t i = 0; i < counts_.size(); ++i) {
      if (counts_[i].count >= least) words[i].reserve(counts_[i].words);
    }
    for (const auto& [place, word] : words_) {
      if (counts_[place].count >= least) words[place].push_back(word);
    }
    size_t i = 0;
    take([&](uint32_t id, int64_t count) {
      if (count >= least) visit(id, count, std::move(words[i]));
      ++i;
    });
  }

 private:
  static constexpr uint32_t kNone = ~0u;
  struct Count {
    uint32_t id;
    uint32_t words;
    int64_t count;
    uint32_t last_word;
  };

  uint32_t place(uint32_t id) {
    if (place_[id] == kNone) {
      place_[id] = static_cast<uint32_t>(counts_.size());
      counts_.push_back({id, 0, 0, 0});
    }
    return place_[id];
  }

  std::vector<uint32_t> place_;  // id -> index into counts_
  std::vector<Count> counts_;
  std::vector<std::pair<uint32_t, uint32_t>> words_;  // (index into counts_, word)
};

// Only pairs that occur `floor_` times or more are counted: the others, which are most of all pairs, cannot be merged
// before these. When no pair at or above the floor is left, the floor is lowered and the pairs are counted again.
class Trainer {
 public:
  Trainer(std::vector<PieceTable> pieces, size_t num_tokens) : num_tokens_(num_tokens) {
    size_t bytes = 0, words = 0;
    for (const PieceTable& table : pieces) {
      bytes += table.bytes();
      words += table.size();
    }
    ids_.reserve(bytes);
    words_.reserve(words);
    for (PieceTable& table : pieces) {
      table.each([this](const uint8_t* piece, uint32_t size, int64_t count) {
        if (size < 2) return;
        words_.push_back({ids_.size(), count, size});
        ids_.insert(ids_.end(), piece, piece + size);
      });
      table = PieceTable();
    }
    for (size_t byte = 0; byte < kBytes; ++byte) {
      result_.tokens.emplace_back(1, static_cast<char>(byte));
      known_.emplace(result_.tokens.back(), static_cast<uint32_t>(byte));
    }
  }

  TrainedVocabulary run(const std::function<void(size_t, size_t)>& progress) {
    floor_ = first_floor();
    count_pairs();
    while (result_.tokens.size() < num_tokens_) {
      if (result_.merges.size() % kProgressEvery == 0) progress(result_.tokens.size(), num_tokens_);
      uint64_t pair;
      if (pop_best(pair)) {
        merge(pair);
      } else if (floor_ > 1) {
        floor_ = std::max<int64_t>(1, floor_ / 8);
        count_pairs();
      } else {
        break;
      }
    }
    progress(result_.tokens.size(), num_tokens_);
    return std::move(result_);
  }

 private:
  struct Word {
    size_t begin;  // in ids_
    int64_t count;
    uint32_t size;
  };
  struct PairStats {
    uint64_t pair;
    int64_t count;
    std::vector<uint32_t> words;  // in which it may occur (it is already merged away in some)
  };

  // A guess at the count of the last pair to be merged, from the number of merges: about as many words are more
  // frequent.
  int64_t first_floor() const {
    const size_t merges = num_tokens_ - std::min(num_tokens_, kBytes);
    if (words_.size() <= merges) return 1;
    std::vector<int64_t> counts;
    counts.reserve(words_.size());
    for (const Word& word : words_) counts.push_back(word.count);
    const auto nth = counts.begin() + static_cast<std::ptrdiff_t>(merges);
    std::nth_element(counts.begin(), nth, counts.end(), std::greater<>());
    return std::max<int64_t>(1, *nth / 2);
  }

  template <class Visit>
  void each_pair(Visit&& visit) const {
    for (uint32_t w = 0; w < words_.size(); ++w) {
      const uint32_t* ids = ids_.data() + words_[w].begin;
      for (uint32_t i = 0; i + 1 < words_[w].size; ++i) visit(pair_key(ids[i], ids[i + 1]), w);
    }
  }

  // Finds the pairs at or above the floor.
  void count_pairs() {
    index_ = PairTable();
    stats_.clear();
    // Sums over all pairs that share a hash are upper bounds that need no table of all pairs.
    constexpr size_t kSums = 1 << 20;
    std::vector<int64_t> sums(kSums, 0);
    const auto sum_of = [&](uint64_t pair) -> int64_t& { return sums[mix(pair) & (kSums - 1)]; };
    each_pair([&](uint64_t pair, uint32_t w) { sum_of(pair) += words_[w].count; });
    each_pair([&](uint64_t pair, uint32_t w) {
      if (sum_of(pair) < floor_) return;
      PairStats& stats = this->stats(pair);
      stats.count += words_[w].count;
      if (stats.words.empty() || stats.words.back() != w) stats.words.push_back(w);
    });
    std::vector<Candidate> all;
    for (const PairStats& stats : stats_) {
      if (stats.count >= floor_) all.push_back({stats.count, stats.pair});
    }
    heap_ = std::priority_queue<Candidate>(std::less<Candidate>(), std::move(all));
  }

  PairStats& stats(uint64_t pair) {
    const uint64_t index = index_.insert(pair, stats_.size());
    if (index == stats_.size()) stats_.push_back({pair, 0, {}});
    return stats_[index];
  }

  bool pop_best(uint64_t& pair) {
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      heap_.pop();
      const int64_t count = stats_[index_.find(top.pair)].count;
      if (count == top.count) {
        pair = top.pair;
        return true;
      }
      if (count >= floor_ && count < top.count) heap_.push({count, top.pair});
    }
    return false;
  }

  // Returns the id that the pair becomes: a new one, unless its bytes already are a token (possible in runs of one
  // letter).
  uint32_t result_id(uint32_t left, uint32_t right) {
    std::string bytes = result_.tokens[left] + result_.tokens[right];
    const auto [entry, fresh] = known_.emplace(bytes, static_cast<uint32_t>(result_.tokens.size()));
    if (fresh) result_.tokens.push_back(std::move(bytes));
    return entry->second;
  }

  void merge(uint64_t pair) {
    const uint32_t left = static_cast<uint32_t>(pair >> 32);
    const uint32_t right = static_cast<uint32_t>(pair);
    const size_t before = result_.tokens.size();
    const uint32_t id = result_id(left, right);
    result_.merges.emplace_back(left, right);
    for (Neighbours* n : {&lost_before_, &lost_after_, &before_, &after_}) n->resize(result_.tokens.size());

    const std::vector<uint32_t> holders = std::move(this->stats(pair).words);
    const bool fresh = id == before;
    for (size_t i = 0; i < holders.size(); ++i) {
      prefetch(holders, i);
      if (merge_in_word(holders[i], left, right, id) && fresh) add_neighbours(holders[i], id);
    }
    if (!fresh) {  // it is also in other words, next to neighbours that may not be counted
      for (uint32_t w = 0; w < words_.size(); ++w) add_neighbours(w, id);
    }
    lost_before_.take([&](uint32_t other, int64_t count) { lose(pair_key(other, left), count); });
    lost_after_.take([&](uint32_t other, int64_t count) { lose(pair_key(right, other), count); });
    before_.take_words(floor_, [&](uint32_t other, int64_t count, std::vector<uint32_t>&& words) {
      set(pair_key(other, id), count, std::move(words));
    });
    after_.take_words(floor_, [&](uint32_t other, int64_t count, std::vector<uint32_t>&& words) {
      set(pair_key(id, other), count, std::move(words));
    });
    this->stats(pair).count = 0;
  }

  void lose(uint64_t pair, int64_t count) {
    const uint64_t index = index_.find(pair);
    if (index != PairTable::kNone) stats_[index].count -= count;
  }

  void set(uint64_t pair, int64_t count, std::vector<uint32_t>&& words) {
    PairStats& stats = this->stats(pair);
    stats.count = count;
    stats.words = std::move(words);
    heap_.push({count, pair});
  }

  void prefetch(const std::vector<uint32_t>& words, size_t i) const {
    if (i + 2 * kAhead < words.size()) __builtin_prefetch(&words_[words[i + 2 * kAhead]]);
    if (i + kAhead < words.size()) __builtin_prefetch(&ids_[words_[words[i + kAhead]].begin]);
  }

  // Returns whether the word contained the pair.
  bool merge_in_word(uint32_t w, uint32_t left, uint32_t right, uint32_t id) {
    Word& word = words_[w];
    uint32_t* ids = ids_.data() + word.begin;
    const auto pair_at = [&](uint32_t i) { return i + 1 < word.size && ids[i] == left && ids[i + 1] == right; };
    uint32_t i = 0;
    while (i < word.size && !pair_at(i)) ++i;
    if (i == word.size) return false;
    uint32_t kept = i, previous = i > 0 ? ids[i - 1] : 0;  // as it was before this merge
    while (i < word.size) {
      if (!pair_at(i)) {
        previous = ids[i];
        ids[kept++] = ids[i++];
        continue;
      }
      if (i > 0) lost_before_.add(previous, word.count);
      if (i + 2 < word.size && !pair_at(i + 2)) lost_after_.add(ids[i + 2], word.count);
      previous = right;
      ids[kept++] = id;
      i += 2;
    }
    word.size = kept;
    return true;
  }

  // Counts the neighbours of a token in a word.
  void add_neighbours(uint32_t w, uint32_t id) {
    const Word& word = words_[w];
    const uint32_t* ids = ids_.data() + word.begin;
    for (uint32_t i = 0; i < word.size; ++i) {
      if (ids[i] != id) continue;
      if (i > 0) before_.add(ids[i - 1], word.count, w);
      if (i + 1 < word.size && ids[i + 1] != id) after_.add(ids[i + 1], word.count, w);
    }
  }

  size_t num_tokens_;
  std::vector<uint32_t> ids_;
  std::vector<Word> words_;
  int64_t floor_ = 1;
  PairTable index_;  // pair -> index into stats_
  std::vector<PairStats> stats_;
  std::priority_queue<Candidate> heap_;
  Neighbours lost_before_, lost_after_;  // of the pair being merged, as it disappears
  Neighbours before_, after_;            // of the token that it becomes
  std::unordered_map<std::string, uint32_t> known_;
  TrainedVocabulary result_;
};

}  // namespace

TrainedVocabulary train_bpe(std::vector<PieceTable> pieces, size_t num_tokens,
                            const std::function<void(size_t, size_t)>& progress) {
  return Trainer(std::move(pieces), num_tokens).run(progress);
}

}  // namespace llmcore::tok
