"""Every program of this folder runs, with little work."""


def test_generate(smoke, chat_model):
    rows = smoke("benchmarks.generation.generate", "--model", chat_model)["rows"]
    assert all(row["seconds"]["llmcore"] > 0 for row in rows)
