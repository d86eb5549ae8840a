"""Prefill and decoding with SmolLM2-135M-Instruct: Q4_1 weights here and in llama.cpp, int8 in CTranslate2.

    llmcore pull smollm2-135m-instruct
    python -m benchmarks.generation.generate --threads 2 --json benchmarks/results/generate-2.local.json

Every library does the same work in turns, greedily and without stopping early; a row has the median of its rounds. Peers take part
where they are installed: llama-cpp-python (compiled for this machine), ctranslate2 (with transformers and torch, for
the conversion). Rows without a peer measure llmcore against itself or against what memory delivers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import llmcore
from benchmarks.harness import results
from benchmarks.harness.environment import environment
from benchmarks.harness.results import model_row
from llmcore import hub
from llmcore.bench.model import measure_model
from llmcore.generate import Engine, Request, SamplingParams

NAME = "smollm2-135m-instruct"
TITLE = __doc__.partition("\n")[0]
rng = np.random.default_rng(0)


@dataclass(frozen=True)
class Sizes:
    """Tokens of prompts and answers, and how often each is measured."""

    rounds: int = 5
    prompt: int = 16
    decode: int = 128
    decode_batch: int = 64
    batches: tuple[int, ...] = (8, 32)
    prefill: int = 512
    long: int = 4096
    known: int = 1480
    unknown: int = 20
    draws: int = 200


SIZES = {False: Sizes(), True: Sizes(1, 4, 8, 4, (2,), 32, 64, 40, 8, 3)}  # whether --smoke


class Prompts:
    """Random ones, without special tokens."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def one(self, n: int) -> list[int]:
        return rng.integers(100, self.vocab_size - 100, n).tolist()

    def several(self, count: int, n: int) -> list[list[int]]:
        return [self.one(n) for _ in range(count)]


class Clock:
    """Notes when a request's tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def prompt(self, logprobs: list[float]) -> None:
        raise NotImplementedError

    def write(self, drawn, last) -> bool:
        self.times.append(time.perf_counter())
        return False


class Llmcore:
    name = "llmcore"

    def __init__(self, model: str, cache_dtype: str | None = None) -> None:
        self.lm = llmcore.load(model)
        self.lm.engine = Engine(self.lm.model, cache_dtype=cache_dtype)

    def run(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[Clock]]:
        clocks = [Clock() for _ in prompts]
        params = SamplingParams(max_tokens=tokens, temperature=0)
        requests = [Request(p, params, c) for p, c in zip(prompts, clocks, strict=True)]
        began = time.perf_counter()
        self.lm.engine.run(requests)
        return began, clocks

    def prefill(self, prompt: list[int]) -> float:
        began, (clock,) = self.run([prompt], 1)
        return clock.times[0] - began

    def decode(self, prompts: list[list[int]], tokens: int) -> float:
        """Return the seconds for `tokens` of every sequence, once all of them decode."""
        _, clocks = self.run(prompts, tokens + len(prompts) + 1)
        start = max(c.times[0] for c in clocks)
        end = min(c.times[-1] for c in clocks)
        written = sum(sum(start < t <= end for t in c.times) for c in clocks)
        return (end - start) * tokens * len(prompts) / written


class Apart:
    """A peer in a process of its own: two libraries that use a processor's matrix tiles each configure them for themselves
    and may crash on threads that they share."""

    def __init__(self, make: Callable, *args) -> None:
        self.name = make.name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, make, args), daemon=True).start()
        self._pipe.recv()  # is ready

    def _ask(self, *question) -> float | None:
        self._pipe.send(question)
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name}: {answer}")
        return answer

    def prefill(self, prompt: list[int]) -> float | None:
        return self._ask("prefill", prompt)

    def decode(self, prompts: list[list[int]], tokens: int) -> float | None:
        return self._ask("decode", prompts, tokens)


def _serve(pipe, make: Callable, args: tuple) -> None:
    side = make(*args)
    pipe.send(True)
    while True:
        try:
            name, *given = pipe.recv()
        except EOFError:  # the benchmark is over
            return
        try:
            pipe.send(getattr(side, name)(*given))
        except Exception as error:
            pipe.send(str(error))


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, model: str, threads: int, context: int) -> None:
        import llama_cpp

        path = str(hub.resolve(model))
        self._model = llama_cpp.Llama(path, n_ctx=context, verbose=False, n_threads=threads, n_threads_batch=threads)

    def prefill(self, prompt: list[int]) -> float:
        self._model.reset()
        began = time.perf_counter()
        self._model.eval(prompt)
        return time.perf_counter() - began

    def decode(self, prompts: list[list[int]], tokens: int) -> float | None:
        if len(prompts) > 1:
            return None  # the package has no batches
        self._model.reset()
        self._model.eval(prompts[0])
        began = time.perf_counter()
        for _ in range(tokens):
            self._model.eval([self._model.sample(temp=0.0)])
        return time.perf_counter() - began


class CTranslate2:
    name = "ctranslate2"

    def __init__(self, model: str, threads: int, folder: Path) -> None:
        import ctranslate2

        llmcore.load(model).save(folder / "hf", "float32")
        ctranslate2.converters.TransformersConverter(str(folder / "hf")).convert(
            str(folder / "int8"), quantization="int8"
        )
        self._generator = ctranslate2.Generator(str(folder / "int8"), intra_threads=threads, inter_threads=1)
        self._names = json.loads((folder / "int8" / "vocabulary.json").read_text())

    def _run(self, prompts: list[list[int]], tokens: int) -> float:
        named = [[self._names[i] for i in p] for p in prompts]
        began = time.perf_counter()
        found = self._generator.generate_batch(
            named,
            max_length=tokens,
            min_length=tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            max_batch_size=len(prompts),
        )
        seconds = time.perf_counter() - began
        assert all(len(f.sequences_ids[0]) == tokens for f in found)
        return seconds

    def prefill(self, prompt: list[int]) -> float:
        return self._run([prompt], 1)

    def decode(self, prompts: list[list[int]], tokens: int) -> float:
        """Without the first tokens and the prefill."""
        return max(self._run(prompts, tokens + 8) - self._run(prompts, 8), 1e-9)


def measure(name: str, sides: list, work: Callable, rounds: int, threads: int) -> dict:
    """Return a row: the median of each library's seconds, in turns, after one call that is not timed."""
    seconds: dict[str, list[float]] = {}
    for i in range(rounds + 1):
        for side in sides:
            took = work(side)
            if took is not None and i:
                seconds.setdefault(side.name, []).append(took)
    medians = {k: statistics.median(v) for k, v in seconds.items()}
    peers = [v for k, v in medians.items() if k != "llmcore"]
    ratio = min(peers) / medians["llmcore"] if peers else None
    return model_row(name, medians, ratio, threads)


def first_token_from_disk(model: str) -> float:
    """Return the seconds until the first token in a new process that has imported the package."""
    return in_new_process(
        "import time, llmcore, llmcore.generate\n"
        "began = time.perf_counter()\n"
        f"next(iter(llmcore.load({model!r}).stream('The capital of France is', 4, temperature=0)))\n"
    )


def first_token_from_disk_llama(model: str) -> float:
    return in_new_process(
        "import time, llama_cpp\n"
        "began = time.perf_counter()\n"
        f"m = llama_cpp.Llama({str(hub.resolve(model))!r}, n_ctx=512, verbose=False, n_threads={llmcore.num_threads()})\n"
        "m.eval(m.tokenize(b'The capital of France is', add_bos=False)); m.sample(temp=0.0)\n"
    )


def in_new_process(code: str) -> float:
    command = [sys.executable, "-c", f"{code}print(time.perf_counter() - began)"]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def rows(model: str, threads: int, folder: Path, sizes: Sizes) -> list[dict]:
    ours = Llmcore(model)
    prompts = Prompts(ours.lm.model.config.vocab_size)
    sides: list = [ours]
    has_llama = importlib.util.find_spec("llama_cpp") is not None and hub.resolve(model).suffix == ".gguf"
    if has_llama:
        sides.append(Apart(LlamaCpp, model, threads, sizes.long + 512))
    if importlib.util.find_spec("ctranslate2") is not None:
        sides.append(Apart(CTranslate2, model, threads, folder))
    found = []

    def add(row: dict) -> None:
        found.append(row)
        times = "  ".join(f"{k} {v * 1e3:,.2f} ms" for k, v in row["seconds"].items())
        print(f"{row['name']:66} {times}  {row['ratio'] or 0:.2f}x", flush=True)

    def own(name: str, seconds: float, note: str) -> dict:
        return model_row(f"{name} ({note})", {"llmcore": seconds}, None, threads)

    def decode(batch: int, prompt: int, tokens: int) -> Callable:
        return lambda side: side.decode(prompts.several(batch, prompt), tokens)

    one = measure(
        f"decoding {sizes.decode} tokens", sides, decode(1, sizes.prompt, sizes.decode), sizes.rounds, threads
    )
    add(one)
    for batch in sizes.batches:
        name, work = (
            f"decoding {sizes.decode_batch} tokens, {batch} sequences",
            decode(batch, sizes.prompt, sizes.decode_batch),
        )
        row = measure(name, sides, work, min(3, sizes.rounds), threads)
        rate = batch * sizes.decode_batch / row["seconds"]["llmcore"] / (sizes.decode / one["seconds"]["llmcore"])
        add(row | {"name": f"{name} ({rate:.1f}x one's rate)"})
    name = f"prefill of {sizes.prefill} tokens"
    add(measure(name, sides, lambda side: side.prefill(prompts.one(sizes.prefill)), sizes.rounds, threads))
    name, work = f"decoding {sizes.decode_batch} tokens after {sizes.long:,}", decode(1, sizes.long, sizes.decode_batch)
    add(measure(name, sides[:2] if has_llama else sides[:1], work, min(2, sizes.rounds), threads))
    eight = Llmcore(model, "int8")
    add(own(name, statistics.median(work(eight) for _ in range(min(3, sizes.rounds))), "8-bit keys and values"))
    seen = prompts.one(sizes.known)
    ours.prefill(seen)
    took = statistics.median(ours.prefill(seen + prompts.one(sizes.unknown)) for _ in range(sizes.rounds))
    add(own(f"first token of {sizes.known + sizes.unknown:,}", took, f"{sizes.known:,} of them known"))
    disk = [first_token_from_disk(model) for _ in range(sizes.rounds)]
    row = own("first token from a warm disk", statistics.median(disk), "a new process, the package imported")
    if has_llama:
        row["seconds"]["llama.cpp"] = statistics.median(first_token_from_disk_llama(model) for _ in range(3))
        row["ratio"] = row["seconds"]["llama.cpp"] / row["seconds"]["llmcore"]
    add(row)
    step = one["seconds"]["llmcore"] / sizes.decode
    share = sampling_seconds(ours.lm, prompts.one(8), sizes.draws)
    add(own("one draw with top-k and top-p", share, f"{share / step:.1%} of a step"))
    median, ninth = keystrokes(ours.lm)
    add(own("three words for a keystroke", median, f"nine of ten under {ninth * 1e3:.1f} ms"))
    weights = measure_model(ours.lm.model, prompt=sizes.prompt, tokens=sizes.decode_batch, batches=(1,))["weight_bytes"]
    rate, used = environment(threads)["machine"]["read_gb_s"]["all"], weights / step / 1e9
    add(own("a step of decoding", step, f"{used:.1f} GB/s of weights, {used / rate:.0%} of what memory delivers"))
    return found


def sampling_seconds(lm: llmcore.LanguageModel, prompt: list[int], draws: int) -> float:
    from llmcore import ops

    logits = lm.model(np.array([prompt]), last_only=True).array.reshape([1, -1])
    times = []
    for step in range(draws):
        began = time.perf_counter()
        ops.sample(logits, 0.8, 40, 0.95, seed=1, step=step)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def keystrokes(lm: llmcore.LanguageModel) -> tuple[float, float]:
    """Return the median and the ninth decile of the seconds that a keystroke of the phone's keyboard takes."""
    text = "I would like to schedule a meeting with the new manager tomorrow morning"
    lm.suggest(text, 3)
    times = []
    for n in range(1, len(text) + 1):
        lm.suggest(text[:n], 3)  # steps of every size are recorded
    lm._suggester = None
    lm.suggest("a b c d", 3)
    for n in range(1, len(text) + 1):
        began = time.perf_counter()
        lm.suggest(text[:n], 3)
        times.append(time.perf_counter() - began)
    return statistics.median(times), sorted(times)[int(0.9 * len(times))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=llmcore.num_threads())
    parser.add_argument("--seconds", type=float, help="taken for the sake of run.py: the work is fixed here")
    parser.add_argument("--model", default=NAME, help="a file that was pulled, or another model")
    parser.add_argument("--smoke", action="store_true", help="a few tokens, to see that everything works")
    parser.add_argument("--json", type=Path, help="where to write the result")
    args = parser.parse_args()
    llmcore.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = rows(args.model, args.threads, Path(folder), SIZES[args.smoke])
    results.write(args.json, {"kind": "ops", "title": TITLE, "rows": found, "environment": environment(args.threads)})


if __name__ == "__main__":
    main()
