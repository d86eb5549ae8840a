"""What all stages share that begin with a model: how it is opened, with adapters or without, and how it is kept."""

from __future__ import annotations

from pathlib import Path

from llmcore.generate import LanguageModel, load
from llmcore.generate.chat_template import ChatTemplate
from llmcore.models import adapters
from llmcore.runtime import default_dtype
from llmcore.train.config import TuningConfig

# For models that come without one: roles as headings, and an end of text behind every answer.
PLAIN_TEMPLATE = (
    "{% for m in messages %}### {{ m.role }}\n{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant\n{% endif %}"
)


def open_model(config: TuningConfig) -> LanguageModel:
    """The model that a run begins with. With `lora_rank`, its weights are frozen, maybe quantized, and adapters are on;
    those that it had are merged. ValueError or FileNotFoundError, one line."""
    if not config.lora_rank:
        return load(config.model, config.dtype, quantize="none").merged()
    quantize = None if config.quantize == "stored" else config.quantize
    lm = load(config.model, config.dtype or default_dtype(), quantize=quantize).merged()
    lora = adapters.LoRAConfig(config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_targets)
    adapters.put_on(lm.model, lora, config.seed)
    return lm


def check_context(stage: str, config: TuningConfig, lm: LanguageModel) -> None:
    if config.context > lm.config.context:
        raise ValueError(
            f"[{stage}] expected a context of at most {lm.config.context} (the model's), got {config.context}"
        )


def prepare(lm: LanguageModel) -> None:
    """Gives a model that has no chat template a plain one. ValueError for one that cannot end an answer."""
    if not lm.end_ids:
        raise ValueError("[train] expected a model that knows an end of text, got one without")
    if lm.chat_template is None:
        lm.chat_template = ChatTemplate(PLAIN_TEMPLATE, eos_token=lm.token_text(lm.end_ids[0]))


def begin_update(lm: LanguageModel, step: int) -> None:
    """Before the micro-batches of an update: what adapters leave out is a function of its number."""
    dropout = adapters.dropout_of(lm.model)
    if dropout is not None:
        dropout.begin(step)


def described(lm: LanguageModel) -> str:
    """How large a model is, and how much of it is trained."""
    trained = sum(p.size for p in lm.model.trained().values())
    whole = f"{lm.num_parameters / 1e6:.2f}M parameters, {lm.model.dtype}"
    return whole if trained == lm.num_parameters else f"{trained / 1e6:.2f}M of {whole}"


def begin(lm: LanguageModel, directory: Path) -> None:
    """Write what a resumed run needs besides the checkpoints."""
    lm.tokenizer.save(directory)
