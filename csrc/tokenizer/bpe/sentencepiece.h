// SentencePiece-style BPE (Llama 2, Mistral, Gemma): the symbols that merge are characters, not bytes; spaces are part
// of the text like any other character, one is put before it; what no token spells falls back to tokens for its bytes.
#pragma once
#include <array>
#include <bitset>
#include <cstdint>
#include <string>
#include <vector>

#include "tokenizer/bpe/bpe.h"

namespace llmcore::tok {

struct SentencePieceRules {
  enum class Prefix { kNever, kFirst, kAlways };

  std::vector<uint32_t> byte_tokens;  // the ids of the tokens for the 256 bytes, or none
  int64_t unknown = -1;               // the id that stands for what no token spells, or -1: then such text is refused
  bool fuse_unknown = false;          // whether a run of unknown characters is one id
  Prefix prefix = Prefix::kNever;     // a space before the text, before that and what follows a special token, or none
  bool prefix_unless_space = false;   // not where there is a space already
  bool split_at_spaces = false;       // no merge across the beginning of a space
  bool drop_first_space = false;      // of what decoding gives
  std::vector<Special> symbols;       // found in the text before any merge, spelled as tokens are
};

class SentencePieceBpe final : public Bpe {
 public:
  // tokens[id] is what the token spells, with spaces where the files have U+2581; empty where an id is unused, special
  // or the unknown one. The tokens of bytes may spell what others do. Either merges, as for Bpe, or scores, one for
  // each token: then two neighbours merge if together they spell a token, the highest score first. Throws
  // std::invalid_argument.
  SentencePieceBpe(std::vector<std::string> tokens, const std::vector<Merge>& merges, const std::vector<float>& scores,
                   SentencePieceRules rules, std::vector<Special> specials);

  bool drops_first_space() const override { return rules_.drop_first_space; }
  // What a list of merges cannot express: tokens of equal rank, and characters that merge but are no tokens.
  bool has_ties() const { return ties_; }
  bool has_fragments() const { return !fragments_.empty(); }

 private:
  size_t safe_cut(Text text) const override;
  void encode_segment(Text text, Place place, PieceCache& cache, IdBuffer& out) const override;
  void encode_piece(const uint8_t* piece, size_t n, PieceCache& cache, IdBuffer& out) const override;

  void check_rules();
  void index_characters(const std::vector<uint32_t>& mergeable);
  void add_scores(const std::vector<uint32_t>& mergeable, const std::vector<float>& scores);
  uint32_t symbol_of(std::string_view text) const;
  bool prefixed(Text text, Place place) const;
  void encode_stretch(Text text, PieceCache& cache, IdBuffer& out) const;
  void fuse_unknown(size_t begin, IdBuffer& ids) const;
  size_t fall_back(std::string_view character, uint32_t* ids) const;
  size_t spell_fragments(uint32_t* ids, size_t n) const;

  SentencePieceRules rules_;
  Specials symbols_;
  PairTable characters_;                // the UTF-8 of a character, as a number -> its token or fragment
  std::vector<std::string> fragments_;  // characters that are no token but part of some; ids from vocab_size() on
  // joins_[a][b]: whether a token has a character that ends in byte a before one that begins with byte b. Elsewhere
  // text can be cut without changing an id.
  std::array<std::bitset<256>, 256> joins_;
  bool ties_ = false;  // different tokens may have one rank
};

}  // namespace llmcore::tok
