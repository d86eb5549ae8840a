// SentencePiece-style BPE (Llama 2, Mistral, Gemma): the symbols that merge are characters, not bytes; spaces are part
// of the text like any other character, and one is put before it; a character that no token spells falls back to the
// tokens of its bytes.
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

  std::vector<uint32_t> byte_tokens;  // the ids of the tokens for the 256 bytes, or empty
  int64_t unknown = -1;               // the id for text that no token spells; -1: such text is an error
  bool fuse_unknown = false;          // whether a run of unknown characters becomes one id
  Prefix prefix = Prefix::kNever;     // a space before the text only, also after each special token, or never
  bool prefix_unless_space = false;   // no prefix where there already is a space
  bool split_at_spaces = false;       // no merge crosses the beginning of a space
  bool drop_first_space = false;      // from the decoded text
  std::vector<Special> symbols;       // found in the text before any merge; spelled as tokens are
};

class SentencePieceBpe final : public Bpe {
 public:
  // tokens[id] is what the token spells, with spaces where the files have U+2581; empty where an id is unused, special
  // or the unknown one. Byte tokens may spell the same as other tokens. Pass either merges, as for Bpe, or scores, one
  // per token: then two neighbours merge if together they spell a token, the highest score first. Throws
  // std::invalid_argument.
  SentencePieceBpe(std::vector<std::string> tokens, const std::vector<Merge>& merges, const std::vector<float>& scores,
                   SentencePieceRules rules, std::vector<Special> specials);

  bool drops_first_space() const override { return rules_.drop_first_space; }
  // Handles what a list of merges cannot express: tokens of equal rank, and characters that merge but are not tokens.
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
  std::vector<std::string> fragments_;  // characters that are only part of tokens; ids from vocab_size() on
  // joins_[a][b]: whether some token has a character ending in byte a directly before one beginning with byte b.
  // Between any other two bytes, text can be cut without changing an id.
  std::array<std::bitset<256>, 256> joins_;
  bool ties_ = false;  // different tokens may share a rank
};

}  // namespace llmcore::tok
