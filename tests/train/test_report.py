"""What a person sees of a run, in terminals of several widths and without one."""

import io
import re

import pytest
from rich.console import Console

from llmcore.train import TerminalReport
from llmcore.train.report import fitting


def shown(width, steps=10000, **console):
    """The last drawing of the line at the end of a run of 1,234 updates."""
    out = io.StringIO()
    report = TerminalReport(Console(file=out, width=width, highlight=False, **console))
    with report.running("pretrain", 0, steps):
        for step in range(1, 1235):
            report.update({"train/loss": 9.0 - step / 1000, "tok/s": 123456.0, "step": step})
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.mark.parametrize("width", [36, 40, 60, 80, 100, 160])
def test_the_bar_the_step_and_the_time_left_stay(width):
    line = shown(width, force_terminal=True)[-1]
    assert len(line) <= width
    assert re.search("[━╸╺]{5}", line), line
    assert " 1234/10000 " in line
    assert re.search(r"(\d+:)?\d\d:\d\d$|--:--$", line), line
    assert ("loss 7.7" in line) == (width >= 40), line
    assert ("123,456 tok/s" in line) == (width >= 80), line
    assert line.startswith("pretrain") == (width >= 60)
    assert (" GB" in line) == (width >= 100), line


def test_without_a_terminal_there_are_plain_lines():
    for console in ({"force_terminal": False}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}):
        lines = shown(40, steps=2000, **console)
        assert len(lines) == 12
        assert all(re.match(r"step \d+00/2000  loss \d\.\d{3} \S+ 123,456 tok/s", line) for line in lines)
        assert all(re.search(r" \d+:\d\d:\d\d left$", line) for line in lines)
        assert not any("━" in line or "\x1b" in line for line in lines)


def test_a_slow_run_speaks_in_between(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    out = io.StringIO()
    report = TerminalReport(Console(file=out, width=40, force_terminal=False))
    with report.running("sft", 0, 1000):
        for step in range(1, 10):
            now[0] += 25.0
            report.update({"train/loss": 2.0, "tok/s": 10.0, "step": step})
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["3/1000", "6/1000", "9/1000"]
    assert "6:55:25 left" in out.getvalue()  # 997 updates of 25 seconds


def test_notes_are_one_line_in_a_file():
    out = io.StringIO()
    report = TerminalReport(Console(file=out, width=40, force_terminal=False))
    report.note("a " * 60)
    report.warn("b " * 60)
    assert len(out.getvalue().splitlines()) == 2


def test_fitting():
    figures = [(0, "aa"), (2, "bbb"), (1, "cccc"), (3, "")]
    assert [fitting(figures, n) for n in (1, 2, 6, 7, 10, 11)] == [
        "",
        "aa",
        "aa",
        "aa cccc",
        "aa cccc",
        "aa bbb cccc",
    ]
