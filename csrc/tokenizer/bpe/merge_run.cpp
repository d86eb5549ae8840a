#include <vector>

#include "tokenizer/bpe/merge.h"

namespace llmcore::tok {
namespace {

struct Run {
  uint32_t id;
  size_t count;
};

void append(std::vector<Run>& runs, uint32_t id, size_t count) {
  if (count == 0) return;
  if (!runs.empty() && runs.back().id == id)
    runs.back().count += count;
  else
    runs.push_back({id, count});
}

// Replaces every adjacent left, right in the runs by `made`, from left to right.
std::vector<Run> replaced(const std::vector<Run>& runs, uint32_t left, uint32_t right, uint32_t made) {
  std::vector<Run> result;
  for (size_t i = 0; i < runs.size(); ++i) {
    const Run& run = runs[i];
    if (left == right && run.id == left) {
      append(result, made, run.count / 2);
      append(result, left, run.count % 2);
    } else if (left != right && run.id == left && i + 1 < runs.size() && runs[i + 1].id == right) {
      append(result, left, run.count - 1);
      append(result, made, 1);
      append(result, right, runs[++i].count - 1);
    } else {
      append(result, run.id, run.count);
    }
  }
  return result;
}

}  // namespace

size_t merge_run(const MergeTable& merges, uint32_t* ids, size_t n) {
  constexpr size_t kMostRuns = 64;
  std::vector<Run> runs{{ids[0], n}};
  for (;;) {
    // Find the pair of the lowest rank.
    MergeValue best = kNoMerge;
    uint32_t left = 0, right = 0;
    bool tied = false;
    const auto consider = [&](uint32_t a, uint32_t b) {
      const MergeValue value = merges.find(pair_key(a, b));
      if (value == kNoMerge || (value == best && a == left && b == right)) return;
      if (best != kNoMerge && merge_rank(value) == merge_rank(best)) tied = true;
      if (best == kNoMerge || merge_rank(value) < merge_rank(best)) best = value, left = a, right = b, tied = false;
    };
    for (size_t i = 0; i < runs.size(); ++i) {
      if (runs[i].count > 1) consider(runs[i].id, runs[i].id);
      if (i + 1 < runs.size()) consider(runs[i].id, runs[i + 1].id);
    }
    if (best == kNoMerge) break;
    // Merge every occurrence at once, unless a pair that a merge creates could come before the next occurrence.
    const uint32_t made = merge_id(best);
    const auto comes_first = [&](uint32_t a, uint32_t b) {
      const MergeValue value = merges.find(pair_key(a, b));
      return value != kNoMerge && merge_rank(value) <= merge_rank(best);
    };
    if (tied || comes_first(made, made)) return 0;
    for (const Run& run : runs) {
      if (comes_first(made, run.id) || comes_first(run.id, made)) return 0;
    }
    runs = replaced(runs, left, right, made);
    if (runs.size() > kMostRuns) return 0;
  }
  size_t kept = 0;
  for (const Run& run : runs)
    for (size_t i = 0; i < run.count; ++i) ids[kept++] = run.id;
  return kept;
}

}  // namespace llmcore::tok
