"""Commands that ask a model: their data is what the library gives, their pictures fit the terminal."""

import functools
import importlib
import io
import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from llmcore import _device, terminal
from llmcore.errors import DeviceError

PROMPT = "The function"


def data_of(result):
    code, out, err = result
    assert (code, err) == (0, "")
    return json.loads(out)


def softmax(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum()


@pytest.mark.parametrize(
    "flags",
    [
        ("--temperature", "0.2", "0.7", "1.5"),
        ("--temperature", "0.2", "--temperature", "0.7", "--temperature", "1.5"),
        ("--temperature=0.2", "0.7", "1.5"),
        ("--temperature=0.2", "--temperature", "0.7", "1.5"),
    ],
)
def test_next_gives_probabilities_at_each_temperature(run, tiny, model_dir, flags):
    got = data_of(run("next", PROMPT, "-m", model_dir, "-k", 5, "--json", *flags))
    logits = tiny.model(np.array([tiny.tokenizer.encode(PROMPT)])).numpy()[0, -1].astype(np.float64)
    assert [column["temperature"] for column in got["next"]] == [0.2, 0.7, 1.5]
    for column in got["next"]:
        expected = softmax(logits / column["temperature"])
        order = np.argsort(-expected)[:5]
        assert [t["id"] for t in column["tokens"]] == order.tolist()
        np.testing.assert_allclose([t["probability"] for t in column["tokens"]], expected[order], rtol=1e-4)
        assert [t["text"] for t in column["tokens"]] == [tiny.tokenizer.decode([i]) for i in order]


def test_next_draws_bars_of_the_right_length_within_the_width(run, model_dir):
    code, out, err = run("next", "-m", model_dir, "--temperature", "0.2", "0.7", "1.5", "--", PROMPT)
    assert (code, err) == (0, "")
    lines = out.rstrip("\n").split("\n")
    assert len(lines) == 12  # the prompt, the titles, ten tokens
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in out


@pytest.mark.parametrize(("fraction", "cells"), [(0, 0), (1, 10), (0.5, 5), (0.31, 3.1), (0.999, 10), (2, 10)])
def test_bars_are_as_long_as_the_probability(fraction, cells):
    drawn = terminal.bar(fraction, 10)
    assert len(drawn) == 10
    eighths = {" ": 0, **{c: i for i, c in enumerate("▏▎▍▌▋▊▉█", 1)}}
    assert sum(eighths[c] for c in drawn) / 8 == pytest.approx(cells, abs=1 / 16)
    assert terminal.bar(fraction, 10, "ascii") == ("#" * round(cells)).ljust(10)


def test_next_takes_a_text_that_is_a_number(run, model_dir):
    first = data_of(run("next", "42", "-m", model_dir, "--json", "--temperature", "2"))
    assert first["prompt"] == "42"
    assert data_of(run("next", "-m", model_dir, "--json", "--temperature", "2", "--", "42")) == first


def test_generate_writes_what_the_model_generates(run, tiny, model_dir):
    expected = str(tiny.generate(PROMPT, 12, temperature=0.9, top_k=20, seed=5))
    flags = ("-m", model_dir, "--max-tokens", 12, "--temperature", 0.9, "--top-k", 20, "--seed", 5)
    assert run("generate", PROMPT, *flags) == (0, PROMPT + expected + "\n", "")
    assert run("generate", PROMPT, "--no-echo", *flags) == (0, expected + "\n", "")
    many = data_of(run("generate", PROMPT, "-n", 2, "--json", *flags))
    assert many["seed"] == 5
    assert many["completions"][0]["text"] == expected
    assert many["completions"][1]["text"] == str(tiny.generate(PROMPT, 12, temperature=0.9, top_k=20, seed=6))
    assert len(many["completions"][0]["logprobs"]) == len(many["completions"][0]["tokens"])


def test_generate_takes_penalties_and_bias(run, tiny, model_dir):
    flags = ("-m", model_dir, "--max-tokens", 12, "--temperature", 0, "--no-echo")
    changes = ("--repetition-penalty", 1.5, "--presence-penalty", 0.5, "--frequency-penalty", 0.25)
    expected = tiny.generate(
        PROMPT,
        12,
        temperature=0,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={40: 2.0, 41: -np.inf},
    )
    assert run("generate", PROMPT, *flags, *changes, "--logit-bias", "40=2", "--logit-bias", "41=-inf") == (
        0,
        f"{expected}\n",
        "",
    )
    code, _, err = run("generate", PROMPT, *flags, "--logit-bias", "x")
    assert (code, "expected --logit-bias ID=BIAS, got x" in err) == (2, True)


def test_generate_stops_and_draws_a_seed(run, tiny, model_dir):
    whole = str(tiny.generate(PROMPT, 20, temperature=0))
    stop = whole[5:8]
    flags = ("-m", model_dir, "--max-tokens", 20, "--temperature", 0, "--no-echo")
    assert (
        run("generate", PROMPT, *flags, "--stop", "never there", "--stop", stop)[1] == whole[: whole.index(stop)] + "\n"
    )
    seeds = {data_of(run("generate", PROMPT, "-m", model_dir, "--max-tokens", 1, "--json"))["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_text_from_standard_input(run, model_dir, monkeypatch):
    expected = run("score", PROMPT, "-m", model_dir)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PROMPT.encode())))
    assert run("score", "-", "-m", model_dir) == expected


@pytest.mark.parametrize("text", ["The list", "The function returns a list of strings. " * 12])
def test_score_is_the_log_probability_of_each_token(run, tiny, model_dir, text):
    """A long text goes through in windows that overlap by half; their twin is written out here."""
    got = data_of(run("score", text, "-m", model_dir, "--json"))
    ids = [tiny.tokenizer.end_of_text, *tiny.tokenizer.encode(text)]
    context = tiny.config.context
    for place, scored in enumerate(got["scores"]):
        assert scored["id"] == ids[place + 1]
        assert scored["text"] == tiny.tokenizer.decode([ids[place + 1]])
        # The window that scores this token: the first, or the one of half a context's steps that reaches it.
        end = (
            context
            if place < context
            else min(len(ids) - 1, context + -(-(place + 1 - context) // (context // 2)) * (context // 2))
        )
        begin = max(0, end - context)
        logits = tiny.model(np.array([ids[begin:end]])).numpy()[0, place - begin].astype(np.float64)
        assert scored["logprob"] == pytest.approx(math.log(softmax(logits)[ids[place + 1]]), abs=1e-4)
    nats = -sum(s["logprob"] for s in got["scores"])
    assert got["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()))
    assert got["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)))


def test_score_shows_bits_under_tokens(run, tiny, model_dir):
    code, out, err = run("score", "The list", "-m", model_dir)
    assert (code, err) == (0, "")
    pieces, bits, total = out.splitlines()
    assert "".join(pieces.split()).replace("␣", " ") == "The list"
    scores = tiny.score("The list")
    assert [float(b) for b in bits.split()] == [round(-p / math.log(2), 1) for _, _, p in scores]
    assert "bits per byte" in total


def test_info_counts(run, tiny, model_dir):
    got = data_of(run("info", model_dir, "--json"))
    model = got["model"]
    assert model["parameters"] == sum(model["parameters_by_part"].values()) == tiny.num_parameters
    assert model["parameters_by_part"]["token embedding"] == tiny.config.vocab_size * tiny.config.width
    n = tiny.num_parameters
    sizes = {"float32": 4 * n, "bfloat16": 2 * n, "int8": n * 34 // 32, "int4": n * 20 // 32}
    assert model["weight_bytes"] == sizes
    assert model["parameters_by_type"] == {"F32": n}
    assert model["chat_template"] is None
    assert got["build"]["version"]
    code, out, _ = run("info", "-m", model_dir)
    assert code == 0
    assert f"{tiny.num_parameters:,}" in out
    assert max(map(len, out.splitlines())) <= 80


def test_info_says_what_was_applied(run, tiny, model_dir, tmp_path):
    folder = shutil.copytree(model_dir, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"rope_scaling": {"type": "yarn", "factor": 4.0}, "field_of_tomorrow": 7}
    (folder / "config.json").write_text(json.dumps(config))
    context = tiny.config.context
    applied = f"yarn, factor 4 over {context} tokens"
    model = data_of(run("info", folder, "--json"))["model"]
    assert model["config"]["context"] == 4 * context
    assert model["positions"] == f"rotations of base {tiny.config.rope_base:g}, {applied}"
    assert model["tied"] == tiny.config.tied
    unknown = "config.json: unknown here and not used: field_of_tomorrow"
    assert model["notes"] == [unknown, f"positions: {applied}; the context is {4 * context}"]
    code, out, _ = run("info", folder)
    words = " ".join(out.split())
    assert code == 0
    assert f"context {4 * context} tokens positions rotations of base" in words
    assert "output layer" in words
    assert "not used: field_of_tomorrow" in words


def test_next_traces_the_stages(run, tiny, model_dir):
    dials = ["--temperature", "0.7", "--top-k", "9", "--top-p", "0.6", "--min-p", "0.2"]
    got = data_of(run("next", "The list", "-m", model_dir, *dials, "--trace", "--json", "-k", "300"))["stages"]
    assert [s["stage"] for s in got] == ["the model", "temperature 0.7", "top-k 9", "top-p 0.6", "min-p 0.2"]
    # Stage by stage in float64, by the definitions.
    logits = tiny.model(np.array([tiny.prompt_ids("The list")])).numpy()[0, -1].astype(np.float64)
    expected = []
    for t in (1.0, 0.7):
        p = np.exp(logits / t - (logits / t).max())
        expected.append(p / p.sum())
    order = np.argsort(-expected[1], kind="stable")
    p = np.zeros_like(expected[1])
    p[order[:9]] = expected[1][order[:9]]
    expected.append(p / p.sum())
    before = np.cumsum(expected[2][order]) - expected[2][order]
    p = np.where(np.isin(np.arange(len(p)), order[before < 0.6 - 1e-6]), expected[2], 0)
    expected.append(p / p.sum())
    p = np.where(expected[3] >= 0.2 * expected[3].max(), expected[3], 0)
    expected.append(p / p.sum())
    for stage, want in zip(got, expected, strict=True):
        assert stage["tokens_left"] == np.count_nonzero(want)
        found = {t["id"]: t["probability"] for t in stage["tokens"]}
        np.testing.assert_allclose([found[i] for i in order], want[order], rtol=1e-2, atol=1e-3)
    code, out, _ = run("next", "The list", "-m", model_dir, *dials, "--trace")
    assert code == 0
    assert "9 after top-k 9" in out
    code, _, err = run("next", "The", "-m", model_dir, "--temperature", "1", "2", "--trace")
    assert code == 2
    assert "expected one --temperature with --trace, got several" in err


def test_bench_model(run, tiny, model_dir, monkeypatch):
    machine = importlib.import_module("llmcore.bench.machine")
    monkeypatch.setattr(machine, "measure_machine", functools.cache(machine.measure_machine))  # once is enough
    got = data_of(
        run("bench", "model", model_dir, "--prompt", "20", "--tokens", "8", "--batch", "1", "--batch", "3", "--json")
    )
    assert set(got["decode_tokens_per_second"]) == {"1", "3"}
    assert min(got["prefill_tokens_per_second"], *got["decode_tokens_per_second"].values()) > 0
    matrices = sum(p.size for _, p in tiny.model.named_parameters() if p.ndim == 2)
    assert got["weight_bytes"] == matrices * (2 if got["dtype"] == "bfloat16" else 4)
    code, out, _ = run("bench", "model", "-m", model_dir, "--prompt", "5", "--tokens", "3")
    assert code == 0
    assert "writing 8 at a time" in out
    assert run("bench", "model", model_dir, "-m", model_dir) == (2, "", "error: expected one model, got two\n")
    code, out, _ = run("bench", "model", "-m", model_dir, "--prompt", "1", "--tokens", "1", "--threads", "1")
    assert out.startswith("1 thread, computing in ")
    assert "tok/s (1 token)" in out


def test_embed(run, tiny, model_dir):
    texts = ["The list", "a list", "def f(x):"]
    got = data_of(run("embed", *texts, "-m", model_dir, "--json"))
    vectors = np.array([row["embedding"] for row in got])
    np.testing.assert_allclose(vectors, tiny.embed(texts), rtol=1e-3, atol=1e-3)
    code, out, err = run("embed", *texts, "-m", model_dir)
    assert (code, err) == (0, "")
    cosines = vectors @ vectors.T
    for i, line in enumerate(out.splitlines()[1:]):
        assert line.split()[-3:] == [f"{c:.2f}" for c in cosines[i]]
    near = data_of(run("embed", "--nearest", "list", "-k", "4", "-m", model_dir, "--json"))
    assert [(n["text"], n["id"]) for n in near] == [(text, i) for text, i, _ in tiny.nearest("list", 4)]
    code, out, err = run("embed", "-m", model_dir)
    assert (code, out) == (2, "")
    assert err == "error: expected texts to compare, or --nearest WORD\n"


def test_convert(run, tiny, model_dir, tmp_path):
    code, _, err = run("convert", model_dir, tmp_path / "half", "--dtype", "bfloat16")
    assert code == 0
    assert "MB" in err
    ids = np.array([[1, 2, 3]])
    from llmcore import load

    np.testing.assert_allclose(load(tmp_path / "half").model(ids).numpy(), tiny.model(ids).numpy(), atol=0.05)
    code, _, err = run("convert", model_dir, tmp_path / "half")
    assert code == 2
    assert "which exists (--overwrite replaces it)" in err
    assert run("convert", model_dir, tmp_path / "half", "--overwrite")[0] == 0


def test_convert_of_a_model_with_the_default_tokenizer(run, tiny, model_dir, tmp_path):
    """cl100k, which GGUF has no name for."""
    from llmcore import load

    path = tmp_path / "a.gguf"
    code, out, err = run("convert", model_dir, path, "--dtype", "Q8_0")
    assert (code, out) == (0, "")
    note, written = err.splitlines()
    assert note.startswith(
        "note: GGUF has no name for the tokenizer's pattern cl100k: written as llama3, which differs in "
    )
    assert written.startswith(f"{path}: ")
    back = load(path)
    assert back.tokenizer.pattern == "llama3"
    for text in (PROMPT, "The list's\n\n  strings, 1234 of them ", "def f(x):\n    return x"):
        assert back.tokenizer.encode(text) == tiny.tokenizer.encode(text)
    assert "note" not in run("convert", path, tmp_path / "b.gguf")[2]


def test_info_without_a_model_shows_the_build(run):
    assert data_of(run("info", "--json"))["model"] is None


@pytest.mark.parametrize("name", ["cuda", "tpu"])
def test_a_device_that_is_not_there_stops_only_what_needs_it(run, model_dir, monkeypatch, name):
    def none():
        raise DeviceError("cuda", "no GPU")

    monkeypatch.setenv("LLMCORE_DEVICE", name)
    monkeypatch.setattr(_device, "_default", None)
    monkeypatch.setattr(_device, "cuda_info", none)
    line = {"cuda": "LLMCORE_DEVICE=cuda, but no GPU", "tpu": "expected LLMCORE_DEVICE 'cpu' or 'cuda', got 'tpu'"}[
        name
    ]
    got = data_of(run("info", model_dir, "--json"))
    assert got["model"]["parameters"] > 0
    assert got["build"]["device"] == line
    assert f"device          {line}" in run("info")[1]
    assert run("convert", model_dir, "copy")[0] == 0
    code, out, err = run("next", "x", "-m", model_dir)
    assert (code, out, err) == ({"cuda": 1, "tpu": 2}[name], "", f"error: {line}\n")
    assert run("next", "x", "-m", model_dir, "--device", "cpu")[0] == 0


def test_threads_and_quantization_of_the_commands(run, tiny, model_dir):
    """Results do not depend on the threads; those of int8 are the library's of int8."""
    import llmcore

    before = llmcore.num_threads()
    try:
        quantized = llmcore.load(model_dir, quantize="int8")
        got = data_of(run("next", PROMPT, "-m", model_dir, "--quantize", "int8", "--threads", "1", "--json"))
        assert llmcore.num_threads() == 1
        expected = quantized.next_tokens(PROMPT)
        assert [(t["id"], t["probability"]) for t in got["next"][0]["tokens"]] == [(i, p) for _, i, p in expected]
        got = data_of(run("score", PROMPT, "-m", model_dir, "--quantize", "int8", "--threads", "2", "--json"))
        assert llmcore.num_threads() == 2
        assert got["bits"] == quantized.score(PROMPT).bits != tiny.score(PROMPT).bits
        flags = ("--max-tokens", "4", "--temperature", "0", "--threads", "1", "--json")
        got = data_of(run("generate", PROMPT, "-m", model_dir, *flags))
        assert got["completions"][0]["tokens"] == tiny.generate(PROMPT, 4, temperature=0).tokens
        assert llmcore.num_threads() == 1
    finally:
        llmcore.set_num_threads(before)
    code, _, err = run("chat", "-m", model_dir, "--quantize", "int9")
    assert (code, err) == (2, "error: expected quantize None, 'none', 'int8' or 'int4', got 'int9'\n")


def test_which_model_is_taken(run, tiny, model_dir, tmp_path):
    """The one named, else the one made last, else ./run."""
    from llmcore.cli.options import remember_model

    code, out, err = run("next", "The", "--json")
    assert (code, out) == (2, "")
    assert err == "error: expected a model: name one with --model MODEL, or make one with `llmcore demo`\n"
    tiny.save("run")
    expected = data_of(run("next", "The", "-m", model_dir, "--json"))
    assert run.taken == [f"{model_dir}: {tiny.model.described()}"]
    assert data_of(run("next", "The", "--json")) == expected
    assert run.taken[0].startswith("run (found here): Llama, ")
    remember_model(tmp_path / "gone")
    assert data_of(run("next", "The", "--json")) == expected
    (tmp_path / "work/run").rename("demo-model")
    assert data_of(run("next", "The", "--json")) == expected
    assert run.taken[0].startswith("demo-model (found here): ")
    remember_model(model_dir)
    assert data_of(run("next", "The", "--json")) == expected
    assert run.taken[0].startswith(f"{model_dir} (the last one made): ")
    run("next", "The", "--quiet")
    assert run.taken == []
    assert run("tokenize", "The list", "--count")[0] == 0


def test_generate_in_forms_with_beams_and_guesses(run, tiny, model_dir):
    out = run("generate", "the", "-m", model_dir, "--choice", "yes", "--choice", "no", "--no-echo")[1]
    assert out.strip() in ("yes", "no")
    out = run("generate", "the", "-m", model_dir, "--regex", "[ab]{4}", "--seed", "1", "--json")[1]
    assert re.fullmatch("[ab]{4}", json.loads(out)["completions"][0]["text"])
    beams = tiny.generate("the", 5, beams=3, n=2)
    out = run("generate", "the", "-m", model_dir, "--beams", "3", "-n", "2", "--max-tokens", "5", "--json")[1]
    assert [c["tokens"] for c in json.loads(out)["completions"]] == [c.tokens for c in beams]
    plain = run("generate", "the the", "-m", model_dir, "--seed", "3", "--max-tokens", "9")[1]
    for draft in ("lookup", model_dir):
        guessed = run("generate", "the the", "-m", model_dir, "--seed", "3", "--max-tokens", "9", "--draft", draft)
        assert guessed[1] == plain


def test_generate_says_what_gave_way(run, model_dir):
    pytest.importorskip("llguidance")
    cut = ("generate", "the", "-m", model_dir, "--max-tokens", "2", "--regex", "[ab]{9}")
    note = "note: the form is not complete: max_tokens or the context ended it\n"
    assert run(*cut)[2] == run(*cut, "--beams", "2")[2] == note
    assert json.loads(run(*cut, "--json")[1])["completions"][0]["notes"] == [note[6:-1]]
    err = run("generate", "the", "-m", model_dir, "-n", "2", "--regex", "aaaa", "--no-repeat-ngram", "1")[2]
    assert err == "note: no_repeat_ngram gave way where the form leaves no other way\n" * 2


def test_sampling_flags_reach_the_sampler(run, tiny, model_dir):
    base = ("generate", "the", "-m", model_dir, "--seed", "3", "--max-tokens", "12", "--json")
    options = {
        "dry_multiplier": 3.0, "dry_base": 2.0, "dry_allowed_length": 1, "dry_range": 9, "dry_breakers": ["a"],
        "xtc_probability": 0.7, "xtc_threshold": 0.01, "typical_p": 0.9, "no_repeat_ngram": 3, "min_tokens": 5,
    }  # fmt: skip
    for name, value in options.items():
        more = {"dry_multiplier": 3.0} if name.startswith("dry") else {"xtc_probability": 1.0} if "xtc" in name else {}
        more |= {name: value}
        flags = [f"--{k.replace('_', '-')}={v[0] if isinstance(v, list) else v}" for k, v in more.items()]
        out = run(*base, *flags)[1]
        assert json.loads(out)["completions"][0]["tokens"] == tiny.generate("the", 12, seed=3, **more).tokens


def test_generate_reads_a_schema_from_a_file(run, model_dir, tmp_path):
    (tmp_path / "schema.json").write_text('{"enum": ["a", "b"]}')
    out = run("generate", "the", "-m", model_dir, "--json-schema", f"@{tmp_path / 'schema.json'}", "--no-echo")[1]
    assert json.loads(out) in ("a", "b")
    (tmp_path / "yes.gbnf").write_text('root ::= "yes" | "no"')
    for name in (str(tmp_path / "yes.gbnf"), f"@{tmp_path / 'yes.gbnf'}"):
        out = run("generate", "the", "-m", model_dir, "--grammar", name, "--json")[1]
        assert json.loads(out)["completions"][0]["text"] in ("yes", "no")
    code, _, err = run("generate", "the", "-m", model_dir, "--grammar", str(tmp_path / "none.gbnf"))
    assert code != 0
    assert "none.gbnf" in err


def test_next_shows_words(run, tiny, model_dir):
    out = run("next", "the ", "-m", model_dir, "--words", "-k", "2", "--json")[1]
    assert [(w["word"], w["probability"]) for w in json.loads(out)["words"]] == [
        (w, pytest.approx(p, rel=1e-4)) for w, p in tiny.suggest("the ", 2)
    ]
    assert "the  …" in run("next", "the ", "-m", model_dir, "--words")[1]


def test_adapters_are_called_so(run, model_dir):
    rows = [{"prompt": "The", "completion": " function"}] * 4
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ("--data", "rows.jsonl", "--validation-fraction", "0", "--steps", "1", "--sample-every", "0")
    code, out, err = run("sft", "--model", model_dir, *flags, "--lora-rank", "4", "--lr", "0.1")
    assert code == 0
    assert "warning" not in err
    said = out.splitlines()[-2]
    assert said.startswith("saved an adapter of 0.0")
    assert said.endswith(f"M parameters (of {model_dir}) in sft")


def test_two_models_side_by_side(run, tiny, model_dir):
    """The same as each alone with this seed."""
    tiny.save("other")
    arguments = ("generate", "The", "--seed", "3", "--max-tokens", "6", "--model", model_dir, "--model", "other")
    found = data_of(run(*arguments, "--json"))
    alone = data_of(run(*arguments[:-2], "--json"))
    assert [m["model"] for m in found["models"]] == [str(model_dir), "other"]
    assert [m["completions"] for m in found["models"]] == [alone["completions"]] * 2
    text = alone["completions"][0]["text"]
    assert run(*arguments)[1] == "".join(f"== {name} ==\nThe{text}\n\n" for name in (model_dir, "other"))


def test_score_by_words_in_units_and_in_order(run, tiny, model_dir):
    text = "the list of  the function"
    scored = tiny.score(text)
    nats = data_of(run("score", text, "-m", model_dir, "--unit", "nats", "--json"))["scores"]
    assert [s["nats"] for s in nats] == [-t.logprob for t in scored]
    words = data_of(run("score", text, "-m", model_dir, "--words", "--unit", "probability", "--sort", "--json"))[
        "words"
    ]
    assert sum(w["logprob"] for w in words) == pytest.approx(sum(t.logprob for t in scored))
    assert sum(w["tokens"] for w in words) == len(scored)
    assert text.endswith("".join(w.text for w in scored.words()))
    assert [w["probability"] for w in words] == sorted(math.exp(w["logprob"]) for w in words)
    shown = run("score", text, "-m", model_dir, "--words", "--sort")[1].splitlines()
    first = -words[0]["logprob"] / math.log(2)
    assert shown[0].split()[0] == f"{first:.1f}"


def test_generate_keeps_a_prompt_cache(run, tiny, model_dir, tmp_path):
    file = tmp_path / "prompt.cache"
    flags = ("-m", model_dir, "--max-tokens", 6, "--temperature", 0, "--prompt-cache", file)
    expected = str(tiny.generate(PROMPT, 6, temperature=0))
    for text in (PROMPT, PROMPT, PROMPT[:-3]):
        before = file.stat().st_ino if file.exists() else None
        assert run("generate", text, *flags)[:2] == (0, f"{text}{tiny.generate(text, 6, temperature=0)}\n")
        if text == PROMPT and before:
            assert file.stat().st_ino == before  # nothing new to write
    assert data_of(run("generate", PROMPT, "--json", *flags))["completions"][0]["text"] == expected
    file.write_bytes(file.read_bytes()[:-1])
    code, out, err = run("generate", PROMPT, *flags)
    assert (code, out, "prompt.cache" in err) == (2, "", True)
    code, _, err = run("generate", PROMPT, *flags, "--beams", 2)
    assert (code, "--prompt-cache with one --model, and without --beams" in err) == (2, True)
