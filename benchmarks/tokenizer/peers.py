"""Training of a byte-level vocabulary by other libraries, and the vocabularies as sets of bytes."""

from __future__ import annotations

import json

from llmcore.tokenizer.formats.byte_level import byte_alphabet
from llmcore.tokenizer.patterns import REGEX


def train_rustbpe(documents: list[str], vocab_size: int):
    import rustbpe

    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter(documents), vocab_size, pattern=REGEX["cl100k"])
    return theirs


def train_tokenizers(documents: list[str], vocab_size: int):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    split = pre_tokenizers.Split(Regex(REGEX["cl100k"]), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(
        documents, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    return theirs


TRAINERS = {"tokenizers": train_tokenizers, "rustbpe": train_rustbpe}


def vocabulary(library: str, trained) -> set[bytes]:
    """Return what a library has trained as a set of tokens."""
    if library == "llmcore":
        return {trained.token_bytes(i) for i in range(trained.vocab_size)}
    if library == "rustbpe":
        return {bytes(token) for token, _ in trained.get_mergeable_ranks()}
    to_byte = {c: b for b, c in enumerate(byte_alphabet())}
    return {bytes(to_byte[c] for c in token) for token in json.loads(trained.to_str())["model"]["vocab"]}
