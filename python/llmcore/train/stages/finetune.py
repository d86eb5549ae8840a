"""What all stages share that start from a model: opening it, with or without adapters, reading the rows, and saving it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from llmcore import hub
from llmcore.data.columns import chat_columns, listed, without_nulls
from llmcore.data.conversations import left_out
from llmcore.data.rows import Row, read_rows
from llmcore.data.split import asked_first, held_out_rows
from llmcore.errors import CorpusError, Error
from llmcore.generate import LanguageModel, adapter_base, load
from llmcore.generate.chat.files import template_argument
from llmcore.generate.chat.template import ChatOptions, ChatTemplate
from llmcore.generate.chat.tools import variables_given
from llmcore.models import CausalLM, adapters
from llmcore.runtime import default_dtype
from llmcore.train import defaults
from llmcore.train.config import FinetuneConfig
from llmcore.train.report import Report
from llmcore.train.stage import Stage

T = TypeVar("T")
SAMPLES = 3
_NAMED = 20  # rows that were skipped
CONTEXT = 512  # the default, unless the model's is shorter

# For models without a chat template: roles as headings, and an end of text after every answer.
PLAIN_TEMPLATE = (
    "{% for m in messages %}### {{ m.role }}\n{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant\n{% endif %}"
)


def open_model(config: FinetuneConfig, report: Report) -> LanguageModel:
    """Load the starting model and report its notes. With `lora_rank`, its weights are frozen, quantized if requested, and
    adapters are attached, beside those that it has, which are frozen. Raises ValueError or FileNotFoundError, one line."""
    if config.lora_rank:
        quantize = None if config.quantize == "stored" else config.quantize
        lm = load(config.model, config.dtype or default_dtype(), quantize=quantize)
        whole = list(config.lora_modules_to_save)
        if config.add_tokens:
            lm.add_tokens(config.add_tokens)
            whole += [name for name in adapters.names_of_tokens(lm.model) if name not in whole]
        lora = adapters.LoRAConfig(
            config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_targets, config.lora_rslora,
            config.lora_dora, whole, type(config).__name__.removesuffix("Config").lower(),
        )  # fmt: skip
        earlier = lm.model.runs
        adapters.attach_lora(lm.model, lora, config.seed)
        if earlier:
            report.note(
                f"{config.model} is an adapter of {lm.source} ({'; then '.join(earlier)}): it is kept, frozen, and "
                f"{config.out} will hold it and what is learned now as one adapter of that base"
            )
    else:
        lm = load(config.model, config.dtype, quantize="none").merged()
        lm.add_tokens(config.add_tokens)
    for note in lm.notes:
        report.note(note)
    set_context(config, lm)
    return lm


def set_context(config: FinetuneConfig, lm: LanguageModel) -> None:
    """Set the number of tokens of a row, unless it is given."""
    if not config.context:
        config.context = min(CONTEXT, lm.config.context)


def reference_of(config: FinetuneConfig, lm: LanguageModel) -> CausalLM:
    """Return the reference model, which stays as it is: with adapters the same weights without those of this run, else a copy."""
    if adapters.has_lora(lm.model):
        return adapters.base_model(lm.model)
    other = load(config.model, lm.model.dtype, quantize="none").merged()
    other.add_tokens(config.add_tokens)
    return other.model


def prepare(lm: LanguageModel, chat_template: str | None = None) -> None:
    """Give a model the chat template of a file, or a plain one if it has none and none is given. Raises ValueError for a
    model that cannot end an answer."""
    if not lm.end_ids:
        raise Error("train", expected="a model that knows an end of text", got="one without")
    given = template_argument(chat_template)
    if lm.chat_template is None or (given is not None and given not in lm.chat_template.sources):
        tokens = {} if lm.chat_template is None else lm.chat_template.tokens
        begin = "".join(map(lm.token_text, lm.tokenizer.begin))  # before every text that the model has read
        tokens = {"eos_token": lm.token_text(lm.end_ids[0])} | {name: text for name, text in tokens.items() if text}
        if given is not None and "{" not in given and lm.chat_template is not None:
            lm.chat_template.chosen(given)  # names those that there are
        lm.chat_template = ChatTemplate(
            f"{{{{ {json.dumps(begin)} }}}}{PLAIN_TEMPLATE}" if given is None else given, tokens=tokens
        )


def chat_options(lm: LanguageModel, fields: Mapping[str, Any], config: FinetuneConfig | None = None) -> ChatOptions:
    """Return what a row's conversation is rendered with: its columns tools, documents and chat_template_kwargs, and the
    settings of the run."""
    settings = {} if config is None else config.chat_template_kwargs or {}
    own = chat_columns(fields)
    variables = settings | without_nulls(variables_given(own["chat_template_kwargs"]))
    chosen = None if config is None else config.chat_template
    known = lm.chat_template is not None and chosen in lm.chat_template.sources
    return ChatOptions(own["tools"], own["documents"], chosen if known else None, variables)


class Rows(NamedTuple):
    """The parsed rows of a run: those to learn from, those held out, and a digest of them all."""

    train: list
    held_out: list
    digest: str


def read(config: FinetuneConfig, stage: str, parse: Callable[[Row], T], report: Report) -> Rows:
    """Return the parsed rows of config.data. A row that `parse` refuses (ValueError) stops the run with an error that names
    it, or, with config.bad_rows "skip", is dropped and counted. Sets the batch size and the held-out fraction where they are
    open."""
    rows, parsed = _parsed(config, config.data, stage, parse, report)
    fields = [row.fields for row in rows]
    if config.validation:
        train = parsed
        held_rows, held_out = _parsed(config, config.validation, stage, parse, report)
        learned = set(map(asked_first, fields))
        same = sum(asked_first(row.fields) in learned for row in held_rows)
        if same:
            report.warn(f"{same:,} of {len(held_rows):,} held-out rows ask what rows to learn from ask too")
    else:
        fraction = defaults.validation_fraction(config, len(rows))
        held = held_out_rows(fields, fraction)
        train, held_out = (
            [one for one, out in zip(parsed, held, strict=True) if out is side] for side in (False, True)
        )
        if fraction and train and not held_out:
            report.note(f"of {len(train):,} rows none is held out: they are too few, or ask the same")
        held_rows = []
    for part, source, what in ((train, config.data, "learn from"), (held_out, config.validation, "hold out")):
        if source and not part:
            raise CorpusError(stage, _listed_sources(source), expected=f"rows to {what}", got="none")
    if config.patience and not held_out:
        raise CorpusError(
            stage, expected="held-out rows for patience", got="none: give --validation or --validation-fraction"
        )
    config.batch_size = config.batch_size or defaults.batch_size(len(train), config.accumulation)
    return Rows(train, held_out, digest_of([*rows, *held_rows]))


def _parsed(
    config: FinetuneConfig, sources: str | list[str], stage: str, parse: Callable[[Row], T], report: Report
) -> tuple[list[Row], list[T]]:
    """Return the rows that `parse` takes, and what it makes of them."""
    parsed: list[T] = []
    kept: list[Row] = []
    problems: list[str] = []
    rows = read_rows(sources, config.columns, problems.append if config.bad_rows == "skip" else None, report.note)
    total = len(rows) + len(problems)
    for row in rows:
        try:
            parsed.append(parse(row))
            kept.append(row)
        except (ValueError, TypeError) as error:
            line = " ".join(str(error).split())
            problem = f"{row.where}: {line}"
            if config.bad_rows == "error":
                raise CorpusError(stage, f"{problem} (--bad-rows skip leaves such rows out)") from None
            problems.append(problem)
    if kept:
        used, unused = left_out(stage, kept[0].fields)
        if unused:
            report.note(f"read of each row: {listed(used)}; left out: {listed(unused)}")
    if problems:
        more = [f"and {len(problems) - _NAMED:,} more"] if len(problems) > _NAMED else []
        named = "\n  ".join(problems[:_NAMED] + more)
        report.warn(f"{len(problems):,} of {total:,} rows skipped:\n  {named}")
    return kept, parsed


def _listed_sources(sources: str | list[str]) -> str:
    return sources if isinstance(sources, str) else ", ".join(sources)


def say(report: Report, notes: Iterable[str]) -> None:
    """Report several notes."""
    for note in notes:
        report.note(note)


def digest_of(rows: Sequence[Row]) -> str:
    """Return 32 hex digits that change with any row."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(row.fields, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def described(lm: LanguageModel) -> str:
    """Describe how large a model is, and how much of it is trained."""
    trained = sum(p.size for p in lm.model.trainable().values())
    whole = f"{lm.num_parameters / 1e6:.2f}M parameters, {lm.model.dtype}"
    return whole if trained == lm.num_parameters else f"{trained / 1e6:.2f}M of {whole}"


class FinetuneStage(Stage):
    """A stage that starts from a model. `prompts`: the prompts of held-out rows, as token ids, for samples."""

    prompts: Sequence[Sequence[int]] = ()
    digest: str

    def __init__(self, config: FinetuneConfig, lm: LanguageModel):
        self.language_model, self.model = lm, lm.model
        self.sample_tokens = config.sample_tokens
        # What is saved is worth nothing on other weights than those that the run began with.
        self._start = adapter_base.digest_of_model(hub.resolve(config.model)) if adapters.has_lora(lm.model) else ""
        config.lr = config.lr or defaults.learning_rate(config.base_lr, lm.config.width, bool(config.lora_rank))
        if config.context > lm.config.context:
            raise Error(
                self.name, expected=f"a context of at most {lm.config.context} (the model's)", got=config.context
            )
        prepare(lm, config.chat_template)

    def before(self, step: int, number: int) -> None:
        dropout = adapters.dropout_of(self.model)
        if dropout is not None:
            dropout.begin(step, number)

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        prompts = [p for p in self.prompts if 0 < len(p) < self.model.config.context][:SAMPLES]
        if not prompts:
            return []
        answers = self.language_model.generate(prompts, self.sample_tokens, temperature=0)
        text = self.language_model.tokenizer.decode
        return [(text(p), str(a)) for p, a in zip(prompts, answers, strict=True)]

    def state(self) -> Mapping[str, object]:
        of_model = {"model": self._start} if self._start else {}
        return {"data": self.digest, "vocab_size": self.model.config.vocab_size, **of_model}

    def begin(self, directory: Path) -> None:
        self.language_model.tokenizer.save(directory)

    def save(self, directory: Path) -> None:
        self.language_model.save(directory)
