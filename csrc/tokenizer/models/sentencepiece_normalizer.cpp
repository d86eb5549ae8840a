#include "tokenizer/models/sentencepiece_normalizer.h"

#include <cstring>

#include "tokenizer/bpe/errors.h"
#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81", kReplacement = "\xEF\xBF\xBD";

// The fields of a unit of the double array.
bool has_value(uint32_t unit) { return unit >> 8 & 1; }
uint32_t value(uint32_t unit) { return unit & 0x7FFFFFFF; }
uint32_t label(uint32_t unit) { return unit & 0x800000FF; }
uint32_t offset(uint32_t unit) { return unit >> 10 << (unit >> 6 & 8); }

bool remove_prefix(std::string_view& text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

SentencePieceNormalizer::SentencePieceNormalizer(Rules rules) : rules_(std::move(rules)) {
  for (uint32_t i = 0; i < rules_.symbols.size(); ++i) symbols_.insert(rules_.symbols[i], i);
  if (rules_.charsmap.empty()) return;
  const std::string_view map = rules_.charsmap;
  uint32_t bytes = 0;
  if (map.size() > sizeof bytes) std::memcpy(&bytes, map.data(), sizeof bytes);
  if (bytes < sizeof(uint32_t) || bytes % sizeof(uint32_t) != 0 || bytes >= map.size() - sizeof bytes ||
      map.back() != 0) {
    fail("expected precompiled_charsmap to be the size of a double array, the array, and texts that end with zeros");
  }
  units_.resize(bytes / sizeof(uint32_t));
  std::memcpy(units_.data(), map.data() + sizeof bytes, bytes);
  replacements_ = map.substr(sizeof bytes + bytes);
}

SentencePieceNormalizer::Prefix SentencePieceNormalizer::rule(std::string_view text) const {
  Prefix longest{{}, 0};
  if (units_.empty()) return longest;
  size_t at = offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    at ^= byte;
    if (at >= units_.size() || label(units_[at]) != byte) break;
    const uint32_t unit = units_[at];
    at ^= offset(unit);
    if (!has_value(unit)) continue;
    if (at >= units_.size()) break;
    const uint32_t begin = value(units_[at]);
    if (begin < replacements_.size()) longest = {std::string_view(replacements_.data() + begin), i + 1};
  }
  return longest;
}

SentencePieceNormalizer::Prefix SentencePieceNormalizer::next(std::string_view text) const {
  size_t symbol = 0;
  uint32_t state = Trie::kRoot;
  for (size_t i = 0; i < text.size() && state != Trie::kNone; ++i) {
    state = symbols_.step(state, static_cast<uint8_t>(text[i]));
    if (state != Trie::kNone && symbols_.value(state) != Trie::kNone) symbol = i + 1;
  }
  if (symbol > 0) return {text.substr(0, symbol), symbol};
  if (const Prefix found = rule(text); found.size > 0) return found;
  const uint8_t* data = reinterpret_cast<const uint8_t*>(text.data());
  const CodePoint c = code_at(data, data + text.size());
  if (c.code == kIllFormedCode) return {kReplacement, 1};
  return {text.substr(0, c.length), c.length};
}

std::string SentencePieceNormalizer::normalize(std::string_view text) const {
  std::string normal;
  if (rules_.remove_extra_whitespaces) {
    while (!text.empty()) {
      const Prefix prefix = next(text);
      if (prefix.normal != " ") break;
      text.remove_prefix(prefix.size);
    }
  }
  if (text.empty()) return normal;
  normal.reserve(text.size() + text.size() / 4 + kSpaceSymbol.size());
  if (rules_.add_dummy_prefix) normal += kSpaceSymbol;
  bool after_space = rules_.remove_extra_whitespaces;
  while (!text.empty()) {
    const Prefix prefix = next(text);
    std::string_view part = prefix.normal;
    while (after_space && remove_prefix(part, " ")) {
    }
    for (const char c : part) {
      if (c == ' ') {
        normal += kSpaceSymbol;
      } else {
        normal += c;
      }
    }
    if (!part.empty()) after_space = part.back() == ' ';
    after_space &= rules_.remove_extra_whitespaces;
    text.remove_prefix(prefix.size);
  }
  if (rules_.remove_extra_whitespaces) {
    while (normal.size() >= kSpaceSymbol.size() &&
           std::string_view(normal).substr(normal.size() - kSpaceSymbol.size()) == kSpaceSymbol) {
      normal.resize(normal.size() - kSpaceSymbol.size());
    }
  }
  return normal;
}

}  // namespace llmcore::tok
