"""The work of `LanguageModel.generate` and `LanguageModel.stream`: turn prompts into requests, and sampled tokens into
completions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcore.errors import Error
from llmcore.generate import beam
from llmcore.generate.engine.constrain import Grammar
from llmcore.generate.engine.params import SamplingParams
from llmcore.generate.engine.request import Proposer, Request
from llmcore.generate.engine.speculate import Draft, PromptLookup
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
    draft: str | TextModel | None = None
    draft_tokens: int | None = None
    on_token: Callable[[Completion, str], object] | None = None
    priority: int = 0
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name in ("n", "beams", *(("best_of",) if self.best_of is not None else ())):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
                raise Error("generate", expected=f"{name} an integer of 1 to {MOST}", got=repr(value))
        if self.best_of is not None and self.best_of < self.n:
            raise Error("generate", expected=f"best_of of at least n = {self.n}", got=self.best_of)
        if self.beams > 1 and (self.best_of is not None or self.n > self.beams):
            raise Error("generate", expected=f"n of at most beams = {self.beams} and no best_of", got=f"n = {self.n}")

    @property
    def samples(self) -> int:
        """How many completions are drawn for each prompt."""
        return self.best_of or self.n


def generate(
    lm: TextModel, prompts: Sequence[Prompt], params: SamplingParams, options: GenerateOptions
) -> list[list[Completion]]:
    """Return n completions of each prompt, the best first if more were drawn."""
    if options.beams > 1:
        return [
            beam.search(lm, lm.prompt_ids(p), params, options.beams, options.length_penalty)[: options.n]
            for p in prompts
        ]
    each = options.samples
    ranked = each > options.n
    assert params.seed is not None
    grammar = _grammar(lm, options)
    requests, sinks = [], []
    for i, prompt in enumerate(prompts):
        for j in range(each):
            changed = {"seed": params.seed + i * each + j, "logprobs": params.logprobs or ranked}
            own = SamplingParams(**{**vars(params), **changed})
            request, sink = _request(lm, lm.prompt_ids(prompt), own, options, grammar)
            requests.append(request)
            sinks.append(sink)
    lm.engine.run(requests)
    done = [_completion(r, w) for r, w in zip(requests, sinks, strict=True)]
    groups = [done[i : i + each] for i in range(0, len(done), each)]
    if not ranked:
        return groups
    return [sorted(g, key=lambda c: -statistics.fmean(c.logprobs or [0.0]))[: options.n] for g in groups]


def stream(lm: TextModel, prompt: Prompt, params: SamplingParams, options: GenerateOptions) -> Iterator[str]:
    """Yield one completion, piece by piece."""
    if options.samples > 1 or options.beams > 1:
        raise Error("generate", expected="one completion to stream", got="several or beams")
    request, sink = _request(lm, lm.prompt_ids(prompt), params, options, _grammar(lm, options))
    lm.engine.submit(request)

    def pieces() -> Iterator[str]:
        try:
            while not request.done.is_set():
                lm.engine.step_for(request)
                yield from _drain(sink)
            _completion(request, sink)
            yield from _drain(sink)
            if request.error is not None:
                raise request.error
        finally:
            lm.engine.cancel(request)

    return pieces()


def _drain(sink: CompletionSink) -> Iterator[str]:
    while sink.settled:
        yield sink.settled.pop(0)


def _request(
    lm: TextModel, ids: Sequence[int], params: SamplingParams, options: GenerateOptions, grammar: Grammar | None
) -> tuple[Request, CompletionSink]:
    end_ids = (*(() if params.ignore_eos else lm.end_ids), *params.stop_ids)
    sink = CompletionSink(lm.tokenizer, params, end_ids, len(ids), options.on_token)
    constraint = None if grammar is None else grammar.constraint()
    request = Request(
        ids, params, sink, end_ids, constraint, _proposer(lm, options), options.priority, options.timeout
    )  # fmt: skip
    return request, sink


def _completion(request: Request, sink: CompletionSink) -> Completion:
    c = sink.completion
    if request.timed_out:
        sink.end("timeout")
    c.cached_tokens = request.cached_tokens
    return c


def _grammar(lm: TextModel, options: GenerateOptions) -> Grammar | None:
    if options.json_schema is None and options.regex is None and options.choices is None:
        return None
    return lm.vocabulary.grammar(options.json_schema, options.regex, options.choices)


def _proposer(lm: TextModel, options: GenerateOptions) -> Proposer | None:
    counts = {} if options.draft_tokens is None else {"most": options.draft_tokens}
    if options.draft is None:
        return None
    if options.draft == "lookup":
        return PromptLookup(**counts)
    if isinstance(options.draft, str):
        raise Error("generate", expected="draft 'lookup' or a model", got=repr(options.draft))
    if options.draft.config.vocab_size != lm.config.vocab_size:
        raise Error(
            "generate",
            expected=f"a draft model of the same vocabulary ({lm.config.vocab_size} tokens)",
            got=f"one of {options.draft.config.vocab_size}",
        )
    return Draft(options.draft.model, **counts)
