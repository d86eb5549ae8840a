"""What a tokenizer.json puts before and after a whole text: its post-processor, for a single text."""

from __future__ import annotations

from typing import Any

from llmcore.errors import Error
from llmcore.tokenizer.formats.files import Reader

_KINDS = ("TemplateProcessing", "RobertaProcessing", "BertProcessing", "ByteLevel", "Sequence")
_MOST = 100  # in one file, so that none nests without end

Ids = tuple[int, ...]


def read_post_processor(read: Reader, value: Any) -> tuple[Ids, Ids]:
    """Read the ids before and after a text."""
    begin: Ids = ()
    end: Ids = ()
    template = None
    for where, step in _steps(read, value, "post_processor", [0]) if value is not None else ():
        kind = step.get("type")
        if kind == "ByteLevel":  # about offsets
            continue
        if template is not None:  # it would see the parts of the template as texts
            raise read.fail(where, f"nothing but ByteLevel after {template}", kind)
        if kind == "TemplateProcessing":
            before, after = _template(read, step, where)
            template = where
        elif kind in _KINDS:
            before, after = ((_pair(read, step, side, where),) for side in ("cls", "sep"))
        else:
            raise read.fail(where, f"{', '.join(_KINDS[:-1])} or {_KINDS[-1]}", kind)
        begin, end = before + begin, end + after
    return begin, end


def _steps(read: Reader, value: Any, where: str, count: list[int]) -> list[tuple[str, dict]]:
    if not isinstance(value, dict):
        raise read.fail(where, "an object", value)
    count[0] += 1
    if count[0] > _MOST:
        raise read.fail(where, f"at most {_MOST} processors", count[0])
    if value.get("type") != "Sequence":
        return [(where, value)]
    inner = read.get(value, "processors", list, where)
    return [
        step for number, part in enumerate(inner) for step in _steps(read, part, f"{where}.processors[{number}]", count)
    ]


def _pair(read: Reader, step: dict, side: str, where: str) -> int:
    pair = read.get(step, side, list, where)
    if len(pair) != 2:
        raise read.fail(f"{where}.{side}", "a token and its id", pair)
    return read.id(pair[1], f"{where}.{side}", 1 << 31)


def _template(read: Reader, step: dict, where: str) -> tuple[Ids, Ids]:
    named, texts = read.get(step, "special_tokens", dict, where), 0
    begin: list[int] = []
    end: list[int] = []
    for number, item in enumerate(read.get(step, "single", list, where)):
        place = f"{where}.single[{number}]"
        if isinstance(item, dict) and "Sequence" in item:
            if read.get(item, "Sequence", dict, place).get("id") != "A":
                raise read.fail(f"{place}.Sequence.id", "A, the text", item["Sequence"])
            texts += 1
            continue
        token = read.get(item if isinstance(item, dict) else {}, "SpecialToken", dict, place)
        entry = read.get(named, read.get(token, "id", str, place), dict, f"{where}.special_tokens")
        ids = read.get(entry, "ids", list, f"{where}.special_tokens")
        (end if texts else begin).extend(read.id(i, f"{where}.special_tokens", 1 << 31) for i in ids)
    if texts != 1:
        raise read.fail(f"{where}.single", "one text", step["single"])
    return tuple(begin), tuple(end)


def post_processor(begin: Ids, end: Ids, special_tokens: dict[str, int]) -> dict[str, Any] | None:
    """Return what a file has for these ids, which must be those of special tokens."""
    if not begin and not end:
        return None
    names = {id: content for content, id in special_tokens.items()}

    def special(id: int) -> dict[str, Any]:
        if id not in names:
            raise Error("save", expected="special tokens before and after a text", got=id)
        return {"SpecialToken": {"id": names[id], "type_id": 0}}

    def sequence(name: str, type_id: int) -> list[dict[str, Any]]:
        return [*map(special, begin), {"Sequence": {"id": name, "type_id": type_id}}, *map(special, end)]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": sequence("A", 0) + sequence("B", 1),
        "special_tokens": {names[id]: {"id": names[id], "ids": [id], "tokens": [names[id]]} for id in (*begin, *end)},
    }
