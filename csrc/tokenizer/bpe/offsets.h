// The positions in a text where its tokens begin.
#pragma once
#include <cstdint>
#include <vector>

#include "tokenizer/bpe/bpe.h"

namespace llmcore::tok {

// Returns, for each id of bpe.encode(text), the byte at which its token begins or, with `characters` (the text must be
// UTF-8), the character. Throws std::invalid_argument if the tokens do not spell the text.
std::vector<int64_t> token_starts(const Bpe& bpe, Bpe::Text text, const IdBuffer& ids, bool characters);

}  // namespace llmcore::tok
