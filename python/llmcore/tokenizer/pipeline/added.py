"""Added tokens: found in a text before its pieces are made, some before and some after it is normalized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llmcore import _core
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.pipeline.models import Model
from llmcore.tokenizer.vocabulary import STRIPS_LEFT, STRIPS_RIGHT, WORD

_FLAGS = {"single_word": WORD, "lstrip": STRIPS_LEFT, "rstrip": STRIPS_RIGHT}
Normalize = Callable[[str], str]
Finder = Callable[[str], list[tuple[str, int | None]]]  # stretches of a text, each with the id of the token that it is


class Added(NamedTuple):
    content: str
    id: int
    special: bool
    normalized: bool
    flags: int


class AddedTokens:
    """The added tokens of a file, with the ids that `tokenizers` gives them: those that the model's vocabulary has, else the
    next ones, whatever the file says."""

    def __init__(self, read: Reader, document: dict[str, Any], model: Model, normalize: Normalize | None):
        self.by_id: dict[int, Added] = {}
        ids: dict[str, int] = {}
        self._special: set[str] = set()  # sticky: a token that was special once is
        fresh = model.size
        for number, entry in enumerate(read.get(document, "added_tokens", list, default=[])):
            token = _read_token(read, entry, f"added_tokens[{number}]")
            if not token.content:
                continue
            id = ids.get(token.content, model.ids.get(token.content))
            if id is None:
                id, fresh = fresh, fresh + 1
            ids[token.content] = id
            self.by_id[id] = token._replace(id=id)
            if token.special:
                self._special.add(token.content)
        # As the decoder gets them.
        self.spellings = {
            id: normalize(token.content) if token.normalized and normalize else token.content
            for id, token in self.by_id.items()
        }
        if empty := next((token.content for id, token in self.by_id.items() if not self.spellings[id]), None):
            raise read.fail("added_tokens", "tokens of which the normalizer leaves something", repr(empty))
        self.special_tokens = {token.content: id for id, token in self.by_id.items() if token.content in self._special}
        self.others = {token.content: id for id, token in self.by_id.items() if token.content not in self._special}
        self._finders = {
            (late, ordinary): self._finder(late, ordinary) for late in (False, True) for ordinary in (False, True)
        }

    def finder(self, late: bool, ordinary: bool) -> Finder | None:
        """Return what finds the tokens in normalized text (late) or in the text as it is; ordinary: but the special
        ones. None if there are none."""
        return self._finders[late, ordinary]

    def _finder(self, late: bool, ordinary: bool) -> Finder | None:
        tokens = [
            (self.spellings[id], id, token.flags)
            for id, token in self.by_id.items()
            if token.normalized == late and not (ordinary and token.content in self._special)
        ]
        return _core.AddedTokens(tokens).split if tokens else None


def _read_token(read: Reader, entry: Any, where: str) -> Added:
    if not isinstance(entry, dict):
        raise read.fail(where, "an object", entry)
    content = read.get(entry, "content", str, where)
    read.utf8(content, f"{where}.content")
    id = read.id(entry.get("id"), f"{where}.id", 1 << 31)
    special = read.get(entry, "special", bool, where, False)
    normalized = read.get(entry, "normalized", bool, where, not special)
    flags = sum(flag for name, flag in _FLAGS.items() if read.get(entry, name, bool, where, False))
    return Added(content, id, special, normalized, flags)
