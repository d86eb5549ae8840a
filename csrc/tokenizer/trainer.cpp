#include "tokenizer/trainer.h"

#include <queue>
#include <unordered_map>

#include "tokenizer/pair_table.h"

namespace llmcore::tok {
namespace {

constexpr size_t kBytes = 256;
constexpr size_t kProgressEvery = 64;  // merges

// How often a pair of neighbours occurs, weighted by its pieces' counts, and the pieces it may occur in (some entries
// are out of date: merging skips pieces that no longer hold the pair).
struct PairStats {
  uint64_t pair;
  int64_t count = 0;
  std::vector<uint32_t> pieces;
};

// Counts in the heap are upper bounds: they are checked when they come to the top.
struct Candidate {
  int64_t count;
  uint64_t pair;
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

class Trainer {
 public:
  explicit Trainer(const PieceCounter& pieces) {
    size_t total = 0;
    for (const Piece& piece : pieces.pieces()) total += piece.size;
    ids_.reserve(total);
    words_.reserve(pieces.pieces().size());
    for (const Piece& piece : pieces.pieces()) {
      words_.push_back({ids_.size(), piece.size, piece.count});
      const uint8_t* bytes = pieces.bytes(piece);
      ids_.insert(ids_.end(), bytes, bytes + piece.size);
    }
    for (size_t byte = 0; byte < kBytes; ++byte) {
      result_.tokens.emplace_back(1, static_cast<char>(byte));
      known_.emplace(result_.tokens.back(), static_cast<uint32_t>(byte));
    }
    for (uint32_t w = 0; w < words_.size(); ++w) {
      const uint32_t* ids = ids_.data() + words_[w].begin;
      for (size_t i = 0; i + 1 < words_[w].size; ++i) add(ids[i], ids[i + 1], w);
    }
    std::vector<Candidate> all;
    for (const PairStats& stats : stats_) all.push_back({stats.count, stats.pair});
    heap_ = std::priority_queue<Candidate>(std::less<Candidate>(), std::move(all));
    raised_.clear();
  }

  TrainedVocabulary run(size_t num_tokens, const std::function<void(size_t, size_t)>& progress) {
    uint64_t pair;
    while (result_.tokens.size() < num_tokens && pop_best(pair)) {
      if (result_.merges.size() % kProgressEvery == 0) progress(result_.tokens.size(), num_tokens);
      merge(pair);
    }
    progress(result_.tokens.size(), num_tokens);
    return std::move(result_);
  }

 private:
  struct Word {
    size_t begin;  // in ids_
    uint32_t size;
    int64_t count;
  };

  PairStats& stats(uint32_t left, uint32_t right) {
    const uint64_t pair = pair_key(left, right);
    const uint64_t index = index_.insert(pair, stats_.size());
    if (index == stats_.size()) {
      stats_.emplace_back();
      stats_.back().pair = pair;
    }
    return stats_[index];
  }

  void add(uint32_t left, uint32_t right, uint32_t word) {
    PairStats& s = stats(left, right);
    s.count += words_[word].count;
    if (s.pieces.empty() || s.pieces.back() != word) s.pieces.push_back(word);
    raised_.push_back(s.pair);
  }

  void remove(uint32_t left, uint32_t right, uint32_t word) { stats(left, right).count -= words_[word].count; }

  bool pop_best(uint64_t& pair) {
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      heap_.pop();
      const int64_t count = stats_[index_.find(top.pair)].count;
      if (count == top.count) {
        pair = top.pair;
        return true;
      }
      if (count > 0 && count < top.count) heap_.push({count, top.pair});
    }
    return false;
  }

  // The id that the pair becomes: a new one, unless its bytes are a token already (runs of one letter can do that).
  uint32_t result_id(uint32_t left, uint32_t right) {
    std::string bytes = result_.tokens[left] + result_.tokens[right];
    const auto [entry, fresh] = known_.emplace(bytes, static_cast<uint32_t>(result_.tokens.size()));
    if (fresh) result_.tokens.push_back(std::move(bytes));
    return entry->second;
  }

  void merge(uint64_t pair) {
    const uint32_t left = static_cast<uint32_t>(pair >> 32);
    const uint32_t right = static_cast<uint32_t>(pair);
    const uint32_t id = result_id(left, right);
    result_.merges.emplace_back(left, right);
    raised_.clear();
    const std::vector<uint32_t> holders = std::move(stats(left, right).pieces);
    stats(left, right).pieces = {};
    for (uint32_t w : holders) merge_in_word(w, left, right, id);
    for (uint64_t changed : raised_) {
      const int64_t count = stats_[index_.find(changed)].count;
      if (count > 0) heap_.push({count, changed});
    }
  }

  void merge_in_word(uint32_t w, uint32_t left, uint32_t right, uint32_t id) {
    Word& word = words_[w];
    uint32_t* ids = ids_.data() + word.begin;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < word.size;) {
      if (i + 1 == word.size || ids[i] != left || ids[i + 1] != right) {
        ids[kept++] = ids[i++];
        continue;
      }
      remove(left, right, w);
      if (kept > 0) {
        remove(ids[kept - 1], left, w);
        add(ids[kept - 1], id, w);
      }
      if (i + 2 < word.size) {
        remove(right, ids[i + 2], w);
        add(id, ids[i + 2], w);
      }
      ids[kept++] = id;
      i += 2;
    }
    word.size = kept;
  }

  std::vector<uint32_t> ids_;
  std::vector<Word> words_;
  PairTable index_;  // pair -> index into stats_
  std::vector<PairStats> stats_;
  std::vector<uint64_t> raised_;  // pairs whose count went up in the current merge, with repeats
  std::priority_queue<Candidate> heap_;
  std::unordered_map<std::string, uint32_t> known_;
  TrainedVocabulary result_;
};

}  // namespace

TrainedVocabulary train_bpe(const PieceCounter& pieces, size_t num_tokens,
                            const std::function<void(size_t, size_t)>& progress) {
  return Trainer(pieces).run(num_tokens, progress);
}

}  // namespace llmcore::tok
