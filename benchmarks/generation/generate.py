"""Reading and writing with SmolLM2-135M-Instruct: Q4_1 weights here and in llama.cpp, int8 in CTranslate2.

    llmcore pull smollm2-135m-instruct
    python -m benchmarks.generation.generate --threads 2 --json benchmarks/results/generate-2.local.json

Every library does the same work in turns, greedily and without an end; a row has the median of its rounds. Peers are
taken where they are installed: llama-cpp-python (compiled for this machine), ctranslate2 (with transformers and torch, for
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
from pathlib import Path

import numpy as np

import llmcore
from benchmarks.harness.environment import environment
from llmcore.bench.model import measure_model
from llmcore.generate import Engine, Request, SamplingParams

NAME = "smollm2-135m-instruct"
TITLE = __doc__.partition("\n")[0]
ROUNDS = 5
VOCAB = 49000  # of the random prompts: no special tokens
rng = np.random.default_rng(0)


def random_prompt(n: int) -> list[int]:
    return rng.integers(100, VOCAB, n).tolist()


class Clock:
    """A writer that notes when its tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def prompt(self, logprobs: list[float]) -> None:
        raise NotImplementedError

    def write(self, drawn, last) -> bool:
        self.times.append(time.perf_counter())
        return False


class Llmcore:
    name = "llmcore"

    def __init__(self, cache_dtype: str | None = None) -> None:
        self.lm = llmcore.load(NAME)
        self.lm.engine = Engine(self.lm.model, cache_dtype=cache_dtype)

    def run(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[Clock]]:
        clocks = [Clock() for _ in prompts]
        params = SamplingParams(max_tokens=tokens, temperature=0)
        requests = [Request(p, params, c) for p, c in zip(prompts, clocks, strict=True)]
        began = time.perf_counter()
        self.lm.engine.run(requests)
        return began, clocks

    def read(self, prompt: list[int]) -> float:
        began, (clock,) = self.run([prompt], 1)
        return clock.times[0] - began

    def write(self, prompts: list[list[int]], tokens: int) -> float:
        """Seconds for `tokens` of every sequence, once all of them write."""
        _, clocks = self.run(prompts, tokens + len(prompts) + 1)
        start = max(c.times[0] for c in clocks)
        end = min(c.times[-1] for c in clocks)
        written = sum(sum(start < t <= end for t in c.times) for c in clocks)
        return (end - start) * tokens * len(prompts) / written


class Apart:
    """A peer in a process of its own: two libraries that use a processor's matrix tiles each configure them for themselves,
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

    def read(self, prompt: list[int]) -> float | None:
        return self._ask("read", prompt)

    def write(self, prompts: list[list[int]], tokens: int) -> float | None:
        return self._ask("write", prompts, tokens)


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

    def __init__(self, threads: int, context: int) -> None:
        import llama_cpp

        from llmcore import hub

        path = str(hub.resolve(NAME))
        self._model = llama_cpp.Llama(path, n_ctx=context, verbose=False, n_threads=threads, n_threads_batch=threads)

    def read(self, prompt: list[int]) -> float:
        self._model.reset()
        began = time.perf_counter()
        self._model.eval(prompt)
        return time.perf_counter() - began

    def write(self, prompts: list[list[int]], tokens: int) -> float | None:
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

    def __init__(self, threads: int, folder: Path) -> None:
        import ctranslate2

        llmcore.load(NAME).save(folder / "hf", "float32")
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

    def read(self, prompt: list[int]) -> float:
        return self._run([prompt], 1)

    def write(self, prompts: list[list[int]], tokens: int) -> float:
        """Less the first tokens and the reading."""
        return max(self._run(prompts, tokens + 8) - self._run(prompts, 8), 1e-9)


def measure(name: str, sides: list, work: Callable, rounds: int = ROUNDS) -> dict:
    """A row: the median of each library's seconds, in turns, behind one call that is not timed."""
    seconds: dict[str, list[float]] = {}
    for i in range(rounds + 1):
        for side in sides:
            took = work(side)
            if took is not None and i:
                seconds.setdefault(side.name, []).append(took)
    medians = {k: statistics.median(v) for k, v in seconds.items()}
    peers = [v for k, v in medians.items() if k != "llmcore"]
    ratio = min(peers) / medians["llmcore"] if peers else None
    return {"name": name, "dtype": "model", "seconds": medians, "ratio": ratio, "flops": 0, "traffic": 0}


def own(name: str, seconds: float, note: str) -> dict:
    return {"name": f"{name} ({note})", "dtype": "model", "seconds": {"llmcore": seconds}, "ratio": None, "flops": 0,
            "traffic": 0}  # fmt: skip


def first_token_from_disk() -> float:
    """Of a new process that has imported the package."""
    code = (
        "import time, llmcore, llmcore.generate\n"
        "began = time.perf_counter()\n"
        f"next(iter(llmcore.load({NAME!r}).stream('The capital of France is', 4, temperature=0)))\n"
        "print(time.perf_counter() - began)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)


def first_token_from_disk_llama() -> float:
    from llmcore import hub

    code = (
        "import time, llama_cpp\n"
        "began = time.perf_counter()\n"
        f"m = llama_cpp.Llama({str(hub.resolve(NAME))!r}, n_ctx=512, verbose=False, n_threads={llmcore.num_threads()})\n"
        "m.eval(m.tokenize(b'The capital of France is', add_bos=False)); m.sample(temp=0.0)\n"
        "print(time.perf_counter() - began)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)


def rows(threads: int, folder: Path) -> list[dict]:
    ours = Llmcore()
    sides: list = [ours]
    has_llama = importlib.util.find_spec("llama_cpp") is not None
    if has_llama:
        sides.append(Apart(LlamaCpp, threads, 4608))
    if importlib.util.find_spec("ctranslate2") is not None:
        sides.append(Apart(CTranslate2, threads, folder))
    found = []

    def add(row: dict) -> None:
        found.append(row | {"threads": threads})
        times = "  ".join(f"{k} {v * 1e3:,.2f} ms" for k, v in row["seconds"].items())
        print(f"{row['name']:66} {times}  {row['ratio'] or 0:.2f}x", flush=True)

    one = measure("writing 128 tokens", sides, lambda s: s.write([random_prompt(16)], 128))
    add(one)
    for batch in (8, 32):
        add(measure(f"writing 64 tokens, {batch} sequences", sides,
                    lambda s, b=batch: s.write([random_prompt(16) for _ in range(b)], 64), 3))  # fmt: skip
        rate = batch * 64 / found[-1]["seconds"]["llmcore"] / (128 / one["seconds"]["llmcore"])
        found[-1]["name"] += f" ({rate:.1f}x one's rate)"
    add(measure("reading 512 tokens", sides, lambda s: s.read(random_prompt(512))))
    add(measure("writing 64 tokens behind 4,096", sides[:2] if has_llama else sides[:1],
                lambda s: s.write([random_prompt(4096)], 64), 2))  # fmt: skip
    eight = Llmcore("int8")
    took = statistics.median(eight.write([random_prompt(4096)], 64) for _ in range(3))
    add(own("writing 64 tokens behind 4,096", took, "8-bit keys and values"))
    seen = random_prompt(1480)
    ours.read(seen)
    took = statistics.median(ours.read(seen + random_prompt(20)) for _ in range(ROUNDS))
    add(own("first token of 1,500", took, "1,480 of them known"))
    disk = [first_token_from_disk() for _ in range(ROUNDS)]
    row = own("first token from a warm disk", statistics.median(disk), "a new process, the package imported")
    if has_llama:
        row["seconds"]["llama.cpp"] = statistics.median(first_token_from_disk_llama() for _ in range(3))
        row["ratio"] = row["seconds"]["llama.cpp"] / row["seconds"]["llmcore"]
    add(row)
    step = one["seconds"]["llmcore"] / 128
    share = sampling_seconds(ours.lm)
    add(own("one draw with top-k and top-p", share, f"{share / step:.1%} of a step"))
    add(words(ours.lm))
    model = measure_model(ours.lm.model, prompt=64, tokens=64, batches=(1,))
    rate = environment(threads)["machine"]["read_gb_s"]["all"]
    used = model["weight_bytes"] / step / 1e9
    add(own("a step of writing", step, f"{used:.1f} GB/s of weights, {used / rate:.0%} of what memory delivers"))
    return found


def sampling_seconds(lm: llmcore.LanguageModel) -> float:
    from llmcore import ops

    logits = lm.model(np.array([random_prompt(8)]), last_only=True).array.reshape([1, -1])
    times = []
    for step in range(200):
        began = time.perf_counter()
        ops.sample(logits, 0.8, 40, 0.95, seed=1, step=step)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def words(lm: llmcore.LanguageModel) -> dict:
    """A keystroke of the phone's keyboard."""
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
    ninth = sorted(times)[int(0.9 * len(times))]
    return own("three words for a keystroke", statistics.median(times), f"nine of ten under {ninth * 1e3:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=llmcore.num_threads())
    parser.add_argument("--seconds", type=float, help="taken for the sake of run.py: the work is fixed here")
    parser.add_argument("--json", type=Path, help="where to write the result")
    args = parser.parse_args()
    llmcore.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = {"kind": "ops", "title": TITLE, "rows": rows(args.threads, Path(folder))}
    result["environment"] = environment(args.threads)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
