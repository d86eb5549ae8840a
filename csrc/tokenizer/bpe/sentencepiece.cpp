#include "tokenizer/bpe/sentencepiece.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tokenizer/bpe/errors.h"
#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, how files spell a space

std::string_view view(Bpe::Text text) { return {reinterpret_cast<const char*>(text.data), text.size}; }
Bpe::Text text_of(std::string_view bytes) { return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}; }

size_t character_size(const uint8_t* p, const uint8_t* end) { return *p < 0x80 ? 1 : multibyte_char_at(p, end).length; }

bool is_one_character(std::string_view bytes) {
  const Bpe::Text text = text_of(bytes);
  return text.size > 0 && character_size(text.data, text.data + text.size) == text.size;
}

// Packs the UTF-8 of a character into a number.
uint64_t packed(std::string_view character) {
  uint64_t key = 0;
  std::memcpy(&key, character.data(), character.size());
  return key;
}

bool continues(uint8_t byte) { return (byte & 0xC0) == 0x80; }

std::string with_spaces(std::string_view text) {
  std::string result;
  for (size_t from = 0;;) {
    const size_t mark = text.find(kSpaceMark, from);
    result.append(text.substr(from, mark - from));
    if (mark == std::string_view::npos) return result;
    result += ' ';
    from = mark + kSpaceMark.size();
  }
}

}  // namespace

SentencePieceBpe::SentencePieceBpe(std::vector<std::string> tokens, const std::vector<Merge>& merges,
                                   const std::vector<float>& scores, SentencePieceRules rules,
                                   std::vector<Special> specials)
    : Bpe(std::move(tokens), std::move(specials)), rules_(std::move(rules)), symbols_(rules_.symbols) {
  check_rules();
  std::vector<bool> is_byte(tokens_.size()), is_symbol(tokens_.size());
  for (uint32_t id : rules_.byte_tokens) is_byte[id] = true;
  for (const Special& symbol : rules_.symbols) is_symbol[symbol.id] = true;
  std::vector<uint32_t> mergeable;  // excludes symbols, which are found before anything merges
  for (uint32_t id = 0; id < is_byte.size(); ++id) {
    if (is_byte[id] || tokens_[id].empty()) continue;
    index_token(id);
    if (!is_symbol[id]) mergeable.push_back(id);
  }
  if (scores.empty()) add_merges(merges);
  for (const auto& [left, right] : merges_) {
    if (is_byte[left] || is_byte[right]) fail("expected merges of tokens other than byte tokens");
  }
  add_specials();
  for (const Special& special : this->specials()) {
    if (!special.always) tokens_[special.id] = with_spaces(special.text);
  }
  if (rules_.unknown >= 0 && static_cast<size_t>(rules_.unknown) >= tokens_.size())
    fail("expected the id of the unknown token to exist, got " + std::to_string(rules_.unknown));
  index_characters(mergeable);
  if (!scores.empty()) add_scores(mergeable, scores);
  if (rules_.split_at_spaces) {
    for (auto& next : joins_) next.reset(' ');
  }
}

void SentencePieceBpe::check_rules() {
  const auto check = [&](int64_t id, bool empty, const std::string& what) {
    if (id < 0 || static_cast<size_t>(id) >= tokens_.size() || tokens_[static_cast<size_t>(id)].empty() != empty)
      fail("expected " + what + " to have an id of its own, got " + std::to_string(id));
  };
  if (!rules_.byte_tokens.empty()) {
    rules_.fuse_unknown = false;  // no character is unknown
    if (rules_.byte_tokens.size() != 256)
      fail("expected a token for each of the 256 bytes, got " + std::to_string(rules_.byte_tokens.size()));
  }
  for (size_t byte = 0; byte < rules_.byte_tokens.size(); ++byte) {
    const uint32_t id = rules_.byte_tokens[byte];
    const char c = static_cast<char>(byte);
    check(id, false, "the token of byte " + std::to_string(byte));
    if (tokens_[id] != std::string_view(&c, 1))
      fail("expected the token of byte " + std::to_string(byte) + " to spell that byte");
  }
  if (rules_.unknown >= 0 && static_cast<size_t>(rules_.unknown) < tokens_.size())
    check(rules_.unknown, true, "the unknown token");
  if (rules_.split_at_spaces && !rules_.symbols.empty()) fail("expected no symbols where text is split at spaces");
  for (const Special& symbol : rules_.symbols) {
    check(symbol.id, false, "symbol " + quoted(symbol.text));
    if (tokens_[symbol.id] != symbol.text)
      fail("expected symbol " + quoted(symbol.text) + " to be what its token spells");
  }
}

void SentencePieceBpe::index_characters(const std::vector<uint32_t>& mergeable) {
  for (uint32_t id : mergeable) {
    if (is_one_character(tokens_[id])) characters_.insert(packed(tokens_[id]), id);
  }
  const auto join = [&](const uint8_t* p) { joins_[p[-1]].set(p[0]); };
  for (uint32_t id : mergeable) {
    const Text token = text_of(tokens_[id]);
    const uint8_t* end = token.data + token.size;
    for (const uint8_t* p = token.data; p < end;) {
      const size_t size = character_size(p, end);
      if (p > token.data) join(p);
      const std::string_view character = view({p, size});
      const auto fragment = static_cast<uint32_t>(tokens_.size() + fragments_.size());
      if (characters_.insert(packed(character), fragment) == fragment) fragments_.emplace_back(character);
      p += size;
    }
  }
  for (const Special& symbol : rules_.symbols) {
    const Text text = text_of(symbol.text);
    for (size_t i = 1; i < text.size; ++i) join(text.data + i);
  }
}

// Every way to cut a token into two tokens is a merge, whose rank is the rank of the token's score.
void SentencePieceBpe::add_scores(const std::vector<uint32_t>& mergeable, const std::vector<float>& scores) {
  if (!mergeable.empty() && scores.size() <= mergeable.back())
    fail("expected a score for each token, got " + std::to_string(scores.size()));
  std::vector<uint32_t> by_score = mergeable;
  for (uint32_t id : mergeable) {
    if (!std::isfinite(scores[id])) fail("expected finite scores, got another for " + quoted(tokens_[id]));
    if (tokens_[id].size() > kMaxCutBytes)
      fail("expected tokens of at most " + std::to_string(kMaxCutBytes) + " bytes, got " + quoted(tokens_[id]));
  }
  std::stable_sort(by_score.begin(), by_score.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  table_ = MergeTable(mergeable.size() * 4);
  uint32_t rank = 0;
  for (size_t i = 0; i < by_score.size(); ++i) {
    const uint32_t id = by_score[i];
    if (i > 0 && scores[id] == scores[by_score[i - 1]]) {
      ties_ = true;
    } else {
      rank = static_cast<uint32_t>(i);
    }
    const std::string_view token = tokens_[id];
    const auto first_merge = static_cast<std::ptrdiff_t>(merges_.size());
    for (size_t cut = 1; cut < token.size(); ++cut) {
      if (continues(static_cast<uint8_t>(token[cut]))) continue;
      const uint32_t left = symbol_of(token.substr(0, cut));
      if (left == kNoToken) continue;
      const uint32_t right = symbol_of(token.substr(cut));
      if (right == kNoToken) continue;
      table_.insert(pair_key(left, right), merge_value(rank, id));
      if (left < tokens_.size() && right < tokens_.size()) merges_.emplace_back(left, right);
    }
    std::sort(merges_.begin() + first_merge, merges_.end());
  }
}

// Returns the token or fragment that spells this, or kNoToken.
uint32_t SentencePieceBpe::symbol_of(std::string_view text) const {
  if (is_one_character(text)) {
    const uint64_t found = characters_.find(packed(text));
    return found == PairTable::kNone ? kNoToken : static_cast<uint32_t>(found);
  }
  const uint32_t found = index_.find(tokens_, text);
  return found == TokenIndex::kNone ? kNoToken : found;
}

bool SentencePieceBpe::prefixed(Text text, Place place) const {
  using Prefix = SentencePieceRules::Prefix;
  if (place == Place::kInside || rules_.prefix == Prefix::kNever) return false;
  if (place == Place::kBehindSpecial && rules_.prefix == Prefix::kFirst) return false;
  const std::string_view bytes = view(text);
  return !(rules_.prefix_unless_space && (bytes[0] == ' ' || bytes.substr(0, kSpaceMark.size()) == kSpaceMark));
}

// Cut before a space that follows a printable ASCII character, if no token and no symbol can contain both.
size_t SentencePieceBpe::safe_cut(Text text) const {
  if (rules_.fuse_unknown && symbol_of(" ") >= tokens_.size()) return text.size;
  for (size_t i = kPartBytes; i < text.size; ++i) {
    const void* space = std::memchr(text.data + i, ' ', text.size - i);
    if (!space) break;
    i = static_cast<size_t>(static_cast<const uint8_t*>(space) - text.data);
    const uint8_t before = text.data[i - 1];
    if (before > ' ' && before <= '~' && !joins_[before][' ']) return i;
  }
  return text.size;
}

void SentencePieceBpe::encode_segment(Text text, Place place, PieceCache& cache, IdBuffer& out) const {
  if (text.size == 0) return;
  std::string spelled;  // with spaces for U+2581, as in tokens_
  const bool space_first = prefixed(text, place);
  if (space_first || view(text).find(kSpaceMark) != std::string_view::npos) {
    spelled = (space_first ? " " : "") + with_spaces(view(text));
    text = text_of(spelled);
  }
  for (size_t from = 0;;) {
    const Specials::Match match = symbols_.find(text.data, text.size, from);
    encode_stretch({text.data + from, match.begin - from}, cache, out);
    if (!match.what) return;
    out.push(match.what->id);
    from = match.begin + match.what->text.size();
  }
}

// Text between symbols is cut wherever no token can reach across, because short pieces recur and are in the cache.
void SentencePieceBpe::encode_stretch(Text text, PieceCache& cache, IdBuffer& out) const {
  const uint8_t* end = text.data + text.size;
  const uint8_t* piece = text.data;
  size_t fused = out.size();
  for (const uint8_t* p = piece + 1; piece < end; ++p) {
    if (p < end && (continues(*p) || joins_[p[-1]][*p])) continue;
    encode_seen(piece, static_cast<size_t>(p - piece), end, cache, out);
    piece = p;
    if (rules_.fuse_unknown && (p == end || (rules_.split_at_spaces && *p == ' '))) {
      fuse_unknown(fused, out);
      fused = out.size();
    }
  }
}

// Reduces each run of unknown ids to one, from ids[begin] on.
void SentencePieceBpe::fuse_unknown(size_t begin, IdBuffer& ids) const {
  const auto unknown = static_cast<uint32_t>(rules_.unknown);
  const auto both_unknown = [=](uint32_t a, uint32_t b) { return a == unknown && b == unknown; };
  const uint32_t* end = std::unique(ids.data() + begin, ids.data() + ids.size(), both_unknown);
  ids.truncate(static_cast<size_t>(end - ids.data()));
}

void SentencePieceBpe::encode_piece(const uint8_t* piece, size_t n, PieceCache& cache, IdBuffer& out) const {
  if (n >= 0xFFFFFFFFull) fail("expected pieces of less than 4 GiB");
  uint32_t* ids = out.reserve(n * (symbol_of(" ") < tokens_.size() ? 1 : kSpaceMark.size()));
  size_t count = 0;
  for (const uint8_t *p = piece, *end = piece + n; p < end;) {
    const std::string_view character = view({p, character_size(p, end)});
    const uint64_t found = characters_.find(packed(character));
    if (found != PairTable::kNone) {
      ids[count++] = static_cast<uint32_t>(found);
    } else {
      count += fall_back(character, ids + count);
    }
    p += character.size();
  }
  count =
      count <= kShortPiece && !ties_ ? merge_short(table_, ids, count) : merge_long(table_, ids, count, cache.scratch);
  out.commit(fragments_.empty() ? count : spell_fragments(ids, count));
}

// Writes the ids for a character that is not a token, at most one per byte that it has in the files, and returns their
// number.
size_t SentencePieceBpe::fall_back(std::string_view character, uint32_t* ids) const {
  if (character == " ") character = kSpaceMark;
  if (!rules_.byte_tokens.empty()) {
    for (size_t i = 0; i < character.size(); ++i) ids[i] = rules_.byte_tokens[static_cast<uint8_t>(character[i])];
    return character.size();
  }
  if (rules_.unknown < 0) {
    throw std::invalid_argument("[encode] expected text that the vocabulary has tokens for, got " + quoted(character) +
                                ", which has no token");
  }
  ids[0] = static_cast<uint32_t>(rules_.unknown);
  return 1;
}

// Replaces the fragments that did not merge, from the end because each may become several ids; returns the total number
// of ids.
size_t SentencePieceBpe::spell_fragments(uint32_t* ids, size_t n) const {
  std::vector<uint32_t> spelled;
  for (size_t i = 0; i < n; ++i) {
    if (ids[i] < tokens_.size() || ids[i] >= tokens_.size() + fragments_.size()) {
      spelled.push_back(ids[i]);
      continue;
    }
    uint32_t fallback[4];
    const size_t count = fall_back(fragments_[ids[i] - tokens_.size()], fallback);
    spelled.insert(spelled.end(), fallback, fallback + count);
  }
  std::copy(spelled.begin(), spelled.end(), ids);
  return spelled.size();
}

}  // namespace llmcore::tok
