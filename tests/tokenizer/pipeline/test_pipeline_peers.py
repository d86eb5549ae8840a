"""Random tokenizer.json documents, of every model, normalizer, pre-tokenizer and decoder, and random texts: the same ids and
the same decoded text as `tokenizers`, with and without special tokens, at once and as a stream."""

import json
import random

import pytest

from llmcore.tokenizer.pipeline.pipeline import Pipeline

pytestmark = pytest.mark.peers

LETTERS = "abc\u00e9\u4e2d<>0xA"
CONTENTS = ["<s>", " x", "ab", "</s>", "[M]", "\u4e2d", "a b", "<unk>", "B"]
ATOMS = [
    *LETTERS * 2,
    " ",
    " ",
    "ab",
    "<s>",
    "</s>",
    "\n",
    "<unk>",
    "B",
    "[M]",
    "e\u0301",
    "\U0001f642",
    "<0x0A>",
    " x",
]
BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


class Maker(random.Random):
    def flip(self, chance=0.5):
        return self.random() < chance

    def word(self, longest=4):
        return "".join(self.choices(LETTERS, k=self.randint(1, longest)))

    def text(self):
        return "".join(self.choice([*ATOMS, self.word(8)]) for _ in range(self.randint(0, 25)))

    def model(self):
        kind = self.choice(["BPE", "WordPiece", "WordLevel", "Unigram"])
        tokens = ["<unk>", *LETTERS, "\u2581a", "\u2581b", "\u2581", *(self.word() for _ in range(60))]
        tokens = [token for token in tokens if self.flip(0.9) or token == "<unk>"]
        if self.flip():
            tokens += [f"<0x{byte:02X}>" for byte in range(256) if self.flip(0.99)]
        tokens = list(dict.fromkeys(tokens))
        if kind == "Unigram":
            vocab = [[token, self.choice([-1.0, -2.0, -3.5, self.uniform(-10, 2)])] for token in tokens]
            vocab += [self.choice(vocab)] * self.flip(0.2)
            return {"type": kind, "unk_id": self.choice([0, 0, 3]), "vocab": vocab, "byte_fallback": self.flip()}
        if kind == "WordPiece":
            tokens = list(dict.fromkeys([*tokens, *("##" + token for token in tokens[1:50])]))
            prefix, most = self.choice(["##", "##", ""]), self.choice([100, 5])
            rules = {"continuing_subword_prefix": prefix, "max_input_chars_per_word": most}
            return {"type": kind, "unk_token": "<unk>", "vocab": {t: i for i, t in enumerate(tokens)}, **rules}
        vocab = {token: id for id, token in enumerate(tokens)}
        if kind == "WordLevel":
            return {"type": kind, "unk_token": "<unk>", "vocab": vocab}
        return {"type": kind, "unk_token": "<unk>", **self.bpe(vocab)}

    def bpe(self, vocab):
        prefix, suffix = self.choice(["", "", "##", "c"]), self.choice(["", "", "</w>"])
        merges = []
        for c in LETTERS:
            for spelling in (prefix + c, c + suffix, prefix + c + suffix):
                vocab.setdefault(spelling, len(vocab))
        for _ in range(120):
            names = list(vocab)
            left, right = self.choice(names), self.choice([name for name in names if name.startswith(prefix)])
            made = left + right[len(prefix) :]
            if len(made) <= 12 and made and not (suffix and suffix in left):
                vocab.setdefault(made, len(vocab))
                merges.append([left, right])
        rules = {name: self.flip(0.4) for name in ("fuse_unk", "byte_fallback", "ignore_merges")}
        spelled = {"continuing_subword_prefix": prefix or None, "end_of_word_suffix": suffix or None}
        return {"vocab": vocab, "merges": merges, "dropout": self.choice([None, 0.0]), **rules, **spelled}

    def normalizer(self, depth=0):
        kinds = ["NFC", "NFD", "NFKC", "Lowercase", "StripAccents", "Nmt", "Bert", "Replace", "Prepend", "Strip"]
        kind = self.choice(kinds + ["Sequence"] * (depth < 2))
        if kind == "Sequence":
            return {"type": kind, "normalizers": [self.normalizer(depth + 1) for _ in range(self.randint(0, 3))]}
        bert = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": self.flip()}
        pattern = self.choice([{"Regex": "[ab]+"}, {"String": " "}, {"Regex": " {2,}"}])
        fields = {
            "Bert": {"type": "BertNormalizer", **bert},
            "Replace": {"pattern": pattern, "content": self.choice(["\u2581", "c", " "])},
            "Prepend": {"prepend": "\u2581"},
            "Strip": {"strip_left": self.flip(), "strip_right": self.flip()},
        }
        return {"type": kind, **fields.get(kind, {})}

    def pre_tokenizer(self, depth=0):
        kinds = ["Whitespace", "WhitespaceSplit", "Metaspace", "ByteLevel", "BertPreTokenizer", "Punctuation", "Digits"]
        kinds += ["UnicodeScripts", "CharDelimiterSplit", "Split", "FixedLength"]
        kind = self.choice(kinds + ["Sequence"] * (depth < 2))
        if kind == "Sequence":
            return {"type": kind, "pretokenizers": [self.pre_tokenizer(depth + 1) for _ in range(self.randint(1, 3))]}
        scheme, behavior = self.choice(["always", "never", "first"]), self.choice(BEHAVIORS)
        fields = {
            "Metaspace": {"replacement": "\u2581", "prepend_scheme": scheme, "split": self.flip()},
            "ByteLevel": {"add_prefix_space": self.flip(), "trim_offsets": True, "use_regex": self.flip()},
            "Punctuation": {"behavior": behavior},
            "Digits": {"individual_digits": self.flip()},
            "CharDelimiterSplit": {"delimiter": "a"},
            "Split": {"pattern": {"Regex": "a|b c"}, "behavior": behavior, "invert": self.flip()},
            "FixedLength": {"length": 3},
        }
        return {"type": kind, **fields.get(kind, {})}

    def decoder(self, depth=0):
        kinds = ["BPEDecoder", "ByteLevel", "WordPiece", "Metaspace", "CTC", "Replace", "Fuse", "Strip", "ByteFallback"]
        kind = self.choice(kinds + ["Sequence"] * 3 * (depth < 2))
        if kind == "Sequence":
            return {"type": kind, "decoders": [self.decoder(depth + 1) for _ in range(self.randint(0, 4))]}
        fields = {
            "BPEDecoder": {"suffix": self.choice(["</w>", "a"])},
            "ByteLevel": {"add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "WordPiece": {"prefix": self.choice(["##", ""]), "cleanup": self.flip()},
            "Metaspace": {"replacement": "\u2581", "prepend_scheme": self.choice(["always", "never"]), "split": True},
            "CTC": {"pad_token": self.choice("ab"), "word_delimiter_token": self.choice("b|"), "cleanup": self.flip()},
            "Replace": {"pattern": {"String": self.choice(["\u2581", "ab"])}, "content": self.choice([" ", "", "x"])},
            "Strip": {"content": self.choice(" a\u2581"), "start": self.randint(0, 2), "stop": 0},
        }
        return {"type": kind, **fields.get(kind, {})}

    def document(self):
        model = self.model()
        known = [pair[0] for pair in model["vocab"]] if isinstance(model["vocab"], list) else list(model["vocab"])
        added, fresh = [], len(known)
        for content in self.sample(CONTENTS, self.randint(0, 5)):
            id = fresh if content not in known else len(known) - 1 - known[::-1].index(content)
            fresh += content not in known
            flags = {name: self.flip(0.2) for name in ("single_word", "lstrip", "rstrip")}
            flags |= {"normalized": self.flip(), "special": self.flip()}
            added.append({"id": id, "content": content, **flags})
        parts = {
            "normalizer": self.choice([None, self.normalizer()]),
            "pre_tokenizer": self.choice([None, self.pre_tokenizer(), self.pre_tokenizer()]),
            "decoder": self.choice([None, self.decoder(), self.decoder(), self.decoder()]),
        }
        return {"version": "1.0", "added_tokens": added, "post_processor": None, "model": model, **parts}


def theirs_or_none(call, *arguments, **options):
    """What a method of theirs returns; None where it fails or panics."""
    try:
        return call(*arguments, **options)
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return None


@pytest.mark.parametrize("seed", range(120))
def test_random_documents(seed):
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    maker = Maker(seed)
    document = maker.document()
    theirs = theirs_or_none(tokenizers.Tokenizer.from_str, json.dumps(document))
    if theirs is None:  # two added tokens of one normal form
        with pytest.raises(ValueError, match="distinct special tokens"):
            Pipeline(document)
        return
    ours = Pipeline(document)
    for _ in range(12):
        text = maker.text()
        encoding = theirs_or_none(theirs.encode, text, add_special_tokens=False)
        if encoding is None:  # where added tokens that take spaces overlap
            continue
        assert ours.encode(text, True) == encoding.ids, text
        ids = maker.choice([encoding.ids, [maker.randrange(ours.vocab_size + 3) for _ in range(15)]])
        for skip in (False, True):
            decoded = theirs_or_none(theirs.decode, ids, skip_special_tokens=skip)
            if decoded is None:
                continue
            kept = [id for id in ids if not (skip and id in ours.special_ids)]
            assert ours.decode_list(kept).decode() == decoded
            stream = ours.stream("replace", False, ours.special_ids if skip else ())
            assert "".join([*map(stream.push, ids), stream.finish()]) == decoded
