"""`llmcore chat` beside its answers: commands, several lines, what fails, what does not fit, and a terminal."""

import codecs
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from llmcore import terminal
from llmcore.cli.conversation import Conversation
from llmcore.generate import load
from llmcore.generate.chat.trim import trim

TEMPLATE = "{% for m in messages %}{{ m.role[0] ~ m.content ~ '\n' }}{% endfor %}"


@pytest.fixture
def chat_dir(model_dir, tmp_path):
    folder = shutil.copytree(model_dir, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def talk(run, chat_dir, monkeypatch, tmp_path):
    """Types bytes and returns the exit code, stdout, stderr, and the messages in the end."""

    def typed(text, *flags):
        file = tmp_path / "said.json"
        file.unlink(missing_ok=True)
        data = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(data + f"\n/save {file}\n".encode()), newline="\n")
        )
        code, out, err = run("chat", "-m", chat_dir, "--max-tokens", 3, "--temperature", 0, "--seed", 1, *flags)
        return code, out, err, json.loads(file.read_text()) if file.exists() else None

    return typed


def users(messages):
    return [m["content"] for m in messages if m["role"] == "user"]


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("  a list  \n", ["  a list  "]),
        ('"""\na\n  b\n"""\nc\n', ["a\n  b", "c"]),
        ('"""a\nb"""\nc\n', ["a\nb", "c"]),
        ('"""a"""\n', ["a"]),
        ('"""\nnever ended\n', ["never ended"]),
        ("/etc/hosts is what?\n", ["/etc/hosts is what?"]),
        (" /quit\nb\n", [" /quit", "b"]),
        (b"caf\xe9\n", ["caf\ufffd"]),
        (b"\xff\xfe\x00\n", ["\ufffd\ufffd\x00"]),
        ("a\r\nb\r\n", ["a", "b"]),
    ],
)
def test_messages_are_what_was_typed(talk, typed, right):
    if typed.endswith(b"never ended\n" if isinstance(typed, bytes) else "never ended\n"):
        typed = typed.removesuffix("\n") + '"""'
    code, _, _, messages = talk(typed)
    assert (code, users(messages)) == (0, right)


@pytest.mark.parametrize("word", ["/help", "/saved by the bell", "/quit smoking, how?", "/reset 3", "/", "/nonsense"])
def test_slash_words_that_are_no_commands_are_answered_by_the_list(talk, word, chat_dir):
    before = set(chat_dir.parent.iterdir())
    code, _, err, messages = talk(f"{word}\na")
    assert (code, users(messages)) == (0, ["a"])
    assert all(name in err for name in ("/help", "/retry", "/undo", "/reset", "/tokens", "/save FILE", "/quit"))
    assert {p.name for p in set(chat_dir.parent.iterdir()) - before} == {"said.json"}


def test_undo_and_retry(talk):
    _, first, _, _ = talk("a list")
    code, out, err, messages = talk("a list\nof\n/undo\n/retry\n/undo\n/undo\n/retry")
    assert (code, messages) == (0, [])
    answers = out.splitlines()
    assert answers[0] == answers[2] == first.rstrip("\n")  # answered again, after nothing else
    assert "took back: of" in err.replace("␣", " ")
    assert err.count("there is no message yet") == 2


def test_tokens_are_counted(talk, chat_dir):
    _, _, err, messages = talk("a list\n/tokens")
    lm = load(chat_dir)
    assert f"{len(lm.chat_prompt(messages, add_generation_prompt=False))} of {lm.config.context} tokens" in err


def test_no_tokens_are_an_empty_answer(talk):
    assert talk("a\nb", "--max-tokens", 0)[:2] == (0, "\n\n")


def test_a_turn_that_fails_is_reported_and_forgotten(talk, chat_dir):
    (chat_dir / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no bad words') }}{% endif %}"
        "{{ m.role[0] ~ m.content ~ '\n' }}{% endfor %}"
    )
    code, _, err, messages = talk("a list\nbad\nof\n")
    assert (code, users(messages)) == (0, ["a list", "of"])
    assert err.count("error: ") == 1
    assert "no bad words" in err


def test_what_does_not_fit_goes_the_oldest_first(talk, chat_dir):
    context = load(chat_dir).config.context
    code, _, err, messages = talk("\n".join(["a list of"] * context), "--system", "S")
    assert (code, len(messages)) == (0, 2 * context + 1)  # all of them are saved
    assert "error" not in err
    assert "the oldest turn is left out of" in err
    code, _, err, messages = talk("a\n" + "list of " * context + "\nb")
    assert (code, users(messages)) == (0, ["a", "b"])
    assert err.count("error: ") == 1


def test_trimming_keeps_the_system_message_and_whole_turns():
    def message(role, content):
        return {"role": role, "content": content}

    call = [message("user", "b"), message("assistant", "call"), message("tool", "result"), message("assistant", "c")]
    said = [message("system", "s"), message("assistant", "hi"), message("user", "a"), *call, message("user", "d")]
    for most, kept, dropped in ((9, said, 0), (7, [said[0], *said[2:]], 1), (6, [said[0], *call, said[-1]], 2),
                                (5, [said[0], said[-1]], 3), (0, [said[0], said[-1]], 3)):  # fmt: skip
        assert trim(said, lambda m, most=most: len(m) <= most) == (kept, dropped)
    assert trim([], lambda m: False) == ([], 0)


# ---- on a terminal ----


class Terminal:
    """`llmcore chat` on a terminal of its own. All that it wrote: `seen`."""

    def __init__(self, folder, *flags, **environment):
        self._end, inner = pty.openpty()
        known = {"TERM": "xterm", "COLUMNS": "40", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        command = [sys.executable, "-m", "llmcore", "chat", "-m", str(folder), "--temperature", "0", *map(str, flags)]
        self.process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env={**os.environ, **known},
                                        start_new_session=True)  # fmt: skip
        os.close(inner)
        self.seen, self._read = "", 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # readline may write a character in pieces

    def until(self, text, seconds=30):
        """Read until the text has come after what was waited for last."""
        end = time.monotonic() + seconds
        while (at := self.seen.find(text, self._read)) < 0:
            assert time.monotonic() < end, f"{text!r} did not come: {self.seen!r}"
            if select.select([self._end], [], [], 0.1)[0]:
                self.seen += self._decoder.decode(os.read(self._end, 4096))
        self._read = at + len(text)

    def type(self, text):
        os.write(self._end, text.encode())

    def press_control_c(self):
        time.sleep(0.3)  # readline misses a signal between its prompt and its waiting
        self.process.send_signal(signal.SIGINT)

    def left(self, seconds=30):
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            os.close(self._end)


def test_control_c_stops_an_answer(chat_dir, monkeypatch, capsys):
    """What was written of it stays; in a pipe it stops the command."""
    lm = load(chat_dir)

    def stopped(messages, max_tokens, **options):
        yield "so far"
        raise KeyboardInterrupt

    monkeypatch.setattr(lm, "chat_stream", stopped)
    talk = Conversation(lm, None, {}, {"max_tokens": 8, "seed": 1}, show=True)
    assert talk.take("a")
    assert talk.interrupted
    assert [m["content"] for m in talk.messages] == ["a", "so far"]
    assert "(stopped; Ctrl-C again leaves)" in capsys.readouterr().err
    monkeypatch.undo()
    assert talk.take("b")
    assert not talk.interrupted
    piped = Conversation(lm, None, {}, {"max_tokens": 8, "seed": 1}, show=False)
    monkeypatch.setattr(lm, "chat_stream", stopped)
    with pytest.raises(KeyboardInterrupt):
        piped.take("a")


def test_control_c_twice_leaves(chat_dir):
    t = Terminal(chat_dir, "--max-tokens", 2)
    t.until("> ")
    t.press_control_c()
    t.until("leaves)")
    t.until("> ")
    t.type('"""\na\nb\n"""\n')
    t.until("… ")
    t.until("> ")
    t.type("/tokens\n")
    t.until("written so far")
    t.until("> ")
    t.press_control_c()
    t.until("leaves)")
    t.until("> ")
    t.press_control_c()
    assert t.left() == 0


def test_a_paste_of_several_lines_is_one_message(chat_dir, tmp_path):
    t = Terminal(chat_dir, "--max-tokens", 2)
    t.until("> ")
    t.type("\x1b[200~a list\nof\x1b[201~\n")
    t.until("> ")
    t.type(f"/save {tmp_path / 'said.json'}\n")
    t.until("saved ")
    t.type("/quit\n")
    assert t.left() == 0
    assert users(json.loads((tmp_path / "said.json").read_text())) == ["a list\nof"]


@pytest.mark.parametrize("environment", [{"COLUMNS": "0"}, {"TERM": "dumb"}, {"NO_COLOR": ""}, {"NO_COLOR": "1"}])
def test_terminals_of_all_kinds(chat_dir, environment):
    t = Terminal(chat_dir, "--max-tokens", 2, **environment)
    t.until("> ")
    t.type("a list\n")
    t.until("> ")
    t.type("/quit\n")
    assert t.left() == 0
    assert "error" not in t.seen


@pytest.mark.parametrize("command", ["chat", "generate a -n 200"])
def test_head_ends_it_quietly(chat_dir, command):
    command = f"yes 'a list' | head -200 | {sys.executable} -m llmcore {command} -m {chat_dir} --max-tokens 8 2>err | head -2; "
    command += "echo ${PIPESTATUS[2]}; grep -v context err"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=chat_dir)
    assert done.stdout.splitlines()[-1] == "0", done.stdout


class Screen(io.StringIO):
    def isatty(self):
        return True


def wrapped(monkeypatch, text, columns, **environment):
    for name, value in {"COLUMNS": str(columns), "TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Screen())
    out = terminal.WrappedText()
    for piece in re.findall(r".{1,3}", text, re.DOTALL):  # as a model writes it
        out.write(piece)
    out.finish()
    return sys.stdout.getvalue()


def test_answers_wrap_at_words(monkeypatch):
    text = (
        "The quick brown fox jumps over the lazy dog.\n\n  It was a long night, incomprehensibilities notwithstanding."
    )
    shown = wrapped(monkeypatch, text, 20)
    assert all(len(line.rstrip()) <= 22 for line in shown.splitlines())
    assert shown.split() == text.split()
    assert "The quick brown fox \njumps over the lazy \ndog.\n\n  It was" in shown
    code = "See:\n```python\n" + "x = 1 + " * 10 + "1\n```\nand " + "so on " * 6
    assert "```python\n" + "x = 1 + " * 10 + "1\n```\n" in wrapped(monkeypatch, code, 20)
    assert wrapped(monkeypatch, text, 20, TERM="dumb") == text
    wide = wrapped(monkeypatch, "漢字" * 15, 20)
    assert [len(line) for line in wide.splitlines()] == [10, 10, 10]  # each two columns wide


def test_a_word_that_no_line_holds_is_written_as_it_comes(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("TERM", "xterm")
    out = terminal.WrappedText()
    out.write("a ")
    seen = capsys.readouterr().out
    for i in range(25):
        out.write("o")
        seen += capsys.readouterr().out
        assert len(seen) >= i - 9  # at most a line is held back
    out.write(" bb ccccc dd")
    out.finish()
    assert seen + capsys.readouterr().out == "a \n" + "o" * 25 + " \nbb ccccc \ndd"
