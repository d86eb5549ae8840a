"""What other processes get of a model: copies say what to do, and a fork of this process answers or fails at once."""

import copy
import os
import pickle
import threading

import pytest

import llmcore
from llmcore import models
from llmcore.errors import ArgumentTypeError
from llmcore.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tiny():
    tokenizer = Tokenizer.train(iter(["the list of the function returns " * 9]), 270)
    config = models.LlamaConfig(tokenizer.vocab_size, context=64, layers=2, heads=4, kv_heads=2, width=32)
    return llmcore.LanguageModel(models.Llama(config, seed=3), tokenizer)


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda how: how.__name__)
def test_models_are_not_copied_and_say_what_to_do(tiny, how):
    for thing, advice in (
        (tiny, "save it and load it there"),
        (tiny.engine, r"load the model there and make one, Engine\(lm.model"),
        (tiny.stream("the", 3), "send the pieces"),
        (llmcore.tensor([1.0]), r"send tensor.numpy\(\)"),
    ):
        with pytest.raises(ArgumentTypeError, match=advice) as raised:
            how(thing)
        assert "\n" not in str(raised.value)


def test_a_model_in_files_names_them(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    with pytest.raises(ArgumentTypeError, match=r"load it there, from .*model"):
        pickle.dumps(llmcore.load(tmp_path / "model"))


def test_completions_and_tokenizers_are_copied(tiny):
    done = tiny.generate("the", 3, logprobs=True)
    for thing in (done, tiny.tokenizer, tiny.config):
        assert copy.deepcopy(thing) == thing
        assert pickle.loads(pickle.dumps(thing)) == thing


def in_child(work):
    """Run this in a forked child; return its first byte, or None if it takes over ten seconds."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, work())
        finally:
            os._exit(0)
    os.close(write)
    timer = threading.Timer(10, os.kill, (child, 9))
    timer.start()
    found = os.read(read, 1)
    timer.cancel()
    os.close(read)
    os.waitpid(child, 0)
    return found or None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_answers_and_requests_under_way_fail_there(tiny):
    """Forked while another thread generates, ten times, and in the middle of a stream."""
    expected = tiny.generate("the list", 5, temperature=0).text
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            tiny.generate("the function", 8, seed=1)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(10):
            assert (
                in_child(lambda: b"1" if tiny.generate("the list", 5, temperature=0).text == expected else b"0") == b"1"
            )
    finally:
        stop.set()
        thread.join()
    stream = tiny.stream("the", 9, seed=1)
    first = next(stream)

    def go_on():
        try:
            list(stream)
        except llmcore.errors.StateError as error:
            return b"1" if "forked while this request ran" in str(error) else b"2"
        return b"0"

    assert in_child(go_on) == b"1"
    assert first + "".join(stream) == tiny.generate("the", 9, seed=1).text
