r"""The named split patterns as regular expressions, for the files that other libraries read.

The scanners in csrc/tokenizer/split/scanner.h cut the same pieces. Each expression is written so that Oniguruma
(Hugging Face tokenizers), fancy-regex, PyPI `regex` and JavaScript read it alike: no possessive `{1,3}+`,
which Oniguruma takes for a repeated group, and `\s+(?![\s\S])` where tiktoken has `\s++$`, because `$` also
matches before a line's end in some of them.
"""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.errors import ArgumentTypeError, Error
from llmcore.tokenizer.vocabulary import Pattern

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PREFIX = r"[^\r\n\p{L}\p{N}]?"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|{_PREFIX}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_LINES}"

# The expression that is written for a pattern of one stage.
REGEX = {
    "gpt2": GPT2,
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s",
    "llama3": _LLAMA3,
    "qwen2": _LLAMA3.replace("{1,3}", ""),
    "qwen35": rf"{_CONTRACTION}|{_PREFIX}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_LINES}",
    "nanochat": _LLAMA3.replace("{1,3}", "{1,2}"),
    "o200k": rf"{_PREFIX}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_PREFIX}{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}",
}
# The others: each stage cuts the pieces of the one before.
STAGES = {
    "smollm": (r"\p{N}", GPT2),
    "deepseek": (
        r"\p{N}{1,3}",
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_LINES}",
    ),
}

NAMES = (*REGEX, *STAGES)

# Other spellings of the same patterns that are found in files and in other libraries' sources.
_ALSO = {
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+": "nanochat",
}
# tiktoken's own: `{1,3}+` and `$` mean something else to Oniguruma, so not in a tokenizer.json.
_TIKTOKEN = {
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s": "cl100k",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
}
_NAME_OF = {**{regex: name for name, regex in REGEX.items()}, **_ALSO}


def stages_of(pattern: Pattern) -> tuple[str, ...]:
    """Return the expressions of a pattern's stages."""
    if isinstance(pattern, str):
        return STAGES.get(pattern) or (REGEX.get(pattern, pattern),)
    expressions: list[str] = []
    for stage in pattern:
        expressions += stages_of(stage)
    return tuple(expressions)


def from_stages(stages: tuple[str, ...]) -> Pattern:
    """Return the pattern of these expressions, by name wherever they spell one of ours, so that its scanner is used."""
    for name, known in STAGES.items():
        if stages == known:
            return name
    named: list[str] = [_NAME_OF.get(stage, stage) for stage in stages]
    return named[0] if len(named) == 1 else tuple(named)


def from_argument(pattern: Any, op: str) -> Pattern:
    """Return the pattern that a caller gave: a name, an expression, or a list of these. Expressions are tiktoken's, or read
    alike everywhere; else ValueError."""
    spelled = tuple(_TIKTOKEN.get(stage, stage) for stage in checked_stages(pattern, op))
    for stage in spelled:
        if stage not in NAMES and stage not in _NAME_OF:
            _core.check_pattern(stage)
    return from_stages(stages_of(spelled))


def checked_stages(pattern: Any, op: str) -> tuple[str, ...]:
    """Return the names and expressions of a pattern's stages."""
    stages = [pattern] if isinstance(pattern, str) else pattern
    if not isinstance(stages, (list, tuple)) or not all(isinstance(stage, str) for stage in stages):
        raise ArgumentTypeError(
            op, expected="pattern to be a name, a regular expression or a list of these", got=f"{pattern!r:.200}"
        )
    if any("\ud800" <= c <= "\udfff" for stage in stages for c in stage):
        raise Error(op, expected="pattern to have a UTF-8 form", got=f"{pattern!r:.200}")
    return tuple(stages)
