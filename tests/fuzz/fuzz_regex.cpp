// libFuzzer on regular expressions of both dialects (csrc/tokenizer/split): an input is read as a dialect, an
// expression and a text. Matches lie in the text, in order. See README.md beside this file.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "tokenizer/split/regex.h"

using llmcore::tok::Dialect;
using llmcore::tok::Regex;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const Dialect dialect = data[0] % 4 == 0 ? Dialect::kCommon : Dialect::kOniguruma;
  const size_t length = std::min<size_t>(data[1], size - 2);
  const std::string_view pattern(reinterpret_cast<const char*>(data) + 2, length);
  const std::string text(reinterpret_cast<const char*>(data) + 2 + length, size - 2 - length);  // ends where it ends
  const auto* p = reinterpret_cast<const uint8_t*>(text.data());
  const uint8_t *const end = p + text.size(), *last = p;
  try {
    const Regex regex(pattern, dialect);
    const auto visit = [&](const uint8_t* begin, const uint8_t* matched) {
      if (begin < last || matched < begin || matched > end) std::abort();
      last = matched;
    };
    regex.each_match(p, end, visit, nullptr);
    last = p;
    regex.scan(p, end, visit);
    if (last != end) std::abort();
  } catch (const std::invalid_argument&) {  // an expression that is refused, or a text that takes too many steps
  }
  return 0;
}
