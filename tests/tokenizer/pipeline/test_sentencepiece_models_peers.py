"""The same ids and texts as the `sentencepiece` package, on models that it trained: T5, XLM-R, ALBERT and others."""

import io
import random

import pytest

from llmcore.tokenizer import Tokenizer

pytestmark = pytest.mark.peers

BASE = {"vocab_size": 700, "minloglevel": 2, "character_coverage": 1.0, "model_type": "unigram"}
MODELS = {
    "t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "xlm-r": {"normalization_rule_name": "nmt_nfkc"},
    "albert": {
        "normalization_rule_name": "nmt_nfkc_cf",
        "user_defined_symbols": ["[CLS]", "[SEP]", "(", ".", "the", "\u65e5\u672c", "\u00e9"],
        "control_symbols": ["[MASK]"],
    },
    "bytes": {"byte_fallback": True, "vocab_size": 900, "character_coverage": 0.98},
    "spaces": {"remove_extra_whitespaces": False, "split_by_whitespace": False},
    "characters": {"model_type": "char", "user_defined_symbols": ["ab", "the"], "vocab_size": 150},
    "words": {"model_type": "word", "user_defined_symbols": ["foo"]},
    "bpe": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 900, "user_defined_symbols": ["foo"]},
    "bpe without a prefix": {"model_type": "bpe", "normalization_rule_name": "nfkc_cf", "add_dummy_prefix": False},
}
FANCY = (
    "\uff26\uff55\uff4c\uff4c \u2460\u2461 \ufb01ne caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f389 \u2167 \u00bd"
)
ATOMS = [
    *"abcdetheosn\n\t'.,()[]<>\u2167\u00bd\ufb01\uff21\u00e9\u65e5\u0301\u2581\u00a0\u3000\u200b\0\x01\U0001f389",
    *(
        " ",
        "  ",
        "   ",
        "the ",
        "foo",
        "[CLS]",
        "[MASK]",
        "ab",
        "\ufffd",
        "e\u0301",
        "\u1100\u1161",
        "<s>",
        "<unk>",
        "<0x0A>",
    ),
]


@pytest.mark.parametrize("name", MODELS)
def test_trained_models(name, corpus, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    model, lines = io.BytesIO(), [*corpus[:60_000].split("\n"), *[FANCY] * 20]
    settings = BASE | MODELS[name]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **settings)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model.getvalue())
    ours, generator, words = Tokenizer.load(path), random.Random(name), corpus[:60_000].split(" ")
    assert ours.pattern == "pipeline"
    for _ in range(150):
        choices = generator.choices(ATOMS, k=15) + [" " + word for word in generator.choices(words, k=8)]
        text = "".join(generator.sample(choices, generator.randint(0, 23)))
        ids = theirs.encode(text)
        assert ours.encode_ordinary(text) == ids, text
        # They write an unknown token as a sign of their own, and nothing for a control token.
        known = [id for id in ids if not theirs.is_unknown(id)]
        assert ours.decode(known) == theirs.decode(known)
