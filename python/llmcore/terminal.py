"""Tokens, bars and tables for the terminal, readable without colour and at 80 columns."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Alternating backgrounds, so that neighbours can be told apart; the text is black on all of them.
TOKEN_STYLES = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BARS = "▁▂▃▄▅▆▇█"


def console(file: Any = None) -> Console:
    """Return the console that commands print to: stdout, or another stream, without automatic highlighting."""
    from rich.console import Console

    given = os.environ.get("COLUMNS", "")
    # Some programs set COLUMNS to 0 where they do not know.
    width = None if not given or (given.isdecimal() and int(given) > 0) else shutil.get_terminal_size().columns
    return Console(highlight=False, file=file, width=width)


def coloured(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that shows colours, and nobody asked for none (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Undisturbed:
    """A stream whose readers may leave, as a terminal that is closed does: what cannot be written is dropped, so that the
    work that is reported on goes on."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":  # rich asks for it to get round what it puts in place of sys.stderr
            raise AttributeError(name)
        return getattr(self._stream, name)


def harmless(text: str) -> str:
    """Return a text with U+FFFD in place of control characters other than line ends and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" or ord(c) > 0x9F else "\ufffd" for c in text)


def write(text: str, bold: bool = False) -> None:
    """Write a text to stdout at once, exactly as it is; on a terminal without control characters, which a model may write
    and which could do anything to the terminal."""
    if sys.stdout.isatty():
        text = harmless(text)
        if bold and coloured(sys.stdout):
            text = f"\x1b[1m{text}\x1b[0m"
    sys.stdout.write(text)
    sys.stdout.flush()


def say_dim(text: str) -> None:
    """Write a line to stderr, dim where that is a terminal: something worth knowing beside what a command prints."""
    print(f"\x1b[2m{text}\x1b[0m" if coloured(sys.stderr) else text, file=sys.stderr)


class WrappedText:
    """Writes a text to stdout as it comes; on a terminal in lines that end between words, but for code between ```."""

    def __init__(self) -> None:
        wraps = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._width = shutil.get_terminal_size().columns if wraps else 0
        self._line = self._word = ""  # what was written of this line, and what is held back until it is known to fit
        self._code = False
        self._breaks = False  # whether a word is being written that no line can hold, as it comes

    def write(self, text: str) -> None:
        if not self._width:
            return write(text)
        from rich.cells import cell_len

        out = []
        for c in text:
            if self._breaks and not c.isspace():
                self._line += c
                out.append(c)
                continue
            if not c.isspace():
                self._word += c
                if len(self._word) > self._width and cell_len(self._word) > self._width:
                    out.append(self._settled())
                    self._breaks = True
                    continue
            self._breaks = False
            if c.isspace() or ord(c) > 0x2E7F:  # scripts from there on are written without spaces
                out.append(self._settled())
            if c == "\n":
                self._code ^= self._line.lstrip().startswith("```")
                self._line = ""
                out.append(c)
            elif c.isspace():
                self._line += c
                out.append(c)
        return write("".join(out))

    def finish(self) -> None:
        """Write what is held back."""
        write(self._settled())

    def _settled(self) -> str:
        from rich.cells import cell_len

        word, self._word = self._word, ""
        if not word:
            return ""
        fits = self._code or not self._line.strip() or cell_len(self._line) + cell_len(word) <= self._width
        self._line = self._line + word if fits else word
        return word if fits else "\n" + word


@contextmanager
def progress(what: str, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr, if that is a terminal. Yields a function of (done, total, figures to show beside it)."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    terminal = console(sys.stderr)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=terminal, expand=True, disable=quiet or not terminal.is_terminal) as bar:
        task = bar.add_task(what[-max(8, terminal.width // 3) :], total=None, figures="")

        def update(done: int, total: int, figures: str = "") -> None:
            bar.update(task, completed=done, total=total, figures=figures)

        yield update


def counted(n: int, what: str) -> str:
    """Return a number of things: "1 token", "2,000 tokens"."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def visible(text: str) -> str:
    """Return a text on one line with visible blanks (␣ ⏎ ⇥) and other control characters escaped."""
    marks = {" ": "␣", "\n": "⏎", "\t": "⇥"}
    return "".join(marks.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in text)


def token_text(token: bytes) -> str:
    """Return what `visible` returns for a token; bytes of an incomplete character are written \\xe2."""
    return visible(token.decode("utf-8", "backslashreplace"))


def print_tokens(
    out: Console, pieces: Sequence[str], labels: Sequence[str], styles: Sequence[str] | None = None
) -> None:
    """Print pieces side by side with their labels (such as ids) below them, in as many rows as the width requires."""
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    top, below, used = Text(), Text(), 0

    def flush() -> None:
        for line in (top, below):
            out.print(line, soft_wrap=True)

    for i, (piece, label) in enumerate(zip(pieces, labels, strict=True)):
        if cell_len(piece) > out.width - 1:
            piece = set_cell_size(piece, out.width - 2) + "…"
        width = max(cell_len(piece), cell_len(label))
        if used and used + width > out.width:
            flush()
            top, below, used = Text(), Text(), 0
        style = styles[i] if styles else TOKEN_STYLES[i % len(TOKEN_STYLES)]
        top.append(set_cell_size(piece, width), style).append(" ")
        below.append(label.ljust(width + 1), "dim")
        used += width + 1
    if used:
        flush()


def bar(fraction: float, width: int, encoding: str = "utf-8") -> str:
    """Return a bar of up to `width` cells, in eighths of a cell if the terminal has them; always `width` long."""
    fraction = min(1.0, max(0.0, fraction))
    if "utf" not in encoding.lower():
        return ("#" * round(fraction * width)).ljust(width)
    whole, eighth = divmod(round(fraction * width * 8), 8)
    return ("█" * whole + (_EIGHTHS[eighth] if eighth else "")).ljust(width)


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """Return a line of bars: the means of equal stretches of the values, scaled between the lowest and the highest."""
    if len(values) < 2:
        return ""
    n = min(width, len(values))
    cuts = [round(i * len(values) / n) for i in range(n + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    return "".join(_BARS[round((len(_BARS) - 1) * (m - low) / ((high - low) or 1))] for m in means)


def print_distributions(out: Console, columns: Mapping[str, Sequence[tuple[str, int, float]]]) -> None:
    """Print next-token probabilities as bars: a row per token, a column per entry (title -> (text, id, probability))."""
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    # Temperature keeps the order, so the longest column names all tokens.
    names = {i: visible(text) for rows in columns.values() for text, i, _ in rows}
    name_width = min(16, max(map(cell_len, names.values()), default=0))
    id_width = max((len(str(i)) for i in names), default=0)
    room = min(out.width, 100) - name_width - id_width - 2
    bar_width = max(4, room // len(columns) - 9)
    if len(columns) > 1:
        head = Text(" " * (name_width + id_width + 1))
        for title in columns:
            head.append("  ").append(title.ljust(bar_width + 7))
        out.print(head, style="bold", soft_wrap=True)
    for i, name in names.items():
        if cell_len(name) > name_width:
            name = set_cell_size(name, name_width - 1) + "…"
        line = Text(set_cell_size(name, name_width), "bold")
        line.append(f" {i:>{id_width}}", "not bold dim")
        for rows in columns.values():
            p = next((p for _, other, p in rows if other == i), 0.0)
            percent = f"{p:6.1%}" if p else "    – "
            line.append("  ").append(bar(p, bar_width, out.encoding), "not bold cyan").append(
                percent.rjust(7), "not bold"
            )
        out.print(line, soft_wrap=True)


def print_columns(out: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print texts side by side in columns of the same width, within which they wrap."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), expand=True, show_edge=False)
    for title in titles:
        table.add_column(Text(harmless(title), "dim"), ratio=1, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
        table.add_row()
    out.print(table)


def print_pairs(out: Console, rows: Sequence[tuple[str, str]], title: str | None = None) -> None:
    """Print names and values in two columns; long values wrap within theirs."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))  # literally: [INST] is a token, not markup
    if title:
        out.print(title, style="bold", markup=False)
    out.print(table)


def print_similarities(out: Console, texts: Sequence[str], cosines) -> None:
    """Print a table of the cosine similarities (n, n) of n texts, one row per text."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1))
    for title in ("", "text", *(str(i + 1) for i in range(len(texts)))):
        table.add_column(title, justify="left" if title == "text" else "right", overflow="ellipsis", no_wrap=True)
    for i, text in enumerate(texts):
        shades = ["bold cyan" if j != i and c >= 0.7 else "" for j, c in enumerate(cosines[i])]
        cells = [Text(f"{c:.2f}", shade) for c, shade in zip(cosines[i], shades, strict=True)]
        table.add_row(str(i + 1), Text(visible(text)), *cells)
    out.print(table)
