// A byte-level BPE vocabulary, immutable once built, and its encoder and decoder. Any number of threads may use one.
// SentencePieceBpe (sentencepiece.h) has different rules for the text between special tokens.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/bpe/merge_table.h"
#include "tokenizer/bpe/piece_cache.h"
#include "tokenizer/containers/id_buffer.h"
#include "tokenizer/containers/token_index.h"
#include "tokenizer/split/specials.h"
#include "tokenizer/split/splitter.h"
#include "tokenizer/split/text_parts.h"

namespace llmcore::tok {

using Merge = std::pair<uint32_t, uint32_t>;  // the ids of the left and the right token

class Bpe {
 public:
  // tokens[id] is the token's bytes, empty where an id is unused or special. Encoding fails on a byte that is not a
  // token (some vocabularies in the wild lack the bytes that their training text lacked). merges are in order of rank;
  // a merge's result is the token that spells its two sides in sequence. With whole_piece_first, a piece that is a
  // token becomes that token whatever the merges say (tiktoken, `ignore_merges`). Throws std::invalid_argument.
  Bpe(std::vector<std::string> tokens, const std::vector<Merge>& merges, Splitter splitter, bool whole_piece_first,
      std::vector<Special> specials);

  // A vocabulary without a merge list, as in tiktoken's files: two neighbours merge if together they spell a token, the
  // lowest id first. A piece that is itself a token becomes that token.
  static Bpe from_ranks(std::vector<std::string> tokens, Splitter splitter, std::vector<Special> specials);

  Bpe(Bpe&&) = delete;
  virtual ~Bpe() = default;

  // Which special tokens count as special. Any other special token in the text throws std::invalid_argument, which
  // names it.
  struct Allowed {
    bool ordinary = false;    // special tokens are treated as plain text
    bool normalized = false;  // the text is normalized: only what is looked for in such text is found
    bool all = false;
    std::vector<std::string> names;
  };
  using Text = tok::Text;

  // Appends the ids of a text. A long text is cut where pieces end anyway and shared among the pool's threads.
  void encode(Text text, const Allowed& allowed, IdBuffer& out) const;
  // Returns the ids of each text.
  std::vector<IdBuffer> encode_batch(const std::vector<Text>& texts, const Allowed& allowed) const;
  // Returns the number of ids that encode() would append.
  size_t count(Text text, const Allowed& allowed) const;

  // A special token that is looked for before text is normalized, with the whitespace that belongs to it.
  struct Found {
    size_t begin, end;
    uint32_t id;
  };
  std::vector<Found> raw_specials(Text text, const Allowed& allowed) const;

  // Returns the bytes of a token (UTF-8 for a special token), and none for an id that no token has. Throws
  // std::invalid_argument for a number that cannot be an id.
  std::string_view token_bytes(int64_t id) const;

  // Whether decoding drops the space that the text begins with.
  virtual bool drops_first_space() const { return false; }

  // The largest id plus one.
  size_t vocab_size() const { return tokens_.size(); }
  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::vector<Merge>& merges() const { return merges_; }
  // The same without those that are special tokens alone.
  std::vector<std::string> ordinary_tokens() const;
  const std::vector<Special>& specials() const { return specials_; }
  const Splitter& splitter() const { return splitter_; }
  bool whole_piece_first() const { return whole_piece_first_; }
  bool by_rank() const { return by_rank_; }
  // Whether from_ranks() would build an encoder that gives the same ids: every merge makes a distinct token, in order
  // of id, and every token is the result of its merges.
  bool merges_by_rank() const;

 protected:
  static constexpr size_t kMaxCutBytes = 1024;      // of a token tried at every cut, so that no file takes hours
  static constexpr uint32_t kNoToken = 0xFFFFFFFE;  // stands for a byte that is not a token; merges with nothing

  // What precedes a stretch of ordinary text: nothing, a special token, or more of the same stretch.
  enum class Place { kTextBegin, kBehindSpecial, kInside };

  // For subclasses, which fill the tables themselves.
  Bpe(std::vector<std::string> tokens, std::vector<Special> specials);

  void index_token(uint32_t id);
  void add_merges(const std::vector<Merge>& merges);
  void add_specials();
  // Appends the ids of one piece, from the cache if it was seen before; [piece, end) may be read.
  void encode_seen(const uint8_t* piece, size_t n, const uint8_t* end, PieceCache& cache, IdBuffer& out) const;

  std::vector<std::string> tokens_;
  std::vector<Merge> merges_;
  MergeTable table_;
  TokenIndex index_;

 private:
  struct ByRank {};
  // A piece on its way to the cache.
  struct Waiting {
    PieceCache::Key key;
    const uint8_t* piece;
    uint32_t hash;
    size_t size() const { return key.short_size() ? key.short_size() : key.high; }
  };
  Bpe(ByRank, std::vector<std::string> tokens, Splitter splitter, std::vector<Special> specials);

  // Returns the size of the text's first part, which can be encoded independently of the rest.
  virtual size_t safe_cut(Text text) const;
  virtual void encode_segment(Text text, Place place, PieceCache& cache, IdBuffer& out) const;
  virtual void encode_piece(const uint8_t* piece, size_t n, PieceCache& cache, IdBuffer& out) const;

  void index_tokens();
  void index_byte_merges();
  template <class Visit>
  void each_segment(Text text, const Allowed& allowed, Visit&& visit) const;
  // Returns a function that throws unless a special token is allowed, given where it begins.
  auto checked(Text text, const Allowed& allowed) const;
  template <class Take>
  void encode_parts(Text text, const Allowed& allowed, Take&& take) const;
  void encode_alone(Text text, const Allowed& allowed, PieceCache& cache, IdBuffer& out) const;
  static Waiting waiting_piece(const uint8_t* piece, size_t n, const uint8_t* end);
  void encode_slowly(const Waiting& w, const PieceCache::Entry* entry, PieceCache& cache, IdBuffer& out) const;

  Splitter splitter_;
  bool whole_piece_first_ = false;
  bool by_rank_ = false;
  std::vector<Special> specials_;
  SpecialPhases all_;
  SpecialPhases always_;         // the ones that are found in every text
  std::vector<uint32_t> named_;  // the ids that only special tokens have
  std::array<uint32_t, 256> byte_ids_{};
  std::vector<MergeValue> byte_merges_;  // what two bytes become: the start of merging any piece
  bool complete_ = true;                 // whether every byte is a token
  mutable CachePool caches_;
};

}  // namespace llmcore::tok
