"""What is held out: whole questions, whole groups, and never a question on both sides."""

import random

import pytest

from llmcore.data.split import asked_first, held_out_rows


def pair(question, answer):
    return {"prompt": question, "completion": answer}


def chat(*turns, system=None):
    roles = ["user", "assistant"] * len(turns)
    first = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*first, *({"role": r, "content": t} for r, t in zip(roles, turns, strict=False))]}


SAME = [
    pair("What is a loop?", "It repeats."),
    pair("  what is a  LOOP?\n", "Something else."),
    pair("What is a loop？", "The question mark is a wide one."),
    pair([{"role": "user", "content": "What is a loop?"}], [{"role": "assistant", "content": "x"}]),
    chat("What is a loop?", "It repeats."),
    chat("What is a loop?", "It repeats.", "And while?", "That too."),
    chat("What is a loop?", "no", system="Be short."),
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is a loop?"}]},
                  {"role": "assistant", "content": "x"}]},
    {"conversations": [{"from": "human", "value": "What is a loop?"}, {"from": "gpt", "value": "x"}]},
    {"instruction": "What is a loop?", "input": "", "output": "x"},
    {"question": "What is a loop?", "answer": "x"},
    {"prompt": "What is a loop?", "chosen": "x", "rejected": "y"},
    {"chosen": chat("What is a loop?", "x")["messages"], "rejected": chat("What is a loop?", "y")["messages"]},
    {"prompt": "What is a loop?", "completion": "x", "label": True},
    {"prompt": "What is a loop?"},
    {"text": "What is a loop?"},
]  # fmt: skip


def test_what_asks_the_same_is_the_same():
    assert {asked_first(row) for row in SAME} == {"what is a loop?"}


@pytest.mark.parametrize(
    "row", [pair("What is a list?", "x"), chat("Hello", "Hi", "What is a loop?", "x"), {"other": 1}]
)
def test_what_asks_something_else_is_not(row):
    assert asked_first(row) != "what is a loop?"


def test_a_question_is_on_one_side_only():
    questions = [f"What is {i}?" for i in range(300)]
    rows = [pair(q, f"answer {n}") for n in range(3) for q in questions]
    random.Random(0).shuffle(rows)
    held = held_out_rows(rows, 0.2)
    out, kept = ({r["prompt"] for r, h in zip(rows, held, strict=True) if h is side} for side in (True, False))
    assert not out & kept
    # Binomial of 300 questions: 60 on average, with a standard deviation of 7.
    assert 35 < len(out) < 85


def test_the_same_rows_are_held_out_whatever_their_order_and_what_is_added():
    rows = [pair(f"What is {i}?", "x") for i in range(200)]
    before = {r["prompt"] for r, h in zip(rows, held_out_rows(rows, 0.2), strict=True) if h}
    more = [*rows[::-1], *(pair(f"Why {i}?", "x") for i in range(200))]
    after = {r["prompt"] for r, h in zip(more, held_out_rows(more, 0.2), strict=True) if h}
    assert before == {q for q in after if q.startswith("What")}


def test_a_question_of_most_rows_is_learned():
    rows = [pair("Tell a story", f"story {i}") for i in range(90)] + [pair(f"What is {i}?", "x") for i in range(10)]
    for fraction in (0.05, 0.2, 0.5):
        assert not any(held_out_rows(rows, fraction)[:90])


def test_groups_are_held_out_whole_and_null_is_none():
    rows = [{**pair(f"What is {i}?", "x"), "group": i % 40} for i in range(200)]
    held = held_out_rows(rows, 0.25)
    assert all(held[i] == held[i % 40] for i in range(200))
    assert 0 < sum(held) < 120
    for nothing in ({"group": None}, {"group": ""}, {}):
        alone = [{**pair(f"What is {i}?", "x"), **nothing} for i in range(200)]
        assert 20 < sum(held_out_rows(alone, 0.25)) < 80
