#include "tokenizer/files/json_vocabulary.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <unordered_map>

#include "tokenizer/containers/hash.h"
#include "tokenizer/split/text_parts.h"
#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {
namespace {

constexpr int kMaxDepth = 64;  // of skipped values

// Maps spellings to their places in a list: open addressing, at most half full.
class SpellingIndex {
 public:
  static constexpr uint32_t kNone = ~0u;
  explicit SpellingIndex(size_t n) {
    size_t capacity = 64;
    while (capacity < 2 * n) capacity *= 2;
    slots_.resize(capacity, Slot{kNone, 0});
  }
  // Returns false if the spelling is already present.
  template <class SpellingOf>
  bool insert(std::string_view spelling, uint32_t place, const SpellingOf& of) {
    const uint64_t hash = hash_of(spelling);
    Slot& slot = slots_[slot_of(spelling, hash, of)];
    if (slot.place != kNone) return false;
    slot = {place, tag(hash)};
    return true;
  }
  template <class SpellingOf>
  uint32_t find(std::string_view spelling, const SpellingOf& of) const {
    return slots_[slot_of(spelling, hash_of(spelling), of)].place;
  }

 private:
  struct Slot {
    uint32_t place, tag;
  };
  static uint32_t tag(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }
  static uint64_t hash_of(std::string_view s) {
    return hash_bytes(reinterpret_cast<const uint8_t*>(s.data()), s.size());
  }
  template <class SpellingOf>
  size_t slot_of(std::string_view spelling, uint64_t hash, const SpellingOf& of) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = hash & mask;
    while (slots_[slot].place != kNone && (slots_[slot].tag != tag(hash) || of(slots_[slot].place) != spelling))
      slot = (slot + 1) & mask;
    return slot;
  }
  HugeVector<Slot> slots_;
};

void append_utf8(uint32_t code, std::string& out) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0 | code >> 6);
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F));
  } else {
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F));
  }
  put(0x80 | (code & 0x3F));
}

// Whether a text is one character of a byte-level alphabet.
bool is_byte(std::string_view text, const std::vector<int16_t>& byte_of) {
  const auto* at = reinterpret_cast<const uint8_t*>(text.data());
  if (text.empty()) return false;
  const CodePoint c = code_at(at, at + text.size());
  return c.length == text.size() && c.code < byte_of.size() && byte_of[c.code] >= 0;
}

}  // namespace

// Walks the document. Every function leaves `p` after what it read, and returns false if the document has something
// else there.
struct JsonVocabulary::Reader {
  const char *p, *end;
  JsonVocabulary& to;

  void space() {
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) ++p;
  }
  bool take(char c) {
    space();
    if (p == end || *p != c) return false;
    ++p;
    return true;
  }
  bool word(std::string_view text) {
    if (static_cast<size_t>(end - p) < text.size() || std::string_view(p, text.size()) != text) return false;
    p += text.size();
    return true;
  }

  bool hex(uint32_t& value) {
    if (end - p < 4) return false;
    value = 0;
    for (int i = 0; i < 4; ++i, ++p) {
      const char c = *p, lower = static_cast<char>(c | 0x20);
      if (c >= '0' && c <= '9')
        value = value << 4 | static_cast<uint32_t>(c - '0');
      else if (lower >= 'a' && lower <= 'f')
        value = value << 4 | static_cast<uint32_t>(lower - 'a' + 10);
      else
        return false;
    }
    return true;
  }

  // Reads what follows a backslash. A lone surrogate has no UTF-8.
  bool escape(std::string& out) {
    if (p == end) return false;
    static constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    const char c = *p++;
    if (const size_t at = kFrom.find(c); at != std::string_view::npos) return out += kTo[at], true;
    uint32_t code, low;
    if (c != 'u' || !hex(code)) return false;
    if (code >= 0xD800 && code < 0xE000) {
      if (code >= 0xDC00 || !word("\\u") || !hex(low) || low < 0xDC00 || low >= 0xE000) return false;
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    return append_utf8(code, out), true;
  }

  // Reads a string: a view of the document or, if it has escapes, of the unescaped text.
  bool string(Spelling& found) {
    if (!take('"')) return false;
    const char* begin = p;
    std::string* out = nullptr;
    while (p < end && *p != '"') {
      const auto byte = static_cast<uint8_t>(*p);
      if (byte < 0x20) return false;
      if (byte == '\\') {
        if (!out) out = &to.unescaped_.emplace_back(begin, p);
        ++p;
        if (!escape(*out)) return false;
        continue;
      }
      size_t length = 1;
      if (byte >= 0x80) {
        const CodePoint c =
            multibyte_code_at(reinterpret_cast<const uint8_t*>(p), reinterpret_cast<const uint8_t*>(end));
        if (c.code == kIllFormedCode) return false;
        length = c.length;
      }
      if (out) out->append(p, length);
      p += length;
    }
    if (p == end) return false;
    found = out ? Spelling(*out) : Spelling(begin, static_cast<size_t>(p - begin));
    ++p;
    return true;
  }

  // Skips any value. The general reader checks its contents.
  bool skip(int depth = 0) {
    space();
    if (p == end || depth == kMaxDepth) return false;
    Spelling ignored;
    if (*p == '"') return string(ignored);
    const char open = *p, close = open == '{' ? '}' : ']';
    if (open != '{' && open != '[') {
      while (p < end && !std::strchr(",]} \n\t\r", *p)) ++p;
      return p < end;
    }
    ++p;
    if (take(close)) return true;
    do {
      if (open == '{' && !(string(ignored) && take(':'))) return false;
      if (!skip(depth + 1)) return false;
    } while (take(','));
    return take(close);
  }

  // Reads the members of an object: visit(name) reads the value.
  template <class Visit>
  bool object(const Visit& visit) {
    if (!take('{')) return false;
    if (take('}')) return true;
    do {
      Spelling name;
      if (!string(name) || !take(':') || !visit(name)) return false;
    } while (take(','));
    return take('}');
  }

  bool vocab() {
    return object([&](Spelling name) {
      space();
      const char* begin = p;
      uint32_t id = 0;
      while (p < end && *p >= '0' && *p <= '9' && p - begin < 10) id = id * 10 + static_cast<uint32_t>(*p++ - '0');
      if (p == begin || p - begin > 9 || (*begin == '0' && p - begin > 1)) return false;
      to.vocab_.push_back({name, id});
      return p < end && std::strchr(",} \n\t\r", *p) != nullptr;
    });
  }

  // Merges are "a b" or ["a", "b"], all of one kind.
  bool merges() {
    if (!take('[')) return false;
    if (take(']')) return true;
    space();
    const bool pairs = p < end && *p == '[';
    do {
      Spelling left, right;
      if (pairs) {
        if (!take('[') || !string(left) || !take(',') || !string(right) || !take(']')) return false;
      } else {
        if (!string(left)) return false;
        const size_t cut = left.find(' ');
        if (cut == Spelling::npos || left.find(' ', cut + 1) != Spelling::npos) return false;
        right = left.substr(cut + 1), left = left.substr(0, cut);
      }
      to.merges_.emplace_back(left, right);
    } while (take(','));
    return take(']');
  }

  bool document() {
    const char* copied = p;  // everything before it is in rest_
    const auto cut = [&](bool (Reader::*read)()) {
      space();
      to.rest_.append(copied, p).append("null");
      const bool good = (this->*read)();
      copied = p;
      return good;
    };
    int models = 0, vocabs = 0, merge_lists = 0;
    const bool good = object([&](Spelling name) {
      if (name != "model") return skip();
      ++models;
      return object([&](Spelling inner) {
        if (inner == "vocab") return ++vocabs, cut(&Reader::vocab);
        if (inner == "merges") return ++merge_lists, cut(&Reader::merges);
        return skip();
      });
    });
    space();
    to.rest_.append(copied, end);
    return good && p == end && models == 1 && vocabs == 1 && merge_lists == 1;
  }
};

std::optional<JsonVocabulary> JsonVocabulary::read(std::string_view document) {
  JsonVocabulary found;
  Reader reader{document.data(), document.data() + document.size(), found};
  if (!reader.document()) return std::nullopt;
  return found;
}

std::vector<std::optional<uint32_t>> JsonVocabulary::find(const std::vector<std::string>& spellings) const {
  std::unordered_map<std::string_view, uint32_t> places;
  for (uint32_t i = 0; i < spellings.size(); ++i) places.emplace(spellings[i], i);
  std::vector<std::optional<uint32_t>> ids(spellings.size());
  if (spellings.empty()) return ids;
  for (const Entry& entry : vocab_) {
    const auto place = places.find(entry.spelling);
    if (place != places.end()) ids[place->second] = entry.id;
  }
  return ids;
}

// Returns the special tokens that merges join or make.
std::unordered_set<std::string> JsonVocabulary::merged_among(const std::vector<Special>& specials) const {
  std::unordered_set<std::string> texts, found;
  size_t longest = 0;
  for (const Special& s : specials) {
    texts.insert(s.text);
    longest = std::max(longest, s.text.size());
  }
  if (texts.empty()) return found;
  std::string text;
  const auto look = [&](Spelling left, Spelling right) {
    if (left.size() + right.size() > longest) return;
    text.assign(left).append(right);
    if (texts.count(text)) found.insert(text);
  };
  for (const auto& [left, right] : merges_) look(left, {}), look({}, right), look(left, right);
  return found;
}

std::optional<JsonVocabulary::Parts> JsonVocabulary::parts(const std::vector<Special>& specials,
                                                           const std::vector<int16_t>& byte_of, size_t max_gap) const {
  const auto spelling_of = [&](uint32_t place) { return vocab_[place].spelling; };
  SpellingIndex index(vocab_.size());
  for (uint32_t place = 0; place < vocab_.size(); ++place)
    if (!index.insert(vocab_[place].spelling, place, spelling_of)) return std::nullopt;

  // A special token that is also an ordinary one stays among them: merges go through it.
  const std::unordered_set<std::string> merged = merged_among(specials);
  std::vector<bool> special(vocab_.size());
  size_t fresh = vocab_.size();  // what `tokenizers` numbers the next token that is not in the vocabulary
  for (const Special& s : specials) {
    const uint32_t place = index.find(s.text, spelling_of);
    if (place == SpellingIndex::kNone) {
      if (s.id != fresh++) return std::nullopt;
      continue;
    }
    if (vocab_[place].id != s.id) return std::nullopt;
    special[place] = !is_byte(s.text, byte_of) && !merged.count(s.text);
  }
  Parts found;
  const size_t limit = vocab_.size() + max_gap;
  std::vector<bool> taken(limit);
  const auto claim = [&](uint32_t id) {
    if (id >= limit || taken[id]) return false;
    taken[id] = true;
    return true;
  };
  for (const Special& s : specials) {
    const uint32_t place = index.find(s.text, spelling_of);
    if (place == SpellingIndex::kNone || special[place]) claim(s.id);
  }
  uint32_t most = 0;
  for (uint32_t place = 0; place < vocab_.size(); ++place) {
    if (special[place]) continue;
    if (!claim(vocab_[place].id)) return std::nullopt;
    most = std::max(most, vocab_[place].id + 1);
  }
  found.tokens.resize(most);
  constexpr size_t kTokensAtATime = 1 << 13;
  std::atomic<bool> good{true};
  work_through((vocab_.size() + kTokensAtATime - 1) / kTokensAtATime, [&](auto&& next) {
    for (size_t part; (part = next()) * kTokensAtATime < vocab_.size();) {
      const size_t stop = std::min(vocab_.size(), (part + 1) * kTokensAtATime);
      for (size_t place = part * kTokensAtATime; place < stop; ++place) {
        if (special[place]) continue;
        const auto* at = reinterpret_cast<const uint8_t*>(vocab_[place].spelling.data());
        const auto* end = at + vocab_[place].spelling.size();
        std::string& token = found.tokens[vocab_[place].id];
        while (at < end) {
          const CodePoint c = code_at(at, end);
          if (c.code >= byte_of.size() || byte_of[c.code] < 0) return void(good = false);
          token += static_cast<char>(byte_of[c.code]);
          at += c.length;
        }
        if (token.empty()) return void(good = false);
      }
    }
  });

  constexpr size_t kMergesAtATime = 1 << 14;
  found.merges.resize(merges_.size());
  work_through((merges_.size() + kMergesAtATime - 1) / kMergesAtATime, [&](auto&& next) {
    for (size_t part; (part = next()) * kMergesAtATime < merges_.size();) {
      const size_t stop = std::min(merges_.size(), (part + 1) * kMergesAtATime);
      for (size_t i = part * kMergesAtATime; i < stop; ++i) {
        const uint32_t left = index.find(merges_[i].first, spelling_of);
        const uint32_t right = index.find(merges_[i].second, spelling_of);
        if (left == SpellingIndex::kNone || right == SpellingIndex::kNone || special[left] || special[right])
          return void(good = false);
        found.merges[i] = {vocab_[left].id, vocab_[right].id};
      }
    }
  });
  if (!good) return std::nullopt;
  return found;
}

}  // namespace llmcore::tok
