"""`llmcore bench`: what this machine can do."""

from __future__ import annotations

import typer

from llmcore.cli import options, show

app = typer.Typer(rich_markup_mode=None)

_ROWS = {
    "fp32_gflops": ("float32", "GFLOP/s"),
    "bf16_gflops": ("bfloat16", "GFLOP/s"),
    "int8_gops": ("int8", "GOP/s"),
    "read_gb_s": ("reading memory", "GB/s"),
}


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measure this machine."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(short_help="Peak arithmetic and read bandwidth.")
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
    out = show.console()
    threads = result["threads"]
    out.print(f"{result['cpu']}, {result['isa']}", style="bold", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for title in ("1 thread", f"{threads} threads"):
        table.add_column(title, justify="right")
    for name, (label, unit) in _ROWS.items():
        table.add_row(label, *(f"{result[name][key]:,.1f} {unit}" for key in ("1", "all")))
    out.print(table)
