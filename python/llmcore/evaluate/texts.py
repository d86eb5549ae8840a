"""Loss, perplexity and bits per byte of texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from llmcore import autograd, data
from llmcore.data.batches import begin_of
from llmcore.errors import Error
from llmcore.generate import LanguageModel


def evaluate_texts(
    lm: LanguageModel,
    documents: Sequence[bytes],
    context: int | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> dict[str, float]:
    """Evaluate documents, concatenated and cut into windows of `context` tokens (by default the model's, at most 1024) that
    do not overlap; every token is predicted once. Returns {"loss": nats per token, "perplexity", "bpb": bits per byte,
    "tokens", "bytes"}. If the tokenizer has no end of text, the first token is not predicted, and its bytes are left out.
    progress: called with how many tokens are done, of how many."""
    if context is not None and context > lm.config.context:
        raise Error("eval", expected=f"a context of at most {lm.config.context} (the model's)", got=context)
    tokenizer = lm.tokenizer
    T = min(lm.config.context, context or 1024)
    ids = data.encode_documents(documents, tokenizer)
    begin = begin_of(tokenizer, tokenizer.end_of_text)
    windows = data.evaluation_windows(ids, T, tokenizer.end_of_text, begin)
    size = sum(map(len, documents))
    if tokenizer.end_of_text is None and not begin:
        size -= len(tokenizer.token_bytes(int(ids[0])))
    nats, done = 0.0, 0
    with autograd.no_grad():
        for inputs, targets in windows.batches(batch_size):
            nats += lm.model.loss(inputs, targets, "sum").item()
            done += int(np.count_nonzero(targets >= 0))
            progress(done, windows.predicted)
    loss = nats / done
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bpb": data.bits_per_byte(nats, size),
        "tokens": done,
        "bytes": size,
    }
