#include "tokenizer/specials.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <unordered_set>

namespace llmcore::tok {

Specials::Specials(std::vector<Special> specials) : specials_(std::move(specials)) {
  std::unordered_set<std::string> seen;
  int first_bytes = 0;
  for (uint32_t i = 0; i < specials_.size(); ++i) {
    const std::string& text = specials_[i].text;
    if (text.empty()) throw std::invalid_argument("[tokenizer] expected special tokens that are not empty, got ''");
    if (!seen.insert(text).second) {
      throw std::invalid_argument("[tokenizer] expected distinct special tokens, got '" + text + "' twice");
    }
    auto& candidates = by_first_byte_[static_cast<uint8_t>(text[0])];
    if (candidates.empty()) {
      ++first_bytes;
      only_first_byte_ = static_cast<uint8_t>(text[0]);
    }
    candidates.push_back(i);
  }
  if (first_bytes != 1) only_first_byte_ = -1;
  for (auto& candidates : by_first_byte_) {
    std::stable_sort(candidates.begin(), candidates.end(),
                     [&](uint32_t a, uint32_t b) { return specials_[a].text.size() > specials_[b].text.size(); });
  }
}

Specials::Match Specials::find(const uint8_t* text, size_t n, size_t from) const {
  if (specials_.empty()) return {n, nullptr};
  for (size_t i = from; i < n; ++i) {
    if (only_first_byte_ >= 0) {
      const void* hit = std::memchr(text + i, only_first_byte_, n - i);
      if (!hit) break;
      i = static_cast<size_t>(static_cast<const uint8_t*>(hit) - text);
    }
    for (uint32_t candidate : by_first_byte_[text[i]]) {
      const Special& special = specials_[candidate];
      const size_t length = special.text.size();
      if (length <= n - i && std::memcmp(text + i, special.text.data(), length) == 0) return {i, &special};
    }
  }
  return {n, nullptr};
}

const Special* Specials::named(const std::string& text) const {
  for (const Special& special : specials_) {
    if (special.text == text) return &special;
  }
  return nullptr;
}

}  // namespace llmcore::tok
