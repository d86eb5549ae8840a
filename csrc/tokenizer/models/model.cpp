#include "tokenizer/models/model.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "tokenizer/bpe/errors.h"
#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {
namespace {

constexpr double kUnknownPenalty = 10;  // below the lowest score, as in SentencePiece

const uint8_t* bytes(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

}  // namespace

ModelVocabulary::ModelVocabulary(std::vector<std::string> tokens) : tokens_(std::move(tokens)), index_(tokens_.size()) {
  if (tokens_.size() >= (1ull << 31)) fail("expected fewer than 2^31 tokens");
  for (uint32_t id = static_cast<uint32_t>(tokens_.size()); id-- > 0;) {  // backwards: the first one inserted stays
    if (tokens_[id].empty()) continue;
    if (tokens_[id].size() > kMaxBytes) {
      fail("expected tokens of at most " + std::to_string(kMaxBytes) + " bytes, got " + quoted(tokens_[id]));
    }
    index_.insert(tokens_, id);
  }
  for (uint32_t byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    byte_ids_[byte] = find(name);
  }
}

Model::Model(std::vector<std::string> tokens, int64_t unknown) : vocabulary_(std::move(tokens)), unknown_(unknown) {
  if (unknown >= static_cast<int64_t>(vocabulary_.tokens().size())) {
    fail("expected the unknown token to be one of the " + std::to_string(vocabulary_.tokens().size()) + ", got id " +
         std::to_string(unknown));
  }
}

uint32_t Model::unknown(std::string_view text) const {
  if (unknown_ < 0) {
    throw std::invalid_argument(
        "[encode] expected text that the vocabulary has tokens for, as it has no unknown token, got " + quoted(text));
  }
  return static_cast<uint32_t>(unknown_);
}

void Model::encode(const std::vector<Part>& parts, IdBuffer& out) const {
  CachePool::Loan loan(caches_);
  PieceCache& cache = *loan;
  for (const auto& [piece, id] : parts) {
    const size_t n = piece.size();
    if (n == 0) {
      out.push(id);
      continue;
    }
    if (n > PieceCache::kMaxLong) {
      encode_piece(piece, out);
      continue;
    }
    const uint8_t* p = bytes(piece);
    const PieceCache::Key key =
        n <= PieceCache::kMaxShort ? PieceCache::short_key(p, n, p + n) : PieceCache::long_key(p, n);
    const uint32_t hash = PieceCache::hash(key);
    const PieceCache::Entry* entry = cache.find(hash, key);
    if (entry && key.short_size() != 0) {
      out.append(entry->count() <= PieceCache::kMaxIds ? entry->ids : cache.stored_ids(*entry), entry->count());
      continue;
    }
    if (entry && cache.is_long(*entry, p, n)) {
      out.append(cache.stored_ids(*entry), PieceCache::long_count(*entry));
      continue;
    }
    const size_t before = out.size();
    encode_piece(piece, out);
    if (!entry && out.size() > before) cache.insert(hash, key, p, out.data() + before, out.size() - before);
  }
}

void WordLevel::encode_piece(std::string_view piece, IdBuffer& out) const {
  const uint32_t id = vocabulary_.find(piece);
  out.push(id != ModelVocabulary::kNone ? id : unknown(piece));
}

WordPiece::WordPiece(std::vector<std::string> tokens, int64_t unknown, std::string prefix, uint64_t max_chars)
    : Model(std::move(tokens), unknown), max_chars_(max_chars) {
  const std::vector<std::string>& all = vocabulary_.tokens();
  for (uint32_t id = 0; id < all.size(); ++id) {
    if (!all[id].empty()) trie_.insert(all[id], id);
  }
  inside_ = trie_.walk(prefix);
}

void WordPiece::encode_piece(std::string_view piece, IdBuffer& out) const {
  const auto continues = [](char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; };
  const size_t chars = piece.size() - static_cast<size_t>(std::count_if(piece.begin(), piece.end(), continues));
  if (chars > max_chars_) return out.push(unknown(piece));
  const size_t before = out.size();
  for (size_t start = 0, end; start < piece.size(); start = end) {
    uint32_t state = start == 0 ? Trie::kRoot : inside_, found = Trie::kNone;
    end = start;
    for (size_t i = start; i < piece.size() && state != Trie::kNone; ++i) {
      state = trie_.step(state, static_cast<uint8_t>(piece[i]));
      if (state != Trie::kNone && trie_.value(state) != Trie::kNone) found = trie_.value(state), end = i + 1;
    }
    if (found == Trie::kNone) {
      out.truncate(before);
      return out.push(unknown(piece));
    }
    out.push(found);
  }
}

Unigram::Unigram(std::vector<std::string> tokens, std::vector<double> scores, int64_t unknown, Rules rules)
    : Model(std::move(tokens), unknown), scores_(std::move(scores)), rules_(std::move(rules)) {
  const std::vector<std::string>& all = vocabulary_.tokens();
  if (scores_.size() != all.size()) fail("expected one score for each token");
  for (uint32_t id = 0; id < all.size(); ++id) {
    if (!all[id].empty()) trie_.insert(all[id], id);
  }
}

Unigram::Unigram(std::vector<std::string> tokens, std::vector<double> scores, int64_t unknown, bool fallback)
    : Unigram(std::move(tokens), std::move(scores), unknown, Rules{0, {}, false}) {
  double least = std::numeric_limits<double>::infinity();
  for (const double score : scores_) least = std::min(least, score);
  rules_.unknown_score = least - kUnknownPenalty;
  if (fallback) rules_.byte_ids.assign(vocabulary_.byte_ids().begin(), vocabulary_.byte_ids().end());
}

void Unigram::push_unknown(std::string_view text, IdBuffer& out) const {
  const uint32_t id = rules_.sentencepiece ? ModelVocabulary::kNone : vocabulary_.find(text);
  if (id != ModelVocabulary::kNone) return out.push(id);
  const auto has_id = [&](char c) { return rules_.byte_ids[static_cast<uint8_t>(c)] != ModelVocabulary::kNone; };
  if (!rules_.byte_ids.empty() && std::all_of(text.begin(), text.end(), has_id)) {
    for (const char c : text) out.push(rules_.byte_ids[static_cast<uint8_t>(c)]);
    return;
  }
  out.push(unknown(text));
}

void Unigram::encode_piece(std::string_view piece, IdBuffer& out) const {
  // The best way to reach each place: its last token, where that begins, and the sum of scores.
  struct Best {
    double score = 0;
    size_t begin = 0;
    uint32_t id = Trie::kNone;  // kNone: not reached yet
  };
  const uint8_t *text = bytes(piece), *end = text + piece.size();
  std::vector<Best> best(piece.size() + 1);
  const auto kept = [&](double score) -> double { return rules_.sentencepiece ? static_cast<float>(score) : score; };
  const auto better = [&](size_t at, double score) { return best[at].id == Trie::kNone || score > best[at].score; };
  for (size_t begin = 0; begin < piece.size();) {
    const size_t character = code_at(text + begin, end).length;
    bool single = false;
    uint32_t state = Trie::kRoot;
    for (size_t i = begin; i < piece.size(); ++i) {
      state = trie_.step(state, text[i]);
      if (state == Trie::kNone) break;
      const uint32_t id = trie_.value(state);
      if (id == Trie::kNone) continue;
      const double score = kept(scores_[id] + best[begin].score);
      if (better(i + 1, score)) best[i + 1] = {score, begin, id};
      single |= i + 1 - begin == character;
    }
    const double score = kept(rules_.unknown_score + best[begin].score);
    if (!single && better(begin + character, score)) {
      best[begin + character] = {score, begin, unknown(piece.substr(begin, character))};
    }
    begin += character;
  }
  // From the end back.
  struct Token {
    std::string_view text;
    uint32_t id;
  };
  std::vector<Token> tokens;
  for (size_t at = piece.size(); at > 0; at = best[at].begin) {
    const std::string_view text = piece.substr(best[at].begin, at - best[at].begin);
    const bool is_unknown = static_cast<int64_t>(best[at].id) == unknown_;
    if (is_unknown && !tokens.empty() && tokens.back().id == best[at].id) {
      tokens.back().text = {text.data(), text.size() + tokens.back().text.size()};
    } else {
      tokens.push_back({text, best[at].id});
    }
  }
  for (size_t i = tokens.size(); i-- > 0;) {
    if (static_cast<int64_t>(tokens[i].id) == unknown_) {
      push_unknown(tokens[i].text, out);
    } else {
      out.push(tokens[i].id);
    }
  }
}

}  // namespace llmcore::tok
