// libFuzzer on the models of general tokenizers (csrc/tokenizer/models): an input is read as a vocabulary, its rules,
// and a text. Nothing may crash, and every id is one of the vocabulary. See README.md beside this file.
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "tokenizer/models/added_tokens.h"
#include "tokenizer/models/general_bpe.h"
#include "tokenizer/models/model.h"
#include "tokenizer/models/sentencepiece_normalizer.h"

namespace {

using namespace llmcore::tok;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  uint8_t byte() { return size_ == 0 ? 0 : (--size_, *data_++); }
  std::string bytes(size_t n) {
    n = std::min(n, size_);
    std::string taken(reinterpret_cast<const char*>(data_), n);
    data_ += n;
    size_ -= n;
    return taken;
  }
  std::string rest() { return bytes(size_); }

 private:
  const uint8_t* data_;
  size_t size_;
};

void encode(const Model& model, const std::string& text, size_t vocab) {
  for (int again = 0; again < 2; ++again) {  // the second time from the cache
    IdBuffer ids;
    try {
      model.encode({{text}, {{}, 0}, {std::string_view(text).substr(text.size() / 2)}}, ids);
    } catch (const std::invalid_argument&) {  // no token for it
    }
    for (const uint32_t id : ids) {
      if (id >= vocab && id != 0) std::abort();
    }
  }
}

void run(Input& input) {
  std::vector<std::string> tokens;
  std::vector<double> scores;
  for (int left = input.byte() % 64; left > 0; --left) {
    tokens.push_back(input.bytes(input.byte() % 6));
    scores.push_back(static_cast<int8_t>(input.byte()) / 8.0);
  }
  const size_t vocab = tokens.size();
  const int64_t unknown = static_cast<int64_t>(input.byte() % 70) - 1;
  const uint8_t flags = input.byte();
  const std::string prefix = input.bytes(input.byte() % 3), suffix = input.bytes(input.byte() % 3);
  std::vector<std::pair<uint32_t, uint32_t>> merges;
  for (int left = input.byte() % 32; left > 0; --left) merges.emplace_back(input.byte(), input.byte());
  const std::string charsmap = input.bytes(input.byte() % 2 * (input.byte() + size_t{1}));
  const std::string text = input.rest();
  const auto attempt = [&](auto&& make) {
    try {
      make();
    } catch (const std::invalid_argument&) {  // what contradicts itself is refused
    }
  };
  attempt([&] { encode(WordLevel(tokens, unknown), text, vocab); });
  attempt([&] { encode(WordPiece(tokens, unknown, prefix, flags), text, vocab); });
  attempt([&] { encode(Unigram(tokens, scores, unknown, flags & 1), text, vocab); });
  attempt([&] {
    std::vector<uint32_t> byte_ids;
    if ((flags & 2) && vocab > 0) byte_ids.assign(256, static_cast<uint32_t>(vocab - 1));
    encode(Unigram(tokens, scores, unknown, Unigram::Rules{-20, byte_ids, true}), text, vocab);
  });
  attempt([&] {
    GeneralBpeRules rules{prefix, suffix, (flags & 4) != 0, (flags & 8) != 0, (flags & 16) != 0};
    encode(GeneralBpe(tokens, merges, unknown, rules), text, vocab);
  });
  attempt([&] {
    SentencePieceNormalizer({charsmap, {prefix}, (flags & 1) != 0, (flags & 2) != 0}).normalize(text);
    // A charsmap that is one, however wild its units are.
    std::string map = std::string("\x40\0\0\0", 4) + charsmap;
    map.resize(4 + 64 + 16);
    map.back() = 0;
    SentencePieceNormalizer({map, {}, true, (flags & 2) != 0}).normalize(text);
  });
  attempt([&] {
    std::vector<Special> specials;
    for (size_t i = 0; i < std::min<size_t>(vocab, 8); ++i) {
      specials.push_back({tokens[i], static_cast<uint32_t>(i), true, static_cast<uint8_t>(flags >> i & 7)});
    }
    each_added_token(Specials(specials), text, [&](size_t begin, size_t end, const Special*) {
      if (begin > end || end > text.size()) std::abort();
    });
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  run(input);
  return 0;
}
