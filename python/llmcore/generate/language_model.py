"""`LanguageModel`: a model with its tokenizer, and everything that the two do together."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from llmcore import autograd, models
from llmcore._fields import number
from llmcore._names import unknown
from llmcore._sequences import largest
from llmcore._tensor import Tensor
from llmcore.errors import ArgumentTypeError
from llmcore.generate import adapter_base, completion
from llmcore.generate.chat.template import ChatOptions, ChatTemplate
from llmcore.generate.chat.trim import room, said, trim, trims
from llmcore.generate.embeddings import embed, nearest
from llmcore.generate.engine import prompt_cache
from llmcore.generate.engine.params import SamplingParams
from llmcore.generate.filters import expected, stages
from llmcore.generate.save import save_adapter, save_folder, save_gguf
from llmcore.generate.score import Score, TokenScore
from llmcore.generate.stream import Stream
from llmcore.generate.suggest import Suggester, Suggestion
from llmcore.generate.text import Completion
from llmcore.generate.text_model import Prompt, TextModel, check_prompt
from llmcore.models import adapter_files, adapters
from llmcore.models.resize import add_rows
from llmcore.tokenizer import Tokenizer


class LanguageModel(TextModel):
    """A model and its tokenizer: generates, chats, suggests, scores, embeds, takes adapters, and saves itself. The parts are
    those of `TextModel`: `model`, `tokenizer`, `config`, `end_ids`, `chat_template`, `notes`, `source`, `engine`."""

    def __init__(
        self,
        model: models.CausalLM,
        tokenizer: Tokenizer,
        end_ids: Iterable[int] | None = None,
        chat_template: ChatTemplate | None = None,
        notes: Iterable[str] = (),
    ):
        super().__init__(model, tokenizer, end_ids, chat_template, notes)
        self._suggester: Suggester | None = None
        self._suggesting = threading.Lock()

    # ---- generation ----

    def generate(self, prompt: Prompt | Sequence[Prompt], max_tokens: int = 128, **options):
        """Complete one prompt, or a list of prompts in one batch. Returns a Completion, or a list of Completions; with n,
        lists of n of them instead.

        options: the fields of `SamplingParams` (temperature, top_k, top_p, min_p, typical_p, seed, stop, stop_ids,
        ignore_eos, min_tokens, logprobs, top_logprobs, prompt_logprobs, repetition_penalty, presence_penalty,
        frequency_penalty, no_repeat_ngram, logit_bias, banned, forced, dry_multiplier, dry_base, dry_allowed_length,
        dry_range, dry_breakers, xtc_probability, xtc_threshold), and
        n: completions per prompt. best_of: draw so many and keep the n with the highest mean log-probability per token.
        beams: search with so many beams instead of drawing; length_penalty: divides sums by length ** length_penalty.
        json_schema, regex, choices, grammar (GBNF, or llguidance's Lark): constrain the completion to this form (extra
        `constrain`). Blanks in JSON are bounded, unless the schema's "x-guidance" says otherwise; \\d of a regex is 0 to 9.
        draft: "lookup" (the prompt's own words) or a smaller LanguageModel with the same vocabulary, which guesses
        draft_tokens at a time: the same completion, faster. on_token: called with the Completion so far and the text of
        each token; it can neither generate nor wait for a thread that does. priority: higher ones are served first.
        timeout: seconds. overflow: what becomes of a prompt beyond the context, "error", or "trim", which leaves out its
        oldest tokens (in a chat, its oldest turns) and says so in `notes`.

        Completion j of prompt i draws with seed + i · n + j (best_of instead of n): the same tokens as alone with that
        seed. MemoryError for a request that does not fit into the cache, QueueFull if too many wait.
        """
        check_prompt(prompt)
        many = not isinstance(prompt, str) and not (len(prompt) and isinstance(prompt[0], (int, np.integer)))
        prompts = cast("list[Prompt]", list(prompt) if many else [prompt])
        params, chosen = _split(max_tokens, options)
        found = completion.generate(self, prompts, params, chosen)
        each = found if "n" in options else [c[0] for c in found]
        return each if many else each[0]

    def stream(self, prompt: Prompt, max_tokens: int = 128, **options) -> Stream:
        """Yield the completion of one prompt piece by piece, as it is generated; joined, the pieces are the text of
        `generate`. Closing the iterator ends the request."""
        return completion.stream(self, prompt, *_split(max_tokens, options))

    # ---- chat ----

    def chat(self, messages: Sequence[Mapping[str, Any]], max_tokens: int = 256, **options) -> Completion:
        """Answer messages, [{"role": "user", "content": "..."}, ...]. options: those of `chat_prompt` (tools, documents,
        chat_template, chat_template_kwargs, continue_final_message: the answer goes on with the last message) and those of
        `generate`.

        ValueError for a model without a chat template, and if the template refuses the messages.
        """
        prompt, notes, options = self._asked(messages, max_tokens, options)
        done = self.generate(prompt, max_tokens, **options)
        for c in done if isinstance(done, list) else [done]:
            c.notes[:0] = notes
        return done

    def chat_stream(self, messages: Sequence[Mapping[str, Any]], max_tokens: int = 256, **options) -> Stream:
        """Yield the answer of `chat` piece by piece."""
        prompt, notes, options = self._asked(messages, max_tokens, options)
        stream = self.stream(prompt, max_tokens, **options)
        stream.completion.notes[:0] = notes
        return stream

    def _asked(
        self, messages: Sequence[Mapping[str, Any]], max_tokens: int, options: dict[str, Any]
    ) -> tuple[list[int], list[str], dict[str, Any]]:
        """Return the prompt, a note if turns are left out of it, and the options that are left for `generate`."""
        for name in options.keys() - _CHAT_OPTIONS - _GENERATE_OPTIONS - _SAMPLING_OPTIONS:
            what = "an option (variables of the chat template go into chat_template_kwargs)"
            unknown("chat", name, sorted(_CHAT_OPTIONS | _GENERATE_OPTIONS | _SAMPLING_OPTIONS), what)
        own = {name: value for name, value in options.items() if name in _CHAT_OPTIONS}
        left = {name: value for name, value in options.items() if name not in _CHAT_OPTIONS}
        most = self.config.context - max(1, room(self.config.context, _split(max_tokens, left)[0].max_tokens))
        prompt = self.chat_prompt(messages, **own)
        if not trims(left.pop("overflow", "error")) or len(prompt) <= most:
            return prompt, [], left
        kept, dropped = trim(messages, lambda some: len(self.chat_prompt(some, **own)) <= most)
        return self.chat_prompt(kept, **own), [said(dropped, "turn")] if dropped else [], left

    # ---- typing ----

    def suggest(self, text: str, n: int = 3) -> list[Suggestion]:
        """Return the n likeliest words (word, probability) for the one that is being typed at the end of a text, or for the
        next one after a space: whole words of one or several tokens. The cache is kept from call to call, so that a
        keystroke takes a few milliseconds."""
        if not isinstance(text, str):
            raise ArgumentTypeError("suggest", expected="a text", got=f"{text!r:.100}")
        n = number("suggest", "n", n, lambda v: v >= 1, ">= 1", True)
        with self._suggesting:
            if self._suggester is None:
                self._suggester = Suggester(self)
            return self._suggester.suggest(text, n)

    # ---- looking inside ----

    def next_tokens(
        self, prompt: Prompt, k: int = 10, temperature: float = 1.0, **filters: float
    ) -> list[tuple[str, int, float]]:
        """Return the k most likely next tokens as (text, id, probability), most likely first, after temperature and filters.

        Temperature 0 gives the most likely token probability 1. Tokens that the filters remove are left out. filters: top_k,
        top_p, min_p, typical_p, xtc_probability and xtc_threshold, as in `generate`.
        """
        k = number("next_tokens", "k", k, lambda v: v >= 1, ">= 1", True)
        probs = expected(self._next_logits(prompt), _filters(temperature, filters), self.end_ids)
        return [(self.token_text(int(i)), int(i), float(probs[i])) for i in largest(probs, k) if probs[i] > 0]

    def trace_filters(self, prompt: Prompt, temperature: float = 1.0, **filters: float) -> list[tuple[str, np.ndarray]]:
        """Return what each stage of sampling leaves: (its name, probabilities (V) float32 after it), in the order in which
        they act; stages that are off are left out. The first is the model's own distribution; the last, XTC, acts with
        xtc_probability only. filters: those of `next_tokens`."""
        return stages(self._next_logits(prompt), _filters(temperature, filters), self.end_ids)

    def _next_logits(self, prompt: Prompt) -> Tensor:
        with autograd.no_grad():
            logits = self.model(np.asarray([self.prompt_ids(prompt)]), last_only=True)
        return Tensor(logits.array.reshape([1, self.config.vocab_size]))

    def score(self, text: Prompt) -> Score:
        """Score every token of `text` given those before it: (token text, id, log-probability in nats) each, and the totals
        perplexity, bits and bits_per_byte. The first token follows what the tokenizer puts before a text, or else an
        end-of-text token; if there is neither, it is left out. In a text longer than the context, every token is given at
        least half a context of those before it."""
        ids = self.ids(text)
        end_of_text = self.tokenizer.end_of_text
        start = list(self.tokenizer.begin) or ([] if end_of_text is None else [end_of_text])
        row = np.asarray(start + ids)
        first = scored = max(1, len(start))
        context = self.config.context
        logprobs: list[float] = []
        while scored < len(row):
            # The next window ends half a context further, or with the text.
            end = min(len(row), max(context + 1, scored + max(1, context // 2)))
            window = row[max(0, end - context - 1) : end]
            with autograd.no_grad():
                loss = self.model.loss(window[None, :-1], window[None, 1:], reduction="none").numpy()[0]
            logprobs += [-float(x) for x in loss[len(loss) - (end - scored) :]]
            scored = end
        tokens = [TokenScore(self.token_text(int(i)), int(i), p) for i, p in zip(row[first:], logprobs, strict=True)]
        return Score(tokens, [self.tokenizer.token_bytes(t.id) for t in tokens])

    def embed(self, text: str | Sequence[str], pooling: str = "mean", normalize: bool = True) -> np.ndarray:
        """Return a text as a vector (width) float32, or several as (n, width): the mean ("mean") or the last ("last") of the
        hidden states after the last norm, scaled to length 1 unless normalize is False. ValueError for a text that is
        longer than the context."""
        if isinstance(text, (bytes, Mapping)) or not (isinstance(text, Sequence) or np.ndim(text)):
            raise ArgumentTypeError("embed", expected="text as one or several texts", got=f"{text!r:.100}")
        vectors = embed(self, [text] if isinstance(text, str) else list(text), pooling, normalize)
        return vectors[0] if isinstance(text, str) else vectors

    def nearest(self, word: str, k: int = 10) -> list[tuple[str, int, float]]:
        """Return the k tokens whose embeddings have the smallest angle to the word's: (text, id, cosine), nearest first,
        without the word's own. The embedding of a word of several tokens is their mean."""
        return nearest(self, word, k)

    # ---- adapters ----

    def with_adapter(self, folder: str | os.PathLike) -> LanguageModel:
        """Return this model with the adapter of a folder in PEFT's format (LoRA, DoRA). It shares this model's weights, and this
        model stays as it is: several adapters take little more memory than one model. ValueError for an adapter that does
        not fit, or a model that has one already."""
        other = self._shared_copy()
        other.notes = (*self.notes, *adapter_files.load_adapter(other.model, Path(folder)))
        if self.source is not None and adapter_base.is_other(self.source, Path(folder)):
            other.notes = (*other.notes, f"{folder} was trained on another base than {self.source}")
        return other

    def merged(self) -> LanguageModel:
        """Return this model with its adapter merged into the weights, or the model itself if it has none."""
        if not adapters.has_lora(self.model):
            return self
        other = self._shared_copy()
        adapters.merge(other.model)
        return other

    def _shared_copy(self) -> LanguageModel:
        other = LanguageModel(self.model.shared_copy(), self.tokenizer, self.end_ids, self.chat_template, self.notes)
        other.source = self.source
        return other

    # ---- files ----

    def save_cache(self, path: str | os.PathLike, prompt: Prompt | None = None) -> int:
        """Write the keys and values of a prompt (those that are not cached yet are computed), or of all prompts that the
        engine has cached, to one file, atomically; returns how many tokens it holds. `load_cache` reads it, also in another
        process: a prompt that begins alike then begins at once, with the same tokens as without."""
        if prompt is None:
            return prompt_cache.save(self.engine, path)
        ids = self.prompt_ids(prompt)
        self.generate(ids, 1, temperature=0)
        return prompt_cache.save(self.engine, path, ids)

    def load_cache(self, path: str | os.PathLike) -> int:
        """Add the prompts of a file of `save_cache` to those that the engine has cached; returns how many tokens it holds.
        ValueError for a file that is damaged, too large for the engine, or was not made by this very model, with the same
        dtype and quantization, on such a processor. The file's digests tell damage, not forgery: read your own only."""
        return prompt_cache.load(self.engine, path)

    def add_tokens(self, names: Sequence[str], special: bool = True) -> list[int]:
        """Give the tokenizer new tokens and the model rows for them, each the mean of the others, and return the ids of the
        names. special: control tokens, which plain text does not become; else they are found in every text. Names that are
        tokens already get nothing new. ValueError for a name that can be no token."""
        if isinstance(names, str):
            raise ArgumentTypeError("add_tokens", expected="a list of tokens", got=f"{names!r:.100}")
        tokenizer = self.tokenizer.with_tokens(names, special)
        if tokenizer is not self.tokenizer:
            add_rows(self.model, self.tokenizer.vocab_size, tokenizer.vocab_size)
            self.tokenizer = tokenizer
            for made in ("engine", "vocabulary"):  # for the old one
                vars(self).pop(made, None)
            self._suggester = None
        return [(tokenizer.special_tokens | tokenizer.added_tokens)[name] for name in names]

    def save(self, path: str | os.PathLike, dtype: str | None = None) -> Path:
        """Write the model to a folder in the Hugging Face format (config.json, model.safetensors, tokenizer.json and what
        goes with them), or, for a path that ends in .gguf and is no folder, to one GGUF file. Each file is replaced atomically. Returns the
        path. For a model with an adapter, a folder gets only the adapter, in PEFT's format, with the name of the base
        (`merged().save(...)` writes all weights); GGUF gets the merged model.

        dtype of the matrices: "float32" (the default for a folder, which is lossless) or "bfloat16"; for GGUF "F32", "F16",
        "BF16", "Q8_0", "Q4_0" or "Q4_1", by default the stored type if the model came from GGUF, else "F32". ValueError for
        what the format cannot express. A tokenizer of the pattern cl100k, for which GGUF has no name, is written as llama3:
        the two differ only in whitespace with a line break at the end of a text.
        """
        path = Path(path)
        if path.suffix == ".gguf" and not path.is_dir():
            return save_gguf(self.merged(), path, dtype)
        write = save_adapter if adapters.has_lora(self.model) else save_folder
        return write(self, path, dtype)


_FILTERS = ("top_k", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold")
_CHAT_OPTIONS = {*ChatOptions._fields, "add_generation_prompt", "continue_final_message"}
_SAMPLING_OPTIONS = {f.name for f in dataclasses.fields(SamplingParams)}
_GENERATE_OPTIONS = {f.name for f in dataclasses.fields(completion.GenerateOptions)}


def _filters(temperature: float, filters: Mapping[str, float]) -> SamplingParams:
    for name in filters.keys() - _FILTERS:
        raise ArgumentTypeError("next_tokens", expected=f"filters {', '.join(_FILTERS)}", got=repr(name))
    return SamplingParams(temperature=temperature, **filters)  # type: ignore[arg-type]  # checked there


def _split(max_tokens: int, options: Mapping[str, Any]) -> tuple[SamplingParams, completion.GenerateOptions]:
    own = {name: value for name, value in options.items() if name in _GENERATE_OPTIONS}
    sampling = {name: value for name, value in options.items() if name not in _GENERATE_OPTIONS}
    for name in sampling.keys() - _SAMPLING_OPTIONS:
        unknown("generate", name, sorted(_GENERATE_OPTIONS | _SAMPLING_OPTIONS), "an option")
    return SamplingParams(max_tokens=max_tokens, **sampling), completion.GenerateOptions(**own)
