"""DRY, XTC and GBNF as llama.cpp's own samplers, for the same tokenizer."""

import ctypes
import json

import numpy as np
import pytest

from llmcore.generate.engine.constrain import Vocabulary
from llmcore.generate.engine.dry import Breakers, penalties, without_top
from llmcore.generate.engine.params import SamplingParams
from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.formats.gguf_patterns import PRE
from support.gguf_files import gguf, vocabulary_metadata

pytestmark = pytest.mark.peers
TEXT = 'the cat: a mat\nthe *cat* sat: "b"\n' * 20


@pytest.fixture(scope="module")
def llama_cpp():
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(iter([TEXT]), 300, pattern=PRE["gpt-2"].pattern)


@pytest.fixture(scope="module")
def vocab(llama_cpp, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "a.gguf"
    sizes = {"context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 32}
    heads = {"llama.attention.head_count": np.uint32(2), "llama.attention.layer_norm_rms_epsilon": np.float32(1e-5)}
    fields = {f"llama.{name}": np.uint32(value) for name, value in sizes.items()} | heads
    path.write_bytes(gguf({"general.architecture": "llama", **fields, **vocabulary_metadata(tokenizer, "gpt-2")}))
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    yield llama_cpp.llama_model_get_vocab(model.model)
    model.close()


def applied(llama_cpp, sampler, logits, size):
    """{token: its logit} after a sampler."""
    data = (llama_cpp.llama_token_data * size)()
    for i, logit in enumerate(logits):
        data[i].id, data[i].logit, data[i].p = i, logit, 0.0
    tokens = llama_cpp.llama_token_data_array(data, size, -1, False)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(tokens))
    return {tokens.data[i].id: tokens.data[i].logit for i in range(tokens.size)}


@pytest.mark.parametrize("breakers", [("\n", ":", '"', "*"), (), ("cat",), ("e c", "b")])
def test_dry(llama_cpp, tokenizer, vocab, breakers):
    rng, size, some = np.random.default_rng(len(breakers)), tokenizer.vocab_size, 0
    spelled = Breakers(tokenizer.token_bytes, breakers)
    texts = (ctypes.c_char_p * max(len(breakers), 1))(*(b.encode() for b in breakers))
    known = sorted(set(tokenizer.encode(TEXT)))
    for _ in range(60):
        few = rng.choice(known, rng.integers(1, 5))
        tokens = rng.choice(few, rng.integers(0, 50)).tolist()
        base, allowed, last = float(rng.choice([1.0, 1.75])), int(rng.integers(1, 5)), int(rng.choice([0, 9]))
        sampler = llama_cpp.llama_sampler_init_dry(vocab, 0.8, base, allowed, last or 64, texts, len(breakers))
        for t in tokens:
            llama_cpp.llama_sampler_accept(sampler, t)
        want = {t: -v for t, v in applied(llama_cpp, sampler, np.zeros(size), size).items() if v}
        llama_cpp.llama_sampler_free(sampler)
        p = SamplingParams(
            dry_multiplier=0.8, dry_base=base, dry_allowed_length=allowed, dry_range=last, dry_breakers=breakers
        )
        assert penalties(tokens, p, spelled) == pytest.approx(want)
        some += bool(want)
    assert some > 10


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.3])
def test_xtc(llama_cpp, threshold):
    rng = np.random.default_rng(1)
    for _ in range(40):
        probs = rng.dirichlet(np.full(rng.integers(2, 30), rng.choice([0.2, 1.0])))
        sampler = llama_cpp.llama_sampler_init_xtc(1.0, threshold, 1, 0)
        left = applied(llama_cpp, sampler, np.log(probs + 1e-30), len(probs))
        llama_cpp.llama_sampler_free(sampler)
        kept = without_top(probs, threshold, ())
        assert set(left) == (set(range(len(probs))) if kept is None else set(np.flatnonzero(kept).tolist()))


GRAMMARS = [
    'root ::= ("a" | "b" root)+ "c"{0} [^a-c]{1,2}',
    'root ::= item{2,3}\nitem ::= [a-c] [0-9]? ("-" | ";")',
    'root ::= "a" root "b" | .+ "c"',
    'root ::= [-\\]a] "\\x41"? ([^\\n"]* "\\"")?',
]


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_gbnf(llama_cpp, tokenizer, vocab, grammar):
    pytest.importorskip("llguidance")
    rng, end = np.random.default_rng(0), tokenizer.end_of_text
    ours = Vocabulary(tokenizer, tokenizer.vocab_size, [end]).grammar(grammar=grammar)
    texts = ["".join(rng.choice([*'abcA1-;]"\n'], rng.integers(0, 7))) for _ in range(40)]
    written = 0
    for text in [*texts, "aabc", "bb]", "bab-", "a-b1;", "a;b;c3-", "abcb", "aab\ncbb", "aA", ']x"', "-"]:
        sampler = llama_cpp.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
        accepted = True
        for token in [*(tokenizer.encode(c)[0] for c in text), end]:
            accepted = applied(llama_cpp, sampler, np.zeros(tokenizer.vocab_size), tokenizer.vocab_size)[token] == 0
            if not accepted or token == end:
                break
            llama_cpp.llama_sampler_accept(sampler, token)
        llama_cpp.llama_sampler_free(sampler)
        tokens = [*(tokenizer.encode(c)[0] for c in text), end]
        assert ours.constraint().begins_with(tokens) == accepted, json.dumps(text)
        written += accepted
    assert written > 1
