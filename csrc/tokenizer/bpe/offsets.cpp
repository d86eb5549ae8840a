#include "tokenizer/bpe/offsets.h"

#include <cstring>
#include <stdexcept>

namespace llmcore::tok {

std::vector<int64_t> token_starts(const Bpe& bpe, Bpe::Text text, const IdBuffer& ids, bool characters) {
  std::vector<int64_t> starts;
  starts.reserve(ids.size());
  size_t at = 0;
  int64_t begun = 0;  // characters whose first byte has been passed
  const auto begins_character = [](uint8_t byte) { return (byte & 0xC0) != 0x80; };
  for (const uint32_t id : ids) {
    const std::string_view token = bpe.token_bytes(id);
    if (token.size() > text.size - at || std::memcmp(text.data + at, token.data(), token.size()) != 0) {
      throw std::invalid_argument(
          "[encode_offsets] expected text that its tokens spell unchanged, got one that differs at byte " +
          std::to_string(at));
    }
    const uint8_t* bytes = text.data + at;
    starts.push_back(characters ? begun - !begins_character(bytes[0]) : static_cast<int64_t>(at));
    for (size_t i = 0; characters && i < token.size(); ++i) begun += begins_character(bytes[i]);
    at += token.size();
  }
  return starts;
}

}  // namespace llmcore::tok
