#include "tokenizer/bpe/bpe.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <unordered_map>

#include "core/thread_pool.h"
#include "tokenizer/bpe/errors.h"

namespace llmcore::tok {
namespace {

std::vector<Special> always_special(const std::vector<Special>& specials) {
  std::vector<Special> always;
  std::copy_if(specials.begin(), specials.end(), std::back_inserter(always), [](const Special& s) { return s.always; });
  return always;
}

// The longest piece whose scratch memory (about 30 bytes per byte) is kept for the next piece.
constexpr size_t kMostKept = 1 << 20;

}  // namespace

Bpe::Bpe(std::vector<std::string> tokens, std::vector<Special> specials)
    : tokens_(std::move(tokens)),
      index_(tokens_.size()),
      specials_(std::move(specials)),
      all_(specials_),
      always_(always_special(specials_)) {
  if (tokens_.size() >= (1ull << 31)) fail("expected fewer than 2^31 tokens");
}

Bpe::Bpe(std::vector<std::string> tokens, const std::vector<Merge>& merges, Splitter splitter, bool whole_piece_first,
         std::vector<Special> specials)
    : Bpe(std::move(tokens), std::move(specials)) {
  splitter_ = std::move(splitter);
  whole_piece_first_ = whole_piece_first;
  index_tokens();
  add_merges(merges);
  index_byte_merges();
  add_specials();
}

Bpe::Bpe(ByRank, std::vector<std::string> tokens, Splitter splitter, std::vector<Special> specials)
    : Bpe(std::move(tokens), std::move(specials)) {
  splitter_ = std::move(splitter);
  whole_piece_first_ = by_rank_ = true;
  index_tokens();
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const char c = static_cast<char>(byte);
    if (byte_ids_[byte] == kNoToken)
      fail("expected a token for each of the 256 bytes, got none for " + quoted({&c, 1}));
  }
  for (const std::string& token : tokens_) {
    if (token.size() > kMaxCutBytes)
      fail("expected tokens of at most " + std::to_string(kMaxCutBytes) + " bytes, got " + quoted(token));
  }
  // Every way to cut a token into two tokens is a merge, whose rank is the token's id.
  constexpr size_t kTokensAtATime = 1 << 12;
  std::vector<std::vector<std::pair<uint32_t, Merge>>> found((tokens_.size() + kTokensAtATime - 1) / kTokensAtATime);
  work_through(found.size(), [&](auto&& next) {
    for (size_t part; (part = next()) < found.size();) {
      const size_t end = std::min(tokens_.size(), (part + 1) * kTokensAtATime);
      for (size_t id = part * kTokensAtATime; id < end; ++id) {
        const std::string_view token = tokens_[id];
        for (size_t cut = 1; cut < token.size(); ++cut) {
          const uint32_t left = index_.find(tokens_, token.substr(0, cut));
          if (left == TokenIndex::kNone) continue;
          const uint32_t right = index_.find(tokens_, token.substr(cut));
          if (right != TokenIndex::kNone) found[part].push_back({static_cast<uint32_t>(id), {left, right}});
        }
      }
      std::sort(found[part].begin(), found[part].end());
    }
  });
  size_t merges = 0;
  for (const auto& part : found) merges += part.size();
  merges_.reserve(merges);
  table_ = MergeTable(merges);
  for (const auto& part : found) {
    for (const auto& [id, merge] : part) {
      table_.insert(pair_key(merge.first, merge.second), merge_value(id, id));
      merges_.push_back(merge);
    }
  }
  index_byte_merges();
  add_specials();
}

Bpe Bpe::from_ranks(std::vector<std::string> tokens, Splitter splitter, std::vector<Special> specials) {
  return Bpe(ByRank{}, std::move(tokens), std::move(splitter), std::move(specials));
}

// The two rules would differ only on two neighbours that spell a token without being a merge. Such neighbours never
// meet: until the token's rank comes up, its bytes merge exactly as the token would on its own, and that ends in the
// merge that makes it.
bool Bpe::merges_by_rank() const {
  if (by_rank_) return true;
  if (!complete_) return false;
  std::vector<bool> made(tokens_.size());
  uint32_t last = 0;
  for (const auto& [left, right] : merges_) {
    const uint32_t id = merge_id(table_.find(pair_key(left, right)));
    if (id < last || made[id]) return false;
    made[last = id] = true;
  }
  std::vector<bool> special(tokens_.size());
  for (const uint32_t id : named_) special[id] = true;
  MergeScratch scratch;
  std::vector<uint32_t> ids;
  for (uint32_t id = 0; id < tokens_.size(); ++id) {
    if (special[id] || tokens_[id].size() < 2) continue;
    ids.clear();
    for (char c : tokens_[id]) ids.push_back(byte_ids_[static_cast<uint8_t>(c)]);
    if (!made[id] || merge_long(table_, ids.data(), ids.size(), scratch) != 1) return false;
  }
  return true;
}

void Bpe::index_token(uint32_t id) {
  const uint32_t owner = index_.insert(tokens_, id);
  if (owner != id) {
    fail("expected distinct tokens, got " + quoted(tokens_[id]) + " as ids " + std::to_string(owner) + " and " +
         std::to_string(id));
  }
}

void Bpe::index_tokens() {
  for (uint32_t id = 0; id < tokens_.size(); ++id) {
    if (!tokens_[id].empty()) index_token(id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const uint32_t found = index_.find(tokens_, std::string_view(&c, 1));
    complete_ &= found != TokenIndex::kNone;
    byte_ids_[static_cast<size_t>(byte)] = found != TokenIndex::kNone ? found : kNoToken;
  }
}

void Bpe::add_merges(const std::vector<Merge>& merges) {
  merges_ = merges;
  table_ = MergeTable(merges.size());
  std::string result;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = merges[rank];
    const auto name = [rank = rank] { return "merges[" + std::to_string(rank) + "]"; };
    for (uint32_t side : {left, right}) {
      if (side >= tokens_.size() || tokens_[side].empty()) {
        fail("expected " + name() + " to join two tokens, got id " + std::to_string(side) + ", which is not a token");
      }
    }
    result.assign(tokens_[left]).append(tokens_[right]);
    const uint32_t found = index_.find(tokens_, result);
    if (found == TokenIndex::kNone)
      fail("expected " + name() + " to make a token, got " + quoted(result) + ", which is not a token");
    const MergeValue value = merge_value(static_cast<uint32_t>(rank), found);
    if (table_.insert(pair_key(left, right), value) != value) {
      fail("expected distinct merges, got " + name() + " (" + quoted(tokens_[left]) + ", " + quoted(tokens_[right]) +
           ") twice");
    }
  }
}

void Bpe::index_byte_merges() {
  byte_merges_.reserve(256 * 256);
  for (uint32_t left : byte_ids_) {
    for (uint32_t right : byte_ids_) byte_merges_.push_back(table_.find(pair_key(left, right)));
  }
}

void Bpe::add_specials() {
  constexpr size_t kMaxGap = 1 << 20;  // between token ids and special ids, so that no id can demand gigabytes
  size_t size = tokens_.size();
  std::unordered_map<uint32_t, const Special*> owners;
  for (const Special& special : specials_) {
    const std::string begin = "expected special token " + quoted(special.text) + " to have an id ";
    const std::string got = ", got " + std::to_string(special.id);
    if (special.id > tokens_.size() + kMaxGap) fail(begin + "near the other ids" + got);
    if (special.id < tokens_.size() && !tokens_[special.id].empty() && tokens_[special.id] != special.text &&
        !special.always) {
      fail(begin + "of its own" + got + ", the id of " + quoted(tokens_[special.id]));
    }
    const auto [owner, fresh] = owners.emplace(special.id, &special);
    if (!fresh) fail(begin + "of its own" + got + ", the id of " + quoted(owner->second->text));
    size = std::max<size_t>(size, special.id + size_t{1});
  }
  tokens_.resize(size);
  for (const Special& special : specials_) {
    if (!tokens_[special.id].empty()) continue;
    tokens_[special.id] = special.text;
    named_.push_back(special.id);
  }
}

std::vector<std::string> Bpe::ordinary_tokens() const {
  std::vector<std::string> tokens = tokens_;
  for (const uint32_t id : named_) tokens[id].clear();
  return tokens;
}

void Bpe::encode_piece(const uint8_t* piece, size_t n, PieceCache& cache, IdBuffer& out) const {
  if (whole_piece_first_) {
    const uint32_t found = index_.find(tokens_, std::string_view(reinterpret_cast<const char*>(piece), n));
    if (found != TokenIndex::kNone) return out.push(found);
  }
  if (n >= 0xFFFFFFFFull) fail("expected pieces of less than 4 GiB");
  uint32_t* ids = out.reserve(n);
  for (size_t i = 0; i < n; ++i) ids[i] = byte_ids_[piece[i]];
  size_t count = 0;
  if (n <= kShortPiece)
    count = merge_short(table_, ids, piece, byte_merges_.data(), n);
  else if (std::memcmp(piece, piece + 1, n - 1) == 0)  // every byte is the same
    count = merge_run(table_, ids, n);
  if (count == 0) count = merge_long(table_, ids, piece, byte_merges_.data(), n, cache.scratch);
  if (n > kMostKept) cache.scratch = MergeScratch();
  if (!complete_ && std::find(ids, ids + count, kNoToken) != ids + count) {
    throw std::invalid_argument("[encode] expected text that the vocabulary has tokens for, got " +
                                quoted({reinterpret_cast<const char*>(piece), n}) +
                                ", which contains bytes that have no token");
  }
  out.commit(count);
}

// Appends the ids of a piece that the first probe did not find, or whose ids do not fit in its cache entry.
void Bpe::encode_slowly(const Waiting& w, const PieceCache::Entry* entry, PieceCache& cache, IdBuffer& out) const {
  const size_t n = w.size();
  if (entry && w.key.short_size() != 0) return out.append(cache.stored_ids(*entry), entry->count());
  if (entry && cache.is_long(*entry, w.piece, n)) return out.append(cache.stored_ids(*entry), cache.long_count(*entry));
  const size_t before = out.size();
  encode_piece(w.piece, n, cache, out);
  if (n <= PieceCache::kMaxLong && !entry)
    cache.insert(w.hash, w.key, w.piece, out.data() + before, out.size() - before);
}

// Inlined so that the result is written straight from registers. Storing it and immediately reloading it in words of a
// different size took a third of a warm pass.
[[gnu::always_inline]] inline Bpe::Waiting Bpe::waiting_piece(const uint8_t* piece, size_t n, const uint8_t* end) {
  const PieceCache::Key key =
      n <= PieceCache::kMaxShort ? PieceCache::short_key(piece, n, end) : PieceCache::long_key(piece, n);
  return {key, piece, PieceCache::hash(key)};
}

void Bpe::encode_seen(const uint8_t* piece, size_t n, const uint8_t* end, PieceCache& cache, IdBuffer& out) const {
  const Waiting w = waiting_piece(piece, n, end);
  const PieceCache::Entry* entry = cache.find(w.hash, w.key);
  if (entry && entry->count() - 1 < PieceCache::kMaxIds) return out.append(entry->ids, entry->count());
  encode_slowly(w, entry, cache, out);
}

void Bpe::encode_segment(Text text, Place, PieceCache& cache, IdBuffer& out) const {
  // Pieces wait here while their cache entries are fetched from memory.
  constexpr size_t kMaxWaiting = 64;
  Waiting waiting[kMaxWaiting];
  size_t count = 0;
  const auto flush = [&] {
    constexpr size_t kRoom = kMaxWaiting * PieceCache::kMaxIds;
    uint32_t* to = out.reserve(kRoom);
    for (size_t i = 0; i < count; ++i) {
      const Waiting& w = waiting[i];
      const PieceCache::Entry* entry = cache.find(w.hash, w.key);
      if (entry && entry->count() - 1 < PieceCache::kMaxIds) {
        std::memcpy(to, entry->ids, sizeof entry->ids);
        to += entry->count();
      } else {
        out.commit_to(to);
        encode_slowly(w, entry, cache, out);
        to = out.reserve(kRoom);
      }
    }
    out.commit_to(to);
    count = 0;
  };
  const uint8_t* end = text.data + text.size;
  splitter_.scan(text.data, end, [&](const uint8_t* piece, const uint8_t* piece_end) {
    Waiting& w = waiting[count];
    w = waiting_piece(piece, static_cast<size_t>(piece_end - piece), end);
    cache.prefetch(w.hash);
    if (++count == kMaxWaiting) flush();
  });
  flush();
}

size_t Bpe::safe_cut(Text text) const { return splitter_.ends_at_line_ends() ? tok::safe_cut(text) : text.size; }

auto Bpe::checked(Text text, const Allowed& allowed) const {
  std::vector<uint32_t> ids;
  for (const std::string& name : allowed.names) {
    const Special* special = all_.named(name);
    if (!special || special->always)
      throw std::invalid_argument("[encode] expected special tokens in allowed_special, got '" + name + "'");
    ids.push_back(special->id);
  }
  std::sort(ids.begin(), ids.end());
  return [text, all = allowed.all, ids = std::move(ids)](const Special& special, const uint8_t* begin) {
    if (special.always || all || std::binary_search(ids.begin(), ids.end(), special.id)) return;
    throw std::invalid_argument("[encode] the text holds the special token '" + special.text + "' at byte " +
                                std::to_string(begin - text.data) +
                                "; to encode it as special, pass allowed_special={'" + special.text +
                                "'} or allowed_special=\"all\"; to encode it as plain text, use encode_ordinary");
  };
}

// Calls visit(text, its place, special) for each stretch of ordinary text and the special token after it (nullptr at
// the end).
template <class Visit>
void Bpe::each_segment(Text text, const Allowed& allowed, Visit&& visit) const {
  const SpecialPhases& wanted = allowed.ordinary ? always_ : all_;
  const auto check = checked(text, allowed);
  const auto visit_placed = [&](Text segment, const Special* special) {
    visit(segment, segment.data == text.data ? Place::kTextBegin : Place::kBehindSpecial, special);
  };
  const auto visit_normalized = [&](Text segment, const Special* after) {
    if (wanted.normalized.all().empty()) return visit_placed(segment, after);
    wanted.normalized.each(segment, [&](Text part, const Special* special, const uint8_t* begin) {
      if (special) check(*special, begin);
      visit_placed(part, special ? special : after);
    });
  };
  if (allowed.normalized) return visit_normalized(text, nullptr);
  wanted.raw.each(text, [&](Text segment, const Special* special, const uint8_t* begin) {
    if (special) check(*special, begin);
    visit_normalized(segment, special);
  });
}

std::vector<Bpe::Found> Bpe::raw_specials(Text text, const Allowed& allowed) const {
  std::vector<Found> found;
  const auto check = checked(text, allowed);
  (allowed.ordinary ? always_ : all_).raw.each(text, [&](Text segment, const Special* special, const uint8_t* begin) {
    const auto at = static_cast<size_t>(segment.data - text.data);
    if (!found.empty()) found.back().end = at;
    if (!special) return;
    check(*special, begin);
    found.push_back({at + segment.size, text.size, special->id});
  });
  return found;
}

void Bpe::encode_alone(Text text, const Allowed& allowed, PieceCache& cache, IdBuffer& out) const {
  each_segment(text, allowed, [&](Text segment, Place place, const Special* special) {
    encode_segment(segment, place, cache, out);
    if (special) out.push(special->id);
  });
}

// Encodes a text in parts on several threads. Calls take(number of parts) first, then take(index of the part, ids) for
// each part, in any order.
template <class Take>
void Bpe::encode_parts(Text text, const Allowed& allowed, Take&& take) const {
  struct Part {
    Text text;
    Place place;
    const Special* special;  // after the text
  };
  std::vector<Part> parts;
  each_segment(text, allowed, [&](Text segment, Place place, const Special* special) {
    for (size_t size; (size = safe_cut(segment)) < segment.size; place = Place::kInside) {
      parts.push_back({{segment.data, size}, place, nullptr});
      segment = {segment.data + size, segment.size - size};
    }
    parts.push_back({segment, place, special});
  });
  take(parts.size());
  work_through(parts.size(), [&](auto&& next) {
    CachePool::Loan cache(caches_);
    for (size_t i; (i = next()) < parts.size();) {
      IdBuffer ids;
      encode_segment(parts[i].text, parts[i].place, *cache, ids);
      if (parts[i].special) ids.push(parts[i].special->id);
      take(i, std::move(ids));
    }
  });
}

void Bpe::encode(Text text, const Allowed& allowed, IdBuffer& out) const {
  if (text.size < 2 * kPartBytes || num_threads() == 1) {
    CachePool::Loan cache(caches_);
    return encode_alone(text, allowed, *cache, out);
  }
  struct Parts {
    std::vector<IdBuffer> ids;
    void operator()(size_t parts) { ids.resize(parts); }
    void operator()(size_t i, IdBuffer&& part) { ids[i] = std::move(part); }
  } parts;
  encode_parts(text, allowed, parts);
  std::vector<size_t> offsets(1, 0);
  for (const IdBuffer& ids : parts.ids) offsets.push_back(offsets.back() + ids.size());
  uint32_t* room = out.reserve(offsets.back());
  work_through(parts.ids.size(), [&](auto&& next) {
    for (size_t i; (i = next()) < parts.ids.size();) {
      std::copy(parts.ids[i].begin(), parts.ids[i].end(), room + offsets[i]);
      parts.ids[i] = IdBuffer();
    }
  });
  out.commit(offsets.back());
}

size_t Bpe::count(Text text, const Allowed& allowed) const {
  struct Total {
    std::atomic<size_t> ids{0};
    void operator()(size_t) {}
    void operator()(size_t, IdBuffer&& part) { ids += part.size(); }
  } total;
  encode_parts(text, allowed, total);
  return total.ids;
}

std::vector<IdBuffer> Bpe::encode_batch(const std::vector<Text>& texts, const Allowed& allowed) const {
  std::vector<IdBuffer> ids(texts.size());
  std::vector<size_t> groups(1, 0);  // the end of each group of texts that are short together
  size_t bytes = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].size >= 2 * kPartBytes) continue;
    bytes += texts[i].size;
    if (bytes < kPartBytes) continue;
    groups.push_back(i + 1);
    bytes = 0;
  }
  groups.push_back(texts.size());
  work_through(groups.size() - 1, [&](auto&& next) {
    CachePool::Loan cache(caches_);
    for (size_t group; (group = next()) + 1 < groups.size();) {
      for (size_t i = groups[group]; i < groups[group + 1]; ++i) {
        if (texts[i].size < 2 * kPartBytes) encode_alone(texts[i], allowed, *cache, ids[i]);
      }
    }
  });
  for (size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].size >= 2 * kPartBytes) encode(texts[i], allowed, ids[i]);
  }
  return ids;
}

std::string_view Bpe::token_bytes(int64_t id) const {
  if (id < 0 || id > INT32_MAX) {
    throw std::invalid_argument("[decode] expected ids from 0 to 2147483647, got " + std::to_string(id));
  }
  return static_cast<size_t>(id) < tokens_.size() ? tokens_[static_cast<size_t>(id)] : std::string_view();
}

}  // namespace llmcore::tok
