// BPE on characters with all of the rules of a tokenizer.json: prefixes within words, suffixes at their ends, tokens of
// bytes, unknown tokens.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "tokenizer/bpe/merge_table.h"
#include "tokenizer/models/model.h"

namespace llmcore::tok {

struct GeneralBpeRules {
  std::string prefix;          // before every character of a piece but the first
  std::string suffix;          // after its last
  bool fuse_unknown = false;   // whether a run of unknown characters becomes one id
  bool byte_fallback = false;  // whether a character that is no token becomes the tokens of its bytes
  bool whole_piece_first = false;
};

class GeneralBpe final : public Model {
 public:
  // merges: pairs of tokens in order of rank; the right side's prefix is left out of what they make. Throws
  // std::invalid_argument where that is no token.
  GeneralBpe(std::vector<std::string> tokens, const std::vector<std::pair<uint32_t, uint32_t>>& merges, int64_t unknown,
             GeneralBpeRules rules);

 private:
  void encode_piece(std::string_view piece, IdBuffer& out) const override;
  void merge(std::vector<uint32_t>& ids) const;

  GeneralBpeRules rules_;
  MergeTable merges_;
};

}  // namespace llmcore::tok
