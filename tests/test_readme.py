"""What the documents tell a reader to type: their Python blocks run, and their command lines parse.

Blocks of one document share a folder and their names, as for a reader who goes from top to bottom. By default models
and runs are made small; with `-m slow` every block runs as it stands. A block that needs a pulled model, another
package or a GPU runs where these are, and is skipped with the reason where they are not.
"""

import importlib.util
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from llmcore import _device, _user_cache, train

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PULLED = re.compile(r"\bsmollm2-135m-instruct\b")
# Sizes for `train.PretrainConfig`, unless a block says others; of steps, one is enough.
SMALL = {"vocab_size": 300, "context": 128, "layers": 1, "width": 32, "heads": 2, "batch_size": 2}


def blocks(document: Path, *languages: str) -> list[tuple[int, str]]:
    """Return (line number, text) of each fenced block in one of these languages."""
    found, lines = [], document.read_text().splitlines()
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and line.startswith("```") and line != "```":
            start = number
        elif start is not None and line == "```":
            if lines[start - 1][3:] in languages:
                found.append((start + 1, "\n".join(lines[start : number - 1]) + "\n"))
            start = None
    assert start is None, f"{document.name}:{start}: a block that does not end"
    return found


# ---- Python ----


class Reader:
    """Someone who types a document's blocks, in order, into one Python."""

    def __init__(self, document: Path, folder: Path, pulled: bool = True):
        """pulled: whether blocks with a pulled model are run, and not passed over."""
        self.document, self.folder, self.pulled = document, folder, pulled
        self.names, self.done = {"__name__": "__main__"}, {}
        self.blocks = blocks(document, "python")

    def run(self, number: int) -> None:
        """Run a block, after those before it, or fail or skip as the first run of it did."""
        for i in range(number + 1):
            if i not in self.done:
                self.done[i] = self._outcome(i)
        if isinstance(self.done[number], str):
            pytest.skip(self.done[number])
        if self.done[number]:
            raise self.done[number]

    def _outcome(self, i: int) -> str | BaseException | None:
        line, text = self.blocks[i]
        missing = what_is_missing(text) if self.pulled or not PULLED.search(text) else "passed over"
        if missing:
            return missing
        try:
            exec(compile("\n" * (line - 1) + text, self.document, "exec"), self.names)
        except Exception as error:
            return error
        return None


def what_is_missing(text: str) -> str | None:
    """Return what a block needs that is not here: a package, a GPU or a pulled model."""
    for name in re.findall(r"^(?:import|from) (\w+)", text, flags=re.MULTILINE):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    if "choices=" in text and importlib.util.find_spec("llguidance") is None:
        return "llguidance is not installed"
    if "cuda" in text:
        try:
            _device.checked("cuda")
        except RuntimeError as error:
            return str(error)
    if (name := PULLED.search(text)) and not (_user_cache.cache_folder() / "models" / name[0]).exists():
        return f"{name[0]} is not pulled"
    return None


def python_blocks() -> list:
    """Return what to run: every block as it stands, and small where it makes its own model."""
    found = []
    for document in DOCUMENTS:
        for i, (line, text) in enumerate(blocks(document, "python")):
            slow = [pytest.mark.slow, pytest.mark.timeout(1800)]
            found.append(pytest.param(document, i, "whole", marks=slow, id=f"{document.name}:{line}"))
            if not PULLED.search(text):
                found.append(pytest.param(document, i, "small", id=f"{document.name}:{line}-small"))
    return found


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """The reader of each document at each size, in a cache of their own beside the models that are pulled."""
    known, before = {}, os.environ.get("LLMCORE_CACHE")
    cache, own = _user_cache.cache_folder(), tmp_path_factory.mktemp("cache")
    if cache.is_dir():
        for path in cache.iterdir():
            if path.name != "last_model":
                (own / path.name).symlink_to(path)

    def reader(document: Path, size: str) -> Reader:
        if (document, size) not in known:
            folder = tmp_path_factory.mktemp(document.stem)
            (folder / document.name).write_bytes(document.read_bytes())
            known[document, size] = Reader(document, folder, size == "whole")
        return known[document, size]

    os.environ["LLMCORE_CACHE"] = str(own)
    yield reader
    if before is None:
        del os.environ["LLMCORE_CACHE"]
    else:
        os.environ["LLMCORE_CACHE"] = before


@pytest.mark.parametrize(("document", "number", "size"), python_blocks())
def test_python_blocks_run(readers, document, number, size, monkeypatch, capsys):
    if size == "small":
        make_small(monkeypatch)
    reader = readers(document, size)
    monkeypatch.chdir(reader.folder)
    reader.run(number)


def make_small(monkeypatch) -> None:
    """Let runs take one step, and models that are made for them be small."""

    def shrink(kind, **sizes):
        init = kind.__init__
        monkeypatch.setattr(kind, "__init__", lambda self, **given: init(self, **{**sizes, **given, "steps": 1}))

    shrink(train.PretrainConfig, **SMALL)
    for kind in (
        train.SFTConfig,
        train.DPOConfig,
        train.KTOConfig,
        train.RewardConfig,
        train.GRPOConfig,
        train.PPOConfig,
    ):
        shrink(kind)


# ---- command lines ----


def command_lines(text: str) -> list[list[str]]:
    """Return the words of each command in a block: `a && b | c` are three, and variables before one are left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split, words.commenters = True, "#"
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("&|;"):
                if command:
                    found.append(command)
                command = []
            elif command or not re.match(r"\w+=", word):
                command.append(word)
    return found


def check_llmcore(words: list[str]) -> None:
    """Parse a command line of llmcore by its own application, up to where the command would run."""
    import typer.main

    from llmcore.cli.app import app

    command, context = typer.main.get_command(app), None
    name, words = "llmcore", list(words)
    while True:
        context = command.make_context(name, words, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


def check_python(words: list[str]) -> None:
    """Check that a script or module exists, and has the options that it is given; of pytest, the marks and paths."""
    if words[:2] == ["-m", "venv"]:
        return
    if words[:2] == ["-m", "pytest"]:
        rest = words[2:]
        if "-m" in rest:
            marks = re.findall(r'^  "(\w+): ', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
            given = rest[rest.index("-m") + 1]
            assert set(re.findall(r"\w+", given)) - {"not", "and", "or"} <= set(marks), f"no such mark: {given}"
        assert all((ROOT / p).exists() for p in rest if "/" in p and not p.startswith("-")), f"no such path in {rest}"
        return
    path, rest = (words[1].replace(".", "/") + ".py", words[2:]) if words[0] == "-m" else (words[0], words[1:])
    if path != "my_script.py":  # the reader's own
        assert (ROOT / path).exists(), f"there is no {path}"
        source = (ROOT / path).read_text()
        for module in re.findall(r"^from (benchmarks\.[\w.]+) import main$", source, flags=re.MULTILINE):
            source += (ROOT / (module.replace(".", "/") + ".py")).read_text()  # which reads the options
        assert all(f'"{word}"' in source for word in rest if word.startswith("--")), (
            f"{path} does not know all of {rest}"
        )


def check_pip(words: list[str]) -> None:
    """Check that extras of llmcore are those that it has."""
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    known = set(re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE))
    for word in words:
        if given := re.match(r"(?:\.|llmcore)\[(.*)\]", word):
            assert set(given[1].split(",")) <= known, f"no such extra: {word}"


def check_cmake(words: list[str]) -> None:
    """Check that a preset exists."""
    presets = json.loads((ROOT / "CMakePresets.json").read_text())
    if "--preset" in words:
        kind = "buildPresets" if "--build" in words else "configurePresets"
        assert words[words.index("--preset") + 1] in {p["name"] for p in presets[kind]}, f"no such preset: {words}"


def check(words: list[str]) -> None:
    """Fail if a command line is one that this project does not understand."""
    name, rest = words[0], words[1:]
    if name == "mpiexec":
        assert rest[0] == "-n"
        check(rest[2:])
    elif name in CHECKS:
        CHECKS[name](rest)
    elif name.startswith((".", "tools/", "benchmarks/")) and name != ".":
        assert (ROOT / name).exists(), f"there is no {name}"
    else:
        assert name in ("echo", "cp", ".", "cd", "git"), f"no rule says how to check {name}"


CHECKS = {
    "llmcore": check_llmcore,
    "python": check_python,
    "python3": check_python,
    "pip": check_pip,
    "cmake": check_cmake,
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_command_lines_parse(document):
    wrong = []
    for line, text in blocks(document, "bash", "sh"):
        for words in command_lines(text):
            try:
                check(words)
            except Exception as error:
                wrong.append(f"{document.name}:{line}: {shlex.join(words)}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("llmcore next a --no-such-flag", "No such option: --no-such-flag"),
        ("llmcore nothing", "No such command 'nothing'"),
        ("llmcore next a -k many", "Input should be a valid integer"),
        ("llmcore bench nothing", "No such command 'nothing'"),
        ("llmcore next a | llmcore chat --warm  # and more", "No such option: --warm"),
        ("mpiexec -n 4 llmcore pretrain --nothing", "No such option: --nothing"),
        ("LLMCORE_DEVICE=cpu llmcore demo --device", "Option '--device' requires an argument"),
        ("python -m pytest -m nothing", "no such mark: nothing"),
        ("python -m pytest tests/nothing.py", "no such path"),
        ("python benchmarks/nothing.py", "there is no benchmarks/nothing.py"),
        ("python benchmarks/run.py --nothing", "benchmarks/run.py does not know all of"),
        ("pip install '.[test,nothing]'", "no such extra"),
        ("cmake --preset nothing", "no such preset"),
        ("tools/nothing.sh", "there is no tools/nothing.sh"),
        ("nothing", "no rule says how to check nothing"),
    ],
)
def test_a_wrong_command_line_is_found(line, message):
    *right, wrong = command_lines(line)
    for words in right:
        check(words)
    with pytest.raises(Exception, match=re.escape(message)):
        check(wrong)


def test_a_wrong_block_is_found(tmp_path):
    document = tmp_path / "wrong.md"
    document.write_text("# Wrong\n\n```python\nx = 1\n```\n\n```python\nprint(x.nothing)\n```\n")
    reader = Reader(document, tmp_path)
    with pytest.raises(AttributeError, match="nothing"):
        reader.run(1)
    reader.run(0)
