"""What `import llmcore` gives: the names that the README shows, each at its first use, and quickly."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmcore

README = Path(__file__).parents[2] / "README.md"


def shown() -> list[str]:
    """Names in the first column of the README's table of the package."""
    section = README.read_text(encoding="utf-8").split("## What the package holds")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")][1:]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def test_names_are_those_that_the_readme_shows():
    assert sorted(shown()) == dir(llmcore)


ALONE = """
import os, sys, llmcore, numpy, ml_dtypes
for name in sys.argv[1:]:
    child = os.fork()
    if not child:  # nothing but the import above has happened in it
        value = getattr(llmcore, name)
        os._exit(0 if name in dir(llmcore) and type(value).__name__ in ("module", "function", "type", "str") else 1)
    if os.waitpid(child, 0)[1]:
        print(name)
"""


def test_every_name_works_right_after_the_import():
    done = subprocess.run([sys.executable, "-c", ALONE, *shown()], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_import_alone_loads_nothing_heavy():
    code = "import sys, llmcore; print([m for m in ('numpy', 'llmcore._core', 'yaml', 'typer') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'llmcore' has no attribute 'serve_tea'"):
        llmcore.serve_tea  # noqa: B018
