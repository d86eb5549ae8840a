"""`RewardModel`: a model that rates an answer with one number."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import autograd, hub, nn, ops
from llmcore._tensor import Tensor
from llmcore.errors import Error
from llmcore.generate import save
from llmcore.generate.chat.learned import renderings
from llmcore.generate.chat.names import LAST_TURN
from llmcore.generate.chat.template import ChatOptions
from llmcore.generate.language_model import LanguageModel
from llmcore.generate.loader import load
from llmcore.generate.weight_files import read_weights
from llmcore.models import adapter_files

SCORE = "score.weight"  # as transformers' models for sequence classification name it
_ROWS = 16  # answers that are scored at a time

Messages = Sequence[Mapping[str, Any]]
_NOTHING = ChatOptions()


class RewardModel(nn.Module):
    """A language model with a matrix (1, width) that turns the hidden state of an answer's last token into a reward."""

    def __init__(self, lm: LanguageModel, weight: np.ndarray | None = None):
        self.lm, self.model = lm, lm.model
        self.head = nn.Linear(lm.config.width, 1, bias=False)
        if weight is not None:
            self.head.weight.assign(np.asarray(weight, np.float32))

    def __repr__(self) -> str:
        return f"<RewardModel of {self.lm!r}>"

    def forward(self, rows: Sequence[np.ndarray]) -> Tensor:
        """Return the rewards (B) float32 of whole conversations, given as token ids."""
        T = max(map(len, rows))
        ids = np.zeros((len(rows), T), np.int32)
        for r, row in zip(ids, rows, strict=True):
            r[: len(row)] = row  # padding after the last token changes nothing before it
        hidden = self.model.hidden(ids)
        last = np.array([r * T + len(row) - 1 for r, row in enumerate(rows)], np.int32)
        ends = ops.take(hidden.reshape(len(rows) * T, hidden.shape[-1]), last)
        return ops.linear(ends, self.head.weight, out_dtype="float32").reshape(len(rows))

    def ids(self, prompt: str | Messages, answer: str, options: ChatOptions = _NOTHING) -> np.ndarray:
        """Return the ids of a prompt and an answer as a conversation, up to the token that ends the answer. options: what
        else it is rendered with. ValueError if the template refuses it or it is longer than the context."""
        lm = self.lm
        if lm.chat_template is None:
            raise Error("reward", expected="a model with a chat template", got="one without")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        last = messages[-1] if messages else {}
        if last.get("role") == "assistant" and isinstance(last.get("content"), str):  # the beginning of the answer
            answer = last["content"] + answer
            messages = messages[:-1]
        whole = [*messages, {"role": "assistant", "content": answer}]
        found = renderings(lm.chat_template, lm.tokenizer, whole, lm.end_ids, len(messages), options, learn=LAST_TURN)
        if not found:
            raise Error("reward", expected="a prompt", got="none")
        row = ended(np.array(lm.checked(found[0].ids), np.int32), np.array(found[0].mask))
        if len(row) > lm.config.context:
            raise Error("reward", expected=f"at most {lm.config.context} tokens", got=len(row))
        return row

    def score(self, prompt: str | Messages, answer: str) -> float:
        """Return how good an answer is; higher is better, and only differences are meaningful."""
        return self([prompt], [answer])[0]

    def __call__(self, prompts, completions, **columns) -> list[float]:  # type: ignore[override]
        """Return the scores of several answers, with the signature of a reward function. Of the columns, `tools`,
        `documents` and `chat_template_kwargs` are heeded."""
        read = {name: columns[name] for name in ("tools", "documents", "chat_template_kwargs") if name in columns}
        options = [ChatOptions(**{name: values[i] for name, values in read.items()}) for i in range(len(prompts))]
        rows = [self.ids(p, c, o) for p, c, o in zip(prompts, completions, options, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found = np.empty(len(rows))
        with autograd.no_grad():
            for start in range(0, len(order), _ROWS):
                part = order[start : start + _ROWS]
                found[part] = self.forward([rows[i] for i in part]).numpy()
        return found.tolist()

    def save(self, path: str | os.PathLike) -> Path:
        """Write a folder in the format of transformers' sequence classification models with one label."""
        architecture = type(self.lm.config).hf_class.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
        pad = self.lm.end_ids[0] if self.lm.end_ids else 0
        return save.save_folder(
            self.lm.merged(),
            Path(path),
            None,
            tensors={SCORE: self.head.weight.array.numpy()},
            config={
                "architectures": [f"{architecture}ForSequenceClassification"],
                "id2label": {"0": "reward"},
                "label2id": {"reward": 0},
                "pad_token_id": pad,
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike, dtype: str | None = None, quantize: str | None = None) -> RewardModel:
        """Load such a folder; options as of `llmcore.load`. ValueError for a model without a score."""
        lm = load(path, dtype, quantize)
        head = score_head(lm, path)
        if head is None or head.shape != (1, lm.config.width):
            raise Error(
                "load",
                path,
                expected=f"a reward model with a tensor {SCORE} (1, {lm.config.width})",
                got="none" if head is None else head.shape,
            )
        return cls(lm, head)


def score_head(lm: LanguageModel, path: str | os.PathLike) -> np.ndarray | None:
    """Return the matrix of scores in the files of a model, or of its adapter, or None. path: what it was loaded from."""
    folder = hub.resolve(path)
    if (folder / adapter_files.WEIGHTS).is_file():
        own = adapter_files.read_tensors(folder).get(SCORE)
        if own is not None:
            return own
    weights = read_weights(lm.source) if lm.source is not None and lm.source.is_dir() else {}
    return weights.get(SCORE)


def ended(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a conversation up to the last token of its last answer."""
    return ids[: int(np.flatnonzero(mask)[-1]) + 1]
