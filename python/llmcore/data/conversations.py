"""What rows say, whatever their columns are called: conversations, pairs of answers, answers with labels, questions.

Read are the columns of the common data sets: OpenAI's (also its preferences), ShareGPT's, Alpaca's, those of TRL, of
UltraFeedback (a prompt beside whole conversations), of hh-rlhf (transcripts), and questions with answers under their usual names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llmcore._sequences import common_prefix
from llmcore.data import columns
from llmcore.data.columns import ANSWERS, CONVERSATIONS, QUESTIONS

Message = dict[str, Any]

_ROLES = {
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant"),
    **dict.fromkeys(("function", "function_response", "tool_response", "observation"), "tool"),
}
_SPEAKERS = {*_ROLES.values(), *_ROLES, "system", "developer"}
_CALL = "function_call"  # ShareGPT's role, and OpenAI's key of old
_WEIGHTS = ("weight", "loss", "train")  # of a message: OpenAI's, ms-swift's, axolotl's
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_PAIR = ("chosen", "rejected")


class Said(NamedTuple):
    """A conversation, of which the messages from number `first` on are an answer, or all (0). Messages have "role" and what
    else they came with; "weight" 0 where they are not to be learned."""

    messages: list[Message]
    first: int = 0


class Answers(NamedTuple):
    """Two answers to a prompt, all as messages."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


def said(fields: Mapping[str, Any]) -> Said | str:
    """Return the conversation of a row, or its text. Raises ValueError for columns that are neither, or several."""
    f = columns.known_columns(fields)
    name = columns.only(f, CONVERSATIONS, "messages", "messages")
    if name is not None:
        return Said(_with_system(f, messages_of(f[name], name)))
    question = _question_name(f, strict="completion" not in f)
    answer = None if question is None else _answer_name(f)
    if isinstance(f.get("text"), str) and not _same_text(f, question, answer):
        return f["text"]
    if question is None or answer is None:
        expected = "messages, prompt and completion, or text"
        raise columns.missing_columns(expected, f, "prompt=NAME,completion=NAME")
    prompt = _with_system(f, _prompt(f, question))
    completion = _after(prompt, f[question], _answer(f[answer], answer), answer)
    return Said(prompt + completion, len(prompt))


def answers(fields: Mapping[str, Any]) -> Answers:
    """Return the prompt and the two answers of a row. Raises ValueError for one without."""
    f = columns.known_columns(fields)
    if columns.is_openai_pair(f):
        prompt = messages_of(f["input"].get("messages"), "input.messages")
        both = [messages_of(f[name], name) for name in ("preferred_output", "non_preferred_output")]
        return Answers(prompt, both[0], both[1])
    if "chosen" not in f or "rejected" not in f:
        raise columns.missing_columns("prompt, chosen and rejected", f, "prompt=NAME,chosen=NAME,rejected=NAME")
    both = [_answer(f[name], name, transcript=True) for name in _PAIR]
    whole = all(a and a[0].get("role") not in ("assistant", "tool") for a in both)
    name = _question_name(f)
    if name is None and not whole:
        name = columns.only(f, CONVERSATIONS, "messages", "messages")
    if name is not None:
        prompt = _with_system(f, _prompt(f, name))
        if not (whole and isinstance(f[name], str)):
            chosen, rejected = (_after(prompt, f[name], a, f"{n} answer") for a, n in zip(both, _PAIR, strict=True))
            return Answers(prompt, chosen, rejected)
    if not whole:
        raise columns.missing_columns("a prompt beside chosen and rejected", f, "prompt=NAME")
    same = common_prefix(*both)
    if name is not None and not any(_text(m) == f[name].strip() for m in both[0][:same]):
        raise ValueError(f"expected {name} among the messages with which chosen and rejected begin, got another text")
    if not same:
        raise ValueError("expected a prompt with which both chosen and rejected begin, got none")
    prompt = _with_system(f, both[0][:same])
    return Answers(prompt, both[0][same:], both[1][same:])


def labelled(fields: Mapping[str, Any]) -> list[tuple[Said, bool]]:
    """Return an answer to a prompt and whether it is good, or the two of a pair. Raises ValueError for anything else."""
    f = columns.known_columns(fields)
    name = columns.only(f, columns.LABELS, "label", "label")
    if name is None and ("chosen" in f or columns.is_openai_pair(f)):
        pair = answers(fields)
        first = len(pair.prompt)
        return [(Said(pair.prompt + pair.chosen, first), True), (Said(pair.prompt + pair.rejected, first), False)]
    if name is None:
        expected = "prompt, completion and label, or prompt, chosen and rejected"
        raise columns.missing_columns(expected, f, "prompt=NAME,completion=NAME,label=NAME")
    label = f[name]
    if isinstance(label, str):  # of a CSV file
        label = {"true": True, "1": True, "false": False, "0": False}.get(label.strip().lower(), label)
    if not isinstance(label, (bool, int, float)) or label not in (0, 1):
        raise ValueError(f"expected {name} true or false, got {f[name]!r:.50}")
    found = said(fields)
    if isinstance(found, str):
        raise columns.missing_columns("prompt, completion and label", f, "prompt=NAME,completion=NAME")
    return [(found, bool(label))]


def question(fields: Mapping[str, Any]) -> tuple[Any, list[Message]]:
    """Return what a row asks: as it came, a text or a list of messages, and as messages. Of a conversation it is what comes
    before the last answer. Raises ValueError for a row that asks nothing."""
    f = columns.known_columns(fields)
    name = _question_name(f)
    if name is None or (name != "prompt" and any(n in f for n in CONVERSATIONS)):
        name = columns.only(f, CONVERSATIONS, "messages", "messages")
    if name is None or not f[name]:
        raise columns.missing_columns("a prompt, a text or a list of messages", f, "prompt=NAME")
    prompt = _with_system(f, _prompt(f, name))
    while name in CONVERSATIONS and len(prompt) > 1 and prompt[-1].get("role") == "assistant":
        prompt.pop()
    plain = len(prompt) == 1 and prompt[0] == {"role": "user", "content": f[name]}
    return (f[name] if plain else prompt), prompt


def left_out(stage: str, fields: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the columns of a row that decide what a stage makes of it, and those that it does not look at. (Rewards get
    all.)"""
    readers: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "sft": said,
        "kto": labelled,
        "dpo": answers,
        "reward": answers,
    }
    if stage not in readers:
        return list(fields), []
    whole, read = readers[stage](fields), []
    for name in fields:
        try:
            without = readers[stage]({n: v for n, v in fields.items() if n != name})
        except ValueError:
            without = None
        if without != whole:
            read.append(name)
    beside = (*columns.TOOLS, "documents", "chat_template_kwargs", "group", "margin", "parallel_tool_calls")
    return read, [n for n, v in fields.items() if v not in ("", [], {}) and n not in read and n not in beside]


# ---- columns ----


def _question_name(f: Mapping[str, Any], strict: bool = False) -> str | None:
    """Return the column that asks: where there are an instruction and what it is about, the instruction. strict: a prompt
    beside another question is one too many."""
    names = [n for n in QUESTIONS if n in f and isinstance(f[n], (str, list))]
    if "prompt" in names and not strict:
        return "prompt"
    if "instruction" in names:
        names = [n for n in names if n not in columns.CONTEXTS]
    elif names and isinstance(f.get("context"), str) and names != ["input"]:
        raise ValueError(
            f"expected to be told what the column context is beside {names[0]}: --columns instruction={names[0]},input=context "
            f"joins them; the columns are: {columns.listed(f)}"
        )
    return columns.only(f, names, "question", "prompt")


def _answer_name(f: Mapping[str, Any]) -> str | None:
    return "completion" if "completion" in f else columns.only(f, ANSWERS, "answer", "completion")


def _same_text(f: Mapping[str, Any], question: str | None, answer: str | None) -> bool:
    """Whether a row's text, beside a question with an answer, is the two in one, as in tatsu-lab/alpaca."""
    if question is None or answer is None or not all(isinstance(f[n], str) for n in (question, answer)):
        return False
    if all(f[n].strip() in f["text"] for n in (question, answer)):
        return True
    if (question, answer) == ("prompt", "completion"):
        return True
    raise ValueError(
        f"expected one thing to learn, got {question} with {answer}, and another text: --columns text=text says that it is the "
        f"text, --columns prompt={question},completion={answer} the other; the columns are: {columns.listed(f)}"
    )


def _prompt(f: Mapping[str, Any], name: str) -> list[Message]:
    """Return the messages of the column that asks, with those before it (Alpaca's history)."""
    value = f[name]
    if not isinstance(value, str):
        return messages_of(value, name)
    if name in CONVERSATIONS:
        return messages_of(value, name)
    turns = _transcript(value)
    if turns and turns[-1] == {"role": "assistant", "content": ""}:  # "\n\nHuman: ...\n\nAssistant:"
        return turns[:-1]
    if name == "instruction":
        about = columns.only(f, columns.CONTEXTS, "input", "input")
        if about is not None and not isinstance(f[about], str):
            raise ValueError(f"expected {about} as a text, got {f[about]!r:.50}")
        if about is not None and f[about].strip():
            value = f"{value}\n{f[about]}"
    return [*_history(f), {"role": "user", "content": value}]


def _history(f: Mapping[str, Any]) -> list[Message]:
    history, found = f.get("history") or [], []
    for turn in history if isinstance(history, list) else [None]:
        if not (isinstance(turn, (list, tuple)) and len(turn) == 2 and all(isinstance(t, str) for t in turn)):
            raise ValueError(f"expected history as a list of pairs [question, answer], got {history!r:.50}")
        found += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return found


def _with_system(f: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    name = columns.only(f, columns.SYSTEM, "system prompt", "system")
    if name is None or (messages and messages[0].get("role") == "system"):
        return messages
    if not isinstance(f[name], str):
        raise ValueError(f"expected {name} as a text, got {f[name]!r:.50}")
    return [{"role": "system", "content": f[name]}, *messages] if f[name].strip() else messages


def _answer(value: Any, name: str, transcript: bool = False) -> list[Message]:
    if isinstance(value, str):
        turns = _transcript(value) if transcript else []
        return turns if len(turns) > 1 else [{"role": "assistant", "content": value}]
    return messages_of(value, name)


def _after(prompt: list[Message], given: Any, answer: list[Message], name: str) -> list[Message]:
    """Return an answer without the prompt, where it begins with that."""
    if not answer or answer[0].get("role") in ("assistant", "tool"):
        return answer
    if answer[: len(prompt)] == prompt:
        return answer[len(prompt) :]
    asked = [i for i, m in enumerate(answer) if isinstance(given, str) and _text(m) == given.strip()]
    if asked:
        return answer[asked[-1] + 1 :]
    if isinstance(given, str):
        raise ValueError(f"expected {name} to begin with the prompt, or with the answer, got {answer[0]!r:.80}")
    return answer


def _transcript(text: str) -> list[Message]:
    """Return the turns of "\n\nHuman: ...\n\nAssistant: ...", or none."""
    if not text.lstrip().startswith("Human:"):
        return []
    parts = _TURN.split(text.strip())[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[r], "content": t.strip()} for r, t in zip(parts[::2], parts[1::2], strict=True)]


def _text(message: Message) -> str | None:
    """Return what a user says, as text."""
    content = message.get("content") if message.get("role") == "user" else None
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(p["text"] for p in content)
    return content.strip() if isinstance(content, str) else None


# ---- messages ----


def messages_of(value: Any, name: str) -> list[Message]:
    """Return the messages of a column: a list, a single one, or JSON of either. Raises ValueError for anything else."""
    if isinstance(value, str):
        value = _json(value, f"{name} as a list of messages")
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, (list, tuple)):
        kinds = "" if name in CONVERSATIONS else "a text or "
        raise ValueError(f"expected {name} as {kinds}a list of messages, got {value!r:.80}")
    return [_message(m, f"{name}[{i}]") for i, m in enumerate(value)]


def _message(given: Any, where: str) -> Message:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: expected a message such as {{'role': ..., 'content': ...}}, got {given!r:.80}")
    found = columns.without_nulls(given)
    speaker = "role" not in found
    role = found.pop("from" if speaker else "role", None)
    if not isinstance(role, str):
        raise ValueError(f"{where}: expected a role, got {columns.listed(given)}")
    if speaker and role not in (*_SPEAKERS, _CALL):
        raise ValueError(f"{where}: expected from human, gpt, system, function_call or observation, got {role!r:.50}")
    content = next((found.pop(n) for n in ("content", "value", "parts") if n in found), None)
    if content is None and not {"tool_calls", _CALL} & set(found):
        content = found.pop("text", None)
    if role == _CALL:
        found |= {_CALL: content}
        role, content = "assistant", None
    role = _ROLES.get(role, role)
    message = {"role": role} | ({} if content is None else {"content": content}) | found
    if isinstance(message.get("tool_calls"), str):
        message["tool_calls"] = _json(message["tool_calls"], f"tool_calls of {where} as a list")
    if message.get("tool_calls") == []:
        del message["tool_calls"]
    if _CALL in message:
        call = message.pop(_CALL)
        calls = _json(call, f"{_CALL} of {where} as an object") if isinstance(call, str) else call
        calls = calls if isinstance(calls, list) else [calls]
        message["tool_calls"] = [{"type": "function", "function": c} for c in calls]
    return _weighed(message, where)


def _weighed(message: Message, where: str) -> Message:
    """Return a message whose "weight" is 0 if it is not to be learned, and that has none if it is."""
    weights = {name: message.pop(name) for name in _WEIGHTS if name in message}
    for name, weight in weights.items():
        if not isinstance(weight, (bool, int, float)) or weight not in (0, 1):
            raise ValueError(f"{where}: expected {name} 0 or 1, got {weight!r:.50}")
    return message | ({} if all(weights.values()) else {"weight": 0})


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"expected {what}, got {text!r:.80}") from None
