// The tokenizer's errors: a one-line std::invalid_argument, which Python sees as a ValueError.
#pragma once
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

namespace llmcore::tok {

// Quotes a token for an error message: printable ASCII as it is, all other bytes as \xNN.
inline std::string quoted(std::string_view bytes) {
  std::string text = "'";
  for (char c : bytes.substr(0, 64)) {
    char escaped[5];
    const bool plain = c >= ' ' && c <= '~';
    std::snprintf(escaped, sizeof escaped, plain ? "%c" : "\\x%02x", plain ? c : static_cast<unsigned char>(c));
    text += escaped;
  }
  return text + (bytes.size() > 64 ? "...'" : "'");
}

[[noreturn]] inline void fail(const std::string& message) { throw std::invalid_argument("[tokenizer] " + message); }

}  // namespace llmcore::tok
