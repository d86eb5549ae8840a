#include "engine.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "fibers.h"
#include "memory.h"
#include "races.h"
#include "symbols.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace llmcore_emulator {

unsigned char* dynamic_shared = nullptr;
unsigned current_thread = 0;

namespace {

constexpr unsigned kWarp = 32, kMostWarps = kMostThreads / kWarp;
constexpr size_t kRedZone = 1024;
constexpr unsigned char kGarbage = 0xff, kRed = 0xa5;
constexpr unsigned kNobody = ~0u;

struct Thread {
  void* at;      // where it resumes, if it has begun and is not running
  Stack* stack;  // null until it begins
  uint3 index;
};

struct Group {  // lanes that have arrived at one collective
  const Collective* what;
  uint32_t lanes, arrived;
};

struct Exchange {  // of a warp
  unsigned groups_n;
  Group groups[kWarp];
  void* operands[kWarp];
};

struct Barrier {
  unsigned arrived, votes, result;
  Vote vote;
};

struct Copies {  // of one thread, oldest first
  struct One {
    void* to;
    const void* from;
    bool valid;
  };
  std::vector<One> copies;
  std::vector<size_t> ends;  // of the groups, among the copies
  size_t done = 0, groups_done = 0;
};

enum class Order { kForward, kReverse, kShuffle };

// All of this belongs to the one running launch.
Thread threads[kMostThreads];
// For each warp, one bit per lane: can run; has left the kernel or never existed; waits at the block's barrier.
uint32_t ready[kMostWarps], gone[kMostWarps], at_barrier[kMostWarps];
uint32_t ready_warps;  // warps with a lane that can run
Exchange exchanges[kMostWarps];
Barrier barrier;
Copies copies[kMostThreads];
bool copies_used = false;
unsigned threads_n, warps_n, live;
Launch launch;
Order order;
void* caller;   // where run_block() resumes
void* nowhere;  // for a fiber that ends
uint64_t random_state = 0x9e3779b97f4a7c15u;
thread_local bool is_running = false;

Order order_of_environment() {
  const char* text = std::getenv("LLMCORE_EMULATOR_ORDER");
  if (!text || !*text || !std::strcmp(text, "forward")) return Order::kForward;
  if (!std::strcmp(text, "reverse")) return Order::kReverse;
  if (!std::strcmp(text, "shuffle")) return Order::kShuffle;
  fail("LLMCORE_EMULATOR_ORDER: forward, reverse or shuffle, not %s", text);
}

uint32_t random_number() {  // xorshift64, seeded once: a process repeats itself
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  return static_cast<uint32_t>(random_state >> 32);
}

void run_fiber();

void* begin(Thread& t) {  // for a thread that gets its own stack
  t.stack = take_stack();
  return fresh(t.stack, run_fiber);
}

// ---- the schedule -----------------------------------------------------------------------------------

inline unsigned lowest(uint32_t bits) { return static_cast<unsigned>(__builtin_ctz(bits)); }

inline unsigned choose(uint32_t bits) {  // returns the index of a set bit
  if (order == Order::kForward) return lowest(bits);
  if (order == Order::kReverse) return 31 - static_cast<unsigned>(__builtin_clz(bits));
  for (auto skip = random_number() % static_cast<unsigned>(__builtin_popcount(bits)); skip; --skip) bits &= bits - 1;
  return lowest(bits);
}

inline void set_ready(unsigned warp, uint32_t lanes) {
  ready[warp] |= lanes;
  ready_warps |= 1u << warp;
}
inline void unset_ready(unsigned warp, uint32_t lanes) {
  if (!(ready[warp] &= ~lanes)) ready_warps &= ~(1u << warp);
}

// Picks the thread to resume: one of the same warp if possible, except in a shuffled order or when all threads start
// over.
inline unsigned pick(bool restart) {
  unsigned warp = current_thread / kWarp;
  if (restart || !ready[warp] || order == Order::kShuffle) {
    if (!ready_warps) return kNobody;
    warp = choose(ready_warps);
  }
  return warp * kWarp + choose(ready[warp]);
}

inline void become(unsigned t) {
  current_thread = t;
  threadIdx = threads[t].index;
}

void release_barrier() {
  barrier.result = barrier.vote == Vote::kAnd  ? barrier.votes == live
                   : barrier.vote == Vote::kOr ? barrier.votes > 0
                                               : barrier.votes;
  barrier.arrived = barrier.votes = 0;
  block_is_ordered();
  for (unsigned w = 0; w < warps_n; ++w)
    if (at_barrier[w]) {
      set_ready(w, at_barrier[w]);
      at_barrier[w] = 0;
    }
}

void finish_group(unsigned warp, unsigned at) {
  Exchange& e = exchanges[warp];
  const Group group = e.groups[at];
  e.groups[at] = e.groups[--e.groups_n];
  if (group.what->whole_warp && ~group.arrived)
    fail("%s needs all lanes of the warp; only lanes %08x came", group.what->name, group.arrived);
  if (group.what->run) group.what->run(e.operands, group.arrived);
  if (group.what == &kSyncWarp && group.arrived == ~gone[warp]) warp_is_ordered(warp);
  set_ready(warp, group.arrived);
}

bool leave() {  // others may have waited for this thread only; true if the whole block did
  const unsigned warp = current_thread / kWarp;
  const uint32_t bit = 1u << current_thread % kWarp;
  gone[warp] |= bit;
  unset_ready(warp, bit);
  --live;
  Exchange& e = exchanges[warp];
  for (unsigned i = e.groups_n; i-- > 0;)
    if (e.groups[i].arrived == (e.groups[i].lanes & ~gone[warp])) finish_group(warp, i);
  if (!barrier.arrived || barrier.arrived != live) return false;
  release_barrier();
  return true;
}

// Runs threads one after another on this stack, as long as none of them waits.
void run_fiber() {
  arrived();
  Stack* const stack = threads[current_thread].stack;
  for (;;) {
    launch.thread(launch.arguments);
    const unsigned next = pick(leave());
    if (next != kNobody && !threads[next].stack) {
      become(next);
      threads[next].stack = stack;
      continue;
    }
    give_back(stack);
    if (next == kNobody) go(&nowhere, caller, nullptr);
    become(next);
    go(&nowhere, threads[next].at, threads[next].stack);
  }
}

[[noreturn]] __attribute__((noinline, cold)) void deadlock() {
  std::string text;
  char line[160];
  for (unsigned w = 0; w < warps_n; ++w) {
    const uint32_t left = gone[w] & ~0u >> (kWarp - std::min(threads_n - w * kWarp, kWarp));
    if (at_barrier[w]) {
      std::snprintf(line, sizeof line, "\n  warp %u: lanes %08x wait at __syncthreads", w, at_barrier[w]);
      text += line;
    }
    for (unsigned i = 0; i < exchanges[w].groups_n; ++i) {
      const Group& g = exchanges[w].groups[i];
      std::snprintf(line, sizeof line, "\n  warp %u: lanes %08x wait in %s for lanes %08x", w, g.arrived, g.what->name,
                    g.lanes & ~gone[w] & ~g.arrived);
      text += line;
    }
    if (left) {
      std::snprintf(line, sizeof line, "\n  warp %u: lanes %08x have left", w, left);
      text += line;
    }
  }
  fail("deadlock: every thread of the block waits for another%s", text.c_str());
}

inline Turn turn(bool restart) {
  const unsigned next = pick(restart);
  if (next == current_thread) return {nullptr, nullptr};
  if (next == kNobody) deadlock();
  Thread& from = threads[current_thread];
  Thread& to = threads[next];
  void* const at = to.stack ? to.at : begin(to);
  become(next);
  return {&from.at, at};
}

// ---- blocks -----------------------------------------------------------------------------------------

unsigned char* shared_memory() {
  alignas(1024) static unsigned char memory[kRedZone + kMostShared + kRedZone];
  return memory + kRedZone;
}

void check_red_zones() {
  const unsigned char* const p = dynamic_shared;
  for (size_t i = 0; i < kRedZone; ++i) {
    const size_t after = launch.shared_bytes + i, before = kRedZone - i;
    if (p[after] != kRed) fail("dynamic shared memory: byte %zu of %zu was written", after, launch.shared_bytes);
    if (*(p - before) != kRed) fail("dynamic shared memory: byte -%zu was written", before);
  }
}

void run_block(uint3 at, const std::vector<SharedVariable>& shared) {
  blockIdx = at;
  live = threads_n;
  ready_warps = ~0u >> (kMostWarps - warps_n);
  barrier = {};
  for (unsigned w = 0; w < warps_n; ++w) {
    ready[w] = ~0u >> (kWarp - std::min(threads_n - w * kWarp, kWarp));
    gone[w] = ~ready[w];
    at_barrier[w] = 0;
    exchanges[w].groups_n = 0;
  }
  for (unsigned t = 0; t < threads_n; ++t) threads[t].stack = nullptr;
  if (copies_used)
    for (Copies& c : copies) c.copies.clear(), c.ends.clear(), c.done = c.groups_done = 0;
  copies_used = false;
  if (launch.shared_bytes) std::memset(dynamic_shared, kGarbage, launch.shared_bytes);
  for (const SharedVariable& v : shared) std::memset(v.at, kGarbage, v.bytes);
  const unsigned first = pick(true);
  become(first);
  void* const start = begin(threads[first]);
  go(&caller, start, threads[first].stack, true);
  if (live) deadlock();
  if (launch.shared_bytes) check_red_zones();
}

}  // namespace

bool running() { return is_running; }

void describe_place(char* text, size_t room) {
  std::snprintf(text, room, "%s\n  block (%u, %u, %u), thread (%u, %u, %u)", function_name(launch.kernel).c_str(),
                blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}

void fail(const char* format, ...) {
  char place[1000];
  std::fprintf(stderr, "CUDA emulator: ");
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  if (is_running) {
    describe_place(place, sizeof place);
    std::fprintf(stderr, "\n  kernel %s", place);
  }
  std::fprintf(stderr, "\n");
  std::fflush(stderr);
  std::abort();
}

void run(const Launch& what) {
  static const Order wanted = order_of_environment();
  order = wanted;
  launch = what;
  gridDim = launch.grid, blockDim = launch.block;
  threads_n = launch.block.x * launch.block.y * launch.block.z;
  warps_n = (threads_n + kWarp - 1) / kWarp;
  unsigned t = 0;
  for (unsigned z = 0; z < launch.block.z; ++z)
    for (unsigned y = 0; y < launch.block.y; ++y)
      for (unsigned x = 0; x < launch.block.x; ++x) threads[t++].index = {x, y, z};
  dynamic_shared = shared_memory();
  std::memset(dynamic_shared + launch.shared_bytes, kRed, kRedZone);
  std::memset(dynamic_shared - kRedZone, kRed, kRedZone);
  watch_faults();
  SharedUse use(launch.kernel);
  launch_begins();
  is_running = true;
  const uint64_t nx = launch.grid.x, ny = launch.grid.y, n = nx * ny * launch.grid.z;
  const auto run_at = [&](uint64_t i) {
    block_begins(static_cast<unsigned>(i));
    run_block({static_cast<unsigned>(i % nx), static_cast<unsigned>(i / nx % ny), static_cast<unsigned>(i / nx / ny)},
              use.variables());
  };
  if (order == Order::kForward) {
    for (uint64_t i = 0; i < n; ++i) run_at(i);
  } else if (order == Order::kReverse) {
    for (uint64_t i = n; i-- > 0;) run_at(i);
  } else {  // a step coprime with n visits every block
    uint64_t step = 1 + random_number() % n, i = random_number() % n;
    const auto common = [](uint64_t a, uint64_t b) {
      while (b) a %= b, std::swap(a, b);
      return a;
    };
    while (common(step, n) != 1) ++step;
    for (uint64_t k = 0; k < n; ++k, i = (i + step) % n) run_at(i);
  }
  is_running = false;
}

Turn come_to(const Collective& what, uint32_t lanes, void* operand) {
  const unsigned warp = current_thread / kWarp, lane = current_thread % kWarp;
  const uint32_t bit = 1u << lane;
  Exchange& e = exchanges[warp];
  if (!(lanes & bit)) fail("%s: lane %u is not in its own mask %08x", what.name, lane, lanes);
  unsigned at = 0;
  while (at < e.groups_n && e.groups[at].lanes != lanes) ++at;
  Group& group = e.groups[at];
  if (at == e.groups_n) {
    ++e.groups_n;
    group = {&what, lanes, 0};
  }
  if (group.what != &what)
    fail("lanes of one warp are at different places: %s (lanes %08x) and %s (lane %u)", group.what->name, group.arrived,
         what.name, lane);
  if (group.arrived & bit) fail("%s: lane %u comes twice", what.name, lane);
  group.arrived |= bit;
  e.operands[lane] = operand;
  unset_ready(warp, bit);
  if (group.arrived == (lanes & ~gone[warp])) finish_group(warp, at);
  return turn(false);
}

Turn come_to_barrier(Vote vote, bool yes) {
  const unsigned warp = current_thread / kWarp;
  const uint32_t bit = 1u << current_thread % kWarp;
  if (!barrier.arrived) barrier.vote = vote;
  if (barrier.vote != vote) fail("threads of one block are at different kinds of __syncthreads");
  if (at_barrier[warp] & bit) fail("__syncthreads: the thread comes twice");
  at_barrier[warp] |= bit;
  barrier.votes += yes;
  unset_ready(warp, bit);
  const bool last = ++barrier.arrived == live;
  if (last) release_barrier();
  return turn(last);
}

int votes() { return static_cast<int>(barrier.result); }

#if !defined(LLMCORE_EMULATOR_INLINE_SWITCH)
void take_turns(Turn turn) {
  if (turn.to) go(turn.from, turn.to, threads[current_thread].stack);
}
#endif

// ---- copies in the background -------------------------------------------------------------------------

void copy_later(void* to, const void* from, bool valid) {
  if (reinterpret_cast<uintptr_t>(to) % 16) fail("cp.async: the destination %p is not aligned to 16 bytes", to);
  if (reinterpret_cast<uintptr_t>(from) % 16) fail("cp.async: the source %p is not aligned to 16 bytes", from);
  copies_used = true;
  copies[current_thread].copies.push_back({to, from, valid});
  std::memset(to, kGarbage, 16);
  if (valid) touch(current_thread, from, 16, Access::kRead);
  touch(current_thread, to, 16, Access::kWrite);
}

void end_copy_group() {
  copies_used = true;
  copies[current_thread].ends.push_back(copies[current_thread].copies.size());
}

void wait_for_copies(int most_pending_groups) {
  Copies& c = copies[current_thread];
  const size_t most = static_cast<size_t>(most_pending_groups);
  for (; c.groups_done + most < c.ends.size(); ++c.groups_done)
    for (; c.done < c.ends[c.groups_done]; ++c.done) {
      const Copies::One& one = c.copies[c.done];
      touch(current_thread, one.to, 16, Access::kWrite);
      if (one.valid)
        std::memcpy(one.to, one.from, 16);
      else
        std::memset(one.to, 0, 16);
    }
  if (c.done == c.copies.size() && c.groups_done == c.ends.size())
    c.copies.clear(), c.ends.clear(), c.done = c.groups_done = 0;
}

}  // namespace llmcore_emulator
