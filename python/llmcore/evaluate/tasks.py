"""Evaluation tasks from rows: multiple choice and cloze."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from llmcore.data.columns import missing_columns
from llmcore.data.rows import Row
from llmcore.errors import Error
from llmcore.evaluate.likelihood import Likelihood, likelihoods
from llmcore.generate import LanguageModel

_QUESTIONS = ("question", "context", "ctx", "query", "prompt")
_CHOICES = ("choices", "endings", "options")
_ANSWERS = ("answer", "label", "gold")


class _Item(NamedTuple):
    """A row as a context and its continuations, one of which is right; a cloze has only one."""

    context: str
    continuations: list[str]
    right: int


def evaluate_task(
    lm: LanguageModel,
    rows: Sequence[Row],
    batch_size: int = 16,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> dict[str, float]:
    """Evaluate a task whose rows are all of one kind.

    Multiple choice, {"question", "choices": [...], "answer": number, letter or text} (or context, ctx, query; endings,
    options; label, gold): the model chooses the continuation with the highest log-probability after the question. Returns
    "acc", and "acc_norm" by log-probability per byte, with standard errors.

    Cloze, {"text"}, whose last word is to be predicted (Paperno et al. 2016), or {"prompt", "completion"}, including the
    space between them. Returns "acc", how often every token of the answer is the likeliest, and "perplexity", exp of the
    mean of its −log-probability.

    ValueError names a row that is neither. progress: called with how many continuations are done, of how many.
    """
    items = [_item(row) for row in rows]
    kinds = {len(item.continuations) > 1 for item in items}
    if len(kinds) > 1:
        other = next(
            r
            for r, i in zip(rows, items, strict=True)
            if (len(i.continuations) > 1) != (len(items[0].continuations) > 1)
        )
        raise Error(
            "eval",
            other.where,
            expected="rows of one kind",
            got="both multiple choice and cloze: put them in two files",
        )
    pairs = []
    for row, item in zip(rows, items, strict=True):
        for continuation in _continuations(lm, item):
            if len(continuation) > lm.config.context:
                raise Error(
                    "eval",
                    row.where,
                    expected=f"answers of at most {lm.config.context} tokens, the model's context",
                    got=len(continuation),
                )
            pairs.append((lm.prompt_ids(item.context), continuation))
    found = likelihoods(lm.model, pairs, batch_size, progress)
    return _choice_figures(items, found) if True in kinds else _cloze_figures(found)


def _continuations(lm: LanguageModel, item: _Item) -> list[list[int]]:
    """Return the tokens of each whole text after those of the context: a space before a word belongs to the word."""
    encode = lm.tokenizer.encode_ordinary
    start = len(encode(item.context))
    made = []
    for text in item.continuations:
        ids = encode(item.context + text)[start:]
        made.append(ids or encode(text))
    return made


def _item(row: Row) -> _Item:
    fields = row.fields
    question, choices, answer = (_first(fields, names) for names in (_QUESTIONS, _CHOICES, _ANSWERS))
    if isinstance(question, str) and isinstance(choices, Mapping):  # the format of ARC and others on the hub
        labels, choices = choices.get("label"), choices.get("text")
        if isinstance(labels, list) and answer in labels:
            answer = labels.index(answer)
    if isinstance(question, str) and isinstance(choices, list):
        if len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
            raise Error("eval", row.where, expected="at least two choices that are texts", got=f"{choices!a:.100}")
        _check_text(row, question, *choices)
        return _Item(question, [c if c[0].isspace() else f" {c}" for c in choices], _right_choice(answer, choices, row))
    if isinstance(fields.get("prompt"), str) and isinstance(fields.get("completion"), str) and fields["completion"]:
        _check_text(row, fields["prompt"], fields["completion"])
        return _Item(fields["prompt"], [fields["completion"]], 0)
    if isinstance(fields.get("text"), str) and len(fields["text"].split()) > 1:
        _check_text(row, fields["text"])
        text = fields["text"].rstrip()
        before = text.removesuffix(text.split()[-1]).rstrip()
        return _Item(before, [text.removeprefix(before)], 0)
    if isinstance(fields.get("text"), str):
        raise Error("eval", row.where, expected="a text of at least two words", got=f"{fields['text']!a:.80}")
    expected = "question, choices and answer; prompt and completion; or text"
    error = missing_columns(expected, fields, "prompt=NAME,completion=NAME")
    raise Error("eval", f"{row.where}: {error}")


def _check_text(row: Row, *texts: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Error("eval", row.where, expected="text", got=f"half a surrogate pair in {text!a:.60}") from None


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if name in fields), None)


def _right_choice(answer: Any, choices: list[str], row: Row) -> int:
    """Return the number of the right choice, which a row gives as a number from 0, a letter, or its text."""
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, str) and len(answer) == 1 and answer.isalpha():
        answer = ord(answer.upper()) - ord("A")
    elif isinstance(answer, str) and answer.strip().isdecimal():
        answer = int(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise Error(
            "eval",
            row.where,
            expected=f"answer a number from 0 to {len(choices) - 1}, a letter, or one of the choices",
            got=f"{str(answer)[:80]!r}",
        )
    return answer


def _choice_figures(items: Sequence[_Item], found: Sequence[Likelihood]) -> dict[str, float]:
    plain, by_bytes, at = [], [], 0
    for item in items:
        n = len(item.continuations)
        sums = [f.logprob for f in found[at : at + n]]
        per_byte = [s / len(c.strip().encode()) for s, c in zip(sums, item.continuations, strict=True)]
        plain.append(sums.index(max(sums)) == item.right)
        by_bytes.append(per_byte.index(max(per_byte)) == item.right)
        at += n
    return {**_rate("acc", plain), **_rate("acc_norm", by_bytes), "rows": len(items)}


def _cloze_figures(found: Sequence[Likelihood]) -> dict[str, float]:
    nats = -sum(f.logprob for f in found) / len(found)
    return {**_rate("acc", [f.greedy for f in found]), "perplexity": math.exp(min(nats, 700.0)), "rows": len(found)}


def _rate(name: str, right: Sequence[bool]) -> dict[str, float]:
    """Return a rate with its standard error."""
    n, p = len(right), sum(right) / len(right)
    return {name: p, f"{name}_stderr": math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else 0.0}
