"""Names that nobody knows: of arguments, settings and flags. What is likely to be meant is said."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, ParamSpec, TypeVar

from llmcore.errors import ArgumentTypeError

P = ParamSpec("P")
R = TypeVar("R")

# What transformers, TRL, PEFT, llama.cpp and OpenAI's API call it, and what llmcore does; the first that there is.
ELSEWHERE = {
    "bad_words_ids": "banned", "callback": "on_token", "do_sample": "temperature", "early_stopping_patience": "patience",
    "eos_token_id": "stop_ids", "eval_steps": "eval_every", "gradient_accumulation_steps": "accumulation",
    "gradient_checkpointing": "recompute", "guided_json": "json_schema", "guided_regex": "regex", "learning_rate": "lr",
    "logit_biases": "logit_bias", "lora_r": "lora_rank", "lr_scheduler_type": "schedule",
    "max_completion_tokens": "max_tokens", "max_grad_norm": "grad_clip", "max_length": "max_tokens context",
    "max_new_tokens": "max_tokens", "max_seq_len": "context", "max_seq_length": "context", "max_steps": "steps",
    "min_new_tokens": "min_tokens", "model_name_or_path": "model", "n_predict": "max_tokens",
    "no_repeat_ngram_size": "no_repeat_ngram", "num_beams": "beams", "num_epochs": "epochs",
    "num_generations": "group n", "num_return_sequences": "n", "num_train_epochs": "epochs",
    "output_dir": "out", "per_device_train_batch_size": "batch_size", "repeat_penalty": "repetition_penalty",
    "save_steps": "save_every", "save_total_limit": "keep", "stop_sequences": "stop", "stop_strings": "stop",
    "stop_token_ids": "stop_ids", "streamer": "on_token", "target_modules": "lora_targets", "torch_dtype": "dtype",
    "train_file": "data", "typical": "typical_p", "validation_file": "validation", "warmup_steps": "warmup",
}  # fmt: skip


def meant(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that an unknown one is likely to mean, or None."""
    import difflib

    own = [k for k in known if not k.startswith("_")]
    elsewhere = {other: next((n for n in names.split() if n in own), "") for other, names in ELSEWHERE.items()}
    found = {
        **{other: n for other, n in elsewhere.items() if n},
        **{k.replace("_", ""): k for k in own},
        **{k: k for k in own},
    }
    close = [name] if name in found else difflib.get_close_matches(name.lower(), found, n=1, cutoff=0.7)
    return found[close[0]] if close else None


def unknown(where: str, name: str, known: Iterable[str], what: str = "an argument") -> NoReturn:
    """Raise ArgumentTypeError (a TypeError and a ValueError) that names what is not known and what is likely to be meant."""
    found = meant(name, known)
    raise ArgumentTypeError(
        where, expected=f"{what} that there is", got=repr(name) + (f" (did you mean {found!r}?)" if found else "")
    )


def known_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that is called by keywords: an unknown one is told as `unknown` does."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                unknown(function.__name__, name, names)
        return function(*args, **kwargs)

    return call


class KnownFields(type):
    """The kind of a dataclass of settings: an unknown keyword argument is told as `unknown` does."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in kwargs:
            if name not in names:
                unknown("config", name, names, f"a setting of {cls.__name__}")
        return super().__call__(*args, **kwargs)
