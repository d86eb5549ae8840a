"""What pretraining reads: texts or tokens to learn from, and what is held out of them or beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmcore import data
from llmcore.data.batches import begin_of
from llmcore.data.corpus import PYTHON_DOCS
from llmcore.documents.files import find_files
from llmcore.errors import CorpusError, Error
from llmcore.tokenizer import Tokenizer
from llmcore.train.config import PretrainConfig
from llmcore.train.report import Report

Text = data.Corpus | data.ShardSet | data.TokenFile


class Marks(NamedTuple):
    """The tokens around every document: those before it, and the one after it."""

    begin: tuple[int, ...]
    end: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer, end_ids: Sequence[int] = ()) -> Marks:
        """Return those of a tokenizer. end_ids: the tokens that end an answer of its model, the first of which serves where
        the tokenizer has no end of text by that name."""
        end = tokenizer.end_of_text if tokenizer.end_of_text is not None else next(iter(end_ids), None)
        return cls(begin_of(tokenizer, end), end)

    @property
    def first(self) -> int | None:
        """The token at which a document begins, for those who keep documents apart: see `data.document_starts`."""
        return self.begin[0] if self.begin else self.end

    def without(self, ids: np.ndarray) -> np.ndarray:
        """Return the ids that spell text, (N,)."""
        return ids[~np.isin(ids, [*self.begin, *([] if self.end is None else [self.end])])]


class HeldOut(NamedTuple):
    """Held-out text: its tokens (N,), its size in bytes, and a digest."""

    name: str
    tokens: np.ndarray
    bytes: int
    digest: str


def sources_of(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def open_texts(config: PretrainConfig, tokenizer: Tokenizer | None, report: Report) -> list[Text]:
    """Return a text for each of config.weights; without weights, one text of all sources. tokenizer: that of tokens which do
    not name theirs."""
    sources = sources_of(config.data)
    apart = [[s] for s in sources] if config.weights else [sources]
    return [open_text(some, config, tokenizer, config.validation_fraction, report) for some in apart]


def open_text(
    sources: list[str],
    config: PretrainConfig,
    tokenizer: Tokenizer | None,
    validation_fraction: float | None,
    report: Report,
) -> Text:
    """Open a text. validation_fraction: None holds nothing out."""
    tokens = [s for s in sources if data.is_shard_set(s) or data.is_token_file(s)]
    if not tokens:
        return data.read_corpus(sources, validation_fraction, config.field, config.separators, report.note)
    if len(sources) > 1:
        raise Error(
            "data",
            expected="tokens by themselves, or --weights for each",
            got=f"{tokens[0]} beside others: {', '.join(sources)}",
        )
    if data.is_shard_set(tokens[0]):
        return data.ShardSet(tokens[0], validation_fraction)
    if tokenizer is None:
        raise Error("data", expected=f"the --tokenizer that {tokens[0]} was made with", got="none")
    return data.TokenFile(tokens[0], tokenizer, validation_fraction, config.token_dtype)


def encoded(text: Text, tokenizer: Tokenizer, marks: Marks):
    """Return the tokens to learn from and those held out."""
    return text.encode(tokenizer, marks.end) if isinstance(text, data.Corpus) else text.encode(tokenizer)


def open_held_out(config: PretrainConfig, tokenizer: Tokenizer, marks: Marks, report: Report) -> list[HeldOut]:
    """Return what each of config.validation holds."""
    found = []
    for source in sources_of(config.validation or []):
        text = open_text([source], config, tokenizer, None, report)
        tokens = np.asarray(encoded(text, tokenizer, marks)[0])
        spelled = marks.without(tokens)
        if not len(spelled):
            raise CorpusError("data", source, expected="some held-out text", got="none")
        size = (
            text.train_bytes if isinstance(text, data.Corpus) else len(tokenizer.decode_bytes(spelled.astype(np.int64)))
        )
        found.append(HeldOut(text.name, tokens, size, hashlib.blake2b(tokens.tobytes(), digest_size=16).hexdigest()))
    return found


def warn_of_overlap(config: PretrainConfig, texts: Iterable[Text], report: Report) -> None:
    """Say which of config.validation is learned too: files by their path, documents by their content."""
    validation = sources_of(config.validation or [])
    both = sorted(_files(sources_of(config.data)) & _files(validation))
    if both:
        report.warn(
            f"{', '.join(both)[:200]}: to learn from and held out, so the held-out figures say what was learned by heart"
        )
        return
    held = [s for s in validation if not (data.is_shard_set(s) or data.is_token_file(s))]
    documents = data.read_corpus(held, None, config.field, config.separators).train if held else []
    learned = {d for t in texts if isinstance(t, data.Corpus) for d in t.train}
    same = sum(d in learned for d in documents)
    if same:
        report.warn(f"{same:,} of {len(documents):,} held-out documents are also among those to learn from")


def _files(sources: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for source in sources:
        if source == PYTHON_DOCS or data.is_shard_set(source) or data.is_token_file(source):
            found.add(source if source == PYTHON_DOCS else str(Path(source).resolve()))
        else:
            found |= {str(path.resolve()) for path in find_files(source)}
    return found
