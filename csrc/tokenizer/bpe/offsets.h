// Where in a text its tokens begin.
#pragma once
#include <cstdint>
#include <vector>

#include "tokenizer/bpe/bpe.h"

namespace llmcore::tok {

// For each id of bpe.encode(text): at which byte its token begins, or with `characters` (the text being UTF-8), in
// which character. Throws std::invalid_argument where the tokens do not spell the text.
std::vector<int64_t> token_starts(const Bpe& bpe, Bpe::Text text, const IdBuffer& ids, bool characters);

}  // namespace llmcore::tok
