// Finds added tokens in a text as `tokenizers` does, whose rules differ from Specials' where the whitespace that one
// takes holds another.
#pragma once
#include <algorithm>
#include <string_view>
#include <vector>

#include "tokenizer/models/model.h"
#include "tokenizer/split/specials.h"

namespace llmcore::tok {

// Calls take(begin, end, special) for each stretch of a text: special is nullptr for what lies between the tokens.
template <class Take>
void each_added_token(const Specials& tokens, std::string_view text, Take&& take) {
  const uint8_t* data = reinterpret_cast<const uint8_t*>(text.data());
  size_t done = 0;
  for (size_t from = 0;;) {
    const Specials::Match match = tokens.find(data, text.size(), from, done);
    if (!match.what) break;
    const bool stretches = match.what->flags & Special::kStripsLeft;
    const size_t begin = stretches ? std::max(match.begin, done) : match.begin;
    if (done < begin) take(done, begin, nullptr);
    if (begin < match.end) take(begin, match.end, match.what);  // else the one before took all of it
    done = match.end;
    from = match.next;
  }
  if (done != text.size()) take(done, text.size(), nullptr);
}

}  // namespace llmcore::tok
