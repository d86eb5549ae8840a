"""Completions that have a form: a JSON schema, a regular expression, one of several texts, or a grammar. llguidance (extra
`constrain`) computes which tokens may come next; the sampling kernel takes its masks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmcore.errors import ArgumentTypeError, Error, StateError
from llmcore.generate.engine.gbnf import to_lark
from llmcore.tokenizer import Tokenizer

_RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w.-]*\s*(::=|:)", re.MULTILINE)

# Between the parts of a JSON text: a space, or a line break and the next line's indent, as in llama.cpp. A model that likes
# blanks would write them for ever. A schema's own "x-guidance" says otherwise.
_BLANKS = r"( |\r?\n[ \t]{0,20})"


class Grammar:
    """A grammar compiled for a tokenizer. Each of its constraints serves one request."""

    def __init__(self, vocabulary: Vocabulary, form: str, name: str):
        """name: of the option that gave the form. ValueError for one that llguidance does not accept."""
        self._vocabulary = vocabulary
        self._matcher = vocabulary.library.LLMatcher(vocabulary.tokenizer, form, log_level=0)
        first = self._matcher.deep_copy()
        if not self._matcher.is_error():
            first.compute_bitmask()  # of a form without any text there is none
        if first.is_error():
            raise _refused(first.get_error(), name)

    def constraint(self) -> Constraint:
        """Return a constraint for one completion, at its beginning."""
        return Constraint(self._matcher.deep_copy())


class Constraint:
    """How far a completion has got in its grammar."""

    def __init__(self, matcher: Any):
        self._matcher = matcher

    def copy(self) -> Constraint:
        """Return another at the same place, which goes its own way."""
        return Constraint(self._matcher.deep_copy())

    def begins_with(self, tokens: Sequence[int]) -> bool:
        """Return whether these tokens may come next."""
        return self._matcher.validate_tokens(list(tokens)) == len(tokens)

    def fill(self, mask: np.ndarray) -> None:
        """Set the bits of the tokens that may come next, and no others: mask (ceil(V/32)) uint32."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        self._check()
        n = min(len(bits), len(mask))
        mask[:n], mask[n:] = bits[:n], 0

    def accept(self, token: int) -> None:
        """Advance by a token."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._check()

    @property
    def complete(self) -> bool:
        """Whether only an end may follow."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise StateError("constrain", _line(self._matcher.get_error().split("<state>")[0]))


class Vocabulary:
    """A tokenizer in llguidance's form; made once per model."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]):
        try:
            import llguidance
        except ImportError:
            raise ImportError(
                "[constrain] expected llguidance, which is not installed: pip install 'llmcore[constrain]'"
            ) from None
        if not end_ids:
            raise Error("constrain", expected="a model that knows an end of text", got="one without")
        self.library = llguidance
        self._tokens = {**tokenizer.added_tokens, **tokenizer.special_tokens}
        specials = sorted({id for id in tokenizer.special_tokens.values() if id < vocab_size})
        tokens = [tokenizer.token_bytes(i) for i in range(vocab_size)]  # the empty ones are never allowed

        class Wrapped:
            eos_token_id, bos_token_id = end_ids[0], None
            special_token_ids = specials

            def __call__(self, text: bytes) -> list[int]:
                return tokenizer.encode_ordinary(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)

        Wrapped.tokens = tokens  # type: ignore[attr-defined]
        wrapper = llguidance.TokenizerWrapper(Wrapped())
        self.tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=list(end_ids))

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
        if sum(v is not None for v in (json_schema, regex, choices, grammar)) != 1:
            raise Error("constrain", expected="one of json_schema, regex, choices and grammar")
        if grammar is not None:
            if not isinstance(grammar, str):
                raise ArgumentTypeError("constrain", expected="grammar a text", got=f"{grammar!r:.100}")
            first = _RULE.search(grammar)
            is_gbnf = first is not None and first[1] == "::="
            return Grammar(
                self, matcher.grammar_from_lark(to_lark(grammar, self._token_id) if is_gbnf else grammar), "grammar"
            )
        if regex is not None:
            if not isinstance(regex, str):
                raise ArgumentTypeError("constrain", expected="regex a text", got=f"{regex!r:.100}")
            return Grammar(self, matcher.grammar_from_regex(regex), "regex")
        if choices is not None:
            if isinstance(choices, str) or not choices or not all(isinstance(c, str) and c for c in choices):
                raise Error("constrain", expected="choices as a list of texts", got=f"{choices!r:.100}")
            return Grammar(self, matcher.grammar_from_regex("|".join(re.escape(c) for c in choices)), "choices")
        try:
            schema = json.loads(json_schema) if isinstance(json_schema, str) else json_schema
            text = json.dumps({} if schema is True else schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise Error("constrain", expected="json_schema as JSON", got=_line(error)) from None
        guidance = schema.get("x-guidance") if isinstance(schema, Mapping) else None
        own = isinstance(guidance, Mapping) and any(str(key).startswith("whitespace") for key in guidance)
        try:
            form = matcher.grammar_from_json_schema(text, None if own else {"whitespace_pattern": _BLANKS})
        except Exception as error:
            raise Error("constrain", expected=f"a JSON schema, got: {_line(error)}") from None
        return Grammar(self, form, "json_schema")


def _refused(error: str, name: str) -> Error:
    """Return what llguidance says of a form, with the line where it names one."""
    error = error.split("<state>")[0]
    if error.startswith("NoExtension"):
        return Error("constrain", name, expected="a form that some text has", got="one that none has")
    place = re.match(r"(?:at )?(\d+)\(\d+\): ", error)
    if place is None:
        return Error("constrain", name, expected=f"what llguidance accepts, got: {_line(error)}")
    said = re.split(r"\n\s*\d+ \|", error[place.end() :])[0]  # without its picture of the lines
    name += f", line {place[1]}" if name == "grammar" else ""
    return Error("constrain", name, expected=f"what llguidance accepts, got: {_line(said)}")


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:300]
