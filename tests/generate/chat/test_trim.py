"""Conversations and texts that are longer than the context: refused, or without their oldest part, as the caller chooses."""

import pytest

import llmcore
from llmcore import models
from llmcore.generate.chat.template import ChatTemplate
from llmcore.generate.chat.trim import trim
from llmcore.tokenizer import Tokenizer

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"
SYSTEM = {"role": "system", "content": "be kind"}
CONTEXT, ANSWER = 64, 4


def said(role, content):
    return {"role": role, "content": content}


TURNS = [m for i in range(9) for m in (said("user", f"ask {i}"), said("assistant", f"say {i}"))]
MESSAGES = [SYSTEM, *TURNS, said("user", "last")]


@pytest.fixture(scope="module")
def lm():
    tokenizer = Tokenizer.train(iter(["ab " * 9]), 257)  # a byte is a token
    config = models.LlamaConfig(tokenizer.vocab_size, context=CONTEXT, layers=1, heads=2, kv_heads=2, width=32)
    return llmcore.LanguageModel(models.Llama(config, seed=3), tokenizer, chat_template=ChatTemplate(TEMPLATE))


def rendered(messages):
    return "".join(f"{m['role'][0]}:{m['content']};" for m in messages)


def test_the_oldest_turns_go_and_the_system_message_stays(lm):
    with pytest.raises(ValueError, match=rf"a prompt of 1 to {CONTEXT - 1} tokens .*got {len(rendered(MESSAGES))}"):
        lm.chat(MESSAGES, ANSWER)
    for first in range(9):  # as many turns as fit, by hand
        kept = [SYSTEM, *TURNS[2 * first :], MESSAGES[-1]]
        if len(rendered(kept)) + ANSWER <= CONTEXT:
            break
    assert 0 < first < 8
    expected = lm.chat(kept, ANSWER, temperature=0)
    note = f"the context is full: the oldest {first} turns are left out of what the model sees"
    done = lm.chat(MESSAGES, ANSWER, temperature=0, overflow="trim")
    assert (done.tokens, done.prompt_tokens, done.notes) == (expected.tokens, expected.prompt_tokens, [note])
    stream = lm.chat_stream(MESSAGES, ANSWER, temperature=0, overflow="trim")
    assert ("".join(stream), stream.completion.notes) == (expected.text, [note])
    assert lm.chat(kept, ANSWER, temperature=0, overflow="trim").notes == []


def test_a_last_turn_that_is_too_long_is_refused(lm):
    with pytest.raises(ValueError, match="a prompt of 1 to 63 tokens"):
        lm.chat([SYSTEM, said("user", "x" * 80)], ANSWER, overflow="trim")
    for call in (lm.chat, lm.chat_stream):
        with pytest.raises(ValueError, match=r"\[generate\] expected overflow error or trim, got 'cut'"):
            call(MESSAGES, ANSWER, overflow="cut")


def test_the_beginning_of_a_text_goes(lm):
    text = "".join(chr(97 + i % 26) for i in range(100))
    for beams in (1, 2):
        done = lm.generate(text, ANSWER, temperature=0, overflow="trim", beams=beams)
        expected = lm.generate(text[-(CONTEXT - ANSWER) :], ANSWER, temperature=0, beams=beams)
        assert (done.tokens, done.prompt_tokens) == (expected.tokens, CONTEXT - ANSWER)
        assert done.notes == ["the context is full: the oldest 40 tokens are left out of what the model sees"]
    with pytest.raises(ValueError, match="a prompt of 1 to 63 tokens"):
        lm.generate(text, ANSWER)


def test_calls_of_tools_go_with_their_answers():
    calls = [said("user", "sum"), said("assistant", ""), said("tool", "3"), said("assistant", "3")]
    kept, dropped = trim([SYSTEM, *calls, said("user", "more")], lambda some: len(some) < 6)
    assert (kept, dropped) == ([SYSTEM, said("user", "more")], 1)


def test_what_cannot_be_trimmed_is_refused_as_without(lm):
    for messages in (None, "hi", 3, {"role": "user"}, [3], [], [said("user", 3)], iter([said("user", "x")])):
        with pytest.raises(llmcore.errors.Error, match=r"^\[chat\] [^\n]*expected") as error:
            lm.chat(messages, 2)
        with pytest.raises(type(error.value)) as trimmed:
            lm.chat(messages, 2, overflow="trim")
        assert str(trimmed.value).split(", got <")[0] == str(error.value).split(", got <")[0]
    for max_tokens in (None, "3", -1, 1.5):
        with pytest.raises(llmcore.errors.Error, match="expected max_tokens an integer >= 0"):
            lm.chat(MESSAGES, max_tokens, overflow="trim")


def test_long_conversations_are_rendered_a_few_times():
    rendered = []
    messages = [SYSTEM, *(said("user", "x") for _ in range(3000))]
    kept, dropped = trim(messages, lambda some: rendered.append(1) or len(some) <= 8)
    assert (kept, dropped, len(rendered) < 20) == ([SYSTEM, *messages[-7:]], 2993, True)
