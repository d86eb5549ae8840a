// The operations by which the lanes of a warp exchange values.
#include "device_functions.h"

namespace llmcore_emulator {
namespace {

void shuffle_lanes(void* const (&operands)[32], uint32_t lanes) {
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    ShuffleOperand& o = *static_cast<ShuffleOperand*>(operands[lane]);
    const int from = o.from < 0 ? lane : o.from;
    // A lane that does not take part supplies garbage.
    o.out = lanes >> from & 1u ? static_cast<const ShuffleOperand*>(operands[from])->in : ~uint64_t{0};
  }
}

uint32_t votes(void* const (&operands)[32], uint32_t lanes) {
  uint32_t yes = 0;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (static_cast<const VoteOperand*>(operands[lane])->vote) yes |= 1u << lane;
  }
  return yes;
}
template <class Operand>
void answer(void* const (&operands)[32], uint32_t lanes, unsigned result) {
  for (uint32_t rest = lanes; rest; rest &= rest - 1)
    static_cast<Operand*>(operands[__builtin_ctz(rest)])->result = result;
}
void ballot(void* const (&operands)[32], uint32_t lanes) {
  answer<VoteOperand>(operands, lanes, votes(operands, lanes));
}
void any(void* const (&operands)[32], uint32_t lanes) {
  answer<VoteOperand>(operands, lanes, votes(operands, lanes) != 0);
}
void all(void* const (&operands)[32], uint32_t lanes) {
  answer<VoteOperand>(operands, lanes, votes(operands, lanes) == lanes);
}

void match_any(void* const (&operands)[32], uint32_t lanes) {
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    MatchOperand& o = *static_cast<MatchOperand*>(operands[__builtin_ctz(rest)]);
    o.result = 0;
    for (uint32_t others = lanes; others; others &= others - 1) {
      const int other = __builtin_ctz(others);
      if (static_cast<const MatchOperand*>(operands[other])->value == o.value) o.result |= 1u << other;
    }
  }
}

template <unsigned (*kJoin)(unsigned, unsigned)>
void reduce_lanes(void* const (&operands)[32], uint32_t lanes) {
  uint32_t rest = lanes;
  const auto next = [&] {
    const uint64_t value = static_cast<const MatchOperand*>(operands[__builtin_ctz(rest)])->value;
    rest &= rest - 1;
    return static_cast<unsigned>(value);
  };
  unsigned sum = next();
  while (rest) sum = kJoin(sum, next());
  answer<MatchOperand>(operands, lanes, sum);
}
unsigned add(unsigned a, unsigned b) { return a + b; }
unsigned smaller(unsigned a, unsigned b) { return a < b ? a : b; }
unsigned larger(unsigned a, unsigned b) { return a < b ? b : a; }
unsigned smaller_signed(unsigned a, unsigned b) { return static_cast<int>(a) < static_cast<int>(b) ? a : b; }
unsigned larger_signed(unsigned a, unsigned b) { return static_cast<int>(a) < static_cast<int>(b) ? b : a; }
unsigned both(unsigned a, unsigned b) { return a & b; }
unsigned either(unsigned a, unsigned b) { return a | b; }
unsigned one(unsigned a, unsigned b) { return a ^ b; }

}  // namespace

const Collective kShuffle{"__shfl_sync", shuffle_lanes, false};
const Collective kShuffleUp{"__shfl_up_sync", shuffle_lanes, false};
const Collective kShuffleDown{"__shfl_down_sync", shuffle_lanes, false};
const Collective kShuffleXor{"__shfl_xor_sync", shuffle_lanes, false};
const Collective kBallot{"__ballot_sync", ballot, false};
const Collective kAny{"__any_sync", any, false};
const Collective kAll{"__all_sync", all, false};
const Collective kSyncWarp{"__syncwarp", nullptr, false};
const Collective kMatchAny{"__match_any_sync", match_any, false};
const Collective kReduceAdd{"__reduce_add_sync", reduce_lanes<add>, false};
const Collective kReduceMin{"__reduce_min_sync", reduce_lanes<smaller>, false};
const Collective kReduceMax{"__reduce_max_sync", reduce_lanes<larger>, false};
const Collective kReduceMinSigned{"__reduce_min_sync", reduce_lanes<smaller_signed>, false};
const Collective kReduceMaxSigned{"__reduce_max_sync", reduce_lanes<larger_signed>, false};
const Collective kReduceAnd{"__reduce_and_sync", reduce_lanes<both>, false};
const Collective kReduceOr{"__reduce_or_sync", reduce_lanes<either>, false};
const Collective kReduceXor{"__reduce_xor_sync", reduce_lanes<one>, false};

}  // namespace llmcore_emulator
