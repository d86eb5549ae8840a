"""Completions that have a form: a JSON schema, a regular expression, one of several texts, or a grammar. llguidance (extra
`constrain`) computes which tokens may come next; the sampling kernel takes its masks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llmcore._fields import either
from llmcore.errors import ArgumentTypeError, Error, StateError
from llmcore.generate.engine.gbnf import to_lark
from llmcore.tokenizer import Tokenizer

_RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w.-]*\s*(::=|:)", re.MULTILINE)

# Between the parts of a JSON text: a space, or a line break and the next line's indent, as in llama.cpp. A model that likes
# blanks would write them for ever. A schema's own "x-guidance" says otherwise.
_BLANKS = r"( |\r?\n[ \t]{0,20})"

# Steps of llguidance's parser for the mask of one token, about 20,000 in a millisecond. Its own 50,000 are too few where
# any token of a large vocabulary may come, character by character, as in GBNF's `.+`; so are its 2,000 ways on at a time.
_MOST_ITEMS = 2_000_000

_SPECIAL = b"\xff"  # before the number of a special token in what llguidance calls bytes


class Grammar:
    """A grammar compiled for a tokenizer. Each of its constraints serves one request."""

    def __init__(self, vocabulary: Vocabulary, form: str, name: str):
        """name: of the option that gave the form. ValueError for one that llguidance does not accept."""
        self._vocabulary = vocabulary
        limits = vocabulary.library.LLParserLimits(step_max_items=_MOST_ITEMS, max_items_in_row=_MOST_ITEMS)
        self._matcher = vocabulary.library.LLMatcher(vocabulary.tokenizer, form, log_level=0, limits=limits)
        if self._matcher.is_error():
            raise _refused(self._matcher.get_error(), name)
        try:
            self.constraint().fill(np.zeros(-(-len(vocabulary.spelled) // 32), np.uint32))
        except _LostError:
            expected = "a form that the model's tokens spell"
            raise Error("constrain", name, expected=expected, got="one that none begins") from None
        except StateError as error:
            raise _refused(error.message, name) from None

    def constraint(self) -> Constraint:
        """Return a constraint for one completion, at its beginning."""
        return Constraint(self._vocabulary, self._matcher.deep_copy())


class Constraint:
    """How far a completion has got in its grammar."""

    def __init__(self, vocabulary: Vocabulary, matcher: Any):
        self._vocabulary, self._matcher = vocabulary, matcher

    def copy(self) -> Constraint:
        """Return another at the same place, which goes its own way."""
        return Constraint(self._vocabulary, self._matcher.deep_copy())

    def begins_with(self, tokens: Sequence[int]) -> bool:
        """Return whether these tokens may come next."""
        return self._matcher.validate_tokens(list(tokens)) == len(tokens)

    def fill(self, mask: np.ndarray) -> None:
        """Set the bits of the tokens that may come next, and no others: mask (ceil(V/32)) uint32."""
        forced = b"" if self._vocabulary.spells_all else self._matcher.compute_ff_bytes()
        forced = forced.partition(_SPECIAL)[0]
        if forced:
            self._fill_forced(forced, mask)
        else:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
            self._check()
            n = min(len(bits), len(mask))
            mask[:n], mask[n:] = bits[:n], 0
        if not mask.any():
            raise _LostError()

    def _fill_forced(self, forced: bytes, mask: np.ndarray) -> None:
        """Do the same where only these bytes may come, which llguidance takes for certain to have tokens."""
        mask[:] = 0
        for i, token in enumerate(self._vocabulary.spelled):
            near = token and (forced.startswith(token) or token.startswith(forced))
            if near and self._matcher.validate_tokens([i]) == 1:
                mask[i // 32] |= np.uint32(1 << i % 32)

    def accept(self, token: int) -> None:
        """Advance by a token."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._check()

    @property
    def complete(self) -> bool:
        """Whether only an end may follow."""
        return self._matcher.is_stopped()

    @property
    def may_end(self) -> bool:
        """Whether an end may follow."""
        return self._matcher.is_stopped() or self._matcher.is_accepting()

    def _check(self) -> None:
        if self._matcher.is_error():
            error = self._matcher.get_error().split("<state>")[0]
            raise _LostError() if error.startswith("NoExtension") else StateError("constrain", _line(error))


class Vocabulary:
    """A tokenizer in llguidance's form; made once per model."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]):
        try:
            import llguidance
        except ImportError:
            raise ImportError(
                "[constrain] expected llguidance, which is not installed: pip install 'llmcore[constrain]'"
            ) from None
        end_ids = [i for i in end_ids if i < vocab_size]
        if not end_ids:
            raise Error("constrain", expected="a model that knows an end of text", got="one without")
        self.library = llguidance
        self._tokens = {**tokenizer.added_tokens, **tokenizer.special_tokens}
        specials = sorted({id for id in tokenizer.special_tokens.values() if id < vocab_size})
        spelled = [tokenizer.token_bytes(i) for i in range(vocab_size)]  # the empty ones are never allowed
        if not tokenizer.spells_alike:
            spelled = [b if b and _stands_alone(tokenizer, i, b) else b"" for i, b in enumerate(spelled)]
        for i in {*end_ids} - {*specials}:
            spelled[i] = b""  # an end is no part of a form, even if it is written as a letter
        ids = {b: i for i, b in reversed([*enumerate(spelled)]) if b and i not in specials}
        longest = max(map(len, ids), default=0)
        self.spelled, self.spells_all = spelled, all(bytes([byte]) in ids for byte in range(256))

        class Wrapped:
            eos_token_id, bos_token_id = end_ids[0], None
            special_token_ids = specials

            def __call__(self, text: bytes | str) -> list[int]:
                """Return tokens that spell a text: the tokenizer's own, if they do, or else as few as there are."""
                given = text if isinstance(text, bytes) else text.encode()
                own = tokenizer.encode_ordinary(given.decode("utf-8", "replace"))
                if b"".join(spelled[i] for i in own if i < vocab_size) == given:
                    return own
                return _fewest(given, ids, longest)

        Wrapped.tokens = spelled  # type: ignore[attr-defined]
        wrapper = llguidance.TokenizerWrapper(Wrapped())
        self.tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=end_ids)

    def _token_id(self, text: str) -> int | None:
        return self._tokens.get(text)

    def grammar(
        self,
        json_schema: Mapping[str, Any] | str | bool | None = None,
        regex: str | None = None,
        choices: Sequence[str] | None = None,
        grammar: str | None = None,
    ) -> Grammar:
        """Compile the one of these that is given. json_schema: a schema, or its text; {} or True for any JSON. grammar: one
        in GBNF (`root ::= ...`) or in llguidance's Lark (`start: ...`)."""
        matcher = self.library.LLMatcher
        forms = {"json_schema": json_schema, "regex": regex, "choices": choices, "grammar": grammar}
        given = [name for name, form in forms.items() if form is not None]
        if len(given) != 1:
            raise Error("constrain", expected=f"one of {either([*forms])}", got=" and ".join(given) or "none")
        for name, form in (("grammar", grammar), ("regex", regex)):
            if form is not None:
                _check_text(form, name, "a text")
        if grammar is not None:
            grammar = grammar.removeprefix("\ufeff")
            first = _RULE.search(grammar)
            is_gbnf = first is not None and first[1] == "::="
            return Grammar(
                self, matcher.grammar_from_lark(to_lark(grammar, self._token_id) if is_gbnf else grammar), "grammar"
            )
        if regex is not None:
            return Grammar(self, matcher.grammar_from_regex(_with_plain_digits(regex)), "regex")
        if choices is not None:
            if isinstance(choices, (str, bytes, Mapping)) or not isinstance(choices, Iterable) or _is_number(choices):
                raise ArgumentTypeError("constrain", expected="choices as a list of texts", got=f"{choices!r:.100}")
            choices = list(choices)
            if not choices or "" in choices:
                raise Error("constrain", expected="choices as a list of texts, none empty", got=f"{choices!r:.100}")
            for choice in choices:
                _check_text(choice, "choices", "as a list of texts")
            return Grammar(self, matcher.grammar_from_regex("|".join(re.escape(c) for c in choices)), "choices")
        try:
            schema = json.loads(json_schema) if isinstance(json_schema, str) else json_schema
            text = json.dumps({} if schema is True else schema, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise Error("constrain", expected="json_schema as JSON", got=_line(error)) from None
        if not isinstance(schema, (Mapping, bool)):
            raise ArgumentTypeError("constrain", expected="json_schema an object or True", got=f"{schema!r:.100}")
        guidance = schema.get("x-guidance") if isinstance(schema, Mapping) else None
        own = isinstance(guidance, Mapping) and any(str(key).startswith("whitespace") for key in guidance)
        try:
            form = matcher.grammar_from_json_schema(text, None if own else {"whitespace_pattern": _BLANKS})
        except Exception as error:
            expected = f"a JSON schema that llguidance accepts, got: {_line(error)}"
            raise Error("constrain", "json_schema", expected=expected) from None
        return Grammar(self, form, "json_schema")


def _stands_alone(tokenizer: Tokenizer, id: int, spelled: bytes) -> bool:
    """Return whether a token comes out as it is spelled, even after itself, unless it is a part of a character."""
    try:
        text = spelled.decode()
    except UnicodeDecodeError:
        return True
    stream = tokenizer.stream_decoder(continues=True)
    return stream.push(id) + stream.push(id) + stream.finish() == 2 * text


def _fewest(text: bytes, ids: Mapping[bytes, int], longest: int) -> list[int]:
    """Return the fewest tokens that spell a text, or none if none do."""
    best: list[tuple[int, int] | None] = [(0, 0)]  # of each beginning: how many tokens, and where the last one begins
    for end in range(1, len(text) + 1):
        starts = range(max(0, end - longest), end)
        ways = [(known[0] + 1, s) for s in starts if (known := best[s]) is not None and text[s:end] in ids]
        best.append(min(ways, default=None))
    found, end = [], len(text)
    while end:
        way = best[end]
        if way is None:
            return []
        found.append(ids[text[way[1] : end]])
        end = way[1]
    return found[::-1]


def _is_number(value: Any) -> bool:
    return getattr(value, "shape", None) == ()  # of NumPy


def _with_plain_digits(regex: str) -> str:
    r"""Return an expression in which \d is 0 to 9, as in JSON schemas, and not a digit of any script: a model that begins a
    word with a byte of its own would be led to write a number in digits that nobody reads."""
    found, depth, negated = "", 0, False
    for part in re.findall(r"\\.|\[\^?\]?|.", regex, re.DOTALL):
        if part[0] == "[":
            depth, negated = depth + 1, negated or part.startswith("[^")
        elif part == "]":
            depth = max(depth - 1, 0)
            negated = negated and depth > 0
        found += "[0-9]" if part == r"\d" and not negated else part
    return regex if re.search("--|&&|~~", regex) else found


def _check_text(given: Any, name: str, what: str) -> None:
    """Raise an error that names the option unless this is a text, which UTF-8 can write."""
    if not isinstance(given, str):
        raise ArgumentTypeError("constrain", expected=f"{name} {what}", got=f"{given!r:.100}")
    if not given.isascii() and any("\ud800" <= c <= "\udfff" for c in given):
        raise Error("constrain", expected=f"{name} {what} without surrogates", got=f"{given!a:.100}")


class _LostError(StateError):
    """No token goes on with a form."""

    def __init__(self) -> None:
        super().__init__("constrain", expected="a token of the model that goes on with the form", got="none")


def _refused(error: str, name: str) -> Error:
    """Return what llguidance says of a form, with the line where it names one."""
    error = error.split("<state>")[0]
    place = re.match(r"(?:at )?(\d+)\(\d+\): ", error)
    if place is None:
        return Error("constrain", name, expected=f"what llguidance accepts, got: {_line(error)}")
    said = re.split(r"\n\s*\d+ \|", error[place.end() :])[0]  # without its picture of the lines
    name += f", line {place[1]}" if name == "grammar" else ""
    return Error("constrain", name, expected=f"what llguidance accepts, got: {_line(said)}")


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:300]
