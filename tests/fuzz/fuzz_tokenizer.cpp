// libFuzzer on the tokenizer's core: an input is read as a split pattern, a vocabulary, special tokens and a text.
// Nothing may crash, and what is encoded must decode to the text. See README.md beside this file.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "tokenizer/bpe/bpe.h"
#include "tokenizer/bpe/offsets.h"

namespace {

using namespace llmcore::tok;

void check(bool holds) {
  if (!holds) std::abort();
}

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

std::vector<std::string> read_pattern(Input& input) {
  static const char* const kNames[] = {"gpt2",     "cl100k", "llama3", "qwen2",   "qwen35",
                                       "nanochat", "o200k",  "smollm", "deepseek"};
  std::vector<std::string> stages;
  for (int left = input.byte() % 3; left >= 0; --left) {
    const uint8_t kind = input.byte() % 16;
    stages.push_back(kind < 9 ? kNames[kind] : input.bytes(input.byte() % 64));
  }
  return stages;
}

// The 256 bytes, then tokens of the input; a merge list, or none.
void run(Input& input) {
  const Splitter splitter(read_pattern(input));
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (int left = input.byte() % 32; left > 0; --left) {
    std::string token = input.bytes(2 + input.byte() % 5);
    if (token.size() > 1 && std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
  }
  std::vector<Merge> merges;
  for (int left = input.byte() % 64; left > 0; --left) {
    const uint32_t first = input.byte() % tokens.size(), second = input.byte() % tokens.size();
    merges.emplace_back(tokens.size() - 1 - first % 40, second);
  }
  std::vector<Special> specials;
  for (int left = input.byte() % 8; left > 0; --left) {
    specials.push_back({input.bytes(1 + input.byte() % 8), static_cast<uint32_t>(tokens.size() + specials.size())});
  }
  const uint8_t flags = input.byte();
  const std::string text = input.rest();
  const Bpe::Text view{reinterpret_cast<const uint8_t*>(text.data()), text.size()};
  const auto exercise = [&](const Bpe& bpe) {
    for (const bool ordinary : {true, false}) {
      Bpe::Allowed allowed;
      allowed.ordinary = ordinary;
      allowed.all = true;
      IdBuffer ids;
      bpe.encode(view, allowed, ids);
      std::string decoded;
      for (const uint32_t id : ids) decoded += bpe.token_bytes(id);
      check(decoded == text);
      check(bpe.count(view, allowed) == ids.size());
      check(token_starts(bpe, view, ids, false).size() == ids.size());
      token_starts(bpe, view, ids, true);
    }
  };
  exercise(Bpe::from_ranks(tokens, splitter, specials));
  exercise(Bpe(tokens, merges, splitter, flags & 1, specials));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  try {
    run(input);
  } catch (const std::invalid_argument&) {  // what contradicts itself is refused
  }
  return 0;
}
