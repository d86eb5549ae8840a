// The draw from what is left of an entire row.
#pragma once
#include "cpu/sample/noise.h"
#include "cpu/sample/row.h"

namespace llmcore {
namespace LLMCORE_ISA {

struct Best {  // the largest score so far in each lane, and its token
  vf score = splat(-__builtin_inff());
  vi id = vi{} - 1;
  void offer(vf s, vi ids) {
    const vi better = s > score;
    score = better ? s : score;
    id = better ? ids : id;
  }
  int winner() const {  // the lane
    int best = 0;
    for (int i = 1; i < kW; ++i)
      if (score[i] > score[best] || (score[i] == score[best] && id[i] >= 0 && id[i] < id[best])) best = i;
    return best;
  }
};

// What is left of the row after the filters: logits above the cut, and those equal to it up to some id.
struct Cut {
  float logit;
  int32_t last_id;
};

// Returns a number >= e^x (and not far above) for x <= 88: the line between two powers of two is above the curve.
static inline vf exp_above(vf x) {
  const vf y = max(splat(1.0f), fma(x, splat(1.44269504f), splat(127.001f))) * 8388608.0f;
  return as_float((vu) __builtin_convertvector(y, vi));
}

template <class T>
static int32_t draw_from_row(const T* x, int64_t V, const Cut& cut, const Scale& scale, uint64_t seed, uint64_t step,
                             Piece* pieces) {
  parallel_ranges(V, kSamplePiece, [&](int64_t begin, int64_t end) {
    Best best;
    const auto offer = [&](int64_t i, auto lanes, vq random) {
      const vf v = keep_n(logits_n(x + i, lanes), lanes, -__builtin_inff());
      const vi id = lane_numbers() + static_cast<int32_t>(i);
      const vi kept = (v > cut.logit) | ((v == cut.logit) & (id <= cut.last_id));
      const vf z = select(kept, scale.z(v), splat(-__builtin_inff()));
      // z + g > best only if the uniform number that gives g is below e^(z - best): only these need logarithms.
      const vi hopeful = uniform((vu)random) < exp_above(min(splat(80.0f), z - best.score));
      if (mask_bits(hopeful)) best.offer(z + gumbel((vu)random), id);
    };
    int64_t i = begin;
    for (; i + 2 * kW <= end; i += 2 * kW) {
      const Zipped random = random_block(seed, step, i);
      offer(i, All{}, random.low);
      offer(i + kW, All{}, random.high);
    }
    if (i < end) {
      const Zipped random = random_block(seed, step, i);
      const int left = static_cast<int>(end - i);
      offer(i, left < kW ? left : kW, random.low);
      if (left > kW) offer(i + kW, left - kW, random.high);
    }
    const int lane = best.winner();
    pieces[begin / kSamplePiece].score = best.score[lane], pieces[begin / kSamplePiece].id = best.id[lane];
  });
  int64_t first = 0;
  for (int64_t i = 1; i < pieces_of(V); ++i)
    if (pieces[i].score > pieces[first].score) first = i;
  return pieces[first].id;
}

}  // namespace LLMCORE_ISA
}  // namespace llmcore
