// Sampling. Conventions: core/kernel_table.h.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace llmcore {

struct SampleArgs {
  // For each row: mask, bias -> penalties -> temperature -> top-k -> top-p -> min-p -> typical -> draw (ops/sample.h:
  // exact semantics)
  DType dtype;
  int64_t B, V;
  const void* logits;           // (B,V)
  const float* temperature;     // (B); 0 = argmax, lowest id on ties
  const int32_t* top_k;         // (B); 0 = off
  const float* top_p;           // (B); >= 1 = off
  const float* min_p;           // (B); 0 = off
  const float* typical_p;       // (B); >= 1 = off
  const uint64_t* seed;         // (B)
  const int64_t* step;          // (B) draw number within the request
  const int64_t* bias_offsets;  // (B+1): row b's biases are [offsets[b], offsets[b+1]) of ids and values; or null
  const int32_t* bias_ids;
  const float* bias_values;
  const int32_t* history;  // (B,history_size): the tokens so far, prompt first; or null: no penalties
  int64_t history_size;
  const int32_t* history_lengths;  // (B): tokens that count
  const int32_t* prompt_lengths;   // (B): those of them that are not output
  const float* repetition;         // (B) each; 1, 0, 0 = off
  const float* presence;
  const float* frequency;
  const uint32_t* mask;  // (B,mask_words) or null: token i may be drawn where bit i % 32 of word i / 32 is set
  int64_t mask_words;
  int32_t* token;   // (B)
  float* logprob;   // (B): of the token under softmax(logits), unmodified
  float* probs;     // (B,V): the filtered, renormalised distribution; may be null
  void* workspace;  // sample_workspace() bytes
};

}  // namespace llmcore
