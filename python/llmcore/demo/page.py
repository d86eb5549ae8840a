"""report.html: the demo in pictures, one self-contained file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore import autograd, terminal
from llmcore._files import write_atomically
from llmcore.demo import base
from llmcore.demo.measure import COLUMNS, WORDS
from llmcore.demo.second_half import format_figure
from llmcore.models import Llama

if TYPE_CHECKING:
    from llmcore.generate import LanguageModel

STAGES = {"base": "base model", "sft": "after fine-tuning", "dpo": "after preferences", "grpo": "after rewards"}


def write(out: Path, lm: LanguageModel, figures: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the report of the base model `lm` and of what the stages left in `out`; returns the file."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("llmcore.demo").joinpath("page.html.jinja").read_text("utf-8"))
    ids = lm.tokenizer.encode_ordinary(base.SENTENCE)
    prompt = base.PROMPTS[0]
    tokens, weights = attention(lm, base.SENTENCE)
    page = template.render(
        sentence=[(terminal.token_text(lm.tokenizer.token_bytes(i)), i) for i in ids],
        map=word_map(lm),
        curves=[c for c in _curves(out) if c.points],
        prompt=prompt,
        bars={t: lm.next_tokens(prompt, 8, temperature=t) for t in base.TEMPERATURES},
        attention={"tokens": [terminal.visible(t) for t in tokens], "weights": weights.tolist()},
        stages={name: STAGES[name] for name in figures},
        questions=_side_by_side(figures),
        columns=COLUMNS,
        rows={name: {c: format_figure(c, f[c]) for c in COLUMNS} for name, f in figures.items()},
        short=[(q, a) for q, a in figures.get("grpo", {}).get("short_answers", [])[:6]],
        words=WORDS,
    )
    path = out / "report.html"
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


@dataclass(frozen=True)
class Point:
    """A word on the map; x and y are from 0 to 1."""

    word: str
    group: int
    x: float
    y: float


def word_map(lm: LanguageModel) -> list[Point]:
    """Project the embeddings of the map's words on the two directions in which they differ most (principal components)."""
    words = [(w, g) for g, group in enumerate(base.WORDS_OF_THE_MAP.values()) for w in group]
    table = lm.model.tokens.weight.array.numpy()
    rows = np.stack([table[lm.tokenizer.encode_ordinary(f" {w}")].mean(axis=0) for w, _ in words]).astype(np.float64)
    rows -= rows.mean(axis=0)
    _, _, axes = np.linalg.svd(rows, full_matrices=False)
    at = rows @ axes[:2].T
    low, high = at.min(axis=0), at.max(axis=0)
    at = (at - low) / np.maximum(high - low, 1e-12)
    return [Point(w, g, float(x), float(y)) for (w, g), (x, y) in zip(words, at, strict=True)]


def attention(lm: LanguageModel, text: str) -> tuple[list[str], np.ndarray]:
    """Return the tokens of a text (T) and the attention weights of each on those before it (T, T), in the head of the last
    layer that attends least to the first token and to itself. The demo's model is a Llama."""
    model = lm.model
    assert isinstance(model, Llama)
    ids, pos = model.locate(np.array([lm.prompt_ids(text)], np.int32), None)
    *before, last = model.blocks
    with autograd.no_grad():
        x = last.norm1(model.run_blocks(before, model.embed(ids), pos))
        q, k = (part.numpy()[0].astype(np.float64) for part in last.attention.project(x, pos)[:2])
    scores = np.einsum("ihd,jhd->hij", q, np.repeat(k, q.shape[1] // k.shape[1], axis=1)) / math.sqrt(q.shape[2])
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    T = weights.shape[1]
    elsewhere = [1 - (w[:, 0] + w[np.arange(T), np.arange(T)])[1:].mean() for w in weights]
    return [lm.token_text(int(i)) for i in ids[0]], weights[int(np.argmax(elsewhere))]


@dataclass(frozen=True)
class Curve:
    """One figure of a log by update. points: a polyline in a box of 100 by 100. low, high: the values at its lower and upper
    edge."""

    title: str
    points: str
    low: float
    high: float
    steps: int


def curve(title: str, values: Sequence[float]) -> Curve:
    """Return the curve of values, smoothed by a moving average so that it is readable."""
    if not values:
        return Curve(title, "", 0.0, 0.0, 0)
    width = max(1, len(values) // 40)
    each = np.convolve(np.pad(values, width, mode="edge"), np.ones(2 * width + 1) / (2 * width + 1), mode="valid")
    low, high = float(each.min()), float(each.max())
    x = np.linspace(0, 100, len(each)) if len(each) > 1 else np.zeros(1)
    y = 100 - 100 * (each - low) / max(high - low, 1e-12)
    return Curve(title, " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True)), low, high, len(values))


def _curves(out: Path) -> list[Curve]:
    wanted = (
        ("pretraining: loss", out, "train/loss"),
        ("fine-tuning: loss", out / "sft", "train/loss"),
        ("preferences: margin of rewards", out / "dpo", "rewards/margins"),
        ("rewards: mean reward", out / "grpo", "reward"),
    )
    found = []
    for title, folder, key in wanted:
        path = folder / "log.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        found.append(curve(title, [row[key] for row in rows if key in row]))
    return [replace(c, title=f"{c.title}, {c.steps} updates") for c in found]


def _side_by_side(figures: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return (question, the answer of every stage)."""
    first = next(iter(figures.values()))["answers"]
    return [(q, [f["answers"][i][1] for f in figures.values()]) for i, (q, _) in enumerate(first[:8])]
