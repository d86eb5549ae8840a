// Drawing the next token from logits.
//
// Order: mask, bias -> repetition, presence and frequency penalties -> temperature -> top-k -> top-p -> min-p ->
// typical -> draw. Repetition r changes a logit l of a token of the history, prompt and output, once: l > 0 ? l / r : l
// * r. A token that occurs c > 0 times in the output then loses c * frequency + presence (OpenAI's formula).
// Temperature 0 is argmax before any filter, the lowest id on ties. top-k keeps exactly k, the lowest id wins ties.
// top-p renormalises after top-k and keeps a token iff the mass before it is < p - 1e-6. min-p keeps p >= min_p *
// p_max. typical keeps the tokens whose -log p is nearest to the entropy, all renormalised, by the rule of top-p
// (Meister et al. 2023). The draw is Gumbel-max with Philox noise keyed by the row's seed and step: a row's token
// depends on nothing else in the batch. NaN and -inf are never drawn, +inf counts as the largest number.
#pragma once
#include <variant>

#include "core/tensor.h"

namespace llmcore {

// One number for all rows, or a tensor (B).
using EachFloat = std::variant<double, Tensor>;  // float32
using EachInt = std::variant<int64_t, Tensor>;   // int32 (top_k and lengths) or int64 (seed, step)

struct SampleParameters {
  EachFloat temperature = 1.0;
  EachInt top_k = int64_t{0};
  EachFloat top_p = 1.0, min_p = 0.0, typical_p = 1.0;
  EachInt seed = int64_t{0}, step = int64_t{0};
};
struct SampleBias {    // sparse: row b adds values[i] to the logit of ids[i], offsets[b] <= i < offsets[b + 1]
  Tensor offsets;      // (B + 1) int64
  Tensor ids, values;  // (N) int32, float32
};
struct SamplePenalties {
  Tensor history;  // (B, L) int32: the tokens so far, prompt first; anything past the lengths is not read
  EachInt lengths, prompt_lengths;
  EachFloat repetition, presence, frequency;
};
struct SampleResult {
  Tensor token, logprob;  // (B) int32, float32, on the host: log-probability under the unmodified distribution, NaN
                          // where the row holds NaN or +inf
  Tensor probs;           // (B,V) float32, the distribution that was drawn from; only on request
};
// logits may be on any device; everything else is on the host. mask (B, ceil(V/32)) uint32: token i may be drawn where
// bit i % 32 of word i / 32 is set.
SampleResult sample(const Tensor& logits, const SampleParameters& parameters, const SampleBias* bias,
                    const SamplePenalties* penalties, const Tensor* mask, bool want_probs);

}  // namespace llmcore
