"""What is written to GGUF files for the vocabularies of all families: the same ids out of the file, or a refusal. That
llama.cpp gives them too is in tests/models/test_round_trips.py."""

import numpy as np
import pytest

from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.formats.gguf import gguf_differences, gguf_metadata
from llmcore.tokenizer.vocabulary import STRIPS_LEFT, STRIPS_RIGHT, SentencePieceVocabulary, Vocabulary
from support.gguf_files import NORMAL, UNUSED, gguf

NAMED = ["<unk>", "<s>", "</s>"]
FIRST = len(NAMED) + 256  # the id of the first character


def llama(merges: list[str], characters: str = " abcdefgh", **changes) -> SentencePieceVocabulary:
    """A vocabulary as Llama 2 has it in a tokenizer.json. merges: "a b" makes ab, which is the next token if it is new."""
    tokens = [b""] * len(NAMED) + [bytes([b]) for b in range(256)] + [c.encode() for c in characters]
    ids = {token: id for id, token in enumerate(tokens) if id >= FIRST}
    pairs = []
    for merge in merges:
        left, right = (side.replace("_", " ").encode() for side in merge.split(" "))
        if left + right not in ids:
            ids[left + right] = len(tokens)
            tokens.append(left + right)
        pairs.append((ids[left], ids[right]))
    specials = {text: id for id, text in enumerate(NAMED)}
    bytes_known = range(len(NAMED), FIRST)
    v = SentencePieceVocabulary(tokens, pairs, (), bytes_known, 0, special_tokens=specials, begin=(1,))
    return v._replace(**changes)


def fields_of(v, rows: int = 0) -> dict:
    fields = gguf_metadata(v, v.begin[0] if v.begin else None, rows)
    return fields | {
        "tokenizer.ggml.token_type": np.array(fields["tokenizer.ggml.token_type"], np.int32),
        "tokenizer.ggml.scores": np.array(fields.get("tokenizer.ggml.scores", []), np.float32),
    }


def there_and_back(tmp_path, v, rows: int = 0) -> Tokenizer:
    (tmp_path / "a.gguf").write_bytes(gguf(fields_of(v, rows)))
    return Tokenizer.load(tmp_path / "a.gguf")


TEXTS = ["", "a", "abc abc", "  a b", "cab\u00e9 bad\n", "abcabcab", "deadbeef", "<s>a</s>", "\U0001f600 a"]
LEARNED = ["a b", "ab c", "_ a", "d e", "_ abc", "de a", "_ _", "b a", "c a"]
# As transformers lists the merges of a vocabulary with scores: every pair that spells a token.
CONVERTED = ["_ a", "a b", "_a b", "_ ab", "b c", "ab c", "a bc", "_ab c", "_a bc", "_ abc"]


@pytest.mark.parametrize("merges", [LEARNED, CONVERTED])
@pytest.mark.parametrize("prefix", ["always", "never"])
def test_merges_become_scores(tmp_path, merges, prefix):
    v = llama(merges, prefix=prefix, drop_first_space=prefix == "always")
    ours, theirs = Tokenizer(v), there_and_back(tmp_path, v)
    assert theirs.vocabulary.scores
    assert theirs.begin == (1,)
    for text in TEXTS:
        assert theirs.encode(text, "all") == ours.encode(text, "all"), text
        assert theirs.decode(ours.encode_ordinary(text)) == ours.decode(ours.encode_ordinary(text))


def test_merges_that_are_no_scores():
    """b and c are merged first, after which no merge makes abc; scores would."""
    with pytest.raises(ValueError, match=r"\[save\] expected merges that come to the same as scores.* 'abc' otherwise"):
        fields_of(llama(["b c", "a b", "ab c"]))


def test_cuts_at_spaces():
    """They make no difference where tokens hold spaces at their beginnings, which is all that GGUF can say."""
    fields_of(llama(["a b", "_ ab"], split_at_spaces=True))
    with pytest.raises(ValueError, match=r"tokens that hold spaces at their beginnings only.* got 'a '"):
        fields_of(llama(["a _", "a_ b"], split_at_spaces=True))


def test_phi_3(tmp_path):
    """Blanks after its control tokens are theirs, which llama.cpp knows by the model's name."""
    specials = {text: id for id, text in enumerate(NAMED)} | {"<|endoftext|>": FIRST + 9, "<|end|>": FIRST + 10}
    v = llama([], special_tokens=specials, flags={"</s>": STRIPS_RIGHT, "<|end|>": STRIPS_RIGHT})
    assert "phi-3" in fields_of(v)["general.name"]
    theirs = there_and_back(tmp_path, v)
    assert theirs.vocabulary.flags == v.flags
    assert theirs.encode("a<|end|> \n b<|endoftext|> c", "all") == Tokenizer(v).encode(
        "a<|end|> \n b<|endoftext|> c", "all"
    )
    with pytest.raises(ValueError, match=r"no lstrip, rstrip or single_word of added tokens.* got one of '</s>'"):
        fields_of(v._replace(flags={"</s>": STRIPS_RIGHT, "<|end|>": STRIPS_LEFT}))


def test_tokens_of_the_user(tmp_path):
    """They are found before a space comes in front, and written with the spaces that they hold in a text."""
    v = llama(["a b"], added_tokens={"[x  y]": FIRST + 10})
    fields = fields_of(v)
    assert fields["tokenizer.ggml.tokens"][FIRST + 10] == "[x  y]"
    assert there_and_back(tmp_path, v).encode("ab[x  y]ab") == Tokenizer(v).encode("ab[x  y]ab")
    fields["tokenizer.ggml.tokens"][FIRST + 10] = (
        "[x\u2581\u2581y]"  # as no text is when llama.cpp looks for such tokens
    )
    (tmp_path / "spelled.gguf").write_bytes(gguf(fields))
    spelled = Tokenizer.load(tmp_path / "spelled.gguf")
    assert (spelled.added_tokens, spelled.token_bytes(FIRST + 10)) == ({}, b"[x  y]")
    with pytest.raises(ValueError, match=r"found after the space before a text.* got '\[x\]'"):
        fields_of(llama([], symbols={"[x]": FIRST + 9}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"flags": {"</s>": STRIPS_RIGHT}}, ["the ASCII ones only"]),
        ({"prefix": "first"}, ["after each control token too"]),
        ({"prefix": "first", "prefix_unless_space": True}, ["after each control token too", "that begins with one"]),
    ],
)
def test_what_differs_is_said(changes, words):
    found = gguf_differences(llama([], **changes))
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))


def test_what_differs_of_byte_level_vocabularies():
    v = Vocabulary([bytes([b]) for b in range(256)], [], "qwen2", normalizer="NFC")
    assert ["NFC" in sentence for sentence in gguf_differences(v)] == [True]
    assert "cl100k" in gguf_differences(v._replace(pattern="cl100k", normalizer=None))[0]
    assert "combining marks" in gguf_differences(v._replace(pattern="o200k", normalizer=None))[0]


def test_rows_beyond_the_tokens(tmp_path):
    """llama.cpp wants as many tokens as the embedding has rows."""
    fields = fields_of(llama([]), FIRST + 12)
    assert fields["tokenizer.ggml.tokens"][-3:] == ["[unused268]", "[unused269]", "[unused270]"]
    assert fields["tokenizer.ggml.token_type"][-4:].tolist() == [NORMAL, UNUSED, UNUSED, UNUSED]
    assert len(fields["tokenizer.ggml.scores"]) == FIRST + 12
    assert there_and_back(tmp_path, llama([]), FIRST + 12).decode([FIRST + 11]) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"byte_tokens": []}, "tokens for all of the 256 bytes"),
        ({"begin": (1, 2)}, "at most one token before and after a text"),
        ({"end": (1, 2)}, "at most one token before and after a text"),
        ({"added_tokens": {"<0x0A>": FIRST + 9}}, "two that are spelled '<0x0A>'"),
    ],
)
def test_what_gguf_cannot_say(changes, message):
    with pytest.raises(ValueError, match=rf"^\[save\] .*{message}"):
        fields_of(llama([], **changes))


def test_what_comes_after_a_text(tmp_path):
    theirs = there_and_back(tmp_path, llama([], end=(2,)))
    assert (theirs.begin, theirs.end) == ((1,), (2,))
