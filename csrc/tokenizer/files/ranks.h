// The lines of a `.tiktoken` file: a token in base64 and its id.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace llmcore::tok {

// The value of every digit of base64, -1 for other bytes.
constexpr std::array<int8_t, 256> base64_digits() {
  std::array<int8_t, 256> values{};
  for (auto& value : values) value = -1;
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < kDigits.size(); ++i) values[static_cast<uint8_t>(kDigits[i])] = static_cast<int8_t>(i);
  return values;
}

// Decodes all of `text`, which may end in =; false if it is not base64.
inline bool decode_base64(std::string_view text, std::string& bytes) {
  static constexpr std::array<int8_t, 256> kValues = base64_digits();
  bytes.clear();
  if (text.empty() || text.size() % 4 != 0) return false;
  const size_t padding = text[text.size() - 1] != '=' ? 0 : text[text.size() - 2] != '=' ? 1 : 2;
  uint32_t group = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const int value = i + padding < text.size() ? kValues[static_cast<uint8_t>(text[i])] : 0;
    if (value < 0) return false;
    group = group << 6 | static_cast<uint32_t>(value);
    if (i % 4 != 3) continue;
    for (int shift : {16, 8, 0}) bytes += static_cast<char>(group >> shift);
    group = 0;
  }
  bytes.resize(bytes.size() - padding);
  return true;
}

// Calls take(token, id) for each line; returns false if a line is neither a token with its id nor blank, or its id is
// not below 2^31.
template <class Take>
bool each_rank(std::string_view text, Take&& take) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  std::string token;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(line.size() < text.size() ? line.size() + 1 : line.size());
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    while (!line.empty() && blank(line.back())) line.remove_suffix(1);
    if (line.empty()) continue;
    size_t end = 0;
    while (end < line.size() && !blank(line[end])) ++end;
    if (!decode_base64(line.substr(0, end), token)) return false;
    while (end < line.size() && blank(line[end])) ++end;
    uint64_t id = 0;
    if (end == line.size()) return false;
    for (char c : line.substr(end)) {
      if (c < '0' || c > '9') return false;
      id = id * 10 + static_cast<uint64_t>(c - '0');
      if (id >= 1ull << 31) return false;
    }
    take(token, id);
  }
  return true;
}

}  // namespace llmcore::tok
