"""Every program of this folder that is not a list of workloads runs, with little work."""


def test_train(smoke):
    (row,) = smoke("benchmarks.tokenizer.train")["rows"]
    assert row["memory"].keys() == row["seconds"].keys() >= {"llmcore"}
