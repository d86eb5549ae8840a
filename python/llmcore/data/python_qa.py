"""`python-qa`: questions and answers about Python, made from the docstrings of the interpreter that runs this: "What does
os.path.join do?" and the first sentence of what it says of itself. No download."""

from __future__ import annotations

import re

from llmcore.data.docstrings import standard_library_docstrings

_QUESTION = {"function": "What does {name} do?", "class": "What is {name}?", "module": "What is the module {name} for?"}
_END = re.compile(r"(?<=[a-z0-9)\]'\"`])(?<!\be\.g)(?<!\bi\.e)[.!?](?=\s|$)")
_SHORTEST, _LONGEST = 12, 240  # characters of an answer


def python_qa() -> list[dict[str, str]]:
    """Rows {"prompt", "completion", "group"}: the group is the module, so that a split by it holds whole modules out. The
    same list for one interpreter; some thousands of pairs."""
    pairs, seen = [], set()
    for entry in standard_library_docstrings():
        answer = first_sentence(entry.docstring)
        question = _QUESTION[entry.kind].format(name=entry.name)
        if answer is None or question in seen or any(part.startswith("_") for part in entry.name.split(".")):
            continue  # of private things nobody asks
        seen.add(question)
        pairs.append({"prompt": question, "completion": answer, "group": entry.module})
    return pairs


def python_qa_pairs() -> list[dict[str, str]]:
    """Preference pairs of the same questions: {"prompt", "chosen", "rejected", "kind", "group"}. By turns, the answer
    against that of something else of the same module ("right"), and against a rambling one, itself and two more
    ("concise")."""
    by_module: dict[str, list[dict[str, str]]] = {}
    for row in python_qa():
        by_module.setdefault(row["group"], []).append(row)
    pairs: list[dict[str, str]] = []
    for rows in by_module.values():
        for i, row in enumerate(rows):
            others = [r["completion"] for r in (rows[i + 1 :] + rows[:i])[:3] if r["completion"] != row["completion"]]
            if not others:
                continue
            right = len(pairs) % 2 == 0
            rejected = others[0] if right else " ".join([row["completion"], *others, row["completion"]])
            kind = "right" if right else "concise"
            pairs.append({"prompt": row["prompt"], "chosen": row["completion"], "rejected": rejected, "kind": kind,
                          "group": row["group"]})  # fmt: skip
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
