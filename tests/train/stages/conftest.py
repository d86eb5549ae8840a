"""A model to fine-tune and what it is taught, made once for all stages."""

import json

import pytest

from support.chat_models import FACTS, QUESTIONS, save_chat_model


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A Llama that has learned nothing yet."""
    texts = [f"{q} {a} user assistant\n" for q, a in FACTS] * 4
    texts += [f"{q} yes it is no it is not user assistant\n" for q in QUESTIONS] * 3
    return save_chat_model(tmp_path_factory.mktemp("base") / "model", texts, 330, kv_heads=2)


@pytest.fixture(scope="session")
def facts(tmp_path_factory):
    """Sums and their answers."""
    rows = [{"prompt": q, "completion": a} for q, a in FACTS]
    return write_rows(tmp_path_factory.mktemp("facts") / "facts.jsonl", rows)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Yes is the better answer, whatever the question."""
    rows = [{"prompt": q, "chosen": f"yes it is {q[8]}", "rejected": f"no it is not {q[8]}"} for q in QUESTIONS]
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)
