"""The Tokenizer: text to ids and back."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmcore import _core
from llmcore.errors import ArgumentTypeError, Error
from llmcore.tokenizer.arguments import check_specials, id_array
from llmcore.tokenizer.encoders import make_encoder
from llmcore.tokenizer.extend import extended
from llmcore.tokenizer.normalize import nfc_bytes
from llmcore.tokenizer.patterns import from_argument
from llmcore.tokenizer.stream import StreamDecoder
from llmcore.tokenizer.training import feed, replace_surrogates
from llmcore.tokenizer.vocabulary import (
    AnyVocabulary,
    Pattern,
    PipelineVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
    vocabulary_digest,
)

if TYPE_CHECKING:
    import numpy as np

    from llmcore.tokenizer.encoders import Encoder
    from llmcore.tokenizer.merges import PieceMerges

END_OF_TEXT = "<|endoftext|>"
SENTENCEPIECE = "sentencepiece"
FILE_NAME = "tokenizer.json"
_SHOWN = 4  # special tokens in a repr

Text = str | bytes
AllowedSpecial = Collection[str] | Literal["all"]


class Tokenizer:
    """A tokenizer. Make one with `Tokenizer.train(...)`, which is BPE, or `Tokenizer.load(path)`.

    Byte-level: every sequence of bytes can be encoded, and `decode_bytes(encode_ordinary(data)) == data` whatever the
    data (with a loaded vocabulary that lacks some of the 256 bytes, text that has them is a ValueError): text that is
    not valid UTF-8 is tokenized as bytes.

    SentencePiece-style (Llama 2, Mistral, Gemma; only loaded): a space may be put before the text and is left out of
    what is decoded, and what no token spells becomes tokens of its bytes, also where it is not valid UTF-8. So the same
    holds, but for these: U+2581, which comes back as a space; a vocabulary without tokens for the bytes, where unknown
    characters become one unknown token; a vocabulary that puts no space before a space (Metaspace), where a text that
    begins with one loses it. Special tokens part a text into stretches that are encoded each as a text of its own, with
    a space before it, as SentencePiece, llama.cpp and Hugging Face's `legacy` tokenizers do; where a tokenizer.json has
    prepend_scheme "first", only the text's beginning gets one.

    Any other tokenizer.json (WordPiece, WordLevel, Unigram; other normalizers, pre-tokenizers and decoders) and any other
    SentencePiece model (Unigram, words, characters, rules) goes through a general pipeline: the same ids and the same
    text as Hugging Face's `tokenizers` and `sentencepiece`, slower. There, bytes that are not
    UTF-8 become U+FFFD, decoding need not give the text that was encoded, and text is a ValueError where the model has
    neither tokens for it nor an unknown token (`tokenizers` drops some of it).

    In a str, a lone surrogate, which has no UTF-8, is replaced by U+FFFD as tiktoken does. A tokenizer never changes,
    may be used by many threads at once, can be pickled, and equals another that gives the same ids to every text by the
    same rules.
    """

    def __init__(self, vocabulary: AnyVocabulary):
        """ValueError if the vocabulary contradicts itself: see `Vocabulary`, `SentencePieceVocabulary` and
        `PipelineVocabulary`."""
        v = vocabulary
        self._bpe: Encoder = make_encoder(v)
        self._begin, self._end = tuple(v.begin), tuple(v.end)
        self._flags: dict[str, int] = {}
        self._pipeline: PipelineVocabulary | None = None
        self._sentencepiece: SentencePieceVocabulary | None = None  # without what _core keeps
        self._normalizer: str | None = None
        self._special_tokens: dict[str, int] = self._bpe.specials
        self._special_ids = frozenset(self._special_tokens.values())
        if isinstance(v, PipelineVocabulary):
            assert not isinstance(self._bpe, _core.BPE)
            self._pipeline, self._added, self._special_ids = v, self._bpe.added_tokens, self._bpe.special_ids
        else:
            self._flags, self._added = dict(v.flags), dict(v.added_tokens)
            if isinstance(v, SentencePieceVocabulary):
                self._sentencepiece = v._replace(tokens=[], merges=None if v.merges is None else [])
            else:
                self._normalizer = v.normalizer
        self._encode = self._bpe.encode
        for id in (*self._begin, *self._end):
            if not self._bpe.token_bytes(id):
                raise Error("tokenizer", expected="tokens before and after a text that exist", got=f"id {id}")

    # ---- making one ------------------------------------------------------------------------------------

    @classmethod
    def train(
        cls,
        files_or_iterator: str | os.PathLike | list[str | os.PathLike] | Iterable[Text],
        vocab_size: int,
        pattern: str | Sequence[str] = "cl100k",
        special_tokens: Collection[str] = (END_OF_TEXT,),
        progress: Callable[[int, int], object] | None = None,
        field: str = "text",
    ) -> Tokenizer:
        """Learn a vocabulary by byte-pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909).

        files_or_iterator: a path, a list or tuple of paths, or an iterator of texts (str or bytes). A path is a
            text file, a .jsonl or .parquet file, each also as .gz or .zst, a folder of such files or a glob.
            Documents are separate: no token is learned across two.
        vocab_size: how many tokens in all: 256 bytes, one per merge, and the special tokens, whose ids are
            the last. It comes out smaller if the text has too few distinct pairs to merge.
        pattern: how text is cut into pieces first; tokens never cross pieces. One of gpt2, cl100k, llama3,
            qwen2, qwen35, nanochat, o200k, smollm, deepseek; or a regular expression, whose matches are pieces,
            as is what lies between two of them; or a list of these, each of which cuts the pieces of the one
            before. Expressions run in linear time, with what Oniguruma and PyPI `regex` read alike: classes with
            ranges, \\p{..}, \\s, \\d, \\w, && and negation, groups, (?i:...) over ASCII, alternatives,
            greedy and lazy quantifiers, possessive ones and lookaheads of one character. ValueError names
            anything else.
        special_tokens: strings that become one token each. Where they occur in the training text they are
            left out.
        progress: called now and then as progress(tokens so far, tokens wanted); it may raise to stop.
        field: of the objects in JSONL, or the column of parquet, that holds the text.

        The result depends only on the text: the most frequent pair is merged first, among equals the one with
        the smaller ids. Pieces are counted on `llmcore.num_threads()` threads; memory grows with the number of
        distinct ones, whatever the size of the files. ValueError for a vocab_size below
        256 plus the number of special tokens, for no text at all, and for an unknown pattern.
        """
        pattern = from_argument(pattern, "train")
        check_specials(special_tokens, "train")
        specials = list(special_tokens)
        for special in specials:
            if len(special.encode()) == 1:
                raise Error("train", expected="special tokens of at least two bytes", got=repr(special))
        if isinstance(vocab_size, bool) or not hasattr(vocab_size, "__index__"):
            raise ArgumentTypeError("train", expected="vocab_size to be an integer", got=repr(vocab_size))
        least = 256 + len(specials)
        if vocab_size < least:
            raise Error(
                "train",
                expected=f"vocab_size of at least {least} (256 bytes and {len(specials)} special tokens)",
                got=vocab_size,
            )
        if vocab_size > 1 << 31:
            raise Error("train", expected="vocab_size of at most 2147483648", got=vocab_size)
        trainer = _core.BPETrainer(pattern, specials)
        feed(trainer, files_or_iterator, field)
        if trainer.num_pieces == 0:
            raise Error("train", expected="text to learn from", got="none")
        tokens, merges = trainer.train(vocab_size - len(specials), progress)
        special_ids = {special: len(tokens) + number for number, special in enumerate(specials)}
        return cls(Vocabulary(tokens, merges, pattern, special_tokens=special_ids))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        pattern: str | Sequence[str] | None = None,
        special_tokens: dict[str, int] | Collection[str] | None = None,
    ) -> Tokenizer:
        """Read a tokenizer.json or a SentencePiece `.model` of any kind, a model's `.gguf` file, a tekken.json, tiktoken's
        ranks (`.tiktoken`, or a `.model` as Llama 3's) (BPE in these three), or a directory that holds a tokenizer.json,
        or else one of the others or a vocab.json with merges.txt, of a tokenizer_class that is known.

        All but tiktoken's files know their pattern, special tokens and added tokens. For these, give `pattern`, and
        `special_tokens` as {token: id} or as a list, which gets the ids after the last. From a directory, the tokens
        that its tokenizer_config.json, special_tokens_map.json and added_tokens.json name are read too, as transformers
        reads them. What a file puts before and after every text is in `begin` and `end`; a tokenizer.json's `truncation`
        and `padding` are settings of a call, and are left out. ValueError, naming the file and the field, for a file that
        is broken or that needs what is not supported.
        """
        from llmcore.tokenizer import formats  # here, so that importing llmcore stays quick

        path = Path(path)
        if path.is_file() and formats.is_tiktoken(path):
            if pattern is None:
                raise Error("load", path, expected="pattern=... (tiktoken's files do not name their own)")
            if special_tokens is not None:
                check_specials(special_tokens, "load")
        elif pattern is not None or special_tokens is not None:
            raise Error("load", path, expected="no pattern and special_tokens: the file has its own")
        with formats.collector_paused():
            vocabulary: AnyVocabulary
            if pattern is not None:
                specials = special_tokens if special_tokens is not None else ()
                vocabulary = formats.read_tiktoken(path, from_argument(pattern, "load"), specials)
            else:
                vocabulary = formats.read_folder(path) if path.is_dir() else formats.read_file(path)
            try:
                return cls(vocabulary)
            except ValueError as error:
                raise Error("load", f"{path}: {Error.of(error).message}") from None

    def save(self, path: str | os.PathLike) -> Path:
        """Write a tokenizer.json that Hugging Face's `tokenizers` reads too and gives the same ids, or a `.tiktoken`
        file, or a SentencePiece `.model` where that was read and neither can express it; returns its path.

        A path that ends in .json, .model or .tiktoken is the file's; any other is a directory's, made if need be. The file is
        replaced as a whole or not at all. Rules without a merge list (tiktoken's, and scores) are written to a
        tokenizer.json as every pair of tokens that spells a token, in order of rank, which is how transformers converts
        them. A `.tiktoken` file holds the ordinary tokens alone. ValueError for what the format cannot express.
        """
        from llmcore.tokenizer import formats

        path = Path(path)
        if path.suffix == ".tiktoken":
            formats.write_tiktoken(path, self.vocabulary, self._bpe)
            return path
        vocabulary = self.vocabulary
        if path.suffix not in (".json", ".model") or path.is_dir():
            path = path / formats.file_name(vocabulary)
        if not isinstance(vocabulary, PipelineVocabulary) and vocabulary.merges is None:
            bpe = self._bpe
            if isinstance(bpe, _core.SentencePieceBPE) and (bpe.has_ties or bpe.has_fragments):
                what = "tokens of equal score" if bpe.has_ties else "characters in tokens that are no tokens"
                raise Error("save", expected="scores that a list of merges can express", got=what)
            vocabulary = vocabulary._replace(merges=self._bpe.merges)
        formats.write_tokenizer_json(path, vocabulary)
        return path

    # ---- text to ids -----------------------------------------------------------------------------------

    def encode(self, text: Text, allowed_special: AllowedSpecial = ()) -> list[int]:
        """Return the ids of a text. An added token is one id wherever it occurs.

        A special token in the text is refused with a ValueError, because text from outside could otherwise
        forge the structure of a prompt, unless it is in `allowed_special` (a set of special tokens, or
        "all"). Where several could begin at one place, the longest counts.
        """
        if allowed_special == () and self._normalizer is None:  # the usual case, by the shortest way
            try:
                return self._encode(text, allowed_special)
            except UnicodeEncodeError:
                pass
        return self._with_utf8(self._encode, text, self._policy(allowed_special))

    def encode_ordinary(self, text: Text) -> list[int]:
        """Return the ids of a text in which special tokens are plain text like any other; added tokens are still found."""
        return self._with_utf8(self._encode, text, None)

    def encode_array(self, text: Text, allowed_special: AllowedSpecial = ()) -> np.ndarray:
        """Do as `encode`, giving a uint32 array of shape (T,): the fast way for long texts, which are shared among
        `llmcore.num_threads()` threads."""
        return self._with_utf8(self._bpe.encode_array, text, self._policy(allowed_special))

    def encode_offsets(self, text: Text, allowed_special: AllowedSpecial = ()) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of a text as `encode_array` gives them, and where each token begins, int64 of shape (T,): at which
        character of a str, at which byte of bytes.

        A token that begins inside a character counts from that character, as in tiktoken's
        decode_with_offsets, so that neighbours may begin at the same one. (Surrogates of a str count as what
        they are replaced by.) ValueError where the tokens do not spell the text, byte for byte.
        """
        return self._with_utf8(self._bpe.encode_offsets, text, self._policy(allowed_special))

    def encode_batch(self, texts: Iterable[Text], allowed_special: AllowedSpecial = ()) -> list[list[int]]:
        """Encode each of several texts, on `llmcore.num_threads()` threads."""
        return self._encode_batch(texts, allowed_special, arrays=False)

    def encode_batch_arrays(self, texts: Iterable[Text], allowed_special: AllowedSpecial = ()) -> list[np.ndarray]:
        """Do as `encode_batch`, giving a uint32 array for each text: the fast way, as lists are made by one thread."""
        return self._encode_batch(texts, allowed_special, arrays=True)

    def encode_ordinary_batch(self, texts: Iterable[Text]) -> list[np.ndarray]:
        """Do as `encode_batch_arrays`, with special tokens as plain text like any other: the fast way for documents."""
        return self._encode_batch(texts, None, arrays=True)

    def count(self, text: Text, allowed_special: AllowedSpecial = ()) -> int:
        """Return how many ids `encode` gives."""
        return self._with_utf8(self._bpe.count, text, self._policy(allowed_special))

    # ---- ids to text -----------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], errors: str = "replace", skip_special_tokens: bool = False) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD, or what `errors` says, as in
        bytes.decode. skip_special_tokens: leaves special tokens out."""
        return self.decode_bytes(ids, skip_special_tokens).decode("utf-8", errors)

    def decode_bytes(self, ids: Iterable[int], skip_special_tokens: bool = False) -> bytes:
        """Return the bytes of ids: a list, or an integer array of shape (T,); without the space that they begin with, where
        that was put there by `encode`. An id that no token has, such as those of the rows that a model has beyond its
        tokens, gives nothing. ValueError for a number that cannot be an id (negative, or 2^31 and more)."""
        if hasattr(ids, "__array__") or hasattr(ids, "numpy"):
            array = id_array(ids)
            if not skip_special_tokens:
                return self._bpe.decode_array(array)
            ids = array.tolist()
        elif isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
            raise ArgumentTypeError("decode", expected="a list or an array of ids", got=type(ids).__name__)
        ids = ids if isinstance(ids, list) else list(ids)
        if skip_special_tokens:
            ids = [id for id in ids if not hasattr(id, "__index__") or int(id) not in self._special_ids]
        return self._bpe.decode_list(ids)

    def stream_decoder(
        self, errors: str = "replace", continues: bool = False, skip_special_tokens: bool = False
    ) -> StreamDecoder:
        """Return a decoder that takes ids one by one; the texts it gives, joined, are `decode(ids, errors,
        skip_special_tokens)`. Where decoding drops the space that a text begins with (SentencePiece-style
        vocabularies), a decoder that `continues` a text keeps it."""
        skipped = self._special_ids if skip_special_tokens else frozenset()
        if not isinstance(self._bpe, _core.BPE):
            return self._bpe.stream(errors, continues, skipped)
        return StreamDecoder(self._bpe.token_bytes, self.drops_first_space and not continues, errors, skipped)

    # ---- what it is ------------------------------------------------------------------------------------

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of one token; b"" for an id that no token has. ValueError for a number that cannot be an id."""
        return self._bpe.token_bytes(id)

    @property
    def drops_first_space(self) -> bool:
        """Say whether `decode` leaves out the space that a text begins with (not so where text is byte-level)."""
        return self._bpe.drops_first_space

    @property
    def spells_alike(self) -> bool:
        """Say whether every token comes out as `token_bytes` says, wherever in a text it stands but at the beginning."""
        return isinstance(self._bpe, _core.BPE)

    @property
    def ends_at_line_ends(self) -> bool:
        """Say whether a token ends at every line end between an ASCII character that is not a space and an ASCII letter or
        digit, so that the parts of a text that end there may be encoded one by one: so by every named pattern."""
        return self._bpe.ends_at_line_ends

    @property
    def vocab_size(self) -> int:
        """Return the largest id plus one: how many rows an embedding needs."""
        return self._bpe.vocab_size

    @property
    def special_tokens(self) -> dict[str, int]:
        """Return the ids of the control tokens (and of the unknown token), which no plain text becomes: see `encode`."""
        return dict(self._special_tokens)

    @property
    def added_tokens(self) -> dict[str, int]:
        """Return the ids of the tokens that are found in every text before anything else, and are no special tokens, such
        as <think>. (SentencePiece's user-defined symbols are among them.)"""
        symbols = self._sentencepiece.symbols if self._sentencepiece is not None else {}
        return self._added | symbols

    @property
    def end_of_text(self) -> int | None:
        """Return the id of <|endoftext|>, or None if there is no such token."""
        return self._special_tokens.get(END_OF_TEXT)

    @property
    def begin(self) -> tuple[int, ...]:
        """The ids that a model expects before a text, such as Llama's <|begin_of_text|>; `encode` leaves them out."""
        return self._begin

    @property
    def end(self) -> tuple[int, ...]:
        """The ids that a model expects after a whole text."""
        return self._end

    @property
    def pattern(self) -> Pattern:
        """The split pattern: its name, an expression, or a tuple of these, one for each stage; or "sentencepiece", or
        "pipeline"."""
        return SENTENCEPIECE if self._sentencepiece is not None else self._bpe.pattern

    @property
    def merges(self) -> list[tuple[int, int]]:
        """Return the pairs of ids that merge, in order of rank (none for a pipeline)."""
        return self._bpe.merges

    @property
    def vocabulary(self) -> AnyVocabulary:
        """Return all that makes this tokenizer, as a copy: Tokenizer(tokenizer.vocabulary) equals it."""
        if not isinstance(self._bpe, _core.BPE):
            assert self._pipeline is not None
            return self._pipeline._replace(document=copy.deepcopy(self._pipeline.document))
        tokens = self._bpe.ordinary_tokens
        if self._sentencepiece is not None:
            by_score = self._sentencepiece.merges is None
            return self._sentencepiece._replace(tokens=tokens, merges=None if by_score else self._bpe.merges)
        merges = None if self._bpe.by_rank else self._bpe.merges
        return Vocabulary(
            tokens,
            merges,
            self.pattern,
            self._bpe.whole_piece_first,
            self.special_tokens,
            dict(self._added),
            self._flags,
            self._begin,
            self._end,
            self._normalizer,
        )

    @property
    def digest(self) -> str:
        """Return 32 hex digits that differ where the ids of some text may: data recognises its tokenizer by them. The
        same for a tokenizer that was saved and loaded."""
        return vocabulary_digest(self._pipeline or self.vocabulary, self._bpe.merges)

    def explain_merges(self, text: Text) -> list[PieceMerges]:
        """Show how the tokens of a word are made, merge by merge: see `PieceMerges`. ValueError for more than 1000 bytes."""
        from llmcore.tokenizer.merges import explain_merges

        return explain_merges(self.vocabulary, self.merges, self.encode_ordinary, text)

    def __repr__(self) -> str:
        shown = [f"{text!r}: {i}" for text, i in list(self.special_tokens.items())[:_SHOWN]]
        if len(self.special_tokens) > _SHOWN:
            shown.append(f"and {len(self.special_tokens) - _SHOWN} more")
        special = f"{{{', '.join(shown)}}}"
        return f"Tokenizer(vocab_size={self.vocab_size}, pattern={self.pattern!r:.80}, special_tokens={special})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        return self._bpe is other._bpe or (self._pipeline or self.vocabulary) == (other._pipeline or other.vocabulary)

    def __hash__(self) -> int:
        return hash((self.vocab_size, self.pattern, tuple(self._special_tokens)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self._pipeline or self.vocabulary,)

    def with_tokens(self, names: Iterable[str], special: bool = True) -> Tokenizer:
        """Return a tokenizer with new tokens, whose ids come after all others; names that are special or added tokens
        already are left out. special: see `special_tokens`; else they are found in every text: see `added_tokens`."""
        new = [name for name in dict.fromkeys(names) if name not in self.special_tokens and name not in self._added]
        return Tokenizer(extended(self.vocabulary, self.vocab_size, new, special)) if new else self

    # ---- helpers ---------------------------------------------------------------------------------------

    def _encode_batch(self, texts: Iterable[Text], allowed_special: AllowedSpecial | None, arrays: bool) -> list:
        if isinstance(texts, (str, bytes)):
            raise ArgumentTypeError("encode_batch", expected="a list of texts", got="one text; use encode")
        texts, policy = list(texts), None if allowed_special is None else self._policy(allowed_special)
        try:
            if self._normalizer:
                method = self._bpe.encode_array if arrays else self._encode
                return [self._with_utf8(method, text, policy) for text in texts]
            return self._bpe.encode_batch(texts, policy, arrays)
        except UnicodeEncodeError:
            return self._bpe.encode_batch([replace_surrogates(text) for text in texts], policy, arrays)

    def _with_utf8(self, method: Callable, text: Text, policy: bool | list[str] | None) -> Any:
        if self._normalizer and isinstance(text, (str, bytes)):
            text = replace_surrogates(text)
            data = text if isinstance(text, bytes) else text.encode()
            if nfc_bytes(data) != data:
                return self._encode_normalized(method, data, policy)
        try:
            return method(text, policy)
        except UnicodeEncodeError:
            return method(replace_surrogates(text), policy)

    def _encode_normalized(self, method: Callable, data: bytes, policy: bool | list[str] | None) -> Any:
        """Join what the method gives for the normal form of what lies between the tokens that are found in raw text, and
        for those."""
        import numpy as np

        bpe = self._bpe
        assert isinstance(bpe, _core.BPE)
        if method == bpe.encode_offsets:
            raise Error("encode_offsets", expected="text in normal form NFC", got="one that it would change")
        results, at = [], 0
        for begin, end, id in bpe.raw_specials(data, policy):
            results.append(method(nfc_bytes(data[at:begin]), policy, True))
            results.append(
                1 if method == bpe.count else np.full(1, id, np.uint32) if method == bpe.encode_array else [id]
            )
            at = end
        results.append(method(nfc_bytes(data[at:]), policy, True))
        if method == bpe.encode_array:
            return np.concatenate(results)
        return sum(results, 0 if method == bpe.count else [])

    def _policy(self, allowed_special: AllowedSpecial) -> bool | list[str]:
        """Return what _core takes: True for all special tokens, or the list of those allowed."""
        if isinstance(allowed_special, str):
            if allowed_special == "all":
                return True
            raise Error(
                "encode", expected='allowed_special="all" or a set of special tokens', got=f"{allowed_special!r}"
            )
        names = list(allowed_special)
        for name in names:
            if name not in self._special_tokens:
                raise Error("encode", expected="special tokens in allowed_special", got=repr(name))
        return names
