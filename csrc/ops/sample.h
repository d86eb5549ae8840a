// Drawing the next token from logits.
//
// Order: temperature -> top-k -> top-p -> min-p -> draw. Temperature 0 is argmax before any filter, the lowest id on
// ties. top-k keeps exactly k, the lowest id wins ties. top-p renormalises after top-k and keeps a token iff the mass
// before it is < p - 1e-6. min-p keeps p >= min_p * p_max. The draw is Gumbel-max with Philox noise keyed by the row's
// seed and step: a row's token depends on nothing else in the batch.
#pragma once
#include "core/tensor.h"

namespace llmcore {

struct SampleParameters {                   // (B) each
  Tensor temperature, top_k, top_p, min_p;  // float32, int32, float32, float32
  Tensor seed, step;                        // int64
};
struct SampleResult {
  Tensor token, logprob;  // (B) int32, float32: log-probability under the unmodified distribution
  Tensor probs;           // (B,V) float32, the filtered distribution; only when asked for
};
SampleResult sample(const Tensor& logits, const SampleParameters& parameters, bool want_probs);

}  // namespace llmcore
