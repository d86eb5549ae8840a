#include "tokenizer/unicode/code_set.h"

#include <algorithm>

#include "tokenizer/unicode/sets.h"

namespace llmcore::tok {

std::optional<CodeSet> CodeSet::property(const std::string& name) {
  uint32_t wanted = 0;  // one bit for each category
  for (uint32_t number = 0; number < kNumCategories; ++number) {
    const std::string category = kCategoryNames[number];
    if (name == category || name == category.substr(0, 1)) wanted |= 1u << number;
  }
  if (wanted) {
    std::vector<uint32_t> bounds;
    for (size_t i = 0; i < kNumCategoryRuns; ++i) {
      const bool inside = wanted >> (kCategoryRuns[i] & 31) & 1;
      if (inside == (bounds.size() % 2 == 0)) bounds.push_back(kCategoryRuns[i] >> 5);
    }
    if (bounds.size() % 2) bounds.push_back(kIllFormedCode);
    return CodeSet(std::move(bounds));
  }
  for (size_t i = 0; i < kNumScripts; ++i) {
    const Script& script = kScripts[i];
    if (name == script.name) return CodeSet({script.bounds, script.bounds + script.num_bounds});
  }
  return std::nullopt;
}

CodeSet CodeSet::space() {
  return range('\t', '\r') | range(0x85, 0x85) | *property("Z");  // Zs, Zl and Zp are all White_Space
}

// Oniguruma's definition, which includes a few Latin-1 characters that Unicode's recommendation leaves out.
CodeSet CodeSet::word() {
  CodeSet word = *property("L") | *property("M") | *property("Nd") | *property("Nl") | *property("Pc");
  for (const auto& [first, last] : {std::pair<uint32_t, uint32_t>{0xB2, 0xB3},
                                    {0xB9, 0xB9},
                                    {0xBC, 0xBE},
                                    {0x24B6, 0x24E9},
                                    {0x1F130, 0x1F149},
                                    {0x1F150, 0x1F169},
                                    {0x1F170, 0x1F189}}) {
    word = word | range(first, last);
  }
  return word;
}

CodeSet CodeSet::newline() { return range('\n', '\n'); }

bool CodeSet::contains(uint32_t code) const {
  return (std::upper_bound(bounds_.begin(), bounds_.end(), code) - bounds_.begin()) % 2 == 1;
}

CodeSet CodeSet::operator|(const CodeSet& other) const {
  CodeSet all;
  size_t i = 0, j = 0;
  while (i < bounds_.size() || j < other.bounds_.size()) {
    const bool mine = j == other.bounds_.size() || (i < bounds_.size() && bounds_[i] <= other.bounds_[j]);
    const std::vector<uint32_t>& from = mine ? bounds_ : other.bounds_;
    size_t& next = mine ? i : j;
    if (!all.empty() && from[next] <= all.bounds_.back()) {
      all.bounds_.back() = std::max(all.bounds_.back(), from[next + 1]);
    } else {
      all.bounds_.insert(all.bounds_.end(), {from[next], from[next + 1]});
    }
    next += 2;
  }
  return all;
}

CodeSet CodeSet::operator~() const {
  std::vector<uint32_t> bounds = bounds_;
  if (!bounds.empty() && bounds.front() == 0) {
    bounds.erase(bounds.begin());
  } else {
    bounds.insert(bounds.begin(), 0);
  }
  if (!bounds.empty() && bounds.back() == kLimit) {
    bounds.pop_back();
  } else {
    bounds.push_back(kLimit);
  }
  return CodeSet(std::move(bounds));
}

}  // namespace llmcore::tok
