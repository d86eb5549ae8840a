"""Every option with every kind of value: it is taken, or refused in one line that names the option."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from llmcore.generate.chat.template import ChatTemplate
from llmcore.generate.completion import GenerateOptions
from llmcore.generate.engine.engine import Engine
from llmcore.generate.engine.params import SamplingParams
from support.last_token_model import last_token_model

VALUES = {
    "None": None, "True": True, "x": "x", "empty": "", "digit": "1", "bytes": b"x", "1.5": 1.5, "-1": -1, "0": 0,
    "2**70": 2**70, "-2**70": -(2**70), "nan": np.nan, "inf": np.inf, "-inf": -np.inf, "[]": [], "[1]": [1],
    "[a]": ["a"], "[None]": [None], "[-1]": [-1], "[True]": [True], "[1.5]": [1.5], "['']": [""], "{}": {},
    "{1: 2}": {1: 2}, "{a: 1}": {"a": 1}, "{1: nan}": {1: np.nan}, "float32": np.float32(0.5), "int64": np.int64(3),
    "bool_": np.True_, "array": np.array([1, 2]), "array0": np.array(3), "array of texts": np.array(["a"]),
    "complex": 1j, "fraction": Fraction(1, 2), "object": object(), "generator": (i for i in ()), "set": {1},
    "lambda": lambda *_: None, "surrogate": "\udc80",
}  # fmt: skip

COUNT = {"0", "int64"}
AT_LEAST_1 = {"int64"}
PART = {"0", "float32", "fraction"}
KEPT = {"float32", "fraction"}
ANY = {"1.5", "-1", "0", "2**70", "-2**70", "float32", "int64", "fraction"}
AT_LEAST_0 = ANY - {"-1", "-2**70"}
FLAG = {"True", "bool_"}
IDS = {"[]", "[1]", "array"}
TEXTS = {"None", "x", "digit", "[]", "[a]", "surrogate"}
SEED = {"None", "-1", "0", "int64"}
TIME = {"None", "1.5", "0", "2**70", "inf", "float32", "int64", "fraction"}

TAKEN = {
    "max_tokens": COUNT, "temperature": AT_LEAST_0, "top_k": COUNT, "top_p": KEPT, "min_p": PART, "seed": SEED,
    "stop": TEXTS, "ignore_eos": FLAG, "logprobs": FLAG, "repetition_penalty": AT_LEAST_0 - {"0"},
    "presence_penalty": ANY, "frequency_penalty": ANY, "logit_bias": {"None", "{}", "{1: 2}"}, "typical_p": KEPT,
    "no_repeat_ngram": COUNT, "min_tokens": COUNT, "dry_multiplier": AT_LEAST_0, "dry_base": {"1.5", "2**70", "int64"},
    "dry_allowed_length": AT_LEAST_1, "dry_range": COUNT, "dry_breakers": TEXTS, "xtc_probability": PART,
    "xtc_threshold": KEPT, "stop_ids": IDS, "banned": IDS, "forced": IDS, "top_logprobs": COUNT,
    "prompt_logprobs": FLAG, "n": AT_LEAST_1, "best_of": {"None", "int64"}, "beams": AT_LEAST_1,
    "length_penalty": {"1.5", "-1", "0", "float32", "int64", "fraction"},
    "json_schema": {"None", "True", "{}", "{1: 2}", "{a: 1}"}, "regex": {"None", "x", "empty", "digit"},
    "choices": {"None", "[a]", "array of texts"}, "grammar": {"None"}, "draft": {"None"},
    "draft_tokens": {"None", "int64"}, "on_token": {"None", "lambda"}, "priority": {"-1", "0", "int64"},
    "timeout": TIME, "overflow": set(),
}  # fmt: skip
WITH = {"length_penalty": {"beams": 2}, "draft_tokens": {"draft": "lookup"}}


@pytest.fixture(scope="module")
def lm():
    lm = last_token_model({"a": "b"})
    lm.chat_template = ChatTemplate("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    return lm


def check(call, name, taken):
    """Call with each value and look at what is raised."""
    for kind, value in VALUES.items():
        if kind in taken:
            call(value)
            continue
        with pytest.raises((ValueError, TypeError)) as raised:
            call(value)
        line = str(raised.value)
        assert name in line, (kind, line)
        assert line.startswith("["), (kind, line)
        assert "\n" not in line, (kind, line)
        assert len(line) < 400, (kind, line)


def test_all_options_are_here():
    assert TAKEN.keys() == {f.name for kind in (SamplingParams, GenerateOptions) for f in dataclasses.fields(kind)}


@pytest.mark.parametrize("name", TAKEN)
def test_options_of_generate_stream_and_chat(lm, name):
    if name in ("json_schema", "regex", "choices", "grammar"):
        pytest.importorskip("llguidance")
    options = {"max_tokens": 2} | WITH.get(name, {})
    check(lambda v: lm.generate("a", **options | {name: v}), name, TAKEN[name])
    check(lambda v: lm.chat([{"role": "user", "content": "a"}], **options | {name: v}), name, TAKEN[name])
    one = {"n": set(), "best_of": {"None"}, "beams": set(), "length_penalty": set()}.get(name, TAKEN[name])
    options.pop("beams", None)
    check(lambda v: list(lm.stream("a", **options | {name: v})), name, one)


# What draws from less than the model's distribution, or tells of drawn tokens one by one, beams refuse.
NOT_WITH_BEAMS = {
    "temperature": {"0"}, "top_k": {"0"}, "top_p": set(), "min_p": {"0"}, "typical_p": set(), "xtc_probability": {"0"},
    "n": set(), "best_of": {"None"}, "draft_tokens": {"None"}, "on_token": {"None"}, "priority": {"0"},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TAKEN.keys() - {"beams"}))
def test_options_of_beams(lm, name):
    if name in ("json_schema", "regex", "choices", "grammar"):
        pytest.importorskip("llguidance")
    options = {"max_tokens": 2, "beams": 2}
    check(lambda v: lm.generate("a", **options | {name: v}), name, NOT_WITH_BEAMS.get(name, TAKEN[name]))


PROMPTS = {"x", "empty", "digit", "[]", "[1]", "array", "surrogate"}
POSITIVE = {"2**70", "int64"}


@pytest.mark.parametrize(
    ("call", "name", "taken"),
    [
        (lambda lm, v: lm.generate(v, 1), "prompt", PROMPTS | {"[a]", "['']", "array of texts"}),
        (lambda lm, v: list(lm.stream(v, 1)), "prompt", PROMPTS),
        (lambda lm, v: lm.next_tokens(v), "prompt", PROMPTS),
        (lambda lm, v: lm.trace_filters(v), "prompt", PROMPTS),
        (lambda lm, v: lm.score(v), "prompt", PROMPTS),
        (lambda lm, v: lm.next_tokens("a", v), "k", POSITIVE),
        (lambda lm, v: lm.next_tokens("a", temperature=v), "temperature", AT_LEAST_0),
        (lambda lm, v: lm.next_tokens("a", top_k=v), "top_k", COUNT),
        (lambda lm, v: lm.next_tokens("a", top_p=v), "top_p", KEPT),
        (lambda lm, v: lm.next_tokens("a", min_p=v), "min_p", PART),
        (lambda lm, v: lm.next_tokens("a", typical_p=v), "typical_p", KEPT),
        (lambda lm, v: lm.next_tokens("a", xtc_probability=v), "xtc_probability", PART),
        (lambda lm, v: lm.next_tokens("a", xtc_threshold=v), "xtc_threshold", KEPT),
        (lambda lm, v: lm.trace_filters("a", temperature=v), "temperature", AT_LEAST_0),
        (lambda lm, v: lm.trace_filters("a", top_p=v), "top_p", KEPT),
        (lambda lm, v: lm.suggest(v), "text", {"x", "empty", "digit", "surrogate"}),
        (lambda lm, v: lm.suggest("a", v), "n", POSITIVE),
        (
            lambda lm, v: lm.embed(v),
            "text",
            {"x", "empty", "digit", "[]", "[a]", "['']", "array of texts", "surrogate"},
        ),
        (lambda lm, v: lm.embed("a", v), "pooling", set()),
        (lambda lm, v: lm.embed("a", normalize=v), "normalize", FLAG),
        (lambda lm, v: lm.nearest(v), "word", {"x", "digit", "surrogate"}),
        (lambda lm, v: lm.nearest("a", v), "k", POSITIVE),
        (lambda lm, v: lm.chat_prompt(v), "message", set()),
        (lambda lm, v: Engine(lm.model, max_batch=v), "max_batch", POSITIVE),
        (lambda lm, v: Engine(lm.model, max_waiting=v), "max_waiting", POSITIVE),
        (lambda lm, v: Engine(lm.model, chunk=v), "chunk", POSITIVE),
        (lambda lm, v: Engine(lm.model, cache_bytes=v), "cache_bytes", {"None", "2**70"}),
    ],
)
def test_arguments_of_other_methods(lm, call, name, taken):
    check(lambda v: call(lm, v), name, taken)


def test_choices_from_any_source(lm):
    pytest.importorskip("llguidance")
    for choices in ((t for t in ("yes", "no")), {"yes", "no"}, ("yes", "no"), np.array(["yes", "no"])):
        assert lm.generate("a", 5, choices=choices).text in ("yes", "no")


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63, 2**64 - 1, np.uint64(2**64 - 1), np.int8(-3), 0])
def test_seeds_use_64_bits(lm, seed):
    """Seeds that are equal modulo 2 ** 64 draw alike, and the reported seed reproduces."""
    options = {"max_tokens": 8, "temperature": 3.0, "logit_bias": dict.fromkeys(range(97, 110), 9.0)}
    c = lm.generate("q", seed=seed, **options)
    assert lm.generate("q", seed=c.seed, **options).tokens == c.tokens
    assert lm.generate("q", seed=int(seed) % 2**64, **options).tokens == c.tokens
    three = lm.generate("q", n=3, seed=seed, **options)
    assert three[2].tokens == lm.generate("q", seed=(int(seed) + 2) % 2**64, **options).tokens


def test_two_forms_are_both_named(lm):
    pytest.importorskip("llguidance")
    with pytest.raises(ValueError, match=r"^\[constrain\] expected one of .*, got regex and choices$"):
        lm.generate("a", 5, regex="a", choices=["a"])
