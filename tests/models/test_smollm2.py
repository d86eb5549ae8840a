"""A real model, SmolLM2-135M-Instruct as `llmcore pull smollm2-135m-instruct` fetches it, against transformers reading the
same file. Skipped where it was not pulled."""

import math

import numpy as np
import pytest

import llmcore
from llmcore import autograd, hub

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.filterwarnings("default")]
NAME = "smollm2-135m-instruct"

PROMPTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "def fibonacci(n):\n",
    "Once upon a time, in a small village,",
    "The largest planet in the solar system is",
    "import numpy as np\n\n",
    "To bake bread you need",
    "1, 2, 3, 4, 5,",
    "Shakespeare wrote",
    "The opposite of hot is",
    "In 1969, the first",
    "SELECT name FROM users WHERE",
    "Photosynthesis is the process by which",
    "My favourite colour is",
    "Der Himmel ist",
    "The three laws of thermodynamics are",
    "A binary search works by",
    "Dear Sir or Madam,\n\n",
    "She opened the door and",
    "Der schnellste Weg, eine Liste zu sortieren, ist",
]


@pytest.fixture(scope="module")
def path():
    try:
        return hub.resolve(NAME)
    except FileNotFoundError:
        pytest.skip(f"{NAME} was not pulled")


@pytest.fixture(scope="module")
def exact(path):
    return llmcore.load(path, dtype="float32", quantize="none")


@pytest.fixture(scope="module")
def kept(path):
    return llmcore.load(path)


@pytest.fixture(scope="module")
def theirs(path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers reads GGUF with accelerate and gguf only")
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval(), torch


def test_logits_of_transformers(exact, theirs):
    model, torch = theirs
    worst = 0.0
    for prompt in PROMPTS:
        ids = exact.tokenizer.encode(prompt)
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits.numpy()
        worst = max(
            worst, float(np.abs(exact.model(np.array([ids])).numpy() - expected).max() / np.abs(expected).max())
        )
    print(f"largest difference of logits, relative to the largest: {worst:.2g}")
    assert worst < 1e-3


def test_known_probabilities(exact):
    found = {text: p for text, _, p in exact.next_tokens("The capital of France is", k=3)}
    assert found == pytest.approx({" Paris": 0.7725, " the": 0.0645, " London": 0.0125}, abs=5e-4)


def test_greedy_answers_of_transformers(exact, theirs):
    """Its answer is the same if behind each beginning of ours it would write our next token."""
    model, torch = theirs
    same = 0
    for prompt in PROMPTS:
        ids = exact.tokenizer.encode(prompt)
        got = exact.generate(prompt, max_tokens=64, temperature=0, ignore_eos=True).tokens
        assert len(got) == 64
        with torch.no_grad():
            logits = model(torch.tensor([ids + got])).logits[0, len(ids) - 1 : -1]
        same += got == logits.argmax(-1).tolist()
    print(f"identical answers: {same} of {len(PROMPTS)}")
    assert same >= 18


def test_perplexity_of_the_quantized_model(exact, kept):
    """Within 1% of the float32 one, on the language reference of Python."""
    from llmcore import data

    text = b"\n\n".join(data.read_corpus(["python-docs"], 0.01).train[:60])[:60_000].decode(errors="replace")
    scores = [lm.score(text) for lm in (exact, kept)]
    nats = [-sum(p for _, _, p in rows) / len(rows) for rows in scores]
    print(f"perplexity {math.exp(nats[0]):.4f} in float32, {math.exp(nats[1]):.4f} kept quantized")
    assert abs(math.exp(nats[1] - nats[0]) - 1) < 0.01


def test_saved_and_opened_by_transformers(exact, theirs, tmp_path):
    model, torch = theirs
    import transformers

    folder = exact.save(tmp_path / "folder")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "Name three colours."}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert list(ids) == exact.chat_prompt(messages)
    for prompt in PROMPTS[:5]:
        ids = exact.tokenizer.encode(prompt)
        assert tokenizer(prompt)["input_ids"] == ids
        with torch.no_grad(), autograd.no_grad():
            a, b = (m(torch.tensor([ids])).logits.numpy() for m in (loaded, model))
        assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()
