"""A model of which one knows what it writes: the logits of the next token are a row of a table, that of the last token."""

from collections.abc import Mapping

import numpy as np

import llmcore
from llmcore import models


def byte_tokenizer() -> llmcore.Tokenizer:
    """Return a tokenizer of which every byte is a token, besides its end of text."""
    return llmcore.Tokenizer.train(iter(["ab"]), 257)


def last_token_model(follows: Mapping[str, str | Mapping[str, float]], tokenizer=None, context=256):
    """Return a LanguageModel that follows a token by another for certain, or with these logits (0 for all others). "" is the
    end of text; a token without an entry follows itself."""
    tokenizer = tokenizer or byte_tokenizer()
    vocab = tokenizer.vocab_size
    config = models.LlamaConfig(
        vocab_size=vocab, context=context, width=vocab + vocab % 2, layers=1, heads=1, ffn=8, tied=False
    )
    model = models.Llama(config, "float32", seed=0)

    def token_id(text: str) -> int:
        return tokenizer.end_of_text if not text else tokenizer.encode_ordinary(text)[0]

    table = 18.0 * np.eye(vocab)
    for token, others in follows.items():
        row = table[token_id(token)]
        row[:] = 0
        for text, logit in ({others: 18.0} if isinstance(others, str) else others).items():
            row[token_id(text)] = logit
    for name, p in model.named_parameters():
        if p.ndim > 1:
            values = np.zeros(p.shape)
            if name == "tokens.weight":
                values[:vocab, :vocab] = np.eye(vocab)
            elif name == "head.weight":
                values[:vocab, :vocab] = table.T / np.sqrt(config.width)  # a one-hot row of RMS 1 is √width high
            p.assign(values)
    return llmcore.LanguageModel(model, tokenizer)
