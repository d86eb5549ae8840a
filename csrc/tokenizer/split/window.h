// Cuts ASCII text 64 bytes at a time: one bit per byte, with the split patterns as algebra on the bits. A window begins
// where a piece begins, so nothing before it matters; anything that depends on bytes after the window is left to the
// next window or to the character-by-character scanners (scanner.h). The scanners are the reference: both must agree.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tokenizer/split/patterns.h"

namespace llmcore::tok {

// Bit i stands for byte i of the window; no bit is set at or after `size`.
struct Window {
  int size;  // up to the first byte that is not ASCII, the end of the text, or 64
  uint64_t letter, upper, number, space, newline, blank, quote, slash, other;  // blank is ' ', quote is '\''
};

namespace window_detail {

typedef uint8_t Bytes16 __attribute__((vector_size(16)));

// Returns the top bits of 16 bytes.
inline uint64_t top_bits(Bytes16 v) {
#ifdef __SSE2__
  typedef char Chars16 __attribute__((vector_size(16)));
  return static_cast<uint64_t>(static_cast<uint32_t>(__builtin_ia32_pmovmskb128(reinterpret_cast<Chars16>(v))));
#else
  uint64_t halves[2];
  std::memcpy(halves, &v, 16);
  auto gather = [](uint64_t half) { return ((half >> 7 & 0x0101010101010101ull) * 0x0102040810204080ull) >> 56; };
  return gather(halves[0]) | gather(halves[1]) << 8;
#endif
}

// Marks the bytes from `low` to `high`.
inline uint64_t between(Bytes16 v, uint8_t low, uint8_t high) {
  return top_bits(reinterpret_cast<Bytes16>(v - low <= static_cast<uint8_t>(high - low)));
}
inline uint64_t equal(Bytes16 v, uint8_t byte) { return top_bits(reinterpret_cast<Bytes16>(v == byte)); }

inline uint64_t below(int bit) { return bit < 64 ? (1ull << bit) - 1 : ~0ull; }
inline uint64_t first_of_runs(uint64_t bits) { return bits & ~(bits << 1); }

}  // namespace window_detail

template <Pattern kPattern>
Window read_window(const uint8_t* p, const uint8_t* end) {
  using namespace window_detail;
  uint8_t padded[64];
  const size_t left = static_cast<size_t>(end - p);
  if (left < 64) {
    std::memset(padded, 0, sizeof padded);
    std::memcpy(padded, p, left);
    p = padded;
  }
  Window w{};
  uint64_t foreign = left < 64 ? 1ull << left : 0;
  for (int shift = 0; shift < 64; shift += 16) {
    Bytes16 v;
    std::memcpy(&v, p + shift, 16);
    foreign |= top_bits(v) << shift;
    w.letter |= between(v | 0x20, 'a', 'z') << shift;
    w.number |= between(v, '0', '9') << shift;
    const uint64_t blank = equal(v, ' ');
    w.blank |= blank << shift;
    w.space |= (between(v, '\t', '\r') | blank) << shift;
    w.quote |= equal(v, '\'') << shift;
    if (kPattern != Pattern::kGpt2 && kPattern != Pattern::kSmollm) {
      w.newline |= (equal(v, '\n') | equal(v, '\r')) << shift;
    }
    if (kPattern == Pattern::kO200k) {
      w.upper |= between(v, 'A', 'Z') << shift;
      w.slash |= equal(v, '/') << shift;
    }
  }
  // o200k's [\r\n/]* continues past a line end: rare, and left to the scanner.
  foreign |= w.slash & w.newline << 1;
  w.size = foreign ? __builtin_ctzll(foreign) : 64;
  const uint64_t inside = below(w.size);
  for (uint64_t* bits : {&w.letter, &w.upper, &w.number, &w.space, &w.newline, &w.blank, &w.quote}) *bits &= inside;
  w.other = inside & ~(w.letter | w.number | w.space);
  return w;
}

// Returns where pieces begin if each is decided by the bytes up to the window's end.
template <Pattern kPattern>
uint64_t likely_starts(const Window& w) {
  using namespace window_detail;
  constexpr bool kSmollm = kPattern == Pattern::kSmollm;
  if (kSmollm || kPattern == Pattern::kGpt2) {
    // The last space of a run is on its own and joins what follows if it is ' '.
    const uint64_t last_spaces = w.space & ~(w.space >> 1) & ~(kSmollm ? w.number >> 1 : 0);
    const uint64_t joining = first_of_runs(w.letter) | first_of_runs(w.other) | first_of_runs(w.number);
    return first_of_runs(w.space) | last_spaces | (kSmollm ? w.number : 0) | (joining & ~(w.blank << 1));
  }
  uint64_t numbers = first_of_runs(w.number);
  if (kPattern == Pattern::kQwen2 || kPattern == Pattern::kQwen35) {
    numbers = w.number;
  } else {
    constexpr int kDigits = kPattern == Pattern::kNanochat ? 2 : 3;
    uint64_t after = w.number & w.number << 1 & w.number << 2;  // numbers after kDigits others
    if (kDigits == 3) after &= w.number << 3;
    for (uint64_t next = numbers; (next = next << kDigits & after);) numbers |= next;
  }
  // A run of other characters swallows the line ends after it. (Adding to a run of bits clears it.)
  const uint64_t swallowed = w.newline & ~(w.newline + (w.newline & w.other << 1));
  const uint64_t space = w.space & ~swallowed;
  // A piece of spaces reaches up to the last line end of the run; the spaces after it are one piece, except the last.
  const uint64_t inline_space = w.space & ~w.newline;
  uint64_t after_line = inline_space & w.newline << 1;
  for (uint64_t blank_lines = (inline_space + after_line) & w.newline; blank_lines; blank_lines &= blank_lines - 1) {
    const uint64_t before = ~inline_space & below(__builtin_ctzll(blank_lines));
    after_line &= ~(2ull << (63 - __builtin_clzll(before | 1)));
  }
  const uint64_t last_spaces = inline_space & ~(w.space >> 1);
  // A word takes the one character before it that is neither a line end nor part of another piece.
  const uint64_t others = first_of_runs(w.other) & ~(w.blank << 1);
  uint64_t words = first_of_runs(w.letter) & ~(inline_space << 1) & ~(others << 1);
  if (kPattern == Pattern::kO200k) words |= w.upper & (w.letter & ~w.upper) << 1;
  return numbers | first_of_runs(space) | after_line | last_spaces | others | words;
}

// Returns the starts of the pieces after the window's first one that no byte after the window can move.
// `skip_contraction` is the scanner's.
template <Pattern kPattern, class SkipContraction>
uint64_t sure_starts(const Window& w, const uint8_t* p, SkipContraction&& skip_contraction) {
  using namespace window_detail;
  constexpr bool kSuffix = kPattern == Pattern::kO200k;  // in o200k contractions end words, elsewhere they are pieces
  uint64_t starts = likely_starts<kPattern>(w) | 1;
  uint64_t quotes = w.quote & w.letter >> 1 & (kSuffix ? w.letter << 1 : starts);
  for (int after_last = 0; quotes; quotes &= quotes - 1) {
    const int quote = __builtin_ctzll(quotes);
    const int after = static_cast<int>(skip_contraction(p + quote, p + w.size) - p);
    if (after == quote || (kSuffix && quote == after_last && quote > 0)) continue;
    starts &= ~(below(after) & ~below(kSuffix ? quote : quote + 1));
    if (after < 64) starts |= 1ull << after;
    after_last = after;
  }
  const uint64_t changes = (w.letter ^ w.letter << 1) | (w.number ^ w.number << 1) | (w.space ^ w.space << 1) | 1;
  const int last_run = 63 - __builtin_clzll(changes & below(w.size));
  uint64_t sure = starts & below(last_run + 1) & ~1ull;
  // A contraction may be cut off by the window's end. If it may be a suffix, not even its quote is certain to be a
  // start.
  const uint64_t cut_off = w.quote & (1ull << last_run | 1ull << last_run >> 1);
  if (cut_off) sure &= ((cut_off & -cut_off) << (kSuffix ? 0 : 1)) - 1;
  return sure;
}

}  // namespace llmcore::tok
