"""`llmcore bench`: how fast this machine is, and a model on it."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcore import terminal
from llmcore.cli import options
from llmcore.cli.flags import on_device
from llmcore.cli.help import PlainHelp

app = typer.Typer(rich_markup_mode=None)

_ROWS = {
    "fp32_gflops": ("float32", "GFLOP/s"),
    "bf16_gflops": ("bfloat16", "GFLOP/s"),
    "int8_gops": ("int8", "GOP/s"),
    "read_gb_s": ("reading memory", "GB/s"),
}


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measure this machine, or a model on it."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(cls=PlainHelp, short_help="Peak arithmetic and read bandwidth.")
def machine(json: options.Json = False) -> None:
    """Measure peak arithmetic and read bandwidth: no kernel can be faster than these.

    \b
    Example: llmcore bench machine
    """
    from rich.table import Table

    from llmcore.bench.machine import measure_machine

    result = measure_machine()
    if json:
        options.print_json(result)
        return
    out = terminal.console()
    threads = result["threads"]
    out.print(f"{result['cpu']}, {result['isa']}", style="bold", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for title in ("1 thread", terminal.counted(threads, "thread")):
        table.add_column(title, justify="right")
    for name, (label, unit) in _ROWS.items():
        table.add_row(label, *(f"{result[name][key]:,.1f} {unit}" for key in ("1", "all")))
    out.print(table)


@app.command("model", cls=PlainHelp, short_help="Speed of prefill and decoding.")
@on_device
def measure(
    directory: options.ModelArgument = None,
    model: options.Model = None,
    prompt: Annotated[int, typer.Option("--prompt", metavar="N", min=1, help="Length of the prompt in tokens.")] = 512,
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", min=1, help="Tokens to decode.")] = 128,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", metavar="B", min=1, help="Batch size of decoding (repeatable). [default: 1, 8]"),
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Measure the speed of prefill and decoding in tokens per second.

    Decoding one sequence reads every weight for every token: the fraction of the memory bandwidth that it reaches is shown
    too.

    \b
    Example: llmcore bench model smollm2-135m-instruct
    """
    from llmcore import _device
    from llmcore.bench.machine import measure_machine
    from llmcore.bench.model import measure_model

    lm = options.load_model(options.named(directory, model), threads=threads)
    result = measure_model(lm.model, prompt, tokens, batch or [1, 8])
    if result["device"] == "cuda":
        gpu = _device.cuda_info()
        rate = 2 * gpu["memory_clock_hz"] * gpu["memory_bus_bits"] / 8 / 1e9  # the memory's nominal rate
    else:
        rate = measure_machine()["read_gb_s"]["1" if result["threads"] == 1 else "all"]
    single = result["decode_tokens_per_second"].get(1)
    if single is not None:
        result["read_bandwidth_fraction"] = single * result["weight_bytes"] / (rate * 1e9)
    if json:
        options.print_json(result)
        return
    rows = [
        (
            "reading a prompt",
            f"{result['prefill_tokens_per_second']:,.1f} tok/s ({terminal.counted(result['prompt'], 'token')})",
        ),
        *(
            (f"writing {rows} at a time", f"{rate:,.1f} tok/s")
            for rows, rate in result["decode_tokens_per_second"].items()
        ),
        ("weights of a step", f"{result['weight_bytes'] / 1e6:,.1f} MB"),
    ]
    if single is not None:
        rows.append(("of the memory's rate", f"{result['read_bandwidth_fraction']:.0%} ({rate:.1f} GB/s)"))
    where = gpu["name"] if result["device"] == "cuda" else terminal.counted(result["threads"], "thread")
    title = f"{where}, computing in {result['dtype']}"
    terminal.print_pairs(terminal.console(), rows, title)
