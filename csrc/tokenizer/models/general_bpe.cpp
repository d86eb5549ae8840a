#include "tokenizer/models/general_bpe.h"

#include <algorithm>
#include <queue>

#include "tokenizer/bpe/errors.h"
#include "tokenizer/unicode/utf8.h"

namespace llmcore::tok {

GeneralBpe::GeneralBpe(std::vector<std::string> tokens, const std::vector<std::pair<uint32_t, uint32_t>>& merges,
                       int64_t unknown, GeneralBpeRules rules)
    : Model(std::move(tokens), unknown), rules_(std::move(rules)), merges_(merges.size()) {
  const std::vector<std::string>& all = vocabulary_.tokens();
  for (size_t rank = merges.size(); rank-- > 0;) {  // backwards: of a pair that stands twice, the last counts
    const auto [left, right] = merges[rank];
    const std::string name = "merges[" + std::to_string(rank) + "]";
    for (const uint32_t side : {left, right}) {
      if (side >= all.size() || all[side].empty()) fail("expected " + name + " to join two tokens");
    }
    if (all[right].size() < rules_.prefix.size()) {
      fail("expected " + name + " to join a token that begins with the prefix " + quoted(rules_.prefix) + ", got " +
           quoted(all[right]));
    }
    const std::string made = all[left] + all[right].substr(rules_.prefix.size());
    const uint32_t id = vocabulary_.find(made);
    if (id == ModelVocabulary::kNone) {
      fail("expected " + name + " to make a token, got " + quoted(made) + ", which is not a token");
    }
    merges_.insert(pair_key(left, right), merge_value(static_cast<uint32_t>(rank), id));
  }
}

void GeneralBpe::encode_piece(std::string_view piece, IdBuffer& out) const {
  if (rules_.whole_piece_first) {
    const uint32_t id = vocabulary_.find(piece);
    if (id != ModelVocabulary::kNone) return out.push(id);
  }
  const uint8_t* text = reinterpret_cast<const uint8_t*>(piece.data());
  std::vector<uint32_t> ids;
  // An unknown token waits for its neighbours. Tokens of bytes do not make it go first: so it is in `tokenizers`.
  bool waiting = false;
  std::string spelled;
  for (size_t begin = 0, size; begin < piece.size(); begin += size) {
    size = code_at(text + begin, text + piece.size()).length;
    std::string_view character = piece.substr(begin, size);
    const bool first = begin == 0, last = begin + size == piece.size();
    if ((!first && !rules_.prefix.empty()) || (last && !rules_.suffix.empty())) {
      spelled.assign(first ? "" : rules_.prefix).append(character).append(last ? rules_.suffix : "");
      character = spelled;
    }
    const uint32_t id = vocabulary_.find(character);
    if (id != ModelVocabulary::kNone) {
      if (waiting) ids.push_back(static_cast<uint32_t>(unknown_));
      waiting = false;
      ids.push_back(id);
      continue;
    }
    if (rules_.byte_fallback) {
      const auto& byte_ids = vocabulary_.byte_ids();
      const auto has_id = [&](char c) { return byte_ids[static_cast<uint8_t>(c)] != ModelVocabulary::kNone; };
      if (std::all_of(character.begin(), character.end(), has_id)) {
        for (const char c : character) ids.push_back(byte_ids[static_cast<uint8_t>(c)]);
        continue;
      }
    }
    const uint32_t unknown_id = unknown(piece.substr(begin, size));
    if (waiting && !rules_.fuse_unknown) ids.push_back(unknown_id);
    waiting = true;
  }
  if (waiting) ids.push_back(static_cast<uint32_t>(unknown_));
  merge(ids);
  out.append(ids.data(), ids.size());
}

// Merges the pair of the lowest rank first, the leftmost among equals. A pair that has changed since it was found
// counts still if it makes the same token, with the rank that it was found with: so it is in `tokenizers`.
void GeneralBpe::merge(std::vector<uint32_t>& ids) const {
  struct Found {
    uint32_t rank, made;
    size_t at;
    bool operator>(const Found& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  struct Symbol {
    size_t before, after;
    bool gone;
  };
  const size_t n = ids.size(), none = n;
  std::vector<Symbol> symbols(n);
  std::priority_queue<Found, std::vector<Found>, std::greater<>> queue;
  const auto look = [&](size_t left, size_t right) {
    const MergeValue value = merges_.find(pair_key(ids[left], ids[right]));
    if (value != kNoMerge) queue.push({merge_rank(value), merge_id(value), left});
  };
  for (size_t i = 0; i < n; ++i) {
    symbols[i] = {i == 0 ? none : i - 1, i + 1, false};
    if (i + 1 < n) look(i, i + 1);
  }
  while (!queue.empty()) {
    const Found top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.at];
    if (left.gone || left.after == none) continue;
    const size_t right = left.after;
    const MergeValue now = merges_.find(pair_key(ids[top.at], ids[right]));
    if (now == kNoMerge || merge_id(now) != top.made) continue;
    ids[top.at] = top.made;
    symbols[right].gone = true;
    left.after = symbols[right].after;
    if (left.after != none) symbols[left.after].before = top.at;
    if (left.before != none) look(left.before, top.at);
    if (left.after != none) look(top.at, left.after);
  }
  size_t kept = 0;
  for (size_t i = 0; i < n; ++i) {
    if (!symbols[i].gone) ids[kept++] = ids[i];
  }
  ids.resize(kept);
}

}  // namespace llmcore::tok
