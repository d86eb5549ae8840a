import pydoc_data.topics

import pytest
from hypothesis import settings

from llmcore.tokenizer import Tokenizer

# The machine may be slow or busy: an example has no time limit of its own.
settings.register_profile("llmcore", deadline=None)
settings.load_profile("llmcore")


@pytest.fixture(scope="session")
def corpus() -> str:
    """Half a megabyte of English and code that every Python carries."""
    return "\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))


@pytest.fixture(scope="session")
def tokenizer(corpus) -> Tokenizer:
    return Tokenizer.train(iter([corpus]), 2000, special_tokens=["<|endoftext|>", "<|user|>", "<|user|>!"])
