"""Likelihoods of continuations, tasks and texts, against the model's own probabilities in float64."""

import json

import numpy as np
import pytest

import llmcore
from llmcore import models
from llmcore.data.rows import Row
from llmcore.evaluate import evaluate_task, evaluate_texts, likelihoods
from llmcore.generate import LanguageModel


@pytest.fixture(scope="module")
def lm():
    tokenizer = llmcore.Tokenizer.train(iter(["the cat sees a dog, yes or no"] * 9), 290)
    c = models.LlamaConfig(vocab_size=tokenizer.vocab_size, context=24, width=32, layers=2, heads=4)
    return LanguageModel(models.Llama(c, "float32", seed=4), tokenizer)


def twin(lm, context, continuation):
    """Sum of log-probabilities and greediness, one token at a time."""
    total, greedy, ids = 0.0, True, list(context)
    for token in continuation:
        logits = lm.model(np.array([ids])).numpy()[0, -1].astype(np.float64)
        total += logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        greedy &= int(logits.argmax()) == token
        ids.append(token)
    return total, greedy


def test_likelihoods(lm):
    rng = np.random.default_rng(0)
    pairs = [
        (rng.integers(0, 250, a).tolist(), rng.integers(0, 250, b).tolist())
        for a, b in ((1, 1), (5, 3), (12, 7), (2, 9))
    ]
    best = int(lm.model(np.array([[7, 8]])).numpy()[0, -1].argmax())
    pairs.append(([7, 8], [best]))
    told = []
    found = likelihoods(lm.model, pairs, batch_size=2, progress=lambda done, of: told.append((done, of)))
    for got, (context, continuation) in zip(found, pairs, strict=True):
        logprob, greedy = twin(lm, context, continuation)
        assert got.logprob == pytest.approx(logprob, rel=1e-5)
        assert got.greedy == greedy
    assert found[-1].greedy
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert likelihoods(lm.model, pairs, batch_size=5) == found


def test_what_is_too_long_is_read_from_its_end(lm):
    context = list(range(60))
    (got,) = likelihoods(lm.model, [(context, [5, 6])])
    assert got.logprob == pytest.approx(twin(lm, context[-23:], [5, 6])[0], rel=1e-5)
    with pytest.raises(ValueError, match=r"expected a continuation of at most 24 tokens, got 30"):
        likelihoods(lm.model, [([1], list(range(30)))])
    with pytest.raises(ValueError, match="expected tokens in context and continuation of pair 1"):
        likelihoods(lm.model, [([1], [2]), ([1], [])])


def row(**fields):
    return Row(fields, "quiz.jsonl:3")


def test_multiple_choice(lm):
    question, choices = "the cat sees", ["a dog", "no", "yes or"]
    enc = lm.tokenizer.encode_ordinary
    sums = [twin(lm, enc(question), enc(f"{question} {c}")[len(enc(question)) :])[0] for c in choices]
    each = [s / len(c.encode()) for s, c in zip(sums, choices, strict=True)]
    for answer in (0, "B", "yes or"):
        right = {"B": 1, "yes or": 2}.get(answer, answer)
        found = evaluate_task(lm, [row(question=question, choices=choices, answer=answer)])
        assert found["acc"] == float(np.argmax(sums) == right)
        assert found["acc_norm"] == float(np.argmax(each) == right)
    arc = row(question=question, choices={"text": choices, "label": ["1", "2", "3"]}, answer="2")
    assert evaluate_task(lm, [arc])["acc"] == float(np.argmax(sums) == 1)
    many = [row(ctx=question, endings=choices, label=str(i)) for i in (0, 1, 2, 0)]
    found = evaluate_task(lm, many)
    p = sum(np.argmax(sums) == i for i in (0, 1, 2, 0)) / 4
    assert found["acc"] == p
    assert found["acc_stderr"] == pytest.approx(np.sqrt(p * (1 - p) / 3))
    assert found["rows"] == 4


def test_cloze(lm):
    texts = ["the cat sees a dog", "yes or no"]
    enc, want = lm.tokenizer.encode_ordinary, []
    for text in texts:
        before = text.rpartition(" ")[0]
        want.append(twin(lm, enc(before), enc(text)[len(enc(before)) :]))
    found = evaluate_task(lm, [row(text=t) for t in texts])
    assert found["acc"] == np.mean([g for _, g in want])
    assert found["perplexity"] == pytest.approx(np.exp(-np.mean([s for s, _ in want])), rel=1e-5)
    same = evaluate_task(lm, [row(prompt=t.rpartition(" ")[0], completion=" " + t.rpartition(" ")[2]) for t in texts])
    assert same == found


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"question": "a", "choices": ["b", "c"], "answer": 5}, "expected answer a number from 0 to 1"),
        ({"question": "a", "choices": ["b", "c"]}, "expected answer a number from 0 to 1.*got 'None'"),
        ({"question": "a", "choices": ["b", 3], "answer": 0}, "expected at least two choices that are texts"),
        ({"text": "one"}, "expected a text of at least two words, got 'one'"),
        ({"word": "one"}, "prompt and completion; or text; the columns are: word"),
        ({}, "the columns are: none"),
    ],
)
def test_bad_rows_are_named(lm, fields, problem):
    with pytest.raises(ValueError, match=rf"\[eval\] quiz.jsonl:3: .*{problem}" if fields else problem):
        evaluate_task(lm, [row(**fields)])


def test_rows_of_two_kinds(lm):
    with pytest.raises(ValueError, match="expected rows of one kind"):
        evaluate_task(lm, [row(text="a b"), row(question="a", choices=["b", "c"], answer=0)])


def test_texts(lm):
    documents = [b"the cat sees a dog", "né, yes".encode()]
    end = lm.tokenizer.end_of_text
    ids = [end, *lm.tokenizer.encode_ordinary("the cat sees a dog"), end, *lm.tokenizer.encode_ordinary("né, yes"), end]
    nats, count = 0.0, 0
    for start in range(0, len(ids) - 1, 8):
        window = ids[start : start + 9]
        for i in range(1, len(window)):
            if window[i] != end:
                nats -= twin(lm, window[:i], window[i : i + 1])[0]
                count += 1
    found = evaluate_texts(lm, documents, context=8, batch_size=2)
    assert found["tokens"] == count
    assert found["bytes"] == sum(map(len, documents))
    assert found["loss"] == pytest.approx(nats / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(nats / count), rel=1e-5)
    assert found["bpb"] == pytest.approx(nats / np.log(2) / found["bytes"], rel=1e-5)


def test_command(lm, tmp_path, monkeypatch, capsys):
    from llmcore.cli import main

    lm.save(tmp_path / "model")
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": "a", "choices": ["b", "c"], "answer": 0}) + "\n")
    (tmp_path / "text.txt").write_text("the cat sees a dog")
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "cache"))
    given = [
        "eval",
        "-m",
        str(tmp_path / "model"),
        "--data",
        str(tmp_path / "text.txt"),
        "--task",
        str(tmp_path / "quiz.jsonl"),
    ]
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found[str(tmp_path / "text.txt")]) == {"loss", "perplexity", "bpb", "tokens", "bytes"}
    assert set(found[str(tmp_path / "quiz.jsonl")]) == {"acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "rows"}
    assert main(given) == 0
    assert "acc_norm" in capsys.readouterr().out
    assert main(["eval", "-m", str(tmp_path / "model")]) == 2
    assert "expected --data with texts, or --task" in capsys.readouterr().err


@pytest.mark.peers
def test_lm_evaluation_harness(lm, tmp_path):
    """The real client runs a task of its own kind from a local file."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    from llmcore.evaluate.harness import HarnessLM

    rows = [{"q": f"the cat {i}", "options": ["yes", "no dog"], "gold": i % 2} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "quiz.yaml").write_text(
        "task: quiz\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "
        f"{tmp_path}/rows.jsonl\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{q}}"\ndoc_to_choice: "{{options}}"\ndoc_to_target: "{{gold}}"\n'
        "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    done = lm_eval.simple_evaluate(HarnessLM(lm), tasks=["quiz"], task_manager=manager, bootstrap_iters=0)
    ours = evaluate_task(lm, [row(question=r["q"], choices=r["options"], answer=r["gold"]) for r in rows])
    assert done["results"]["quiz"]["acc,none"] == pytest.approx(ours["acc"])
    assert done["results"]["quiz"]["acc_norm,none"] == pytest.approx(ours["acc_norm"])
    harness = HarnessLM(lm)
    assert harness.loglikelihood_rolling([Asked("the cat sees a dog")])[0] < 0
    assert isinstance(harness.generate_until([Asked("the cat", {"until": ["\n"], "max_gen_toks": 4})])[0], str)


class Asked:
    def __init__(self, *args):
        self.args = args


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"question": "q", "choices": [" ", "a"], "answer": 0}, "expected at least two choices that are texts"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "expected at least two choices that are texts"),
        ({"question": "q", "choices": ["x", "a"], "answer": "²"}, "expected answer a number from 0 to 1"),
        ({"question": "q", "choices": ["\ud800", "a"], "answer": 0}, "expected text, got half a surrogate pair"),
        ({"question": "q", "choices": ["x" * 300, "a"], "answer": 0}, "expected answers of at most 24 tokens"),
    ],
)
def test_rows_that_break_what_counts_them(lm, fields, problem):
    with pytest.raises(ValueError, match=rf"\[eval\] quiz.jsonl:3: {problem}"):
        evaluate_task(lm, [row(**fields)])


def test_the_last_word_may_follow_any_space(lm):
    asked = [row(text="the cat\tsees"), row(text="the cat sees\na")]
    same = [row(prompt="the cat", completion="\tsees"), row(prompt="the cat sees", completion="\na")]
    assert evaluate_task(lm, asked) == evaluate_task(lm, same)
