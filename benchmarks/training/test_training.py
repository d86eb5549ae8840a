"""Every program of this folder runs, with little work."""


def test_train_gpt(smoke):
    (run,) = smoke("benchmarks.training.train_gpt")["runs"]
    assert {row["library"] for row in run["results"]} >= {"llmcore"}


def test_race(smoke):
    runs = smoke("benchmarks.training.race", "--minutes", 0.005, "--sides", "llmcore", "llmcore adamw")["runs"]
    assert all(run["curve"] for run in runs.values())


def test_pretraining(smoke, tmp_path):
    found = smoke("benchmarks.training.pretraining", "--gigabytes", 2, "--scratch", tmp_path)
    assert found.keys() >= {"loader", "ahead", "recompute"}


def test_finetune(smoke, chat_model):
    rows = smoke("benchmarks.training.finetune", "--model", chat_model)["rows"]
    assert len(rows) == 3


def test_teach(smoke, chat_model):
    found = smoke("benchmarks.training.teach", "--demo", chat_model.parent, "--model", chat_model)
    assert len(found) == 6
