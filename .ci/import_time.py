"""`import llmcore` beside a bare interpreter: medians of interleaved runs; fails at 100 ms."""

import statistics
import subprocess
import sys
import time

LIMIT_MS = 100


def run(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return 1e3 * (time.perf_counter() - began)


def main() -> int:
    pairs = [(run("pass"), run("import llmcore")) for _ in range(11)]
    bare, loaded = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"import llmcore: {loaded - bare:.0f} ms beside a bare interpreter's {bare:.0f} ms (limit {LIMIT_MS})")
    return int(loaded - bare >= LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
