"""The tokens that end what a model writes: where model files name them, and how they are kept.

Files name them in several places, and none of them is complete in the wild: fine-tuned models often keep the base's
generation_config.json, and GGUF files often have one of several. So every place counts, as in llama.cpp and vLLM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcore._files import read_json
from llmcore.errors import Error
from llmcore.tokenizer import Tokenizer

_FIELD = "eos_token_id"
_GGUF = "tokenizer.ggml."
_GGUF_FIELDS = (_GGUF + "eos_token_id", _GGUF + "eot_token_id", _GGUF + "eom_token_id")
GGUF_ALL = "llmcore.end_token_ids"  # written where GGUF's own fields and the names below say something else

# Tokens that llama.cpp takes for the end of a turn wherever a vocabulary has them (src/llama-vocab.cpp).
TURN_ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "<|end_of_text|>", "<end_of_utterance>",
    "<｜end▁of▁sentence｜>", "</s>", "<eos>", "[EOS]", "[e~[", "<turn|>", "<|tool_response>",
)  # fmt: skip
# Where a model has both of a pair, a message may go on after <|end|>: it only ends a part (OpenAI's harmony format).
_PAIRS_WITH_PARTS = (("<|return|>", "<|call|>"), ("<|calls|>", "<|flush|>"))
_PART_END = "<|end|>"


def folder_end_ids(
    folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer, rows: int
) -> tuple[list[int] | None, list[str]]:
    """Return the ids that end a text of a folder's model, and notes on what was left out: eos_token_id of
    generation_config.json and of config.json, and eos_token of tokenizer_config.json (or else of special_tokens_map.json), the first first. rows: how many
    ids the model has. None if no file says; ValueError names a file and a field that hold something else."""
    path = folder / "generation_config.json"
    generation = read_json(path, "load") if path.is_file() else {}
    found = _ids(path, _FIELD, generation.get(_FIELD))
    found += _ids(folder / "config.json", _FIELD, config.get(_FIELD))
    token = None
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the second wins
        path = folder / name
        given = (read_json(path, "load") if path.is_file() else {}).get("eos_token")
        token = (given.get("content") if isinstance(given, dict) else given) or token
    notes = []
    if isinstance(token, str) and token:
        id = _id_of(tokenizer, token)
        if id is not None:
            found.append((id, f"eos_token of {path.name}"))
        else:
            notes.append(f"{path.name}: eos_token {token!r:.60} is not a token and ends nothing")
    return _within(found, rows, notes)


def gguf_end_ids(
    path: Path, metadata: Mapping[str, Any], tokenizer: Tokenizer, rows: int
) -> tuple[list[int] | None, list[str]]:
    """Do the same for a GGUF file: the ids of the ends of text, turn and message, and the tokens of the usual names."""
    if GGUF_ALL in metadata:
        return _within(_ids(path, GGUF_ALL, metadata[GGUF_ALL]), rows, [])
    found = [item for field in _GGUF_FIELDS for item in _ids(path, field, metadata.get(field))]
    return _within(found + [(id, name) for name, id in _named_ends(tokenizer).items()], rows, [])


def gguf_end_metadata(end_ids: Sequence[int], tokenizer: Tokenizer, eos: int | None) -> dict[str, Any]:
    """Return the fields of a GGUF file that end texts with these ids. eos: the one that ends a text, if there are
    several."""
    if not end_ids:
        return {}
    named = _named_ends(tokenizer)
    eos = eos if eos in end_ids else end_ids[0]
    rest = [id for id in end_ids if id != eos]
    eom = next((id for id in rest if id == named.get("<|eom_id|>")), None)
    turns = sorted(
        (id for id in rest if id != eom), key=lambda id: id not in named.values()
    )  # stable: known names first
    fields = {"eos": eos, "eot": turns[0] if turns else None, "eom": eom}
    found: dict[str, Any] = {f"{_GGUF}{name}_token_id": id for name, id in fields.items() if id is not None}
    if {*found.values(), *named.values()} != {*end_ids}:
        found[GGUF_ALL] = list(end_ids)
    return found


def _named_ends(tokenizer: Tokenizer) -> dict[str, int]:
    tokens = {**tokenizer.added_tokens, **tokenizer.special_tokens}
    named = {name: tokens[name] for name in TURN_ENDS if name in tokens}
    if any(first in named and second in named for first, second in _PAIRS_WITH_PARTS):
        named.pop(_PART_END, None)
    if "<|tool_response>" in named:  # Gemma 4's vocabulary has an </s> that ends nothing
        named.pop("</s>", None)
    return named


def _id_of(tokenizer: Tokenizer, text: str) -> int | None:
    """Return the id of a token by its text, or None."""
    tokens = {**tokenizer.added_tokens, **tokenizer.special_tokens}
    if text in tokens:
        return tokens[text]
    ids = tokenizer.encode_ordinary(text)
    return ids[0] if len(ids) == 1 else None


def _ids(path: Path, field: str, value: object) -> list[tuple[int, str]]:
    """Check an id, a list of ids, or nothing; return them with the place that names them."""
    listed: Any = value.tolist() if hasattr(value, "tolist") else value
    ids = [] if listed is None else listed if isinstance(listed, list) else [listed]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise Error("load", path, expected=f"{field} an id or a list of ids", got=f"{value!r:.100}")
    return [(id, f"{field} of {path.name}") for id in ids]


def _within(found: Iterable[tuple[int, str]], rows: int, notes: list[str]) -> tuple[list[int] | None, list[str]]:
    """Return the ids, each once, without those that the model cannot draw."""
    found = list(found)
    notes = notes + [f"{where}: {id} is not an id of this model and ends nothing" for id, where in found if id >= rows]
    return (list(dict.fromkeys(id for id, _ in found if id < rows)) if found else None), notes
