"""Forms beside other options: where a form ends, what gives way to it, and the blanks in it."""

import json
import re
from functools import partial

import numpy as np
import pytest

import llmcore
from support.last_token_model import last_token_model

pytest.importorskip("llguidance")

ITEM = {
    "type": "object",
    "properties": {"name": {"type": "boolean"}},
    "required": ["name"],
    "additionalProperties": False,
}
PAIR = {"type": "array", "minItems": 2, "maxItems": 2, "items": ITEM}


@pytest.fixture(scope="module")
def yes():
    return last_token_model({"?": "y", "y": "e", "e": "s", "s": ""})


@pytest.mark.parametrize("draft", [None, "lookup"])
def test_ignore_eos_does_not_ignore_the_end_of_a_form(yes, draft):
    c = yes.generate("really?", 20, regex="yes( sir)?", ignore_eos=True, temperature=0, draft=draft)
    assert (c.text, c.finish_reason, c.stop_reason) == ("yes", "stop", yes.end_ids[0])
    longer = yes.generate("really?", 20, regex="yes( sir)?", min_tokens=4, ignore_eos=True, temperature=0)
    assert (longer.text, longer.finish_reason, longer.stop_reason) == ("yes sir", "stop", None)
    assert "".join(yes.stream("really?", 20, regex="yes( sir)?", ignore_eos=True, temperature=0)) == "yes"


# Each forbids a token of the only way that the form has.
BANS = {
    "no_repeat_ngram": {"no_repeat_ngram": 1, "regex": "aXa"},
    "banned": {"banned": [ord("X")], "regex": "aXa"},
    "logit_bias": {"logit_bias": {ord("X"): -np.inf}, "regex": "aXa"},
    "min_tokens": {"min_tokens": 9, "regex": "aXa|aXaa"},
}


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("name", BANS)
def test_a_ban_gives_way_to_a_form(yes, name, beams):
    c = yes.generate("a", 20, temperature=0, beams=beams, **BANS[name])
    assert c.text in ("aXa", "aXaa")
    assert c.finish_reason == "stop"
    assert c.notes == [f"{name} gave way where the form leaves no other way"]
    for bias in (-100.0, -1e9, -1e38, -3e38):
        assert yes.generate("a", 20, temperature=0, logit_bias={ord("X"): bias}, regex="aXa").text == "aXa"


@pytest.mark.parametrize("beams", [1, 2])
def test_a_form_that_is_cut_is_noted(yes, beams):
    options = {"temperature": 0, "beams": beams}
    c = yes.generate("?", 2, regex="yes( sir)?", **options)
    assert (c.text, c.finish_reason) == ("ye", "length")
    assert c.notes == ["the form is not complete: max_tokens or the context ended it"]
    assert yes.generate("?", 3, regex="yes( sir)?", **options).notes == []  # it may end there
    assert yes.generate("?", 2, regex="yes", stop="e", **options).notes == []  # as was asked for
    late = yes.generate("?", 9, regex="yes", timeout=0, **options)
    assert (late.finish_reason, late.notes) == ("timeout", ["the form is not complete: the timeout ended it"])
    assert yes.generate("?", 9, **options).notes == []


def test_a_ban_holds_where_the_form_has_another_way(yes):
    c = yes.generate("a", 20, regex="[XY]{3}", banned=[ord("X")], temperature=1.0, seed=1)
    assert (c.text, c.notes) == ("YYY", [])
    text = yes.generate("z", 20, regex="[a-e]{5}", no_repeat_ngram=1, seed=3).text
    assert sorted(text) == [*"abcde"]


def test_objects_that_are_alike(yes):
    blanks = {ord(c): -50.0 for c in " \t\r\n"}
    for options in ({"no_repeat_ngram": 4}, {"no_repeat_ngram": 2}, {"no_repeat_ngram": 1}):
        c = yes.generate("JSON: ", 120, json_schema=PAIR, temperature=0, logit_bias=blanks, **options)
        assert [list(item) for item in json.loads(c.text)] == [["name"], ["name"]]
        assert any("no_repeat_ngram" in note for note in c.notes)


def test_bans_without_a_form_leave_a_token(yes):
    everything = list(range(yes.config.vocab_size))
    with pytest.raises(ValueError, match=r"\[generate\] expected banned and logit_bias to leave a token"):
        yes.generate("a", 4, banned=everything)
    with pytest.raises(ValueError, match=r"\[generate\] expected banned and logit_bias to leave a token"):
        yes.generate("a", 4, logit_bias=dict.fromkeys(everything, -np.inf))
    c = yes.generate("ab", 6, banned=everything[:97] + everything[99:], no_repeat_ngram=1, temperature=0)
    assert {*c.text} <= {*"ab"}
    assert c.notes == ["no_repeat_ngram gave way where no other token is left"]


def test_forced_tokens_begin_the_form(yes):
    assert yes.generate("a", 9, regex="b[cd]e", forced=[98, 100]).text == "bde"
    with pytest.raises(
        ValueError, match=r"\[generate\] expected forced tokens that the form may begin with, got \[97\]"
    ):
        yes.generate("a", 9, regex="b[cd]e", forced=[97])


def test_the_likeliest_answer_may_be_none():
    """What the end costs counts: "i" with 0.9 is likelier than nothing with 0.1, and the reverse."""
    for p, best in ((0.9, "i"), (0.02, "")):
        chances = {"i": 30 + np.log(p), "": 30 + np.log(1 - p)}
        lm = last_token_model({"?": chances, "i": ""})
        assert {c.text for c in lm.generate("?", 4, n=200, temperature=1.0, seed=1)} == {"", "i"}
        found = lm.generate("?", 4, n=1, best_of=200, temperature=1.0, seed=1)
        assert [c.text for c in found] == [best]


# ---- which end it was ----


def _keep(seen, completion, _):
    seen.append(completion)


def test_what_stopped_it(yes):
    end = yes.end_ids[0]
    cases = [
        ({}, "yes", "stop", end),
        ({"stop": ["s", "es"]}, "y", "stop", "es"),  # the earlier one, though it is complete no sooner
        ({"stop": "no"}, "yes", "stop", end),
        ({"stop_ids": [ord("e")]}, "y", "stop", ord("e")),
        ({"max_tokens": 2}, "ye", "length", None),
        ({"choices": ["yes"]}, "yes", "stop", None),
        ({"max_tokens": 4, "ignore_eos": True}, "yes", "length", None),
    ]
    for options, text, reason, by in cases:
        for more in ({}, {"beams": 2}, {"draft": "lookup"}):
            c = yes.generate("?", **{"max_tokens": 9, "temperature": 0, **options, **more})
            assert (c.text.removesuffix(yes.token_text(end)), c.finish_reason, c.stop_reason) == (text, reason, by)
        seen = []
        stream = yes.stream("?", **{"max_tokens": 9, "temperature": 0, **options}, on_token=partial(_keep, seen))
        assert "".join(stream).removesuffix(yes.token_text(end)) == text
        assert (seen[-1].finish_reason, seen[-1].stop_reason) == (reason, by)


# ---- blanks ----


def test_blanks_of_a_schema_are_bounded():
    """A model that would write blanks for ever comes to an end, and what json.dumps indents is within the form."""
    for blank in (" ", "\n", "\t"):
        lm = last_token_model({"{": blank, blank: blank, ":": blank, ",": blank, "[": blank}, context=600)
        for schema in (ITEM, PAIR, json.dumps(PAIR)):
            c = lm.generate("{", 500, temperature=0, json_schema=schema)
            assert c.finish_reason == "stop", c.text
            json.loads(c.text)
            assert max(map(len, re.findall(r"\s+", c.text))) <= 22
    for indent in (None, 1, 2, 4, "\t"):
        text = json.dumps([{"name": True}, {"name": False}], indent=indent)
        forced = [*text.encode()]
        assert lm.generate("x", 250, json_schema=PAIR, forced=forced).text == text


def test_a_schema_may_ask_for_other_blanks(yes):
    exact = {**PAIR, "x-guidance": {"whitespace_flexible": False}}
    c = yes.generate("a", 250, json_schema=exact, logit_bias={32: 50.0, 10: 50.0}, temperature=0)
    assert not re.search(r"\s", c.text)
    json.loads(c.text)
    free = {**ITEM, "x-guidance": {"whitespace_pattern": r"\s+"}}
    assert len(yes.generate("a", 90, json_schema=free, logit_bias={10: 50.0}, temperature=0).text) == 90


def test_blanks_of_an_expression_are_its_own(yes):
    c = yes.generate("a", 60, regex=r"a\s*b", logit_bias={10: 50.0}, temperature=0)
    assert c.text == "a" + "\n" * 59


def test_ends_that_are_letters_or_beyond_the_model(yes):
    """A letter that ends texts is no part of a form; an end that the model has no row for is none."""
    for ends, text in (([256, 300], "yes"), ([300, 256], "yes"), ([256, ord("a")], "yes")):
        lm = llmcore.LanguageModel(yes.model, yes.tokenizer, end_ids=ends)
        assert lm.generate("?", 9, regex="yes|ya", temperature=0).text == text
        assert lm.generate("?", 9, regex="[a-c]+", temperature=0).text[:1] == ("b" if ord("a") in ends else "a")
    for ends in ([], [300]):
        with pytest.raises(
            ValueError, match=r"^\[constrain\] expected a model that knows an end of text, got one without"
        ):
            llmcore.LanguageModel(yes.model, yes.tokenizer, end_ids=ends).generate("?", 9, regex="yes")


@pytest.mark.parametrize(
    ("regex", "takes", "refuses"),
    [
        (r"\d", ["7"], ["٣", "d"]),
        (r"[\d.-]{3}", ["1.5"], ["1.٣"]),
        (r"[]\d]{2}", ["]1"], ["]٣"]),
        (r"\\d\[\d", [r"\d[1"], [r"\1[1", r"\d[٣"]),
        (r"[^\d]", ["x"], ["7", "٣"]),
        (r"[^]\d]", ["x"], ["]", "7", "٣"]),
        (r"\D\w\d", ["xé1"], ["1é1", "xé٣"]),
        (r"[\w&&[^\d]]", ["x"], ["7", "٣"]),
        (r"(?x) \d \  [^x\d]  # \d", ["1 a"], ["1 1", "1 x"]),
    ],
)
def test_digits_are_plain_ones(yes, regex, takes, refuses):
    for text, right in [*((t, True) for t in takes), *((t, False) for t in refuses)]:
        constraint = yes.vocabulary.grammar(regex=regex).constraint()
        assert constraint.begins_with([*text.encode(), yes.end_ids[0]]) == right, text
