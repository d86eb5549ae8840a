"""The first half: text, tokens, a base model, its compression and its sampling."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from llmcore import terminal
from llmcore.errors import ExistingFileError

if TYPE_CHECKING:
    from rich.console import Console

    from llmcore.data import Corpus
    from llmcore.tokenizer import Tokenizer
    from llmcore.train import PretrainConfig

VOCABULARY = 4096
SENTENCE = "The method returns True if all characters in the string are digits."
PROMPTS = ("The function returns a", "Return True if", "This module provides")
TEMPERATURES = (0.2, 0.7, 1.5)
# More updates memorise the training text and do not improve on the held-out text.
MOST_STEPS = 3000
# The fraction of the time that training is planned to take: other processes may slow it down.
PLANNED = 0.92
EVALUATIONS, SAMPLES = 3, 5
# Groups of related words, for the map, and for `llmcore plot DIR --words`.
WORDS_OF_THE_MAP = {
    "numbers": ["integer", "float", "number", "decimal", "zero"],
    "texts": ["string", "bytes", "characters", "text", "encoding"],
    "files": ["file", "directory", "path", "open", "read", "write"],
    "errors": ["error", "exception", "raised", "warning"],
    "containers": ["list", "dictionary", "tuple", "set", "sequence"],
    "logic": ["True", "False", "None"],
}


def settings(out: Path, minutes: float, seed: int, threads: int | None) -> PretrainConfig:
    """Return the config of the base model."""
    from llmcore.train import PretrainConfig

    return PretrainConfig(
        out=str(out),
        architecture="llama",
        layers=2,
        width=256,
        heads=4,
        context=256,
        batch_size=4,
        lr=1.5e-3,
        beta2=0.99,
        vocab_size=VOCABULARY,
        max_minutes=0.97 * minutes,  # the last evaluation comes after
        seed=seed,
        save_every=0,
        sample_prompts=list(PROMPTS[:2]),
        sample_tokens=24,
        threads=threads,
        watch=[" ".join(words) for words in WORDS_OF_THE_MAP.values()],
    )


def check_out(out: Path) -> None:
    """Raise FileExistsError unless the directory is empty, absent or a demo's own, which is replaced without asking."""
    if out.exists() and not (out / "demo").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ExistingFileError("demo", f"{out} exists and was not made by the demo: choose another --out")


def heading(console: Console, number: int, title: str, explanation: str) -> None:
    """Print the heading of a chapter."""
    console.print()
    console.print(f"{number}. {title}", style="bold", markup=False)
    console.print(explanation, style="dim", markup=False)


def tokens(console: Console, corpus: Corpus) -> Tokenizer:
    """Train a tokenizer and show a sentence in its tokens."""
    from llmcore.tokenizer import Tokenizer

    heading(
        console,
        1,
        "Text becomes tokens",
        "A model reads numbers, not letters. Byte-pair encoding starts from single bytes and merges the most frequent pair "
        "into a new token, again and again.",
    )
    began = time.perf_counter()
    tokenizer = Tokenizer.train(iter(corpus.train), VOCABULARY)
    seconds = time.perf_counter() - began
    console.print(
        f"{tokenizer.vocab_size} tokens learned from {corpus.train_bytes / 1e6:.1f} MB of Python's own documentation in "
        f"{seconds:.1f} s. A sentence in tokens, with their numbers:"
    )
    ids = tokenizer.encode_ordinary(SENTENCE)
    terminal.print_tokens(console, [terminal.token_text(tokenizer.token_bytes(i)) for i in ids], [str(i) for i in ids])
    return tokenizer


def plan(config: PretrainConfig, corpus: Corpus, tokenizer: Tokenizer, steps: int | None) -> PretrainConfig:
    """Return the config with as many steps as fit into the time. The learning rate must reach its end at the last step, so
    their number is fixed beforehand, by timing a throw-away model."""
    from dataclasses import replace

    from llmcore.train import loop
    from llmcore.train.stages.pretrain import PretrainStage

    if steps is None:
        trial = PretrainStage(config, [corpus], tokenizer)
        each = loop.seconds_per_update(trial, config)
        began = time.perf_counter()
        trial.samples(0)
        sampling = time.perf_counter() - began
        # Evaluation runs forward passes only, about a third of the work of training on the same tokens.
        evaluation = each / 3 * sum(w.predicted for w in trial.windows) / (config.batch_size * config.context)
        room = PLANNED * 60 * config.max_minutes - EVALUATIONS * evaluation - SAMPLES * sampling
        steps = max(1, min(MOST_STEPS, int(room / each)))
    return replace(
        config,
        steps=steps,
        warmup=min(50, steps // 10),
        eval_every=-(-steps // EVALUATIONS),
        sample_every=-(-steps // (SAMPLES + 1)),
    )


def training(console: Console, config: PretrainConfig, corpus: Corpus, tokenizer: Tokenizer):
    """Train the base model. Returns it, its bits per byte on held-out text, and the seconds it took."""
    from llmcore.train import TerminalReport, pretrain

    class KeepLastRow(TerminalReport):
        def update(self, row):
            super().update(row)
            self.last = row

    heading(
        console,
        2,
        "Pretraining: guess the next token",
        "The model reads the text and is nudged, at every token, to give the one that really follows a higher probability. "
        "A tenth of the text is held out: it is measured on that, and never learns from it.",
    )
    report = KeepLastRow(console)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out)
    (out / "demo").write_text("This directory is replaced by the next `llmcore demo`.\n")
    began = time.perf_counter()
    from dataclasses import replace

    lm = pretrain(replace(config, tokenizer=str(out)), report=report, overwrite=True)
    return lm, report.last["val/bpb"], time.perf_counter() - began


def compression(console: Console, corpus: Corpus, bpb: float, quick: bool) -> None:
    """Show the model's bits per byte next to those of compressors."""
    from llmcore import data

    heading(
        console,
        3,
        "What it learned, in bits",
        "To predict is to compress: a sure guess costs few bits. Bits for each byte of the held-out text (8 without "
        "compression, lower is better):",
    )
    rows = {**data.compressed_bits_per_byte(b"".join(corpus.validation)), "this model": bpb}
    for name, bits in rows.items():
        style = "bold green" if name == "this model" else None
        line = f"{name:<12}{terminal.bar(bits / max(rows.values()), 50, console.encoding)} {bits:.3f}"
        console.print(line, style=style, soft_wrap=True)
    if bpb > rows["gzip -9"]:
        longer = "; the full demo, without --quick, usually does" if quick else ""
        console.print(f"A run this short does not beat gzip yet{longer}.", style="dim")


def writing(console: Console, lm, seed: int) -> None:
    """Show next-token probabilities at several temperatures, and completions."""
    heading(
        console,
        4,
        "From probabilities to text",
        "The model gives every token a probability; one is drawn and the model goes on from there. Temperature is the dial: "
        "low is sure, high is wild.",
    )
    prompt = PROMPTS[0]
    console.print(f"{prompt} …", style="bold")
    columns = {f"temperature {t:g}": lm.next_tokens(prompt, 8, temperature=t) for t in TEMPERATURES}
    terminal.print_distributions(console, columns)
    console.print()
    console.print("Three completions at temperature 0.7:")
    from rich.text import Text

    for p, completion in zip(
        PROMPTS, lm.generate(list(PROMPTS), 40, temperature=0.7, top_p=0.95, seed=seed), strict=True
    ):
        console.print(
            Text.assemble("• ", (p, "bold"), (re.sub(r"\s+", " ", terminal.harmless(str(completion))), "green"))
        )
