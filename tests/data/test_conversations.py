"""Rows of the common data sets say the same thing whatever their columns are called; what could be two things is refused."""

import json

import pytest

from llmcore.data.columns import chat_columns, known_columns, renamed, without_nulls
from llmcore.data.conversations import answers, labelled, question, said


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


ASKED, TOLD = user("two plus two?"), assistant("four")
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]}
RESULT = {"role": "tool", "content": "4"}

# What each row says, and from which message on it is learned.
SAID = {
    "OpenAI": ({"messages": [ASKED, TOLD], "parallel_tool_calls": True}, [ASKED, TOLD], 0),
    "Arrow's nulls": (
        {"messages": [{**ASKED, "tool_calls": None, "name": None}, {**TOLD, "tool_calls": None}], "tools": None},
        [ASKED, TOLD],
        0,
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "two plus two?"}, {"from": "gpt", "value": "four"}], "id": "x"},
        [ASKED, TOLD],
        0,
    ),
    "ShareGPT with other names": (
        {"conversations": [{"role": "human", "value": "two plus two?"}, {"role": "chatgpt", "value": "four"}]},
        [ASKED, TOLD],
        0,
    ),
    "ShareGPT with a system prompt": (
        {
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": "two plus two?"},
                {"from": "gpt", "value": "four"},
            ]
        },
        [system("Be kind."), ASKED, TOLD],
        0,
    ),
    "ShareGPT with tools": (
        {
            "conversations": [
                {"from": "human", "value": "two plus two?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                {"from": "observation", "value": "4"},
                {"from": "gpt", "value": "four"},
            ],
            "system": "Be kind.",
        },
        [system("Be kind."), ASKED, CALL, RESULT, TOLD],
        0,
    ),
    "functions of old": (
        {
            "messages": [
                ASKED,
                {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": {"a": 2}}},
                {"role": "function", "content": "4"},
                TOLD,
            ]
        },
        [ASKED, CALL, RESULT, TOLD],
        0,
    ),
    "Gemini": (
        {"messages": [{"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}]},
        [user([{"text": "a"}]), assistant([{"text": "b"}])],
        0,
    ),
    "messages as JSON": ({"messages": json.dumps([ASKED, TOLD])}, [ASKED, TOLD], 0),
    "prompt and completion": ({"prompt": "two plus two?", "completion": "four"}, [ASKED, TOLD], 1),
    "lists of messages": ({"prompt": [system("s"), ASKED], "completion": [TOLD]}, [system("s"), ASKED, TOLD], 2),
    "a list and a text": ({"prompt": [ASKED], "completion": "four"}, [ASKED, TOLD], 1),
    "a completion that repeats the prompt": (
        {"prompt": "two plus two?", "completion": [ASKED, TOLD]},
        [ASKED, TOLD],
        1,
    ),
    "question and answer": ({"question": "two plus two?", "answer": "four"}, [ASKED, TOLD], 1),
    "headings of a table": ({"Question ": "two plus two?", "Answer": "four", "Topic": "sums"}, [ASKED, TOLD], 1),
    "query and response": ({"query": "two plus two?", "response": "four", "type": "x"}, [ASKED, TOLD], 1),
    "input and output": ({"input": "two plus two?", "output": "four"}, [ASKED, TOLD], 1),
    "problem and solution": ({"problem": "two plus two?", "solution": "four", "level": 1}, [ASKED, TOLD], 1),
    "OpenOrca": (
        {"id": 1, "system_prompt": "Be kind.", "question": "two plus two?", "response": "four"},
        [system("Be kind."), ASKED, TOLD],
        2,
    ),
    "Alpaca": ({"instruction": "two plus two?", "input": "", "output": "four"}, [ASKED, TOLD], 1),
    "Alpaca with null": ({"instruction": "two plus two?", "input": None, "output": "four"}, [ASKED, TOLD], 1),
    "Alpaca with input": ({"instruction": "add", "input": "2, 2", "output": "four"}, [user("add\n2, 2"), TOLD], 1),
    "Alpaca with its text": (
        {"instruction": "add", "input": "2, 2", "output": "four", "text": "Below is ... add\n\n2, 2\n\nfour"},
        [user("add\n2, 2"), TOLD],
        1,
    ),
    "Alpaca with history": (
        {"instruction": "two plus two?", "output": "four", "history": [["hi", "ho"]], "system": ""},
        [user("hi"), assistant("ho"), ASKED, TOLD],
        3,
    ),
    "Dolly": (
        {"instruction": "add", "context": "2, 2", "response": "four", "category": "sums"},
        [user("add\n2, 2"), TOLD],
        1,
    ),
    "messages beside their first": ({"prompt": "two plus two?", "messages": [ASKED, TOLD]}, [ASKED, TOLD], 0),
}


@pytest.mark.parametrize("name", SAID)
def test_conversations(name):
    row, messages, first = SAID[name]
    assert said(row) == (messages, first)


def test_texts():
    assert said({"text": "all of it", "label": 1, "question": "what?"}) == "all of it"


def test_weights_of_messages():
    """OpenAI's weight is 0 or 1; ms-swift's loss and axolotl's train are true or false."""
    kept = {"weight": 0}
    for given, right in (({"weight": 1}, {}), ({"weight": 0}, kept), ({"loss": False}, kept), ({"train": True}, {}),
                         ({"weight": None}, {}), ({"weight": 0.0, "loss": True}, kept)):  # fmt: skip
        assert said({"messages": [ASKED, {**TOLD, **given}]}) == ([ASKED, {**TOLD, **right}], 0)
    with pytest.raises(ValueError, match=r"messages\[1\]: expected weight 0 or 1, got 0.5"):
        said({"messages": [ASKED, {**TOLD, "weight": 0.5}]})


# ---- pairs ----

OTHER = assistant("five")
TURNS = "\n\nHuman: hi\n\nAssistant: ho\n\nHuman: two plus two?\n\nAssistant: "
BEFORE = [user("hi"), assistant("ho"), ASKED]
PAIRS = {
    "texts": ({"prompt": "two plus two?", "chosen": "four", "rejected": "five"}, [ASKED]),
    "UltraFeedback": (
        {
            "prompt": "two plus two?",
            "prompt_id": "x",
            "chosen": [ASKED, TOLD],
            "rejected": [ASKED, OTHER],
            "messages": [ASKED, TOLD],
            "score_chosen": 8.0,
        },
        [ASKED],
    ),
    "a prompt that is the last of several": (
        {"prompt": "two plus two?", "chosen": [*BEFORE, TOLD], "rejected": [*BEFORE, OTHER]},
        BEFORE,
    ),
    "whole conversations": ({"chosen": [*BEFORE, TOLD], "rejected": [*BEFORE, OTHER]}, BEFORE),
    "a list that the answers repeat": (
        {"prompt": BEFORE, "chosen": [*BEFORE, TOLD], "rejected": [*BEFORE, OTHER]},
        BEFORE,
    ),
    "lists": ({"prompt": BEFORE, "chosen": [TOLD], "rejected": [OTHER]}, BEFORE),
    "a text and lists": ({"prompt": "two plus two?", "chosen": [TOLD], "rejected": [OTHER]}, [ASKED]),
    "Orca": (
        {"system": "Be kind.", "question": "two plus two?", "chosen": "four", "rejected": "five"},
        [system("Be kind."), ASKED],
    ),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "two plus two?"}],
            "chosen": {"from": "gpt", "value": "four"},
            "rejected": {"from": "gpt", "value": "five"},
        },
        [ASKED],
    ),
    "OpenAI": (
        {
            "input": {"messages": [ASKED], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [TOLD],
            "non_preferred_output": [OTHER],
        },
        [ASKED],
    ),
    "hh-rlhf": ({"chosen": TURNS + "four", "rejected": TURNS + "five"}, BEFORE),
    "hh-rlhf with a prompt": ({"prompt": TURNS.rstrip(), "chosen": "four", "rejected": "five"}, BEFORE),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name):
    row, prompt = PAIRS[name]
    assert answers(row) == (prompt, [TOLD], [OTHER])
    assert labelled(row) == [(([*prompt, TOLD], len(prompt)), True), (([*prompt, OTHER], len(prompt)), False)]


@pytest.mark.parametrize("label", [True, 1, 1.0, "true", "True", "1"])
def test_labels(label):
    for row in ({"prompt": "two plus two?", "completion": "four"}, {"question": "two plus two?", "answer": "four"}):
        for name in ("label", "kto_tag"):
            assert labelled({**row, name: label}) == [(([ASKED, TOLD], 1), True)]
    assert labelled({"messages": [ASKED, TOLD], "label": False}) == [(([ASKED, TOLD], 0), False)]


# ---- questions ----


@pytest.mark.parametrize(
    ("row", "prompt", "messages"),
    [
        ({"prompt": "two plus two?", "answer": "4"}, "two plus two?", [ASKED]),
        ({"question": "two plus two?", "answer": "4"}, "two plus two?", [ASKED]),
        ({"problem": "two plus two?", "solution": "4", "answer": "4"}, "two plus two?", [ASKED]),
        ({"prompt": BEFORE}, BEFORE, BEFORE),
        ({"messages": [*BEFORE, TOLD], "answer": "4"}, BEFORE, BEFORE),
        ({"messages": [ASKED], "reference_answer": "4"}, [ASKED], [ASKED]),
        ({"conversations": [{"from": "human", "value": "two plus two?"}]}, [ASKED], [ASKED]),
        ({"system": "s", "prompt": "two plus two?"}, [system("s"), ASKED], [system("s"), ASKED]),
        ({"instruction": "add", "input": "2, 2"}, [user("add\n2, 2")], [user("add\n2, 2")]),
    ],
)
def test_questions(row, prompt, messages):
    assert question(row) == (prompt, messages)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (said, {"a": 1, "b": 2}, r"expected messages, prompt and completion, or text; the columns are: a, b \(--columns"),
        (said, {"question": "a", "response": "b", "answer": "c"}, r"one column with the answer, got response, answer: --columns "
         "completion=response says which; the columns are: question, response, answer"),
        (said, {"prompt": "a", "question": "b", "answer": "c"}, "one column with the question, got prompt, question"),
        (said, {"question": "a", "context": "b", "answer": "c"}, "--columns instruction=question,input=context joins them"),
        (said, {"question": "a", "answer": "b", "text": "c"}, "one thing to learn, got question with answer, and another text"),
        (said, {"messages": [ASKED], "conversations": [TOLD]}, "one column with the messages, got messages, conversations"),
        (said, {"messages": [{"speaker": "a", "text": "b"}]}, r"messages\[0\]: expected a role, got speaker, text"),
        (said, {"messages": ["a"]}, r"messages\[0\]: expected a message such as"),
        (said, {"messages": "not JSON"}, "expected messages as a list of messages, got 'not JSON'"),
        (said, {"conversations": [{"from": "function_call", "value": "add(2)"}]}, "as an object, got 'add"),
        (said, {"instruction": "a", "output": "b", "history": ["c"]}, "history as a list of pairs"),
        (answers, {"prompt": "a", "chosen": "b"}, "expected prompt, chosen and rejected; the columns are: prompt, chosen"),
        (answers, {"prompt": "another", "chosen": [ASKED, TOLD], "rejected": [ASKED, OTHER]}, "got another text"),
        (answers, {"chosen": [user("a"), TOLD], "rejected": [user("b"), OTHER]}, "both chosen and rejected begin, got none"),
        (labelled, {"prompt": "a", "completion": "b", "label": "good"}, "expected label true or false, got 'good'"),
        (labelled, {"text": "a", "label": True}, "expected prompt, completion and label; the columns are: text, label"),
        (question, {"asked": "a"}, "expected a prompt, a text or a list of messages; the columns are: asked"),
    ],
)  # fmt: skip
def test_what_could_be_two_things_is_refused(read, row, message):
    with pytest.raises(ValueError, match=message):
        read(row)


def test_nulls_go_at_every_depth():
    """As TRL's documentation has it for columns that Arrow filled; JSON text is not looked into."""
    schema = {"function": {"name": "add", "parameters": {"properties": {"a": {"type": "int"}, "b": None}}}}
    found = chat_columns(
        {"tools": [schema], "documents": None, "chat_template_kwargs": {"style": None, "thinking": True}}
    )
    assert found["tools"] == [{"function": {"name": "add", "parameters": {"properties": {"a": {"type": "int"}}}}}]
    assert (found["documents"], found["chat_template_kwargs"]) == (None, {"thinking": True})
    assert chat_columns({"tools": '[{"default": null}]'})["tools"] == '[{"default": null}]'
    for empty in ([], "[]", " ", None):
        assert chat_columns({"tools": empty})["tools"] is None
    assert chat_columns({"functions": [{"name": "f"}]})["tools"] == [{"name": "f"}]
    deep = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ValueError, match="at most 100 levels"):
        without_nulls(deep)


def test_columns_under_other_names():
    row = {"q": "two plus two?", "a": "four", "answer": "x", "messages": [user("other")], "meta": {"lang": "en"}}
    assert said(renamed(row, {"prompt": "q", "completion": "a"})) == ([ASKED, TOLD], 1)
    assert said(renamed(row, {"text": "meta.lang"})) == "en"
    assert question(renamed(row, {"prompt": "q"})) == ("two plus two?", [ASKED])
    assert said(renamed({"context": "b", "question": "a", "answer": "c"}, {"instruction": "question", "input": "context"})) == (
        [user("a\nb"), assistant("c")], 1)  # fmt: skip
    assert said(renamed({"problem": "a", "solution": "b", "answer": "c"}, {"completion": "answer"})) == (
        [user("a"), assistant("c")], 1)  # fmt: skip
    with pytest.raises(ValueError, match="expected a column 'x', as --columns says; the columns are: q, a"):
        renamed(row, {"prompt": "x"})
    assert known_columns({"Prompt": "a", "prompt": "b", "TEXT": "c", 3: None}) == {
        "Prompt": "a",
        "prompt": "b",
        "text": "c",
    }
