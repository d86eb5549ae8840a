"""What the Tokenizer checks of its arguments."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from llmcore import _core
from llmcore.errors import ArgumentTypeError, Error
from llmcore.tokenizer.vocabulary import SentencePieceVocabulary

if TYPE_CHECKING:
    import numpy as np


def check_specials(specials: Any, op: str) -> None:
    """Raise unless these are texts that can be tokens."""
    if isinstance(specials, (str, bytes)) or not isinstance(specials, Collection):
        raise ArgumentTypeError(op, expected="special_tokens to be a list of str", got=repr(specials))
    for special in specials:
        if not isinstance(special, str):
            raise ArgumentTypeError(op, expected="special_tokens to be a list of str", got=f"{special!r} in it")
        if any("\ud800" <= c <= "\udfff" for c in special):
            raise Error(op, expected="special tokens that have a UTF-8 form", got=repr(special))


Found = list[tuple[str, int, int]]


def checked_ids(ids: dict[str, int], flags: dict[str, int]) -> Found:
    """Return the tokens as _core takes them: text, id and flags."""
    for special, id in ids.items():
        if not isinstance(id, int) or not 0 <= id < 1 << 31:
            raise Error("tokenizer", expected=f"an id for special token {special!r}", got=repr(id))
    return [(text, id, flags.get(text, 0)) for text, id in ids.items()]


def sentencepiece_core(v: SentencePieceVocabulary, specials: Found, added: Found) -> _core.SentencePieceBPE:
    symbols = checked_ids(v.symbols, {})
    checked = {"merges": v.merges or [], "symbols": symbols, "added_tokens": added, "special_tokens": specials}
    parts = {name: value for name, value in v._asdict().items() if name not in ("flags", "begin", "end")}
    return _core.SentencePieceBPE(**parts | checked)


def id_array(ids: Any) -> np.ndarray:
    """Return an integer array of shape (T,) as int64."""
    import numpy as np

    array = np.asarray(ids if hasattr(ids, "__array__") else ids.numpy())
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ArgumentTypeError(
            "decode", expected="integers of shape (T,)", got=f"{array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64, copy=False)
