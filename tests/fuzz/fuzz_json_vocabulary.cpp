// libFuzzer on the reader of a tokenizer.json's vocabulary: an input is a document. Nothing may crash, what is left of
// the document must be read as well, and what comes out must make a tokenizer or be refused. See README.md beside this
// file.
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "tokenizer/files/json_vocabulary.h"

namespace {

using namespace llmcore::tok;

void run(const std::string& document) {
  const auto found = JsonVocabulary::read(document);
  if (!found) return;
  if (JsonVocabulary::read(found->rest())) std::abort();  // null is no vocabulary
  std::vector<int16_t> byte_of(1024, -1);
  for (int c = 0x20; c < 0x7F; ++c) byte_of[static_cast<size_t>(c)] = static_cast<int16_t>(c);
  const std::vector<Special> specials{{"<s>", 7}};
  if (const auto parts = found->parts(specials, byte_of, 100))
    Bpe(parts->tokens, parts->merges, Splitter({"gpt2"}), false, specials);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    run(std::string(reinterpret_cast<const char*>(data), size));
  } catch (const std::invalid_argument&) {  // what contradicts itself is refused
  }
  return 0;
}
