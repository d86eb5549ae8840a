// Byte-pair-encoding training over counted pieces.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/train/piece_counter.h"

namespace llmcore::tok {

struct TrainedVocabulary {
  std::vector<std::string> tokens;                    // the 256 bytes, then one per merge
  std::vector<std::pair<uint32_t, uint32_t>> merges;  // in order of rank
};

// Merges the most frequent pair of neighbouring tokens (the smaller pair of ids among equals) until there are
// `num_tokens` tokens or no pair is left. A pair that spells an existing token becomes that token and adds no new one.
// Deterministic: depends on the pieces and their counts only, not on their order.
//
// progress(done, total) is called now and then with numbers of tokens, and may throw to stop the training.
TrainedVocabulary train_bpe(std::vector<PieceTable> pieces, size_t num_tokens,
                            const std::function<void(size_t, size_t)>& progress);

}  // namespace llmcore::tok
