// Draws tokens by the noise of core/noise.h from equal logits: one token for each step from 0 on. Arguments: seed,
// steps, V.
#include "core/noise.h"

#include <cstdio>
#include <cstdlib>

int main(int, char** argv) {
  const uint64_t seed = std::strtoull(argv[1], nullptr, 10), steps = std::strtoull(argv[2], nullptr, 10);
  const uint32_t V = static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10));
  for (uint64_t step = 0; step < steps; ++step) {
    uint32_t best = 0;
    float most = -1e30f;
    for (uint32_t id = 0; id < V; ++id) {
      const float g = llmcore::gumbel_of(llmcore::random_word(seed, step, id));
      if (g > most) most = g, best = id;
    }
    std::printf("%u\n", best);
  }
  // Noise of the least and the largest words and some between, as bits.
  constexpr uint32_t kWords[] = {0u, 1u, 0x7fffffffu, 0x80000000u, 0xfffffeffu, 0xffffffffu};
  for (uint32_t random : kWords) std::printf("%08x\n", llmcore::noise_bits(llmcore::gumbel_of(random)));
}
