"""`llmcore chat`, its messages from a pipe."""

import io
import json
import shutil
import sys

import pytest

from llmcore.generate import load

TEMPLATE = "{% for m in messages %}{{ m.role[0] ~ m.content ~ '\n' }}{% endfor %}"


@pytest.fixture
def chat_dir(model_dir, tmp_path):
    folder = shutil.copytree(model_dir, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def type_in(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_answers_are_the_librarys(run, chat_dir, monkeypatch):
    type_in(monkeypatch, "The\n\n/reset\na list\nof\n/quit\nnever read\n")
    flags = ["--system", "S", "--max-tokens", 4, "--temperature", 0, "--top-p", 1, "--repetition-penalty", 1]
    code, out, err = run("chat", "-m", chat_dir, *flags)
    assert (code, err) == (0, "")
    lm = load(chat_dir)
    system = [{"role": "system", "content": "S"}]

    def answer(*texts):
        roles = ("user", "assistant")
        said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
        return lm.chat(system + said, max_tokens=4, temperature=0).text

    first, second = answer("The"), answer("a list")
    assert out == f"{first}\n{second}\n{answer('a list', second, 'of')}\n"


def test_conversations_are_saved(run, chat_dir, monkeypatch, tmp_path):
    type_in(monkeypatch, f"The\n/save {tmp_path / 'said.json'}\n/save\n/save {tmp_path}\n")
    code, out, err = run("chat", "-m", chat_dir, "--max-tokens", 3, "--temperature", 0)
    assert code == 0
    said = json.loads((tmp_path / "said.json").read_text())
    assert [m["role"] for m in said] == ["user", "assistant"]
    assert (said[0]["content"], out.startswith(said[1]["content"])) == ("The", True)
    assert "/save needs a file name" in err
    assert f"{tmp_path} cannot be written: " in err


def test_a_model_that_does_not_chat(run, model_dir, monkeypatch):
    type_in(monkeypatch, "hi\n")
    code, out, err = run("chat", "-m", model_dir)
    assert (code, out) == (2, "")
    assert err == (
        f"error: expected a model with a chat template, got {model_dir} without: teach it with `llmcore sft --model "
        f"{model_dir}`, or take one that chats (`llmcore pull smollm2-135m-instruct`)\n"
    )


def test_an_answer_that_is_cut_is_said_on_a_terminal(run, chat_dir, monkeypatch):
    command = ("chat", "-m", chat_dir, "--max-tokens", 3, "--temperature", 0)
    type_in(monkeypatch, "The\n")
    assert "cut" not in run(*command)[2]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    type_in(monkeypatch, "The\n")
    code, out, err = run(*command)
    assert code == 0
    assert "cut" not in out
    first, rate = err.splitlines()
    assert first == "(cut off at --max-tokens 3)"
    assert rate.startswith("3 tokens, ")
    lm = load(chat_dir)
    end = lm.chat([{"role": "user", "content": "The"}], max_tokens=3, temperature=0).tokens[2]
    config = json.loads((chat_dir / "generation_config.json").read_text())
    (chat_dir / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": end}))
    type_in(monkeypatch, "The\n")
    assert "cut" not in run(*command)[2]


def test_tools_documents_variables_and_templates(run, chat_dir, monkeypatch, tmp_path):
    source = "{{ (tools or []) | length }}{{ (documents or []) | length }}{{ x }}{{ messages[-1].content }}"
    (chat_dir / "additional_chat_templates").mkdir()
    (chat_dir / "additional_chat_templates" / "rag.jinja").write_text(source)
    (tmp_path / "own.jinja").write_text(source)
    tools, documents = [{"name": "f", "parameters": {}}] * 2, [{"text": "t"}]
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    (tmp_path / "documents.json").write_text("\ufeff" + json.dumps(documents))
    flags = ["--tools", tmp_path / "tools.json", "--documents", tmp_path / "documents.json"]
    flags += [
        "--chat-template-kwargs",
        '{"x": "y"}',
        "--max-tokens",
        4,
        "--temperature",
        0,
        "--top-p",
        1,
        "--repetition-penalty",
        1,
    ]
    given = {"tools": tools, "documents": documents, "chat_template_kwargs": {"x": "y"}, "chat_template": "rag"}
    right = load(chat_dir).chat([{"role": "user", "content": "The"}], max_tokens=4, temperature=0, **given).text
    for template in ("rag", tmp_path / "own.jinja"):
        type_in(monkeypatch, "The\n")
        assert run("chat", "-m", chat_dir, "--template", template, *flags) == (0, f"{right}\n", "")
    type_in(monkeypatch, "The\n")
    code, out, err = run("chat", "-m", chat_dir, *flags)
    assert (code, out) == (2, "")
    assert "expected no tools: the template does not use them, got 2" in err
    type_in(monkeypatch, "The\n")
    code, _, err = run("chat", "-m", chat_dir, "--template", "none")
    assert (code, "expected chat_template one of default, rag, got 'none'" in err) == (2, True)
    (tmp_path / "tools.json").write_text("[")
    code, _, err = run("chat", "-m", chat_dir, *flags)
    assert (code, "tools: expected JSON" in err) == (2, True)


def test_info_names_templates_and_their_variables(run, chat_dir):
    (chat_dir / "additional_chat_templates").mkdir()
    (chat_dir / "additional_chat_templates" / "rag.jinja").write_text("{{ documents }}{{ style }}{{ bos_token }}")
    code, out, _ = run("info", chat_dir)
    assert code == 0
    assert "reads documents, style" in out
    code, out, _ = run("info", chat_dir, "--json")
    assert json.loads(out)["model"]["chat_template"]["templates"] == {"default": [], "rag": ["documents", "style"]}
