// Hand-written scanners, one per named split pattern. Each returns the end of the piece that starts at p; together the
// pieces cover the text. All are linear in the text's length, and none recurses or allocates. scan() uses them where
// window.h cannot find the pieces 64 bytes at a time.
//
// X is [^\r\n\p{L}\p{N}], P is [^\s\p{L}\p{N}]; the regular expression stands above each scanner.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tokenizer/split/patterns.h"
#include "tokenizer/split/window.h"
#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {

using Bytes = const uint8_t*;

constexpr uint8_t kWordOrSpace = kLetter | kNumber | kSpace;

// Returns the end of the run of characters, starting at p, that have any class of `mask`.
inline Bytes skip_class(Bytes p, Bytes end, uint8_t mask) {
  while (p < end) {
    if (*p < 0x80) {
      if (!(ascii_class(*p) & mask)) break;
      ++p;
    } else {
      const Char c = multibyte_char_at(p, end);
      if (!(c.cls & mask)) break;
      p += c.length;
    }
  }
  return p;
}

// Returns the end of the run of P characters or, in general, of characters that have none of the other classes.
template <uint8_t kOthers = kWordOrSpace>
Bytes skip_punctuation(Bytes p, Bytes end) {
  while (p < end) {
    const Char c = char_at(p, end);
    if (c.cls & kOthers) break;
    p += c.length;
  }
  return p;
}

// \p{N}{1,limit}, where the first number is known to be present; limit 0 means no limit.
inline Bytes skip_numbers(Bytes p, Bytes end, int limit) {
  for (int n = 0; p < end && (limit == 0 || n < limit); ++n) {
    const Char c = char_at(p, end);
    if (!(c.cls & kNumber)) break;
    p += c.length;
  }
  return p;
}

// 's|'t|'re|'ve|'m|'ll|'d where *p is an apostrophe: the end, or p if there is none. With kFold, as (?i:...), which
// also takes U+017F (long s) for s.
template <bool kFold>
Bytes skip_contraction(Bytes p, Bytes end) {
  const size_t left = static_cast<size_t>(end - p);
  if (left < 2) return p;
  auto letter = [](uint8_t byte) -> uint8_t { return kFold ? byte | 0x20 : byte; };
  const uint8_t first = letter(p[1]);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return p + 2;
  if (left < 3) return p;
  if (kFold && p[1] == 0xC5 && p[2] == 0xBF) return p + 3;
  const uint8_t second = letter(p[2]);
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) {
    return p + 3;
  }
  return p;
}

// The rule by which a run of whitespace is cut.
enum class Spaces {
  kPlain,          // \s+(?!\S)|\s+
  kLines,          // \s*[\r\n]+|\s+(?!\S)|\s+
  kLinesWholeEnd,  // \s++$|\s*[\r\n]|\s+(?!\S)|\s
};

template <Spaces kSpaces>
Bytes skip_spaces(Bytes p, Bytes end) {
  Bytes last = p;              // where the last character of the run starts
  Bytes after_line = nullptr;  // just after the run's last \r or \n
  Bytes q = p;
  while (q < end) {
    const Char c = char_at(q, end);
    if (!(c.cls & kSpace)) break;
    last = q;
    q += c.length;
    if (c.cls & kNewline) after_line = q;
  }
  if (kSpaces == Spaces::kLinesWholeEnd && q == end) return q;
  if (kSpaces != Spaces::kPlain && after_line) return after_line;
  return q == end || last == p ? q : last;
}

// '(?i:[sdmt]|ll|ve|re)|X?\p{L}+|\p{N}{1,kDigits}| ?P+[\r\n]*|<spaces>: cl100k, llama3, nanochat, qwen2. If kWord is
// kLetter | kMark, \p{M} goes with \p{L} (except in X, which takes marks): qwen35.
template <int kDigits, Spaces kSpaces, uint8_t kWord = kLetter>
Bytes next_gpt4_piece(Bytes p, Bytes end) {
  constexpr uint8_t kNoPunctuation = kWordOrSpace | kWord;
  const Char c = char_at(p, end);
  if (c.cls & kWord) return skip_class(p + c.length, end, kWord);
  if (c.cls & kNumber) return skip_numbers(p, end, kDigits);
  if (*p == '\'') {
    const Bytes q = skip_contraction<true>(p, end);
    if (q != p) return q;
  }
  const Bytes next = p + c.length;
  if (!(c.cls & kNewline) && next < end) {
    const Char following = char_at(next, end);
    if (following.cls & kWord) return skip_class(next + following.length, end, kWord);
    if (*p == ' ' && !(following.cls & kNoPunctuation)) {
      return skip_class(skip_punctuation<kNoPunctuation>(next, end), end, kNewline);
    }
  }
  if (c.cls & kSpace) return skip_spaces<kSpaces>(p, end);
  return skip_class(skip_punctuation<kNoPunctuation>(next, end), end, kNewline);
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?P+|\s+(?!\S)|\s+. With kSingleNumbers (smollm) every \p{N} is first cut
// off on its own, and the rest is cut segment by segment, so that a segment's end counts as the text's end.
template <bool kSingleNumbers>
Bytes next_gpt2_piece(Bytes p, Bytes end) {
  if (*p == '\'') {
    const Bytes q = skip_contraction<false>(p, end);
    if (q != p) return q;
  }
  Bytes body = p;
  if (*p == ' ' && p + 1 < end) body = p + 1;
  const Char c = char_at(body, end);
  if (c.cls & kLetter) return skip_class(body + c.length, end, kLetter);
  if (c.cls & kNumber) {
    if (!kSingleNumbers) return skip_numbers(body, end, 0);
    return body == p ? p + c.length : body;
  }
  if (!(c.cls & kSpace)) return skip_punctuation(body + c.length, end);
  const Bytes q = skip_spaces<Spaces::kPlain>(p, end);
  if (kSingleNumbers && q < end) {
    const Char following = char_at(q, end);
    if (following.cls & kSpace) {  // the run's last character is left for what follows, unless that is a number
      const Bytes after = q + following.length;
      if (after < end && (char_at(after, end).cls & kNumber)) return after;
    }
  }
  return q;
}

// The letters of o200k: U is [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], V is [\p{Ll}\p{Lm}\p{Lo}\p{M}].
inline bool is_u(uint8_t cls) { return (cls & kMark) || ((cls & kLetter) && !(cls & kLower)); }
inline bool is_v(uint8_t cls) { return (cls & kMark) || ((cls & kLetter) && !(cls & kUpper)); }

// U*V+ (kNeedLower) or U+V* from p: the end, or nullptr if it does not match.
template <bool kNeedLower>
Bytes skip_cased_word(Bytes p, Bytes end) {
  Bytes q = p;
  Bytes after_last_v = nullptr;  // U* gives characters back until V+ finds one that is in both
  while (q < end) {
    const Char c = char_at(q, end);
    if (!is_u(c.cls)) break;
    q += c.length;
    if (is_v(c.cls)) after_last_v = q;
  }
  const Bytes upper_end = q;
  while (q < end) {
    const Char c = char_at(q, end);
    if (!is_v(c.cls)) break;
    q += c.length;
  }
  if (kNeedLower) return q > upper_end ? q : after_last_v;
  return upper_end > p ? q : nullptr;
}

// X?U*V+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|X?U+V*(?i:...)?|\p{N}{1,3}| ?P+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
inline Bytes next_o200k_piece(Bytes p, Bytes end) {
  const Char c = char_at(p, end);
  if (c.cls & kNumber) return skip_numbers(p, end, 3);
  const Bytes next = p + c.length;
  const bool prefix = !(c.cls & (kNewline | kLetter | kNumber));  // X takes the character if it can
  Bytes word = prefix ? skip_cased_word<true>(next, end) : nullptr;
  if (!word) word = skip_cased_word<true>(p, end);
  if (!word && prefix) word = skip_cased_word<false>(next, end);
  if (!word) word = skip_cased_word<false>(p, end);
  if (word) return word < end && *word == '\'' ? skip_contraction<true>(word, end) : word;

  Bytes punctuation = nullptr;
  if (!(c.cls & kSpace)) {
    punctuation = next;
  } else if (*p == ' ' && next < end && !(char_at(next, end).cls & kWordOrSpace)) {
    punctuation = next;
  }
  if (!punctuation) return skip_spaces<Spaces::kLines>(p, end);
  Bytes q = skip_punctuation(punctuation, end);
  while (q < end && (*q == '\r' || *q == '\n' || *q == '/')) ++q;
  return q;
}

// The letters of deepseek's second stage, [一-龥぀-ゟ゠-ヿ]: runs of them are cut off, like numbers, before
// anything else.
inline bool is_deepseek_cjk(Bytes p, Bytes end) {
  if (*p < 0xE3 || *p > 0xE9) return false;
  const uint32_t code = code_at(p, end).code;
  return (code >= 0x4E00 && code <= 0x9FA5) || (code >= 0x3040 && code <= 0x30FF);
}

// The third stage, within a stretch that the others left whole, with S for [\p{P}\p{S}]:
// [!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?S+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
// What none of them matches is a piece up to the next match.
inline Bytes next_deepseek_piece(Bytes p, Bytes end) {
  constexpr uint8_t kWord = kLetter | kMark;
  const Char c = char_at(p, end);
  const Bytes next = p + c.length;
  const uint8_t following = next < end ? char_at(next, end).cls : uint8_t{0};
  if (c.cls & kWord) return skip_class(next, end, kWord);
  if (c.cls & kSymbol) {
    const auto is_letter = [](uint8_t byte) { return (byte | 0x20) >= 'a' && (byte | 0x20) <= 'z'; };
    if (c.length > 1 || next == end || !is_letter(*next)) return skip_class(skip_class(p, end, kSymbol), end, kNewline);
    Bytes q = next;
    while (q < end && is_letter(*q)) ++q;
    return q;
  }
  if (!(c.cls & kNewline) && (following & kWord)) return skip_class(next, end, kWord);
  if (*p == ' ' && (following & kSymbol)) return skip_class(skip_class(next, end, kSymbol), end, kNewline);
  if (c.cls & kSpace) return skip_spaces<Spaces::kLines>(p, end);
  for (Bytes q = next; q < end;) {
    const Char d = char_at(q, end);
    const Bytes after = q + d.length;
    if ((d.cls & (kWord | kSymbol | kSpace)) || (after < end && (char_at(after, end).cls & kWord))) return q;
    q = after;
  }
  return end;
}

// Three stages: \p{N}{1,3}, then runs of CJK letters, then the rest, each within what the previous one left.
template <class Visit>
void scan_deepseek(Bytes p, Bytes end, Visit&& visit) {
  while (p < end) {
    if (char_at(p, end).cls & kNumber) {
      const Bytes q = skip_numbers(p, end, 3);
      visit(p, q);
      p = q;
      continue;
    }
    const bool cjk = is_deepseek_cjk(p, end);
    Bytes stretch = p;
    while (stretch < end && is_deepseek_cjk(stretch, end) == cjk) {
      const Char c = char_at(stretch, end);
      if (c.cls & kNumber) break;
      stretch += c.length;
    }
    while (p < stretch) {
      const Bytes q = next_deepseek_piece(p, stretch);
      visit(p, q);
      p = q;
    }
  }
}

template <Pattern kPattern>
Bytes next_piece(Bytes p, Bytes end) {
  switch (kPattern) {
    case Pattern::kGpt2:
      return next_gpt2_piece<false>(p, end);
    case Pattern::kSmollm:
      return next_gpt2_piece<true>(p, end);
    case Pattern::kCl100k:
      return next_gpt4_piece<3, Spaces::kLinesWholeEnd>(p, end);
    case Pattern::kLlama3:
      return next_gpt4_piece<3, Spaces::kLines>(p, end);
    case Pattern::kQwen2:
      return next_gpt4_piece<1, Spaces::kLines>(p, end);
    case Pattern::kQwen35:
      return next_gpt4_piece<1, Spaces::kLines, kLetter | kMark>(p, end);
    case Pattern::kNanochat:
      return next_gpt4_piece<2, Spaces::kLines>(p, end);
    case Pattern::kO200k:
      return next_o200k_piece(p, end);
    case Pattern::kDeepseek:
      return nullptr;  // cut in stages: scan_deepseek()
  }
}

template <Pattern kPattern, class Visit>
void scan_pattern(Bytes p, Bytes end, Visit&& visit) {
  constexpr bool kFold = kPattern != Pattern::kGpt2 && kPattern != Pattern::kSmollm;
  while (p < end) {
    uint64_t starts = 0;
    if (end - p > 2 && p[0] < 0x80 && p[1] < 0x80) {
      const Window window = read_window<kPattern>(p, end);
      starts = sure_starts<kPattern>(window, p, skip_contraction<kFold>);
    }
    if (starts == 0) {
      const Bytes q = next_piece<kPattern>(p, end);
      visit(p, q);
      p = q;
    }
    for (const Bytes begin = p; starts != 0; starts &= starts - 1) {
      const Bytes q = begin + __builtin_ctzll(starts);
      visit(p, q);
      p = q;
    }
  }
}

// Calls visit(begin, end) for every piece of [p, end), in order.
template <class Visit>
void scan(Pattern pattern, Bytes p, Bytes end, Visit&& visit) {
  switch (pattern) {
    case Pattern::kGpt2:
      return scan_pattern<Pattern::kGpt2>(p, end, visit);
    case Pattern::kSmollm:
      return scan_pattern<Pattern::kSmollm>(p, end, visit);
    case Pattern::kCl100k:
      return scan_pattern<Pattern::kCl100k>(p, end, visit);
    case Pattern::kLlama3:
      return scan_pattern<Pattern::kLlama3>(p, end, visit);
    case Pattern::kQwen2:
      return scan_pattern<Pattern::kQwen2>(p, end, visit);
    case Pattern::kQwen35:
      return scan_pattern<Pattern::kQwen35>(p, end, visit);
    case Pattern::kNanochat:
      return scan_pattern<Pattern::kNanochat>(p, end, visit);
    case Pattern::kO200k:
      return scan_pattern<Pattern::kO200k>(p, end, visit);
    case Pattern::kDeepseek:
      return scan_deepseek(p, end, visit);
  }
}

}  // namespace llmcore::tok
