// The models of a general tokenizer.json, beside byte-level and SentencePiece-style BPE (tokenizer/bpe): each turns one
// piece of normalized text into ids, as Hugging Face's `tokenizers` does. Immutable once built; any number of threads
// may use one.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/bpe/piece_cache.h"
#include "tokenizer/containers/id_buffer.h"
#include "tokenizer/containers/token_index.h"
#include "tokenizer/models/trie.h"

namespace llmcore::tok {

// The tokens of a model by id, UTF-8; empty where an id is unused. Where two are spelled alike, the last counts.
class ModelVocabulary {
 public:
  static constexpr uint32_t kNone = TokenIndex::kNone;

  // Throws std::invalid_argument for a token of more than kMaxBytes: every place of a text may cost as much.
  explicit ModelVocabulary(std::vector<std::string> tokens);

  // Returns the id of a token, or kNone.
  uint32_t find(std::string_view token) const { return index_.find(tokens_, token); }
  const std::vector<std::string>& tokens() const { return tokens_; }
  // The ids of the tokens <0x00> to <0xFF>, or kNone.
  const std::array<uint32_t, 256>& byte_ids() const { return byte_ids_; }

 private:
  static constexpr size_t kMaxBytes = 1 << 16;

  std::vector<std::string> tokens_;
  TokenIndex index_;
  std::array<uint32_t, 256> byte_ids_{};
};

class Model {
 public:
  explicit Model(std::vector<std::string> tokens, int64_t unknown);
  virtual ~Model() = default;
  Model(Model&&) = delete;

  // Either a piece or, where the text is empty, an id that stands there already.
  struct Part {
    std::string_view text;
    uint32_t id = 0;
  };
  // Appends the ids of the parts of a text. Throws std::invalid_argument for text that has no tokens where the model
  // has no unknown token.
  void encode(const std::vector<Part>& parts, IdBuffer& out) const;

 protected:
  virtual void encode_piece(std::string_view piece, IdBuffer& out) const = 0;
  // Returns the unknown token's id, or throws.
  uint32_t unknown(std::string_view text) const;

  ModelVocabulary vocabulary_;
  int64_t unknown_;  // -1: there is none

 private:
  mutable CachePool caches_;
};

// A piece is one token or unknown.
class WordLevel final : public Model {
 public:
  using Model::Model;

 private:
  void encode_piece(std::string_view piece, IdBuffer& out) const override;
};

// The longest token at each place, those within a word spelled with a prefix such as "##"; unless they spell the whole
// piece, or if it has more than max_chars characters, it is unknown.
class WordPiece final : public Model {
 public:
  WordPiece(std::vector<std::string> tokens, int64_t unknown, std::string prefix, uint64_t max_chars);

 private:
  void encode_piece(std::string_view piece, IdBuffer& out) const override;

  Trie trie_;
  uint32_t inside_;  // the trie's state after the prefix, or Trie::kNone
  uint64_t max_chars_;
};

// The tokens with the greatest sum of scores (Kudo 2018, https://arxiv.org/abs/1804.10959). Unknown characters side by
// side are one.
class Unigram final : public Model {
 public:
  struct Rules {
    double unknown_score;  // of a character that is no token
    std::vector<uint32_t>
        byte_ids;        // the tokens that unknown text becomes, for each of the 256 bytes, or kNone; or empty
    bool sentencepiece;  // sums have single precision, and unknown characters never are a token together
  };
  // One score for each token.
  Unigram(std::vector<std::string> tokens, std::vector<double> scores, int64_t unknown, Rules rules);
  // As `tokenizers` has it: unknown characters score 10 below the least. `fallback`: whether they become tokens <0x0A>.
  Unigram(std::vector<std::string> tokens, std::vector<double> scores, int64_t unknown, bool fallback);

 private:
  void encode_piece(std::string_view piece, IdBuffer& out) const override;
  void push_unknown(std::string_view text, IdBuffer& out) const;

  Trie trie_;
  std::vector<double> scores_;
  Rules rules_;
};

}  // namespace llmcore::tok
