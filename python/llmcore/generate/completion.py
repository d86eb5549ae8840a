"""The work of `LanguageModel.generate` and `LanguageModel.stream`: turn prompts into requests, and sampled tokens into
completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcore._fields import number
from llmcore.errors import ArgumentTypeError, Error
from llmcore.generate import beam
from llmcore.generate.chat.trim import room, said, trims
from llmcore.generate.engine.constrain import Constraint, Grammar
from llmcore.generate.engine.dry import Breakers
from llmcore.generate.engine.params import SamplingParams
from llmcore.generate.engine.request import Proposer, Request
from llmcore.generate.engine.speculate import Draft, PromptLookup
from llmcore.generate.stream import Stream, completed
from llmcore.generate.text import Completion, CompletionSink
from llmcore.generate.text_model import Prompt, TextModel

MOST = 1024  # completions per prompt


@dataclass
class GenerateOptions:
    """Options besides `SamplingParams`; see `LanguageModel.generate`."""

    n: int = 1
    best_of: int | None = None
    beams: int = 1
    length_penalty: float = 1.0
    json_schema: Mapping[str, Any] | str | bool | None = None
    regex: str | None = None
    choices: Sequence[str] | None = None
    grammar: str | None = None
    draft: str | TextModel | None = None
    draft_tokens: int | None = None
    on_token: Callable[[Completion, str], object] | None = None
    priority: int = 0
    timeout: float | None = None
    overflow: str = "error"

    def __post_init__(self) -> None:
        def check(name: str, ok: Callable[[Any], bool], expected: str, whole: bool = True) -> None:
            if getattr(self, name) is not None or getattr(GenerateOptions, name) is not None:
                setattr(self, name, number("generate", name, getattr(self, name), ok, expected, whole))

        for name in ("n", "best_of", "beams"):
            check(name, lambda v: 1 <= v <= MOST, f"an integer of 1 to {MOST}")
        check("length_penalty", lambda v: abs(v) <= 30, "a number of -30 to 30", False)
        check("draft_tokens", lambda v: 1 <= v < 2**31, ">= 1")
        check("priority", lambda v: abs(v) < 2**31, "an integer")
        check("timeout", lambda v: v >= 0, "seconds >= 0", False)
        trims(self.overflow)
        if self.on_token is not None and not callable(self.on_token):
            raise ArgumentTypeError("generate", expected="on_token a function", got=f"{self.on_token!r:.100}")
        if self.length_penalty != 1.0 and self.beams == 1:
            raise Error("generate", expected="beams with length_penalty", got="none")
        if self.draft_tokens is not None and self.draft is None:
            raise Error("generate", expected="a draft with draft_tokens", got="none")
        if self.best_of is not None and self.best_of < self.n:
            raise Error("generate", expected=f"best_of of at least n = {self.n}", got=self.best_of)
        if self.beams > 1 and self.n > self.beams:
            raise Error("generate", expected=f"n of at most beams = {self.beams}", got=f"n = {self.n}")

    @property
    def samples(self) -> int:
        """How many completions are drawn for each prompt."""
        return self.best_of or self.n


def generate(
    lm: TextModel, prompts: Sequence[Prompt], params: SamplingParams, options: GenerateOptions
) -> list[list[Completion]]:
    """Return n completions of each prompt, the best first if more were drawn."""
    grammar = _grammar(lm, options)
    if options.beams > 1:
        return [_beams(lm, p, params, options, grammar) for p in prompts]
    each = options.samples
    requests, sinks = [], []
    for i, prompt in enumerate(prompts):
        for j in range(each):
            own = params.numbered(i * each + j)
            request, sink = _request(lm, prompt, own, options, grammar)
            requests.append(request)
            sinks.append(sink)
    lm.engine.run(requests)
    done = [completed(r, w) for r, w in zip(requests, sinks, strict=True)]
    groups = [list(range(i, i + each)) for i in range(0, len(done), each)]
    if each > options.n:
        groups = [sorted(g, key=lambda i: -sinks[i].mean_logprob)[: options.n] for g in groups]
    return [[done[i] for i in g] for g in groups]


def stream(lm: TextModel, prompt: Prompt, params: SamplingParams, options: GenerateOptions) -> Stream:
    """Yield one completion, piece by piece."""
    for name in ("n", "best_of", "beams"):
        if (getattr(options, name) or 1) > 1:
            raise Error("generate", expected="one completion to stream", got=f"{name} = {getattr(options, name)}")
    request, sink = _request(lm, prompt, params, options, _grammar(lm, options))
    return Stream(lm.engine, request, sink)


def _prompt(
    lm: TextModel, prompt: Prompt, params: SamplingParams, options: GenerateOptions
) -> tuple[list[int], list[str]]:
    """Return the ids of a prompt, and a note if its oldest tokens are left out."""
    ids, context = lm.prompt_ids(prompt), lm.config.context
    kept = context - max(1, room(context, params.max_tokens))
    over = len(ids) - kept
    if not trims(options.overflow) or over <= 0 or kept < 1:
        return ids, []
    begin = list(lm.tokenizer.begin) if isinstance(prompt, str) else []
    begin = begin if len(begin) < kept else []
    return [*begin, *ids[len(ids) - (kept - len(begin)) :]], [said(over, "token")]


def _beams(
    lm: TextModel, prompt: Prompt, params: SamplingParams, options: GenerateOptions, grammar: Grammar | None
) -> list[Completion]:
    for given, name, off in (
        (params, "top_k", 0), (params, "top_p", 1.0), (params, "min_p", 0.0), (params, "typical_p", 1.0),
        (params, "xtc_probability", 0.0), (options, "best_of", None), (options, "draft", None),
        (options, "on_token", None), (options, "priority", 0),
    ):  # fmt: skip
        value = getattr(given, name)
        if value is not None if off is None else value != off:
            raise Error("generate", expected=f"beams without {name}: nothing is drawn", got=f"{value!r:.100}")
    if params.temperature not in (0.0, 1.0, SamplingParams.temperature):
        raise Error("generate", expected="temperature 0 or 1 with beams: nothing is drawn", got=params.temperature)
    end_ids, constraint = _ends(lm, params, grammar), _constraint(params, grammar)
    ids, notes = _prompt(lm, prompt, params, options)
    done = beam.search(
        lm, ids, params, end_ids, constraint, options.beams, options.length_penalty, options.timeout
    )[: options.n]  # fmt: skip
    for c in done:
        c.notes[:0] = notes
    return done


def _ends(lm: TextModel, params: SamplingParams, grammar: Grammar | None) -> tuple[int, ...]:
    # The end of a form is no part of its text, whatever else is ignored.
    return (*(lm.end_ids if grammar is not None or not params.ignore_eos else ()), *params.stop_ids)


def _constraint(params: SamplingParams, grammar: Grammar | None) -> Constraint | None:
    if grammar is None:
        return None
    constraint = grammar.constraint()
    if not constraint.begins_with(params.forced):
        raise Error("generate", expected="forced tokens that the form may begin with", got=list(params.forced))
    return constraint


def _request(
    lm: TextModel, prompt: Prompt, params: SamplingParams, options: GenerateOptions, grammar: Grammar | None
) -> tuple[Request, CompletionSink]:
    end_ids, constraint = _ends(lm, params, grammar), _constraint(params, grammar)
    ids, notes = _prompt(lm, prompt, params, options)
    sink = CompletionSink(lm.tokenizer, params, end_ids, len(ids), options.on_token)
    request = Request(
        ids, params, sink, end_ids, constraint, _proposer(lm, options), options.priority, options.timeout,
        Breakers(lm.tokenizer.token_bytes, params.dry_breakers),
    )  # fmt: skip
    request.notes += notes
    sink.completion.notes = request.notes
    return request, sink


def _grammar(lm: TextModel, options: GenerateOptions) -> Grammar | None:
    forms = {name: getattr(options, name) for name in ("json_schema", "regex", "choices", "grammar")}
    return None if all(form is None for form in forms.values()) else lm.vocabulary.grammar(**forms)


def _proposer(lm: TextModel, options: GenerateOptions) -> Proposer | None:
    counts = {} if options.draft_tokens is None else {"most": options.draft_tokens}
    if options.draft is None:
        return None
    if isinstance(options.draft, str) and options.draft == "lookup":
        return PromptLookup(**counts)
    if not isinstance(options.draft, TextModel):
        raise Error("generate", expected="draft 'lookup' or a model", got=f"{options.draft!r:.100}")
    if options.draft.config.vocab_size != lm.config.vocab_size:
        raise Error(
            "generate",
            expected=f"a draft model of the same vocabulary ({lm.config.vocab_size} tokens)",
            got=f"one of {options.draft.config.vocab_size}",
        )
    return Draft(options.draft.model, **counts)
