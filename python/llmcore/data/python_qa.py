"""`python-qa`: questions and answers about Python, made from the docstrings of the interpreter that runs this: "What does
os.path.join do?" and the first sentence of what it says of itself. No download."""

from __future__ import annotations

import functools
import re

from llmcore.data.docstrings import standard_library_docstrings

_QUESTION = {"function": "What does {name} do?", "class": "What is {name}?", "module": "What is the module {name} for?"}
_END = re.compile(r"(?<=[a-z0-9)\]'\"`])(?<!\be\.g)(?<!\bi\.e)[.!?](?=\s|$)")
_SHORTEST, _LONGEST = 12, 240  # characters of an answer


def python_qa() -> list[dict[str, str]]:
    """Rows {"prompt", "completion", "group"}: the group is the module, so that a split by it holds whole modules out. The
    same list for one interpreter; some thousands of pairs."""
    return [dict(row) for row in _made()]


@functools.cache  # it parses the whole standard library
def _made() -> tuple[dict[str, str], ...]:
    pairs, seen = [], set()
    for entry in standard_library_docstrings():
        answer = first_sentence(entry.docstring)
        question = _QUESTION[entry.kind].format(name=entry.name)
        if answer is None or question in seen or any(part.startswith("_") for part in entry.name.split(".")):
            continue  # of private things nobody asks
        seen.add(question)
        pairs.append({"prompt": question, "completion": answer, "group": entry.module})
    return tuple(pairs)


def python_qa_pairs() -> list[dict[str, str]]:
    """Preference pairs of the same questions: {"prompt", "chosen", "rejected", "kind", "group"}. By turns, the answer
    against one about something in another module ("right"), and against a rambling one: itself, two others of its module,
    and itself again ("concise")."""
    rows = python_qa()
    by_module: dict[str, list[str]] = {}
    for row in rows:
        by_module.setdefault(row["group"], []).append(row["completion"])
    pairs: list[dict[str, str]] = []
    for i, row in enumerate(rows):
        own = row["completion"]
        if len(pairs) % 2 == 0:
            # A stride that shares no factor with anything: far away, and another one for each.
            far = (rows[(i + step * 7919) % len(rows)] for step in range(1, len(rows)))
            rejected = next((r["completion"] for r in far if r["group"] != row["group"] and r["completion"] != own), "")
            kind = "right"
        else:
            others = [a for a in by_module[row["group"]] if a != own][:2]
            rejected, kind = " ".join([own, *others, own]) if others else "", "concise"
        if rejected:
            pairs.append(
                {"prompt": row["prompt"], "chosen": own, "rejected": rejected, "kind": kind, "group": row["group"]}
            )
    return pairs


def first_sentence(docstring: str) -> str | None:
    """The first sentence of prose on one line, or None where there is none of a usual length."""
    paragraph = docstring.strip().partition("\n\n")[0]
    text = " ".join(paragraph.split())
    if "->" in text.partition(" ")[0] or text.startswith((">>>", ":", "@")):
        return None
    # Docstrings of C functions begin with their signature.
    text = re.sub(r"^\w+\([^)]*\)\s*(->\s*\S+\s*)?(--)?\s*", "", text)
    end = _END.search(text)
    sentence = text[: end.end()] if end else text
    if not _SHORTEST <= len(sentence) <= _LONGEST or not sentence[:1].isalpha():
        return None
    return sentence if sentence[-1] in ".!?" else f"{sentence}."
