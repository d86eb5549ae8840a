#include "tokenizer/split/specials.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "tokenizer/unicode/code_set.h"

namespace llmcore::tok {
namespace {

constexpr size_t kMaxBytes = 1 << 16;  // in one text

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument("[tokenizer] expected " + message); }

bool is_space(CodePoint c) { return c.code != kIllFormedCode && char_class(c.code) & kSpace; }
// Rust's \w, which Hugging Face uses: Oniguruma's (the one in patterns) without the superscript digits and fractions of
// Latin-1, and with the two joiners.
bool is_word(CodePoint c) {
  static const CodeSet kWord = (CodeSet::word() & ~CodeSet::range(0xB2, 0xBE)) | CodeSet::range(0xB5, 0xB5) |
                               CodeSet::range(0xBA, 0xBA) | CodeSet::range(0x200C, 0x200D);
  return kWord.contains(c.code);
}

std::vector<Special> of_phase(const std::vector<Special>& specials, bool normalized) {
  std::vector<Special> found;
  for (const Special& special : specials) {
    if (((special.flags & Special::kNormalized) != 0) == normalized) found.push_back(special);
  }
  return found;
}

}  // namespace

SpecialPhases::SpecialPhases(const std::vector<Special>& specials)
    : raw(of_phase(specials, false)), normalized(of_phase(specials, true)) {}

Specials::Specials(std::vector<Special> specials) : specials_(std::move(specials)), states_{{0, kRoot, kNone}} {
  std::vector<std::pair<uint32_t, uint8_t>> arrivals(1);  // how a state is reached: (previous state, byte)
  for (uint32_t i = 0; i < specials_.size(); ++i) {
    const std::string& text = specials_[i].text;
    if (text.empty()) fail("special tokens that are not empty, got ''");
    if (text.size() > kMaxBytes) fail("special tokens of at most 65536 bytes, got " + std::to_string(text.size()));
    if (!index_.emplace(text, i).second) fail("distinct special tokens, got '" + text + "' twice");
    uint32_t state = kRoot;
    for (const char c : text) {
      const uint8_t byte = static_cast<uint8_t>(c);
      const uint64_t fresh = states_.size();
      const uint64_t next = steps_.insert(pair_key(state, byte), fresh);
      if (next == fresh) {
        states_.push_back({states_[state].size + 1, kRoot, kNone});
        arrivals.emplace_back(state, byte);
      }
      state = static_cast<uint32_t>(next);
    }
    states_[state].found = i;
    begins_[static_cast<uint8_t>(text[0])] = true;
  }
  if (std::count(begins_.begin(), begins_.end(), true) == 1) {
    only_begin_ = static_cast<int>(std::find(begins_.begin(), begins_.end(), true) - begins_.begin());
  }
  // Process shorter states first, because longer ones refer to them.
  std::vector<uint32_t> order(states_.size());
  for (uint32_t state = 0; state < order.size(); ++state) order[state] = state;
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return states_[a].size < states_[b].size; });
  for (const uint32_t state : order) {
    if (states_[state].size > 1) {
      states_[state].shorter = step(states_[arrivals[state].first].shorter, arrivals[state].second);
    }
    if (states_[state].found == kNone) states_[state].found = states_[states_[state].shorter].found;
  }
}

uint32_t Specials::step(uint32_t state, uint8_t byte) const {
  for (;; state = states_[state].shorter) {
    const uint64_t next = steps_.find(pair_key(state, byte));
    if (next != PairTable::kNone) return static_cast<uint32_t>(next);
    if (state == kRoot) return kRoot;
  }
}

const uint8_t* Specials::first_byte(const uint8_t* p, const uint8_t* end) const {
  if (only_begin_ >= 0) {
    const void* hit = std::memchr(p, only_begin_, static_cast<size_t>(end - p));
    return hit ? static_cast<const uint8_t*>(hit) : end;
  }
  while (p < end && !begins_[*p]) ++p;
  return p;
}

Specials::Spelled Specials::spelled(const uint8_t* text, size_t n, size_t from) const {
  Spelled best{n, nullptr};
  if (specials_.empty()) return best;
  uint32_t state = kRoot;
  for (size_t i = from; i < n; ++i) {
    if (state == kRoot) {
      i = static_cast<size_t>(first_byte(text + i, text + n) - text);
      if (i == n) break;
    }
    state = step(state, text[i]);
    const State& now = states_[state];
    if (best.what && i + 1 - now.size > best.begin) break;  // any match still to be found begins later
    if (now.found != kNone) {
      const Special& found = specials_[now.found];
      const size_t begin = i + 1 - found.text.size();
      if (begin <= best.begin) best = {begin, &found};
    }
  }
  return best;
}

Specials::Match Specials::find(const uint8_t* text, size_t n, size_t from, size_t taken) const {
  for (;;) {
    const Spelled found = spelled(text, n, from);
    if (!found.what) return {n, n, nullptr, n};
    size_t begin = found.begin, end = begin + found.what->text.size();
    from = end;
    const uint8_t flags = found.what->flags;
    if (flags & Special::kWord && ((begin > 0 && is_word(code_before(text, text + begin))) ||
                                   (end < n && is_word(code_at(text + end, text + n)))))
      continue;
    if (flags & Special::kStripsLeft) {
      for (CodePoint c; begin > taken && is_space(c = code_before(text, text + begin));) begin -= c.length;
    }
    if (flags & Special::kStripsRight) {
      for (CodePoint c; end < n && is_space(c = code_at(text + end, text + n));) end += c.length;
    }
    // What is left of a match in whitespace that the previous one took may be nothing.
    if (flags & Special::kStripsLeft && end <= taken) continue;
    return {begin, end, found.what, from};
  }
}

const Special* Specials::named(const std::string& text) const {
  const auto entry = index_.find(text);
  return entry == index_.end() ? nullptr : &specials_[entry->second];
}

}  // namespace llmcore::tok
