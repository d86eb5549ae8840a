"""Decoders: what becomes of tokens on their way back to text, one token at a time.

`tokenizers` decodes a whole list; each step here holds back what later tokens may change, so that the same steps decode
a list and a stream.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from typing import Any

from llmcore.tokenizer.formats.byte_level import byte_alphabet
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.pipeline.steps import Step, read_replacement, read_step

SCHEMES = ("always", "first", "never")
_BYTE = re.compile(r"<0x([+0-9A-Fa-f][0-9A-Fa-f])>")


class Decoding:
    """One decoder at work on one text. `continues`: whether the text goes on from another, so that its first token is none."""

    fuses = False  # whether what it gives is one token, in parts

    def __init__(self, continues: bool = False):
        self.first = not continues

    def push(self, token: str) -> list[str]:
        """Take a token; give those that are certain now."""
        raise NotImplementedError

    def finish(self) -> list[str]:
        """Give the tokens that were held back."""
        return []

    def spell(self, token: bytes) -> bytes:
        """Return what a token within a text contributes to it, as well as that is defined."""
        text = token.decode(errors="surrogateescape")
        self.first = False
        return "".join([*self.push(text), *self.finish()]).encode(errors="surrogateescape")


class Spaces(Decoding):
    """No decoder at all: tokens are joined by spaces."""

    def push(self, token: str) -> list[str]:
        given = [token] if self.first else [f" {token}"]
        self.first = False
        return given


class BPE(Decoding):
    """The suffix of a word's last token is a space, but not at the end of the text."""

    def __init__(self, suffix: str, continues: bool = False):
        super().__init__(continues)
        self.suffix = suffix
        self.held: list[str] = []

    def push(self, token: str) -> list[str]:
        given, self.held = self.held, [token]
        return [held.replace(self.suffix, " ") for held in given]

    def finish(self) -> list[str]:
        given, self.held = self.held, []
        return [held.replace(self.suffix, "") for held in given]

    def spell(self, token: bytes) -> bytes:
        return token.replace(self.suffix.encode(), b" ")


class ByteLevel(Decoding):
    """The characters of a token stand for bytes."""

    fuses = True

    def __init__(self, continues: bool = False):
        super().__init__(continues)
        self.bytes = {ord(c): byte for byte, c in enumerate(byte_alphabet())}
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def spell(self, token: bytes) -> bytes:
        text = token.decode(errors="surrogateescape")
        found = [self.bytes.get(ord(c), -1) for c in text]
        return token if -1 in found else bytes(found)

    def push(self, token: str) -> list[str]:
        return [self.decoder.decode(self.spell(token.encode()))]

    def finish(self) -> list[str]:
        return [self.decoder.decode(b"", final=True)]


def _cleanup(text: str) -> str:
    for before, after in (
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ):
        text = text.replace(before, after)
    return text


class WordPiece(Decoding):
    """Tokens have spaces between them, but those with the prefix."""

    def __init__(self, prefix: str, cleanup: bool, continues: bool = False):
        super().__init__(continues)
        self.prefix, self.cleanup = prefix, cleanup

    def push(self, token: str) -> list[str]:
        if not self.first:
            token = token[len(self.prefix) :] if token.startswith(self.prefix) else f" {token}"
        self.first = False
        return [_cleanup(token) if self.cleanup else token]


class Metaspace(Decoding):
    """A character stands for a space; in the first token for nothing."""

    def __init__(self, replacement: str, drops: bool, continues: bool = False):
        super().__init__(continues)
        self.replacement, self.drops = replacement, drops

    def push(self, token: str) -> list[str]:
        space = "" if self.first and self.drops else " "
        self.first = False
        return [token.replace(self.replacement, space)]


class CTC(Decoding):
    """A token that follows its like is left out, as are those that only pad."""

    def __init__(self, pad: str, delimiter: str, cleanup: bool, continues: bool = False):
        super().__init__(continues)
        self.pad, self.delimiter, self.cleanup = pad, delimiter, cleanup
        self.last: str | None = None

    def push(self, token: str) -> list[str]:
        if token == self.last:
            return []
        self.last = token
        token = token.replace(self.pad, "")
        if self.cleanup:
            token = _cleanup(token).replace(self.delimiter, " ")
        return [token] if token else []

    def spell(self, token: bytes) -> bytes:
        self.last = None
        return super().spell(token)


class Replace(Decoding):
    def __init__(self, replace: Callable[[str], str], continues: bool = False):
        super().__init__(continues)
        self.replace = replace

    def push(self, token: str) -> list[str]:
        return [self.replace(token)]


class Strip(Decoding):
    """Up to so many of a character are taken from each end of a token."""

    def __init__(self, content: str, start: int, stop: int, continues: bool = False):
        super().__init__(continues)
        self.content, self.start, self.stop = content, start, stop

    def push(self, token: str) -> list[str]:
        begin, end = 0, len(token)
        while begin < min(self.start, end) and token[begin] == self.content:
            begin += 1
        while end > begin and len(token) - end < self.stop and token[end - 1] == self.content:
            end -= 1
        return [token[begin:end]]


class ByteFallback(Decoding):
    """Tokens such as <0x0A> are bytes: together a text, or else U+FFFD for each."""

    def __init__(self, continues: bool = False):
        super().__init__(continues)
        self.held = bytearray()

    def push(self, token: str) -> list[str]:
        if byte := _BYTE.fullmatch(token):
            self.held.append(int(byte[1], 16))
            return []
        return [*self.finish(), token]

    def finish(self) -> list[str]:
        held, self.held = bytes(self.held), bytearray()
        if not held:
            return []
        try:
            return [held.decode()]
        except UnicodeDecodeError:
            return ["\ufffd"] * len(held)

    def spell(self, token: bytes) -> bytes:
        byte = _BYTE.fullmatch(token.decode(errors="surrogateescape"))
        return bytes([int(byte[1], 16)]) if byte else token


class Fuse(Decoding):
    fuses = True

    def push(self, token: str) -> list[str]:
        return [token]

    def spell(self, token: bytes) -> bytes:
        return token


class WholeStrip(Decoding):
    """Strip of one token that comes in parts."""

    def __init__(self, strip: Strip, continues: bool = False):
        super().__init__(continues)
        self.content, self.start, self.stop = strip.content, 0 if continues else strip.start, strip.stop
        self.held = ""  # characters that may be at the end

    def push(self, token: str) -> list[str]:
        while self.start and token:
            if token[0] != self.content:
                self.start = 0
                break
            self.start, token = self.start - 1, token[1:]
        text = self.held + token
        kept = max(len(text.rstrip(self.content)), len(text) - self.stop)
        self.held = text[kept:]
        return [text[:kept]]

    def finish(self) -> list[str]:
        return []

    def spell(self, token: bytes) -> bytes:
        return token


class Whole(Decoding):
    """Any other step for one token that comes in parts: it waits for the end."""

    def __init__(self, step: Decoding, continues: bool = False):
        super().__init__(continues)
        self.step = step
        self.parts: list[str] = []

    def push(self, token: str) -> list[str]:
        self.parts.append(token)
        return []

    def finish(self) -> list[str]:
        return ["".join([*self.step.push("".join(self.parts)), *self.step.finish()])]

    def spell(self, token: bytes) -> bytes:
        return self.step.spell(token)


Make = Callable[[bool], Decoding]  # of `continues`


class Decoder:
    """A chain of steps."""

    def __init__(self, makes: Iterable[Make]):
        self._makes: list[Make] = []
        fused = False
        for make in makes:
            self._makes.append(_whole(make) if fused else make)
            fused = fused or make(False).fuses
        self._speaking = [make(True) for make in self._makes]
        # Whether a text loses a space at its beginning that the same tokens have within one.
        self.drops_first_space = any(
            isinstance(step, (Spaces, WordPiece))
            or (isinstance(step, Metaspace) and step.drops)
            or (isinstance(step, WholeStrip) and step.content == " " and make(False).start > 0)  # type: ignore[attr-defined]
            for make, step in zip(self._makes, self._speaking, strict=True)
        )

    def decode(self, tokens: Iterable[str]) -> str:
        running = Running(step(False) for step in self._makes)
        return "".join([*map(running.push, tokens), running.finish()])

    def start(self, continues: bool) -> Running:
        return Running(make(continues) for make in self._makes)

    def spell(self, token: str) -> bytes:
        """Return the bytes that a token contributes within a text, as well as that is defined."""
        spelled = token.encode()
        for make in self._makes:
            spelled = make(True).spell(spelled)
        return spelled


class Running:
    """A chain of steps on its way through one text."""

    def __init__(self, steps: Iterable[Decoding]):
        self._steps = list(steps)

    def push(self, token: str) -> str:
        return "".join(self._through(0, [token]))

    def finish(self) -> str:
        text = ""
        for number, step in enumerate(self._steps):
            text += "".join(self._through(number + 1, step.finish()))
        return text

    def _through(self, number: int, tokens: list[str]) -> list[str]:
        for step in self._steps[number:]:
            tokens = [given for token in tokens for given in step.push(token)]
        return tokens


def _whole(make: Make) -> Make:
    step = make(False)
    if isinstance(step, Fuse):
        return make
    if isinstance(step, Strip):
        return lambda continues: WholeStrip(step, continues)
    return lambda continues: Whole(make(continues), continues)


def read_decoder(read: Reader, value: dict | None, where: str = "decoder") -> Decoder:
    """Read the object in a tokenizer.json; null joins tokens with spaces."""
    return Decoder([Spaces] if value is None else read_step(read, value, where, _KINDS))


def _bpe(step: Step) -> list[Make]:
    suffix = step.get("suffix", str)
    return [lambda continues: BPE(suffix, continues)]


def _byte_level(step: Step) -> list[Make]:
    for name in ("add_prefix_space", "trim_offsets", "use_regex"):  # about encoding
        step.get(name, bool, None)
    return [ByteLevel]


def _ctc(step: Step) -> list[Make]:
    pad, delimiter, cleanup = (
        step.get("pad_token", str),
        step.get("word_delimiter_token", str),
        step.get("cleanup", bool),
    )
    return [lambda continues: CTC(pad, delimiter, cleanup, continues)]


def _metaspace(step: Step) -> list[Make]:
    replacement, scheme = step.character("replacement"), step.choice("prepend_scheme", SCHEMES, "always")
    if step.get("add_prefix_space", bool, None) is False and scheme != "never":
        raise step.fail("add_prefix_space", "what prepend_scheme says", False)
    step.get("split", bool, None)
    step.get("str_rep", str, None)
    return [lambda continues: Metaspace(replacement, scheme != "never", continues)]


def _replace(step: Step) -> list[Make]:
    replace = read_replacement(step)
    return [lambda continues: Replace(replace, continues)]


def _sequence(step: Step) -> list[Make]:
    return [make for makes in step.sequence("decoders", _read_makes) for make in makes]


def _read_makes(read: Reader, value: Any, where: str) -> list[Make]:
    return read_step(read, value, where, _KINDS)


def _strip(step: Step) -> list[Make]:
    content, start, stop = step.character("content"), step.count("start"), step.count("stop")
    return [lambda continues: Strip(content, start, stop, continues)]


def _wordpiece(step: Step) -> list[Make]:
    prefix, cleanup = step.get("prefix", str), step.get("cleanup", bool)
    return [lambda continues: WordPiece(prefix, cleanup, continues)]


_KINDS: dict[str, Callable[[Step], list[Make]]] = {
    "BPEDecoder": _bpe,
    "ByteFallback": lambda step: [ByteFallback],
    "ByteLevel": _byte_level,
    "CTC": _ctc,
    "Fuse": lambda step: [Fuse],
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Sequence": _sequence,
    "Strip": _strip,
    "WordPiece": _wordpiece,
}
